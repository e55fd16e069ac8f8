"""Batches of pairs of texts."""

import numpy as np
import tensorflow as tf

from keras_switch import checks
from keras_switch.data import indexed_batches
from keras_switch.data import packing
from keras_switch.data import randomness
from keras_switch.data import texts


class PairBatches(indexed_batches.IndexedBatches):
    """Pairs of a text to read and one to write, in fixed-size batches.

    Both sides end in the id that ends a text. What is too long loses what is behind, and keeps
    that id, as in seqio's `append_eos_after_trim`. Packed, a row holds several pairs, chosen once
    in a random order; the padding masks number them, and a model gives each what it gives it
    alone. Each epoch visits all rows in another order. Batch `i` depends on the seed and `i`
    alone, so a run resumes at any batch at no cost.

    Args:
        inputs: List of strings, or of sequences of ids without an end. A text may be empty.
        targets: List of as many, none of which is empty.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or, for ids, another object with its
            `end_token_id`, `pad_token_id` and `vocabulary_size()`.
        inputs_length: int. Length of a row of the encoder's inputs.
        targets_length: int. Length of a row of targets.
        batch_size: int. Rows of a batch.
        packed: bool. Whether a row holds as many pairs as fit, or one.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If an argument is not as described, or there are fewer rows than a batch has.

    Example:
    >>> inputs, targets = [[5, 6], [7], [8, 9, 10]], [[5], [6, 7], [8]]
    >>> batches = PairBatches(inputs, targets, tokenizer, 8, 6, batch_size=1, packed=True)
    >>> x, y, weights = next(iter(batches.dataset()))
    >>> x["encoder_padding_mask"].shape, y.shape
    (TensorShape([1, 8]), TensorShape([1, 6]))
    """

    is_numbered = True

    def __init__(
        self,
        inputs,
        targets,
        tokenizer,
        inputs_length,
        targets_length,
        batch_size,
        *,
        packed=False,
        seed=0,
    ):
        inputs_length = checks.check_integer("inputs_length", inputs_length, 2)
        targets_length = checks.check_integer("targets_length", targets_length, 2)
        batch_size = checks.check_positive_integer("batch_size", batch_size)
        packed = checks.check_bool("packed", packed)
        self.seed = randomness.check_seed(seed)
        row_lengths = (inputs_length, targets_length)
        sides = _pairs(inputs, targets, tokenizer, row_lengths)
        self.num_pairs = len(sides[0].lengths)
        firsts = np.arange(self.num_pairs + 1)
        if packed:
            order = randomness.permutation(self.num_pairs, self.seed)
            sides = [side.take(order) for side in sides]
            firsts = packing.pack(np.stack([s.lengths for s in sides], axis=1), row_lengths)
        num_rows = len(firsts) - 1
        if num_rows < batch_size:
            raise ValueError(
                f"`inputs` must fill a batch of {batch_size} rows. "
                f"Received: {self.num_pairs} pairs in {num_rows} rows"
            )
        with tf.device("CPU:0"):
            self._sides = [_rows(side, firsts) for side in sides]
        super().__init__(
            batch_size, inputs_length, targets_length, num_rows, tokenizer.pad_token_id
        )

    def examples(self, indices):
        rows = randomness.shuffled(indices, self.examples_per_epoch, self.seed)
        inputs, inputs_numbers = self._side(0, rows, self.inputs_length)
        targets, targets_numbers = self._side(1, rows, self.targets_length)
        return inputs, targets, inputs_numbers, targets_numbers

    def _side(self, side, rows, length):
        """Ids of some rows of a side, and the numbers of their examples."""
        ids, numbers, bounds = self._sides[side]
        starts, ends = (tf.gather(bounds, rows + i)[:, tf.newaxis] for i in (0, 1))
        places = starts + tf.range(length, dtype=tf.int64)
        is_real, places = places < ends, tf.minimum(places, bounds[-1] - 1)
        ids = tf.where(is_real, tf.gather(ids, places), self.pad_id)
        return ids, tf.where(is_real, tf.gather(numbers, places), 0)


def _pairs(inputs, targets, tokenizer, row_lengths):
    """`Ragged` inputs and targets that fit a row, with their ends."""
    sides = [texts.read("inputs", inputs, tokenizer), texts.read("targets", targets, tokenizer)]
    counts = [len(side.lengths) for side in sides]
    if counts[0] != counts[1]:
        raise ValueError(
            f"`targets` must be as many as `inputs`. Received: {counts[0]} inputs and "
            f"{counts[1]} targets"
        )
    is_empty = sides[1].lengths == 0
    if is_empty.any():
        raise ValueError(
            "`targets` must not be empty, or there is nothing to write. Received: an empty target, "
            f"number {is_empty.argmax()}"
        )
    end = tokenizer.end_token_id
    return [side.cut(length - 1).ended(end) for side, length in zip(sides, row_lengths)]


def _rows(side, firsts):
    """Constants: all ids, the numbers of their examples in their rows, and where rows start."""
    in_row = np.arange(len(side.lengths)) - np.repeat(firsts[:-1], np.diff(firsts))
    numbers = np.repeat(1 + in_row, side.lengths)
    bounds = np.concatenate([[0], np.cumsum(side.lengths)])[firsts]
    return tf.constant(side.ids, tf.int32), tf.constant(numbers, tf.int32), tf.constant(bounds)
