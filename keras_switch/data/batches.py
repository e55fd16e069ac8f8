"""Batches of span corruption, each a function of its number."""

import tensorflow as tf

from keras_switch import checks
from keras_switch.data import span_corruption

# Keeps the seeds of masks and of shuffles apart.
MASK_SEED, SHUFFLE_SEED = 0, 1


class SpanCorruptionBatches:
    """T5's span corruption of a long row of tokens, in fixed-size batches.

    The tokens are cut into chunks that fill the inputs exactly, so there is no padding.
    Each epoch visits all chunks in another order with other masks. Batch `i` depends on
    the seed and `i` alone, so a run resumes at any batch at no cost.

    Args:
        tokens: int array of shape `(num_tokens,)`.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or another object with its
            `sentinel_ids`, `end_token_id` and `pad_token_id`.
        inputs_length: int. Length of the encoder's inputs.
        batch_size: int.
        noise_density: float. Fraction of the tokens to corrupt, at most 0.9.
        mean_span_length: float. Mean length of a corrupted span.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If an argument is not as described, or the text is shorter than a batch.

    Example:
    >>> lines = keras_switch.data.read_corpus()[:500]
    >>> proto = keras_switch.data.train_sentencepiece(lines, vocabulary_size=600)
    >>> tokenizer = keras_switch.models.SwitchTokenizer(proto)
    >>> tokens = keras_switch.data.tokenize_corpus(lines, tokenizer)
    >>> batches = SpanCorruptionBatches(tokens, tokenizer, inputs_length=32, batch_size=4)
    >>> inputs, targets, weights = next(iter(batches.dataset()))
    >>> inputs["encoder_token_ids"].shape, targets.shape
    (TensorShape([4, 32]), TensorShape([4, 8]))
    """

    def __init__(
        self,
        tokens,
        tokenizer,
        inputs_length,
        batch_size,
        *,
        noise_density=0.15,
        mean_span_length=3.0,
        seed=0,
    ):
        batch_size = checks.check_positive_integer("batch_size", batch_size)
        if not checks.is_integer(seed) or not 0 <= seed < 2**31:
            raise ValueError(
                f"`seed` must be an integer from 0 to 2**31 - 1. Received: seed={seed}"
            )
        self.plan = span_corruption.plan(inputs_length, noise_density, mean_span_length)
        chunk_length, num_spans = self.plan.length, self.plan.num_spans
        self.num_chunks = len(tokens) // chunk_length
        if self.num_chunks < batch_size:
            raise ValueError(
                f"`tokens` must fill a batch of {batch_size} chunks of {chunk_length} "
                f"tokens. Received: {len(tokens)} tokens"
            )
        if num_spans > len(tokenizer.sentinel_ids):
            raise ValueError(
                f"`inputs_length` needs {num_spans} sentinels, and the tokenizer has "
                f"{len(tokenizer.sentinel_ids)}. Received: inputs_length={inputs_length}"
            )
        chunks = tokens[: self.num_chunks * chunk_length].reshape(-1, chunk_length)
        with tf.device("CPU:0"):
            # An accelerator has no use for the text, and tf.data reads it here.
            self.chunks = tf.constant(chunks, tf.int32)
        self.sentinel_ids = list(tokenizer.sentinel_ids)
        self.end_id, self.pad_id = tokenizer.end_token_id, tokenizer.pad_token_id
        self.batch_size = batch_size
        self.seed = int(seed)

    @property
    def inputs_length(self):
        """Ids that the encoder reads of a text."""
        return self.plan.inputs_length

    @property
    def targets_length(self):
        """Ids that the decoder reads, and those that it is to write."""
        return self.plan.targets_length

    @property
    def batches_per_epoch(self):
        """Batches in one pass over the text; the next pass goes on without a gap."""
        return self.num_chunks // self.batch_size

    @property
    def tokens_per_batch(self):
        """Tokens that the encoder and the decoder read in a step."""
        return self.batch_size * (self.inputs_length + self.targets_length)

    def example(self, index):
        """Example number `index` of the endless sequence.

        Args:
            index: int64 scalar tensor.

        Returns:
            Pair of int32 tensors, inputs and targets.
        """
        index = tf.convert_to_tensor(index, tf.int64)
        epoch = tf.cast(index // self.num_chunks, tf.int32)
        chunk = tf.random.experimental.index_shuffle(
            index % self.num_chunks,
            tf.stack([self.seed, epoch * 2 + SHUFFLE_SEED]),
            tf.constant(self.num_chunks - 1, tf.int64),
        )
        tokens = tf.gather(self.chunks, chunk)
        mask_seed = tf.random.experimental.stateless_fold_in(
            tf.stack([self.seed, MASK_SEED]), index
        )
        mask = span_corruption.noise_mask(self.plan, mask_seed)
        inputs, targets = span_corruption.corrupt(tokens, mask, self.sentinel_ids, self.end_id)
        inputs = tf.ensure_shape(inputs, (self.inputs_length,))
        return inputs, tf.ensure_shape(targets, (self.targets_length,))

    def dataset(self, first_batch=0, num_batches=None):
        """`tf.data.Dataset` of `(inputs, targets, weights)` for `fit`.

        The inputs are those of a `SwitchSeq2SeqLM`; its decoder reads the targets behind the
        id that pads.

        Args:
            first_batch: int. Number of the first batch.
            num_batches: int. Defaults to an endless dataset.
        """
        first = first_batch * self.batch_size
        if num_batches is None:
            indices = tf.data.Dataset.counter(start=first, dtype=tf.int64)
        else:
            indices = tf.data.Dataset.range(first, first + num_batches * self.batch_size)
        dataset = indices.map(self.example, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.batch(self.batch_size, drop_remainder=True)
        return dataset.map(self._to_fit).prefetch(2)

    def _to_fit(self, inputs, targets):
        starts = tf.fill((tf.shape(targets)[0], 1), self.pad_id)
        is_target = tf.cast(targets != self.pad_id, tf.int32)
        x = {
            "encoder_token_ids": inputs,
            "encoder_padding_mask": tf.cast(inputs != self.pad_id, tf.int32),
            "decoder_token_ids": tf.concat([starts, targets[:, :-1]], axis=1),
            "decoder_padding_mask": tf.concat([tf.ones_like(starts), is_target[:, :-1]], axis=1),
        }
        return x, targets, tf.cast(is_target, tf.float32)
