"""Weights from one format to another: `keras-switch convert`."""

import pathlib

import keras
import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np

from keras_switch import atomic
from keras_switch import models
from keras_switch.layers import scopes
from keras_switch.weights import source as sources
from keras_switch.weights.huggingface import HuggingFace
from keras_switch.weights.huggingface_writer import check_huggingface
from keras_switch.weights.huggingface_writer import write_huggingface
from keras_switch.weights.keras_folder import is_keras_folder
from keras_switch.weights.keras_folder import load_keras
from keras_switch.weights.keras_folder import make_preprocessor
from keras_switch.weights.keras_folder import write_keras
from keras_switch.weights.mesh_tensorflow import MeshTensorFlow
from keras_switch.weights.t5x import T5X

SOURCES = (HuggingFace, T5X, MeshTensorFlow)
WRITERS = {"keras": write_keras, "huggingface": write_huggingface}
# What a writer refuses, which is seen before a weight is read.
CHECKS = {"huggingface": check_huggingface}


def convert(input, output, to="keras", dtype=None, verbose=1):
    """Writes the weights of a folder in another format.

    The input's format is recognised: a KerasHub folder of a `SwitchSeq2SeqLM`; a Hugging Face
    folder of a Switch Transformer or a T5; a checkpoint of T5X or of Mesh TensorFlow. Every
    tensor is used once, or named in an error; so is every weight of the model. Shapes are
    checked before a tensor is read. At most one stack of experts is in memory twice. What a
    checkpoint does not tell is assumed, and printed at the end; so is why a tokenizer was left out.

    Args:
        input: Path of a folder, or of a checkpoint of Mesh TensorFlow.
        output: Path of a folder that does not exist. It appears whole or not at all.
        to: `"keras"`, a folder for `SwitchSeq2SeqLM.from_preset`, or `"huggingface"`, one for
            `transformers`.
        dtype: Dtype or policy of the model. Defaults to mixed bfloat16, whose weights are float32.
        verbose: 0 or 1. Whether to show a progress bar, what was assumed and what left out.

    Returns:
        Path of the output.

    Raises:
        ValueError: If the input is not in a known format, or is broken, the output exists, the
            format of the output cannot hold the model, or the dtype not a weight.
        FileNotFoundError: If the input, or a part of it, does not exist.
        OSError: If the output cannot be written, which is seen before the input is read.
        ImportError: If reading the input needs a library that is missing.
    """
    output = pathlib.Path(output)
    if to not in WRITERS:
        raise ValueError(f"`to` must be one of {', '.join(WRITERS)}. Received: to={to!r}")
    if output.exists() or output.is_symlink():
        raise ValueError(
            "`output` must not exist: name another folder, or remove it. "
            f"Received: output={str(output)!r}"
        )
    with atomic.whole(output) as beside:
        beside.mkdir()
        model, assumed = _read(input, dtype, verbose, CHECKS.get(to))
        WRITERS[to](model, beside, verbose)
    if verbose and assumed:
        print(assumed)
    return output


def load(path, dtype=None, verbose=1):
    """Reads a model in any known format.

    Args:
        path: Path of the folder, or of a checkpoint of Mesh TensorFlow.
        dtype: Dtype or policy of the model. Defaults to mixed bfloat16.
        verbose: 0 or 1. Whether to show a progress bar.

    Returns:
        `SwitchSeq2SeqLM`, with a preprocessor if the folder has a tokenizer.

    Raises:
        ValueError, FileNotFoundError, ImportError: As `convert`.
    """
    return _read(path, dtype, verbose)[0]


def _read(path, dtype, verbose, check=None):
    """Returns a model, and what was assumed about it, a line or `None`.

    `check(backbone, preprocessor)` raises an error if the model, without weights, will not do.
    """
    path = pathlib.Path(path)
    if is_keras_folder(path):
        return load_keras(path, dtype, check), None
    with _open(path) as source:
        arguments = {**source.arguments, "dtype": dtype}
        sources.check_depth(path, arguments)
        abstract = abstract_backbone(arguments)
        table = sources.check(source, sources.weight_shapes(abstract))
        _check_duplicates(source)
        preprocessor = make_preprocessor(source, arguments["vocabulary_size"])
        if check is not None:
            check(abstract, preprocessor)
        backbone = models.SwitchBackbone(**arguments)
        _fill(backbone.named_weights(), source, table, verbose)
    return models.SwitchSeq2SeqLM(backbone, preprocessor=preprocessor), source.assumed


def abstract_backbone(arguments):
    """Makes a `SwitchBackbone` without allocating a weight."""
    with scopes.without_values():
        return models.SwitchBackbone(**arguments)


def _open(path):
    for format in SOURCES:
        if format.recognises(path):
            return format(path)
    if not path.exists():
        raise FileNotFoundError(f"`input` does not exist. Received: input={str(path)!r}")
    known = "; ".join(format.title for format in SOURCES)
    raise ValueError(
        "`input` must be a folder of `SwitchSeq2SeqLM.save_to_preset`, or in one of these "
        f"formats: {known}. Received: input={str(path)!r}"
    )


def _check_duplicates(source):
    for name, original in source.duplicates.items():
        if not np.array_equal(source.read(name), source.read(original), equal_nan=True):
            raise ValueError(
                f"{source.title} has two tensors that should be equal, but differ. Received: "
                f"input={str(source.path)!r}, {name} and {original}"
            )


def _fill(weights, source, table, verbose):
    """Sets each weight, one tensor at a time."""
    steps = sum(len(entry.names) for entry in table.values())
    bar = keras.utils.Progbar(steps, verbose=verbose, unit_name="tensor")
    for name, entry in table.items():
        weights[name].assign(_value(name, weights[name], source, entry, bar))


def _value(name, weight, source, entry, bar):
    value = np.empty(weight.shape, weight.dtype)
    for part, tensor in zip(value if entry.stacked else [value], entry.names, strict=True):
        read = entry.to_weight(source.read(tensor), part.shape)
        with np.errstate(over="ignore"):
            part[...] = read
        if not np.can_cast(read.dtype, part.dtype):
            sources.check_range(source.path, name, read, part)
        bar.add(1)
    return value
