"""Batches of span corruption of texts, each by itself."""

import numpy as np
import tensorflow as tf

from keras_switch import checks
from keras_switch.data import indexed_batches
from keras_switch.data import packing
from keras_switch.data import randomness
from keras_switch.data import span_corruption
from keras_switch.data import tasks
from keras_switch.data import texts as texts_module


class TextCorruptionBatches(indexed_batches.IndexedBatches):
    """T5's span corruption of texts, each by itself, several of them in a row.

    A text that is too long for a row is cut into pieces, and one of a single token is left out. A
    row holds as many pieces as fit, chosen once in a random order; the padding masks number them,
    and a model gives each what it gives it alone. Each epoch visits all rows in another order with
    other masks. Batch `i` depends on the seed and `i` alone, so a run resumes at any batch at no
    cost.

    Args:
        texts: List of strings, or of sequences of ids without an end.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or, for ids, another object with its
            `sentinel_ids`, `end_token_id`, `pad_token_id` and `vocabulary_size()`.
        inputs_length: int. Length of a row of the encoder's inputs.
        batch_size: int. Rows of a batch.
        targets_length: int. Length of a row of targets. Defaults to those of a single text that
            fills the inputs; short texts have more, since each has an end.
        noise_density: float. Fraction of the tokens to corrupt, at most 0.9.
        mean_span_length: float. Mean length of a corrupted span.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If an argument is not as described, or there are fewer rows than a batch has.

    Example:
    >>> texts = [range(3, 15), range(5, 9), range(4, 11)]
    >>> batches = TextCorruptionBatches(texts, tokenizer, 32, batch_size=1, targets_length=16)
    >>> x, y, weights = next(iter(batches.dataset()))
    >>> int(x["encoder_padding_mask"].numpy().max()), y.shape
    (3, TensorShape([1, 16]))
    """

    is_numbered = True

    def __init__(
        self,
        texts,
        tokenizer,
        inputs_length,
        batch_size,
        *,
        targets_length=None,
        noise_density=0.15,
        mean_span_length=3.0,
        seed=0,
    ):
        batch_size = checks.check_positive_integer("batch_size", batch_size)
        self.seed = randomness.check_seed(seed)
        longest = tasks.SpanCorruption(inputs_length, noise_density, mean_span_length)
        if targets_length is None:
            targets_length = longest.targets_length
        targets_length = checks.check_integer(
            "targets_length", targets_length, longest.targets_length
        )
        self.ids = tasks.SpecialIds.of(tokenizer)
        longest.check(self.ids)
        pieces = _pieces(texts_module.read("texts", texts, tokenizer), longest.chunk_length)
        self.num_pieces = len(pieces.lengths)
        pieces = pieces.take(randomness.permutation(self.num_pieces, self.seed))
        plans = _plans(pieces.lengths, longest.plan, noise_density, mean_span_length)
        lengths = np.stack([plans.inputs_length, plans.targets_length], axis=1)
        firsts = packing.pack(lengths, (inputs_length, targets_length))
        if len(firsts) <= batch_size:
            raise ValueError(
                f"`texts` must fill a batch of {batch_size} rows. "
                f"Received: {self.num_pieces} pieces of texts in {len(firsts) - 1} rows"
            )
        with tf.device("CPU:0"):
            self._tokens = tf.constant(pieces.ids, tf.int32)
            self._starts = tf.constant(pieces.starts, tf.int64)
            self._firsts = tf.constant(firsts, tf.int64)
            self._plans = tf.constant(np.stack(plans, axis=1), tf.int32)
        super().__init__(
            batch_size, longest.inputs_length, targets_length, len(firsts) - 1, self.ids.pad
        )

    def examples(self, indices):
        rows = randomness.shuffled(indices, self.examples_per_epoch, self.seed)
        pieces = tf.ragged.range(tf.gather(self._firsts, rows), tf.gather(self._firsts, rows + 1))
        in_rows, pieces = pieces.row_lengths(), pieces.values
        plans = span_corruption.Plan(*tf.unstack(tf.gather(self._plans, pieces), axis=1))
        epochs = tf.repeat(indices // self.examples_per_epoch, in_rows)
        keys = randomness.keys(randomness.seeds(self.seed, epochs * self.num_pieces + pieces))
        starts = tf.gather(self._starts, pieces)
        places = tf.ragged.range(starts, starts + tf.cast(plans.length, tf.int64)).values
        sides = span_corruption.corrupt_texts(
            tf.gather(self._tokens, places), plans, keys, self.ids.sentinels, self.ids.end
        )
        columns = [
            column
            for side, length in zip(sides, (self.inputs_length, self.targets_length))
            for column in _in_rows(side, in_rows, length, self.ids.pad)
        ]
        return columns[0], columns[2], columns[1], columns[3]


def _pieces(texts, most):
    """`Ragged` pieces of at most so many tokens, and at least 2."""
    counts = -(-texts.lengths // most)
    lengths = np.full(counts.sum(), most)
    lasts = np.cumsum(counts)[counts > 0] - 1
    lengths[lasts] = (texts.lengths - most * (counts - 1))[counts > 0]
    pieces = texts_module.Ragged(texts.ids, lengths)
    enough = np.flatnonzero(lengths > 1)
    if not enough.size:
        raise ValueError(
            "`texts` must hold a text of at least 2 tokens, one to hide and one to keep. "
            f"Received: {len(texts.lengths)} texts of {len(texts.ids)} tokens"
        )
    return pieces.take(enough)


def _plans(lengths, longest, noise_density, mean_span_length):
    """`Plan` of arrays, for texts of many lengths."""
    table = np.zeros((longest.length + 1, 3), "int32")
    for length in np.unique(lengths):
        table[length] = span_corruption.for_length(length, noise_density, mean_span_length)
    table[longest.length] = longest
    return span_corruption.Plan(*table[lengths].T)


def _in_rows(side, in_rows, length, pad):
    """Padded rows of so many ragged texts each, and the numbers of the texts in their rows."""
    numbers = tf.repeat(tf.ragged.range(1, in_rows + 1).values, side.row_lengths())
    for values, padding in ((side.values, pad), (tf.cast(numbers, tf.int32), 0)):
        rows = tf.RaggedTensor.from_row_lengths(side.with_values(values), in_rows)
        yield rows.merge_dims(1, 2).to_tensor(padding, shape=(None, length))
