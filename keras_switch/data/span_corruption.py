"""T5's span corruption of chunks of tokens."""

import typing

import numpy as np
import tensorflow as tf

from keras_switch import checks
from keras_switch.data import randomness

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

    512 inputs take chunks of 568 tokens, and give 114 targets. The lengths are those of T5's
    `random_spans_helper`, but where T5 itself would pad the inputs or fail: where it counts no
    span at all, or more spans than there are tokens to keep between them.

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
    fits, _ = _longest(inputs_length, lambda length: _t5(length, noise_density, mean_span_length))
    if noise_density == 0.5 and fits.targets_length > inputs_length:
        # T5 then makes both sides equally long.
        shorter = _t5(fits.length - 1, noise_density, mean_span_length)
        fits = shorter if shorter.inputs_length == inputs_length else fits
    if fits == _with_kept_between(fits):
        return fits
    fits, longer = _longest(
        inputs_length,
        lambda length: _with_kept_between(_t5(length, noise_density, mean_span_length)),
    )
    if fits.inputs_length == inputs_length:
        return fits
    # The last token brought a span of its own as well. Merging two spans makes room for it.
    return longer._replace(num_spans=longer.num_spans - 1)


def for_length(length, noise_density, mean_span_length):
    """`Plan` of a text of so many tokens, at least 2."""
    return _with_kept_between(_t5(length, noise_density, mean_span_length))


def _t5(length, noise_density, mean_span_length):
    num_noise = min(max(round(length * noise_density), 1), length - 1)
    return Plan(length, num_noise, max(round(num_noise / mean_span_length), 1))


def _with_kept_between(plan):
    """At high densities T5 has more spans than tokens to keep between them, and fails."""
    return plan._replace(num_spans=min(plan.num_spans, plan.length - plan.num_noise))


def _longest(inputs_length, plan_of):
    """The longest `Plan` whose inputs fit, and the next one."""
    longer = plan_of(2)
    while longer.inputs_length <= inputs_length:
        fits = longer
        longer = plan_of(longer.length + 1)
    return fits, longer


def noise_mask(plan, seed):
    """Masks of random spans, the first of which is kept and the last of which is noise.

    Args:
        plan: `Plan`.
        seed: int32 tensor of shape `(2,)`, or `(batch, 2)` for a mask of each row. A mask depends
            on its seed alone.

    Returns:
        bool tensor of shape `(plan.length,)` or `(batch, plan.length)`, true where a token is
        corrupted.
    """
    length, num_noise, num_spans = plan
    key = randomness.keys(seed)
    kept = _random_cuts(length - num_noise, num_spans, randomness.mix(key))
    noise = _random_cuts(num_noise, num_spans, randomness.mix(key + randomness.ODD))
    # Where the first i kept spans and the first i, or i - 1, spans of noise are over.
    ends = tf.stack([kept[..., 1:] + noise[..., :-1], kept[..., 1:] + noise[..., 1:]], axis=-1)
    ends = tf.reshape(ends, (-1, 2 * num_spans))
    places = tf.broadcast_to(tf.range(length), (tf.shape(ends)[0], length))
    is_noise = tf.searchsorted(ends, places, side="right") % 2 == 1
    return tf.reshape(is_noise, tf.concat([tf.shape(seed)[:-1], [length]], axis=0))


def corrupt(tokens, mask, sentinel_ids, end_id):
    """Splits chunks into corrupted inputs and the targets that restore them.

    Args:
        tokens: int32 tensor of shape `(length,)` or `(batch, length)`.
        mask: bool tensor of that shape, true where a token is corrupted. Each row has as many
            spans, and as many corrupted tokens.
        sentinel_ids: int32 tensor, the ids of `<extra_id_0>`, `<extra_id_1>`, ...
        end_id: int. The id that ends a text.

    Returns:
        Pair of int32 tensors, inputs and targets, each row of which ends in `end_id`.
    """
    return tuple(_replace(tokens, masked, sentinel_ids, end_id) for masked in (mask, ~mask))


def _replace(tokens, mask, sentinel_ids, end_id):
    """Puts one sentinel in the place of each masked span, and the end's id at the end."""
    before = tf.concat([tf.zeros_like(mask[..., :1]), mask[..., :-1]], axis=-1)
    starts = mask & ~before
    spans = tf.cumsum(tf.cast(starts, tf.int32), axis=-1) - 1
    tokens = tf.where(starts, tf.gather(sentinel_ids, tf.maximum(spans, 0)), tokens)
    # Every row keeps as many.
    keep = starts | ~mask
    rows = tf.shape(tokens)[:-1]
    length = tf.math.count_nonzero(keep, dtype=tf.int32) // tf.maximum(tf.reduce_prod(rows), 1)
    kept = tf.reshape(tf.boolean_mask(tokens, keep), tf.concat([rows, [length]], axis=0))
    return tf.concat([kept, tf.fill(tf.concat([rows, [1]], axis=0), end_id)], axis=-1)


