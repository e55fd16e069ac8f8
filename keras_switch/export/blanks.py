"""Sentinels and the texts that fill them."""

import tensorflow as tf


def fill(inputs, completions, sentinel_ids, special_ids):
    """Puts the spans of completions in the place of the inputs' sentinels.

    A completion is a sentinel, its span, the next sentinel, its span, and so on, in any
    order. Sentinels without a span vanish, and so do spans without a sentinel.

    Args:
        inputs: int32 tensor of shape `(batch, inputs_length)`.
        completions: int32 tensor of shape `(batch, length)`.
        sentinel_ids: Sequence of ints.
        special_ids: Sequence of ints, those of padding and of the end.

    Returns:
        Ragged int32 tensor of the filled ids, without special ones.
    """

    def is_sentinel(ids):
        return _is_among(ids, sentinel_ids)

    def is_word(ids):
        return ~_is_among(ids, [*sentinel_ids, *special_ids])

    size, length = tf.shape(inputs)[1], tf.shape(completions)[1]
    # The sentinel that governs each token of a completion is the last one before it.
    places = tf.where(is_sentinel(completions), tf.range(length), -1)
    places = tf.scan(tf.maximum, tf.transpose(places), tf.fill((tf.shape(inputs)[0],), -1))
    places = tf.transpose(places)
    governors = tf.gather(completions, tf.maximum(places, 0), batch_dims=1)
    matches = governors[:, :, None] == inputs[:, None, :]
    matches &= is_sentinel(inputs)[:, None, :] & (places >= 0)[:, :, None]
    positions = tf.argmax(matches, axis=-1, output_type=tf.int32)
    keep_inputs = is_word(inputs)
    keep_spans = tf.reduce_any(matches, -1) & is_word(completions)
    # Sort by the position in the inputs, then by the position in the completion.
    input_keys = tf.broadcast_to(tf.range(size) * (length + 1), tf.shape(inputs))
    span_keys = positions * (length + 1) + 1 + tf.range(length)
    keep = tf.concat([keep_inputs, keep_spans], axis=1)
    keys = tf.concat([input_keys, span_keys], axis=1)
    keys = tf.where(keep, keys, (size + 1) * (length + 1))
    order = tf.argsort(keys, axis=1)
    ids = tf.gather(tf.concat([inputs, completions], axis=1), order, batch_dims=1)
    return tf.RaggedTensor.from_tensor(ids, tf.reduce_sum(tf.cast(keep, tf.int32), axis=1))


def _is_among(ids, values):
    return tf.reduce_any(ids[..., None] == tf.constant(values, ids.dtype), axis=-1)
