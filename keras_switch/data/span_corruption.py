"""T5's span corruption of one chunk of tokens."""

import typing

import tensorflow as tf

from keras_switch import checks

_HIGHEST_DENSITY = 0.9


class Plan(typing.NamedTuple):
    """How many tokens of a chunk are corrupted, in how many spans.

    Attributes:
        length: int. Tokens of a chunk.
        num_noise: int. Those to corrupt.
        num_spans: int. Their spans. As many lie between them, the first before them all.
    """

    length: int
    num_noise: int
    num_spans: int

    @property
    def inputs_length(self):
        """What is kept, a sentinel for each span, and the end."""
        return self.length - self.num_noise + self.num_spans + 1

    @property
    def targets_length(self):
        """What is corrupted, a sentinel for each span, and the end."""
        return self.num_noise + self.num_spans + 1


def plan(inputs_length, noise_density=0.15, mean_span_length=3.0):
    """Plans the chunks whose corrupted inputs have exactly so many ids.

    512 inputs take chunks of 568 tokens, and give 114 targets.

    Args:
        inputs_length: int. Length of the corrupted inputs.
        noise_density: float. Fraction of the tokens to corrupt, at most 0.9.
        mean_span_length: float. Mean length of a corrupted span.

    Returns:
        `Plan`.

    Raises:
        ValueError: If an argument is not as described.
    """
    inputs_length = checks.check_integer("inputs_length", inputs_length, 4)
    if not 0 < noise_density <= _HIGHEST_DENSITY:
        raise ValueError(
            f"`noise_density` must be above 0 and at most {_HIGHEST_DENSITY}. "
            f"Received: noise_density={noise_density}"
        )
    if not mean_span_length >= 1:
        raise ValueError(
            f"`mean_span_length` must be at least 1. Received: mean_span_length={mean_span_length}"
        )
    longer = _corrupted(2, noise_density, mean_span_length)
    while longer.inputs_length <= inputs_length:
        fits = longer
        longer = _corrupted(longer.length + 1, noise_density, mean_span_length)
    if fits.inputs_length == inputs_length:
        return fits
    # The last token brought a span of its own as well. Merging two spans makes room for it.
    return longer._replace(num_spans=longer.num_spans - 1)


def _corrupted(length, noise_density, mean_span_length):
    num_noise = min(max(round(length * noise_density), 1), length - 1)
    num_spans = max(round(num_noise / mean_span_length), 1)
    return Plan(length, num_noise, min(num_spans, num_noise, length - num_noise))


def noise_mask(plan, seed):
    """Mask of random spans, the first of which is kept and the last of which is noise.

    Args:
        plan: `Plan`.
        seed: int32 tensor of shape `(2,)`. The mask depends on nothing else.

    Returns:
        bool tensor of shape `(plan.length,)`, true where a token is corrupted.
    """
    length, num_noise, num_spans = plan
    noise = _random_segments(num_noise, num_spans, tf.stack([seed[0], seed[1] * 2]))
    kept = _random_segments(length - num_noise, num_spans, tf.stack([seed[0], seed[1] * 2 + 1]))
    spans = tf.reshape(tf.stack([kept, noise], axis=1), (-1,))
    is_noise = tf.tile([False, True], [num_spans])
    return tf.ensure_shape(tf.repeat(is_noise, spans), (length,))


def corrupt(tokens, mask, sentinel_ids, end_id):
    """Splits a chunk into corrupted inputs and the targets that restore it.

    Args:
        tokens: int32 tensor of shape `(length,)`.
        mask: bool tensor of shape `(length,)`, true where a token is corrupted.
        sentinel_ids: int32 tensor, the ids of `<extra_id_0>`, `<extra_id_1>`, ...
        end_id: int. The id that ends a text.

    Returns:
        Pair of int32 tensors, inputs and targets, each of which ends in `end_id`.
    """
    return tuple(_replace(tokens, masked, sentinel_ids, end_id) for masked in (mask, ~mask))


def _replace(tokens, mask, sentinel_ids, end_id):
    """Puts one sentinel in the place of each masked span, and the end's id at the end."""
    before = tf.concat([[False], mask[:-1]], axis=0)
    starts = mask & ~before
    spans = tf.cumsum(tf.cast(starts, tf.int32)) - 1
    tokens = tf.where(starts, tf.gather(sentinel_ids, tf.maximum(spans, 0)), tokens)
    return tf.concat([tf.boolean_mask(tokens, starts | ~mask), [end_id]], axis=0)


def _random_segments(num_items, num_segments, seed):
    """Lengths of `num_segments` segments, none empty, uniform over all ways to cut."""
    order = tf.argsort(tf.random.stateless_uniform((num_items - 1,), seed))
    starts = tf.cast(order < num_segments - 1, tf.int32)
    segments = tf.cumsum(tf.concat([[0], starts], axis=0))
    return tf.math.bincount(segments, minlength=num_segments, maxlength=num_segments)