def _random_cuts(num_items, num_segments, key):
    """Where to cut so many items, 0 and the end included: no segment is empty.

    Of `num_items - 1` places, those of the largest random numbers are taken, so all ways to cut
    are equally likely.

    Args:
        num_items: int.
        num_segments: int.
        key: uint32 tensor of shape `(..., 1)`.

    Returns:
        int32 tensor of shape `(..., num_segments + 1)`, increasing.
    """
    numbers = randomness.mix(key + randomness.ODD * np.arange(1, num_items, dtype=np.uint32))
    _, places = tf.math.top_k(tf.bitcast(numbers, tf.int32), num_segments - 1)
    first = tf.zeros_like(key, tf.int32)
    return tf.concat([first, tf.sort(places + 1, axis=-1), first + num_items], axis=-1)


def corrupt_texts(tokens, plans, keys, sentinel_ids, end_id):
    """Splits texts of varying lengths, one after another, as `corrupt` splits chunks.

    Args:
        tokens: int32 tensor of shape `(num_tokens,)`.
        plans: `Plan` of int32 tensors of shape `(texts,)`.
        keys: uint32 tensor of shape `(texts, 1)`. A mask depends on its text's key alone.
        sentinel_ids: int32 tensor, the ids of `<extra_id_0>`, `<extra_id_1>`, ...
        end_id: int. The id that ends a text.

    Returns:
        Pair of ragged int32 tensors, inputs and targets.
    """
    num_kept = plans.length - plans.num_noise
    kept = _segments(num_kept, plans.num_spans, randomness.mix(keys))
    noise = _segments(plans.num_noise, plans.num_spans, randomness.mix(keys + randomness.ODD))
    is_noise = tf.tile([False, True], tf.reduce_sum(plans.num_spans)[tf.newaxis])
    mask = tf.repeat(is_noise, tf.reshape(tf.stack([kept, noise], axis=1), (-1,)))
    firsts = tf.repeat(tf.cumsum(plans.num_spans, exclusive=True), plans.length)
    sides = []
    for masked, counts in ((mask, num_kept), (~mask, plans.num_noise)):
        # A text starts with what is kept and ends in noise, so no span goes on in the next text.
        starts = masked & ~tf.concat([[False], masked[:-1]], axis=0)
        spans = tf.maximum(tf.cumsum(tf.cast(starts, tf.int32)) - 1 - firsts, 0)
        values = tf.where(starts, tf.gather(sentinel_ids, spans), tokens)
        values = tf.boolean_mask(values, starts | ~masked)
        lengths = tf.cast(counts + plans.num_spans, tf.int64)
        side = tf.RaggedTensor.from_row_lengths(values, lengths)
        sides.append(tf.concat([side, tf.fill((side.nrows(), 1), end_id)], axis=1))
    return tuple(sides)


def _segments(num_items, num_segments, keys):
    """Lengths of all texts' segments, none empty.

    All ways to cut a text are equally likely, as in `_random_cuts`.

    Args:
        num_items: int32 tensor of shape `(texts,)`.
        num_segments: int32 tensor of shape `(texts,)`.
        keys: uint32 tensor of shape `(texts, 1)`.
    """
    texts = tf.repeat(tf.range(tf.size(num_items)), num_items)
    places = tf.ragged.range(num_items).values
    numbers = tf.gather(keys[:, 0], texts) + randomness.ODD * tf.cast(places, tf.uint32)
    # The first item starts a segment, and so do those of the smallest random numbers.
    numbers = tf.cast(randomness.mix(numbers), tf.int64)
    numbers = tf.where(places == 0, tf.constant(-1, tf.int64), numbers)
    order = tf.argsort(tf.cast(texts, tf.int64) * 2**33 + numbers)
    starts = tf.cast(places < tf.gather(num_segments, texts), tf.int32)
    starts = tf.scatter_nd(order[:, tf.newaxis], starts, tf.shape(texts))
    return tf.math.bincount(tf.cumsum(starts) - 1, minlength=tf.reduce_sum(num_segments))
