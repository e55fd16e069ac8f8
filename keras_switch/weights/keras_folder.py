"""KerasHub folders of a `SwitchSeq2SeqLM`."""

import os

from keras import ops

from keras_switch import models
from keras_switch.layers import quantized
from keras_switch.layers import scopes
from keras_switch.weights import huggingface_tokenizer
from keras_switch.weights import source as sources
from keras_switch.weights import untrusted_folder

_CONFIG, _TASK = "config.json", "task.json"
_BACKBONE, _MODEL = "keras_switch>SwitchBackbone", "keras_switch>SwitchSeq2SeqLM"


def is_keras_folder(path):
    """Whether a folder holds a configuration of KerasHub's."""
    try:
        return "registered_name" in untrusted_folder.read_json(path, _CONFIG)
    except (ValueError, FileNotFoundError):
        return False


def load_keras(path, dtype, check=None):
    """Loads a `SwitchSeq2SeqLM`.

    Args:
        path: `pathlib.Path` of the folder.
        dtype: Dtype or policy of the model. `None` is the default.
        check: Function of a backbone and a preprocessor, both without weights, which raises an
            error if they will not do.

    Raises:
        ValueError: If the folder is of another model, or broken, or the dtype too narrow.
    """
    try:
        _check_size(path, check)
        model = models.SwitchSeq2SeqLM.from_preset(str(path), dtype=dtype)
        _check_ranges(path, model)
    except (ImportError, ValueError):
        raise
    except Exception as error:
        raise ValueError(
            f"A KerasHub folder cannot be loaded. Received: input={str(path)!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    return model


def _check_size(path, check):
    """Refuses a configuration that the files do not fit, before there is a weight."""
    sources.check_depth(path, _backbone_config(path))
    with scopes.without_values():
        model = models.SwitchSeq2SeqLM.from_preset(str(path), load_weights=False, compile=False)
    number = model.backbone.count_params()
    size = sum(file.stat().st_size for file in path.glob("*.weights.h5"))
    # Two bytes a weight are float16, half a byte is int4.
    if size < (number / 2 if quantized.quantized_parts(model) else 2 * number):
        raise ValueError(
            "A KerasHub folder's files must hold its weights. Received: "
            f"input={str(path)!r}, {number} weights in {size} bytes"
        )
    if check is not None:
        check(model.backbone, model.preprocessor)


def _backbone_config(path):
    """The configuration that the model is made of: that in task.json, if there is one."""
    config = untrusted_folder.read_json(path, _CONFIG)
    _check_class(path, _CONFIG, config, _BACKBONE)
    if os.path.lexists(path / _TASK):
        task = untrusted_folder.read_json(path, _TASK)
        _check_class(path, _TASK, task, _MODEL)
        config = task["config"]["backbone"]
        _check_class(path, _TASK, config, _BACKBONE)
    return config["config"]


def _check_class(path, file, config, expected):
    name = config.get("registered_name")
    if name != expected:
        raise ValueError(
            f"A KerasHub folder's {file} must be of a {expected}. Received: input={str(path)!r}, "
            f"registered_name={name!r}"
        )


def _check_ranges(path, model):
    """Refuses numbers that were finite in the files, and are not in the model."""
    weights = model.backbone.named_weights()
    infinite = [name for name, weight in weights.items() if not ops.all(ops.isfinite(weight))]
    if infinite:
        wide = models.SwitchSeq2SeqLM.from_preset(str(path), dtype="float64")
        source = wide.backbone.named_weights()
        for name in infinite:
            values = map(ops.convert_to_numpy, (source[name], weights[name]))
            sources.check_range(path, name, *values)


def write_keras(model, path, verbose=1):
    """Writes a folder for `SwitchSeq2SeqLM.from_preset`."""
    model.save_to_preset(str(path))


def make_preprocessor(source, vocabulary_size):
    """Makes a preprocessor of a source's SentencePiece model, if there is one.

    Raises:
        ValueError: If it is broken, or has tokens that no SentencePiece model has, or ids that
            the model does not know.
    """
    if source.spiece is None:
        return None
    number = source.num_sentinels
    if not isinstance(number, int) or not 0 <= number <= vocabulary_size:
        raise ValueError(
            "`extra_ids` in tokenizer_config.json must be an integer from 0 to the model's number "
            f"of ids. Received: extra_ids={number}, vocabulary_size={vocabulary_size}"
        )
    tokenizer = models.SwitchTokenizer(proto=source.spiece, num_sentinels=number)
    if tokenizer.vocabulary_size() > vocabulary_size:
        raise ValueError(
            "The tokenizer must not have more ids than the model. Received: "
            f"{tokenizer.vocabulary_size()} pieces, vocabulary_size={vocabulary_size}"
        )
    huggingface_tokenizer.check_added(source.path, tokenizer, source.added_tokens)
    return models.SwitchSeq2SeqLMPreprocessor(tokenizer)
