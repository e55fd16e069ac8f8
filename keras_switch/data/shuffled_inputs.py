"""Batches that show whether a decoder reads its encoder."""

import tensorflow as tf


def shuffle_inputs(dataset):
    """Gives each text of a batch the encoder inputs of the one before it.

    Args:
        dataset: `tf.data.Dataset` of batches `(inputs, targets, weights)`, of two texts or more.

    Returns:
        `tf.data.Dataset` of the same form.
    """
    return dataset.map(_roll)


def _roll(inputs, targets, weights):
    inputs = dict(inputs)
    for name in ("encoder_token_ids", "encoder_padding_mask"):
        inputs[name] = tf.roll(inputs[name], 1, axis=0)
    return inputs, targets, weights
