"""T5's span corruption of one chunk of tokens."""

import tensorflow as tf

from keras_switch.data.vocabulary import EOS


def lengths(inputs_length, noise_density=0.15, mean_span_length=3.0):
    """Returns the raw tokens that fill `inputs_length`, and the length of their targets.

    Each noise span becomes one sentinel in the inputs, each span between them one in
    the targets, and both end in EOS. 512 gives 568 and 114.

    Args:
        inputs_length: int. Length of the corrupted inputs.
        noise_density: float. Fraction of the raw tokens to corrupt.
        mean_span_length: float. Mean length of a corrupted span.

    Returns:
        Pair of integers.

    Raises:
        ValueError: If no chunk fits.
    """
    if not isinstance(inputs_length, int) or inputs_length < 4:
        raise ValueError(
            "`inputs_length` must be an integer of at least 4. "
            f"Received: inputs_length={inputs_length}"
        )
    if not 0 < noise_density < 1:
        raise ValueError(
            f"`noise_density` must be between 0 and 1. Received: noise_density={noise_density}"
        )
    if mean_span_length < 1:
        raise ValueError(
            f"`mean_span_length` must be at least 1. Received: mean_span_length={mean_span_length}"
        )
    raw_length = 2
    while _corrupted(raw_length + 1, noise_density, mean_span_length)[0] <= inputs_length:
        raw_length += 1
    return raw_length, _corrupted(raw_length, noise_density, mean_span_length)[1]


def span_counts(length, noise_density=0.15, mean_span_length=3.0):
    """Returns the number of corrupted tokens of a chunk, and of their spans."""
    num_noise = min(max(round(length * noise_density), 1), length - 1)
    num_spans = max(round(num_noise / mean_span_length), 1)
    return num_noise, min(num_spans, num_noise, length - num_noise)


def noise_mask(length, seed, noise_density=0.15, mean_span_length=3.0):
    """Mask of random spans, the first of which is kept and the last of which is noise.

    Args:
        length: int. Number of tokens.
        seed: int32 tensor of shape `(2,)`. The mask depends on nothing else.
        noise_density: float. Fraction of the tokens to corrupt.
        mean_span_length: float. Mean length of a corrupted span.

    Returns:
        bool tensor of shape `(length,)`, true where a token is corrupted.
    """
    num_noise, num_spans = span_counts(length, noise_density, mean_span_length)
    noise = _random_segments(num_noise, num_spans, tf.stack([seed[0], seed[1] * 2]))
    kept = _random_segments(length - num_noise, num_spans, tf.stack([seed[0], seed[1] * 2 + 1]))
    spans = tf.reshape(tf.stack([kept, noise], axis=1), (-1,))
    is_noise = tf.tile([False, True], [num_spans])
    return tf.ensure_shape(tf.repeat(is_noise, spans), (length,))


def corrupt(tokens, mask, first_sentinel):
    """Splits a chunk into corrupted inputs and the targets that restore it.

    Args:
        tokens: int32 tensor of shape `(length,)`.
        mask: bool tensor of shape `(length,)`, true where a token is corrupted.
        first_sentinel: int. Id of `<extra_id_0>`; later ones count down.

    Returns:
        Pair of int32 tensors, inputs and targets, each ending in EOS.
    """
    return _replace(tokens, mask, first_sentinel), _replace(tokens, ~mask, first_sentinel)


def _replace(tokens, mask, first_sentinel):
    """Puts one sentinel in the place of each masked span, and EOS at the end."""
    before = tf.concat([[False], mask[:-1]], axis=0)
    starts = mask & ~before
    sentinels = first_sentinel + 1 - tf.cumsum(tf.cast(starts, tokens.dtype))
    tokens = tf.where(starts, sentinels, tokens)
    return tf.concat([tf.boolean_mask(tokens, starts | ~mask), [EOS]], axis=0)


def _random_segments(num_items, num_segments, seed):
    """Lengths of `num_segments` segments, none empty, uniform over all ways to cut."""
    order = tf.argsort(tf.random.stateless_uniform((num_items - 1,), seed))
    starts = tf.cast(order < num_segments - 1, tf.int32)
    segments = tf.cumsum(tf.concat([[0], starts], axis=0))
    return tf.math.bincount(segments, minlength=num_segments, maxlength=num_segments)


def _corrupted(length, noise_density, mean_span_length):
    """Lengths of the inputs and the targets of a chunk, EOS included."""
    num_noise, num_spans = span_counts(length, noise_density, mean_span_length)
    return length - num_noise + num_spans + 1, num_noise + num_spans + 1
