"""SavedModels that take and give text."""

import keras_hub
import tensorflow as tf

from keras_switch import checks
from keras_switch.export import blanks
from keras_switch.export import saved_model
from keras_switch.models.fill_blanks import check_takes_texts


def export_text_model(model, path, max_length=64, sampler="greedy"):
    """Exports a language model, its tokenizer included, as a SavedModel that fills blanks.

    It takes a batch of strings, `text`, with blanks `<extra_id_0>`, `<extra_id_1>`, ...,
    and gives `filled`, the texts with each blank filled in; `completion`, the text that
    the decoder wrote; and `ids`, its ids, with zeros after the end. It writes as `generate`
    does: with key/value caches, no padding, and no token dropped, so an answer does not depend
    on the other texts of its batch. A text is cut to the `encoder_sequence_length` of the
    preprocessor, end included.

    Args:
        model: `keras_switch.models.SwitchSeq2SeqLM` with a preprocessor.
        path: Path of the directory of versions. The next free one is written.
        max_length: int. The longest completion, in ids.
        sampler: string or `keras_hub.samplers.Sampler`. How it writes, whatever the model is
            compiled with. `model.sampler` is that of `compile`.

    Returns:
        Path of the version.

    Raises:
        ValueError: If `model` has no preprocessor or more pieces than ids, `max_length` is not
            positive, or the Keras backend is not TensorFlow.

    Example:
    >>> model = keras_switch.models.SwitchSeq2SeqLM.from_preset("my_folder")
    >>> path = export_text_model(model, "saved_model", max_length=8)
    >>> path.name
    '1'
    """
    saved_model.check_backend()
    check_takes_texts(model)
    max_length = checks.check_positive_integer("max_length", max_length)
    sampler = keras_hub.samplers.get(sampler)
    preprocessor, tokenizer = model.preprocessor, model.preprocessor.tokenizer

    def serve(text):
        # The decoder's row starts with padding, which is no part of the completion.
        inputs = preprocessor.generate_preprocess(text, sequence_length=max_length + 1)
        inputs |= _without_empty_columns(inputs, "encoder_token_ids", "encoder_padding_mask")
        outputs = model.generate_step(inputs, [tokenizer.end_token_id], sampler)
        ids = tf.where(outputs["decoder_padding_mask"], outputs["decoder_token_ids"], 0)
        ids = tf.ensure_shape(ids[:, 1:], (None, max_length))
        filled = blanks.fill(
            inputs["encoder_token_ids"], ids, tokenizer.sentinel_ids, tokenizer.special_token_ids
        )
        return {
            "filled": tokenizer.detokenize(filled),
            "completion": preprocessor.generate_postprocess(outputs),
            "ids": ids,
        }

    tokenizer.build(None)  # An archive takes no layer that is not built.
    signature = [tf.TensorSpec((None,), tf.string, name="text")]
    return saved_model.write(model, serve, signature, path, resources=[tokenizer])


def _without_empty_columns(inputs, ids_name, mask_name):
    """The encoder's inputs, cut to the longest text of the batch."""
    lengths = tf.reduce_sum(tf.cast(inputs[mask_name], tf.int32), axis=1)
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    return {name: inputs[name][:, :longest] for name in (ids_name, mask_name)}
