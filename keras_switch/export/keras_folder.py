"""KerasHub folders of a `SwitchSeq2SeqLM`."""

from keras_switch import models
from keras_switch.export import folders
from keras_switch.layers import scopes

_BACKBONE = "keras_switch>SwitchBackbone"


def is_keras_folder(path):
    """Whether a folder holds a configuration of KerasHub's."""
    try:
        return "registered_name" in folders.read_json(path, "config.json")
    except (ValueError, FileNotFoundError):
        return False


def load_keras(path, dtype):
    """Loads a `SwitchSeq2SeqLM`.

    Raises:
        ValueError: If the folder is of another model, or broken.
    """
    name = folders.read_json(path, "config.json")["registered_name"]
    if name != _BACKBONE:
        raise ValueError(
            f"A KerasHub folder must be of a {_BACKBONE}. Received: input={str(path)!r}, "
            f"registered_name={name!r}"
        )
    _check_size(path)
    try:
        return models.SwitchSeq2SeqLM.from_preset(str(path), dtype=dtype)
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"A KerasHub folder cannot be loaded. Received: input={str(path)!r} ({error})"
        ) from error


def _check_size(path):
    """Refuses a configuration of more weights than the files can hold, before it is built."""
    with scopes.without_values():
        backbone = models.SwitchBackbone.from_preset(str(path), load_weights=False)
        number = backbone.count_params()
    size = sum(file.stat().st_size for file in path.glob("*.weights.h5"))
    if size < 2 * number:
        raise ValueError(
            "A KerasHub folder's files must hold its weights. Received: "
            f"input={str(path)!r}, {number} weights in {size} bytes"
        )


def write_keras(model, path, verbose=1):
    """Writes a folder for `SwitchSeq2SeqLM.from_preset`."""
    model.save_to_preset(str(path))


def make_preprocessor(source, vocabulary_size):
    """Makes a preprocessor of a source's SentencePiece model, if there is one.

    Raises:
        ValueError: If it is broken, or has ids that the model does not know.
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
    return models.SwitchSeq2SeqLMPreprocessor(tokenizer)
