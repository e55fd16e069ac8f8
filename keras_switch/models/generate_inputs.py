"""What `SwitchSeq2SeqLM.generate` takes: texts, with prompts or without."""

import contextvars

import numpy as np
from keras import ops

NAMES = ("encoder_text", "decoder_text")

# Whether `generate` leaves the prompts out of what it gives.
strips_prompts = contextvars.ContextVar("strips_prompts", default=False)


def checked(inputs):
    """Returns texts in a form that KerasHub takes: strings, lists of them, tensors.

    Args:
        inputs: A text, a list, tuple or array of texts, or a dictionary of such: `encoder_text`
            and, if there are prompts, `decoder_text`. Anything else, such as a tensor or a
            `tf.data.Dataset`, stays as it is.

    Raises:
        ValueError: If something is no text, or the dictionary is not as described.
    """
    if not isinstance(inputs, dict):
        return _texts("inputs", inputs)
    unknown = sorted(set(inputs) - set(NAMES))
    if unknown or "encoder_text" not in inputs:
        raise ValueError(
            "A dictionary of texts has `encoder_text` and, if there are prompts, `decoder_text`. "
            f"Received: {sorted(inputs)}"
        )
    texts = {name: _texts(name, value) for name, value in inputs.items()}
    if "decoder_text" not in texts:
        return texts["encoder_text"]
    lengths = [len(x) if isinstance(x, list) else None for x in texts.values()]
    if None not in lengths and lengths[0] != lengths[1]:
        raise ValueError(
            "There must be a prompt for each text. Received: "
            f"{len(texts['encoder_text'])} texts and {len(texts['decoder_text'])} prompts"
        )
    return texts


def are_none(inputs):
    """Whether what `checked` returns holds no text."""
    texts = inputs.get("encoder_text") if isinstance(inputs, dict) else inputs
    return isinstance(texts, list) and not texts


def _texts(name, value):
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        value = [_text(text) for text in value]
        wrong = [text for text in value if not isinstance(text, str)]
    else:
        value = _text(value)
        wrong = [value] if value is None or isinstance(value, (bool, int, float)) else []
    if wrong:
        raise ValueError(f"`{name}` must be a text, or a list of texts. Received: {wrong[0]!r}")
    return value


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def without_prompts(outputs, prompt_mask):
    """Moves what was written to the start of each row, and the prompts out of it."""
    ids, is_text = outputs["decoder_token_ids"], outputs["decoder_padding_mask"]
    length = ids.shape[1]
    first = ops.sum(ops.cast(prompt_mask, "int32"), axis=1, keepdims=True)
    place = ops.arange(length, dtype="int32")[None] + first
    is_inside, place = place < length, ops.minimum(place, length - 1)
    is_text = ops.logical_and(is_inside, ops.take_along_axis(is_text, place, axis=1))
    ids = ops.where(is_text, ops.take_along_axis(ids, place, axis=1), 0)
    return {"decoder_token_ids": ids, "decoder_padding_mask": is_text}
