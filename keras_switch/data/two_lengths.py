"""Batches of long texts and of short ones, several of which share a row."""

import tensorflow as tf

from keras_switch.data import indexed_batches


class TwoLengths:
    """Batches half of whose rows are long texts, and half rows of as many short ones as fit.

    A model that has only seen one length for a while writes worse at another, so both are mixed.
    All batches have the same shape. Short texts that share a row are numbered 1, 2, ... by the
    padding masks, and a model treats each of them as if it were alone.

    Args:
        long: `SpanCorruptionBatches` of an even number of rows.
        short: `SpanCorruptionBatches` of as many texts as fit in as many rows.

    Attributes:
        inputs_length: int. Length of the rows that the encoder reads.
        targets_length: int. Length of the rows that the decoder reads and is to write.
        tokens_per_batch: int. Ids that both read in a step.
    """

    def __init__(self, long, short):
        self.long, self.short = long, short
        self.texts_per_row = long.inputs_length // short.inputs_length
        if short.batch_size != long.batch_size * self.texts_per_row:
            raise ValueError(
                f"`short` must have {long.batch_size * self.texts_per_row} texts in a batch, "
                f"which fill {long.batch_size} rows. Received: {short.batch_size}"
            )
        self.inputs_length = long.inputs_length
        self.targets_length = max(long.targets_length, self.texts_per_row * short.targets_length)

    @property
    def batches_per_epoch(self):
        """Batches in one pass over the long texts."""
        return self.long.batches_per_epoch

    @property
    def tokens_per_batch(self):
        return 2 * self.long.batch_size * (self.inputs_length + self.targets_length)

    def dataset(self, first_batch=0, num_batches=None, **shards):
        """`tf.data.Dataset` of `(inputs, targets, weights)`, as `SpanCorruptionBatches` has it."""
        parts = self.long, self.short
        datasets = tuple(part.dataset(first_batch, num_batches, **shards) for part in parts)
        joined = tf.data.Dataset.zip(datasets).map(self._join)
        return indexed_batches.without_autotuning(joined)

    def _join(self, long, short):
        """A batch of the rows of both."""
        long_x, *long_rest = long
        short_x, *short_rest = short
        x = {}
        for name, rows in long_x.items():
            texts = short_x[name]
            if name.endswith("_mask"):
                numbers = tf.range(tf.shape(texts)[0]) % self.texts_per_row + 1
                texts = texts * numbers[:, tf.newaxis]
            x[name] = self._stack(rows, texts, name.startswith("encoder"))
        rest = [self._stack(*pair, False) for pair in zip(long_rest, short_rest, strict=True)]
        return x, *rest

    def _stack(self, rows, texts, is_input):
        """Puts rows above texts, as many of which share a row as fit, all padded with 0."""
        texts = tf.reshape(texts, (-1, self.texts_per_row * texts.shape[1]))
        length = self.inputs_length if is_input else self.targets_length
        padded = [tf.pad(part, [[0, 0], [0, length - part.shape[1]]]) for part in (rows, texts)]
        return tf.concat(padded, axis=0)
