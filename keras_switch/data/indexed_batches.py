"""Batches that are functions of their number."""

import itertools

import tensorflow as tf

from keras_switch import checks


class IndexedBatches:
    """An endless sequence of examples in batches, where number `i` needs no other.

    So a run resumes at any batch, and any number of hosts read disjoint rows, at no cost. A
    subclass has an `examples` method and calls this constructor.

    Args:
        batch_size: int. Examples in a batch of all hosts together.
        inputs_length: int. Ids that the encoder reads of a text.
        targets_length: int. Ids that the decoder reads, and those that it is to write.
        examples_per_epoch: int. Examples in one pass over the text.
        pad_id: int. The id that pads, and that starts what the decoder reads.

    Attributes:
        is_numbered: bool. Whether `examples` also says of each id of which example it is.
    """

    is_numbered = False

    def __init__(self, batch_size, inputs_length, targets_length, examples_per_epoch, pad_id):
        self.batch_size = batch_size
        self.inputs_length = inputs_length
        self.targets_length = targets_length
        self.examples_per_epoch = examples_per_epoch
        self.pad_id = pad_id

    @property
    def batches_per_epoch(self):
        """Batches in one pass over the text; the next pass goes on without a gap."""
        return self.examples_per_epoch // self.batch_size

    @property
    def tokens_per_batch(self):
        """Tokens that the encoder and the decoder read in a step."""
        return self.batch_size * (self.inputs_length + self.targets_length)

    def examples(self, indices):
        """Examples of the endless sequence.

        Args:
            indices: int64 tensor of shape `(num_examples,)`.

        Returns:
            Pair of int32 tensors, inputs and targets, a row for each index; if `is_numbered`, also
            a pair that has 1, 2, ... where ids are of a row's first example, of its second, ...,
            and 0 at padding.
        """
        raise NotImplementedError

    def example(self, index):
        """Example number `index` of the endless sequence, as `examples` gives it.

        Args:
            index: int64 scalar tensor.

        Returns:
            What `examples` returns, of one row.
        """
        rows = self.examples(tf.convert_to_tensor(index, tf.int64)[tf.newaxis])
        return tuple(row[0] for row in rows)

    def dataset(self, first_batch=0, num_batches=None, *, shard_index=0, num_shards=1):
        """`tf.data.Dataset` of `(inputs, targets, weights)` for `fit`.

        The inputs are those of a `SwitchSeq2SeqLM`; its decoder reads the targets behind the
        id that pads.

        Args:
            first_batch: int. Number of the first batch.
            num_batches: int. Defaults to an endless dataset.
            shard_index: int. The number of this host among those that share each batch.
            num_shards: int. Those hosts. Each has `batch_size / num_shards` rows of every batch.

        Raises:
            ValueError: If an argument is not as described.
        """
        first_batch = checks.check_integer("first_batch", first_batch, 0)
        num_shards = checks.check_positive_integer("num_shards", num_shards)
        shard_index = checks.check_integer("shard_index", shard_index, 0)
        if shard_index >= num_shards:
            raise ValueError(
                "`shard_index` must be below `num_shards`. "
                f"Received: shard_index={shard_index}, num_shards={num_shards}"
            )
        if self.batch_size % num_shards:
            raise ValueError(
                "`num_shards` must divide the batch size. "
                f"Received: num_shards={num_shards}, batch_size={self.batch_size}"
            )
        if num_batches is None:
            numbers = tf.data.Dataset.counter(start=first_batch, dtype=tf.int64)
        else:
            num_batches = checks.check_integer("num_batches", num_batches, 0)
            numbers = tf.data.Dataset.range(first_batch, first_batch + num_batches)
        num_rows = self.batch_size // num_shards
        rows = tf.range(shard_index * num_rows, (shard_index + 1) * num_rows, dtype=tf.int64)

        def batch(number):
            columns = self.examples(number * self.batch_size + rows)
            lengths = itertools.cycle([self.inputs_length, self.targets_length])
            return self._to_fit(
                *(tf.ensure_shape(x, (num_rows, length)) for x, length in zip(columns, lengths))
            )

        return without_autotuning(numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE))

    def _to_fit(self, inputs, targets, inputs_numbers=None, targets_numbers=None):
        if self.is_numbered:
            return self._numbered_to_fit(inputs, targets, inputs_numbers, targets_numbers)
        starts = tf.fill((tf.shape(targets)[0], 1), self.pad_id)
        is_target = tf.cast(targets != self.pad_id, tf.int32)
        x = {
            "encoder_token_ids": inputs,
            "encoder_padding_mask": tf.cast(inputs != self.pad_id, tf.int32),
            "decoder_token_ids": tf.concat([starts, targets[:, :-1]], axis=1),
            "decoder_padding_mask": tf.concat([tf.ones_like(starts), is_target[:, :-1]], axis=1),
        }
        return x, targets, tf.cast(is_target, tf.float32)

    def _numbered_to_fit(self, inputs, targets, inputs_numbers, targets_numbers):
        before, shifted = (
            tf.pad(side[:, :-1], [[0, 0], [1, 0]]) for side in (targets_numbers, targets)
        )
        x = {
            "encoder_token_ids": inputs,
            "encoder_padding_mask": inputs_numbers,
            "decoder_token_ids": tf.where(targets_numbers == before, shifted, self.pad_id),
            "decoder_padding_mask": targets_numbers,
        }
        return x, targets, tf.cast(targets_numbers > 0, tf.float32)


def without_autotuning(dataset):
    """A dataset that reads two batches ahead, on as many threads as there are cores.

    The thread of tf.data that tunes these numbers can hang for minutes where it is to end, on a
    busy machine and a mesh of virtual cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
