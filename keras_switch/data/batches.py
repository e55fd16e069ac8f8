"""Batches of span corruption."""

import tensorflow as tf

from keras_switch import checks
from keras_switch.data import indexed_batches
from keras_switch.data import prepared_tokens
from keras_switch.data import span_corruption

# The first number of the seeds of `tf.random.experimental.index_shuffle`.
_SHUFFLE = 498247692


class SpanCorruptionBatches(indexed_batches.IndexedBatches):
    """T5's span corruption of a long row of tokens, in fixed-size batches.

    The tokens are cut into chunks that fill the inputs exactly, so there is no padding.
    Each epoch visits all chunks in another order with other masks. Batch `i` depends on
    the seed and `i` alone, so a run resumes at any batch at no cost.

    Args:
        tokens: int array of shape `(num_tokens,)`, or `PreparedTokens`, which stay on the disk.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or another object with its
            `sentinel_ids`, `end_token_id` and `pad_token_id`.
        inputs_length: int. Length of the encoder's inputs.
        batch_size: int.
        noise_density: float. Fraction of the tokens to corrupt, at most 0.9.
        mean_span_length: float. Mean length of a corrupted span.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If an argument is not as described, the text is shorter than a batch, or another
            tokenizer made the prepared tokens.

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
        if isinstance(tokens, prepared_tokens.PreparedTokens):
            tokens.check_tokenizer(tokenizer)
            self.chunks = tokens
        else:
            chunks = tokens[: self.num_chunks * chunk_length].reshape(-1, chunk_length)
            with tf.device("CPU:0"):
                # An accelerator has no use for the text, and tf.data reads it here.
                self.chunks = tf.constant(chunks, tf.int32)
        self.sentinel_ids = list(tokenizer.sentinel_ids)
        self.end_id = tokenizer.end_token_id
        self.seed = int(seed)
        super().__init__(
            batch_size,
            self.plan.inputs_length,
            self.plan.targets_length,
            self.num_chunks,
            tokenizer.pad_token_id,
        )

    def examples(self, indices):
        num_examples = tf.shape(indices)[0]
        epochs = tf.cast(indices // self.num_chunks, tf.int32)
        # `index_shuffle` pads the wrong axis of a seed for each index.
        chunks = tf.raw_ops.RandomIndexShuffle(
            index=indices % self.num_chunks,
            seed=tf.stack(
                [
                    tf.fill((num_examples,), _SHUFFLE),
                    tf.fill((num_examples,), self.seed),
                    epochs * 2 + 1,
                ],
                axis=1,
            ),
            max_index=tf.constant(self.num_chunks - 1, tf.int64),
        )
        tokens = self._read(chunks)
        seeds = tf.stack([tf.fill((num_examples,), self.seed), tf.cast(indices, tf.int32)], axis=1)
        mask = span_corruption.noise_mask(self.plan, seeds)
        return span_corruption.corrupt(tokens, mask, self.sentinel_ids, self.end_id)

    def _read(self, chunks):
        if isinstance(self.chunks, tf.Tensor):
            return tf.gather(self.chunks, chunks)
        length = self.plan.length
        tokens = tf.numpy_function(
            lambda numbers: self.chunks.read(numbers * length, length), [chunks], tf.int32
        )
        return tf.ensure_shape(tokens, (None, length))
