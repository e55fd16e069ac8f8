"""Hugging Face folders that `transformers` loads."""

import itertools
import json
import math
import struct
import typing

import keras
import numpy as np

from keras_switch.layers import quantized
from keras_switch.weights import huggingface_config
from keras_switch.weights import huggingface_names
from keras_switch.weights.source import Entry
from keras_switch.weights.source import weight_shapes

SHARD_BYTES = 5 * 10**9
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class _Tensor(typing.NamedTuple):
    """A tensor to write: a weight, or one expert of it."""

    name: str
    shape: tuple
    dtype: str
    weight: str
    expert: int | None

    @property
    def num_bytes(self):
        return math.prod(self.shape) * _DTYPES[self.dtype][1]


def check_huggingface(backbone, preprocessor):
    """Requires that `transformers` can hold a model, whose weights are not looked at.

    Args:
        backbone: `SwitchBackbone`.
        preprocessor: `SwitchSeq2SeqLMPreprocessor` or `None`.

    Raises:
        ValueError: If Hugging Face's classes cannot hold the model.
    """
    huggingface_config.to_config(backbone)
    quantized.check_not_quantized(backbone)
    _spiece(preprocessor)


def write_huggingface(model, path, verbose=1):
    """Writes a folder that `transformers` loads.

    A model with experts becomes a Switch Transformer, any other a T5. Where the model has no
    absolute capacity, nothing is dropped, as in `generate` here. What only matters in training
    and has no name there, such as a dropout of the experts of their own, is left out.

    Transformers 5 warns that it does not tie the logits of a T5 1.1, Google's own too: its
    class has no other way to say so. It loads them all the same.

    Args:
        model: `SwitchSeq2SeqLM`.
        path: `pathlib.Path` of an empty folder.
        verbose: 0 or 1. Whether to show a progress bar.

    Raises:
        ValueError: As `check_huggingface`.
    """
    config = huggingface_config.to_config(model.backbone)
    weights = model.backbone.named_weights()
    shapes = weight_shapes(model.backbone)
    table = huggingface_names.table(shapes, config["model_type"], model.backbone.gated)
    if config["model_type"] == "switch_transformers" and not config["tie_word_embeddings"]:
        # Its encoder and decoder then do not share the embedding, and look for their own.
        table["token_embedding"] = Entry(huggingface_names.EMBEDDINGS)
    preprocessor = model.preprocessor
    spiece = _spiece(preprocessor)
    _write_tensors(weights, table, path, verbose)
    _write_json(path / "config.json", config)
    if spiece is not None:
        (path / "spiece.model").write_bytes(spiece)
        number = preprocessor.tokenizer.num_sentinels
        tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": number}
        _write_json(path / "tokenizer_config.json", tokenizer)


def _spiece(preprocessor):
    return None if preprocessor is None else preprocessor.tokenizer.spiece_model()


def _write_tensors(weights, table, path, verbose):
    shards = _shards(list(_tensors(weights, table)))
    names = ["model.safetensors"]
    if len(shards) > 1:
        numbers = range(1, len(shards) + 1)
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in numbers]
        places = {x.name: name for name, shard in zip(names, shards) for x in shard}
        total = sum(x.num_bytes for shard in shards for x in shard)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(path / "model.safetensors.index.json", index)
    bar = keras.utils.Progbar(sum(map(len, shards)), verbose=verbose, unit_name="tensor")
    for name, shard in zip(names, shards, strict=True):
        _write_shard(path / name, shard, weights, table, bar)


def _tensors(weights, table):
    for weight, entry in table.items():
        shape = entry.tensor_shape(weights[weight].shape)
        dtype = keras.backend.standardize_dtype(weights[weight].dtype)
        for expert, name in enumerate(entry.names):
            yield _Tensor(name, shape, dtype, weight, expert if entry.stacked else None)


def _shards(tensors):
    shards, size = [[]], 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_shard(path, tensors, weights, table, bar):
    """Writes safetensors one after another; the library wants all of them in memory at once."""
    ends = list(itertools.accumulate(tensor.num_bytes for tensor in tensors))
    header = {"__metadata__": {"format": "pt"}}
    for tensor, end in zip(tensors, ends, strict=True):
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype][0],
            "shape": tensor.shape,
            "data_offsets": [end - tensor.num_bytes, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight, group in itertools.groupby(tensors, lambda tensor: tensor.weight):
            value = keras.ops.convert_to_numpy(weights[weight])
            for tensor in group:
                part = value if tensor.expert is None else value[tensor.expert]
                file.write(table[weight].to_tensor(part).reshape(-1).view(np.uint8))
                bar.add(1)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
