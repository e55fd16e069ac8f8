"""Batches of tasks over the chunks of a long row of tokens."""

import numpy as np
import tensorflow as tf

from keras_switch import checks
from keras_switch.data import indexed_batches
from keras_switch.data import prepared_tokens
from keras_switch.data import randomness
from keras_switch.data import tasks


class TaskBatches(indexed_batches.IndexedBatches):
    """A task over a long row of tokens, in fixed-size batches.

    The tokens are cut into chunks, each of which the task makes an example. Each epoch visits all
    chunks in another order, with other random numbers. Batch `i` depends on the seed and `i`
    alone, so a run resumes at any batch at no cost.

    Args:
        tokens: int array of shape `(num_tokens,)`, or `PreparedTokens`, which stay on the disk.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or another object with its
            `sentinel_ids`, `end_token_id`, `pad_token_id` and `vocabulary_size()`.
        task: `SpanCorruption`, `PrefixLM` or `CausalLM`.
        batch_size: int.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If an argument is not as described, the text is shorter than a batch, or another
            tokenizer made the prepared tokens.

    Example:
    >>> lines = keras_switch.data.read_corpus()[:500]
    >>> proto = keras_switch.data.train_sentencepiece(lines, vocabulary_size=600)
    >>> tokenizer = keras_switch.models.SwitchTokenizer(proto)
    >>> tokens = keras_switch.data.tokenize_corpus(lines, tokenizer)
    >>> task = keras_switch.data.PrefixLM(inputs_length=32)
    >>> inputs, targets, weights = next(iter(TaskBatches(tokens, tokenizer, task, 4).dataset()))
    >>> inputs["encoder_token_ids"].shape, targets.shape
    (TensorShape([4, 32]), TensorShape([4, 31]))
    """

    def __init__(self, tokens, tokenizer, task, batch_size, *, seed=0):
        batch_size = checks.check_positive_integer("batch_size", batch_size)
        self.seed = randomness.check_seed(seed)
        self.task = task
        self.ids = tasks.SpecialIds.of(tokenizer)
        self.num_chunks = len(tokens) // task.chunk_length
        if self.num_chunks < batch_size:
            raise ValueError(
                f"`tokens` must fill a batch of {batch_size} chunks of {task.chunk_length} "
                f"tokens. Received: {len(tokens)} tokens"
            )
        task.check(self.ids)
        if isinstance(tokens, prepared_tokens.PreparedTokens):
            tokens.check_tokenizer(tokenizer)
            self.chunks = tokens
        else:
            tokens = tasks.check_ids("tokens", np.asarray(tokens), tokenizer)
            chunks = tokens[: self.num_chunks * task.chunk_length].reshape(-1, task.chunk_length)
            with tf.device("CPU:0"):
                # An accelerator has no use for the text, and tf.data reads it here.
                self.chunks = tf.constant(chunks, tf.int32)
        super().__init__(
            batch_size, task.inputs_length, task.targets_length, self.num_chunks, self.ids.pad
        )

    def examples(self, indices):
        chunks = randomness.shuffled(indices, self.num_chunks, self.seed)
        seeds = randomness.seeds(self.seed, indices)
        return self.task.split(self._read(chunks), seeds, self.ids)

    def _read(self, chunks):
        if isinstance(self.chunks, tf.Tensor):
            return tf.gather(self.chunks, chunks)
        length = self.task.chunk_length
        tokens = tf.numpy_function(
            lambda numbers: self.chunks.read(numbers * length, length), [chunks], tf.int32
        )
        return tf.ensure_shape(tokens, (None, length))


class SpanCorruptionBatches(TaskBatches):
    """T5's span corruption of a long row of tokens, in fixed-size batches.

    The tokens are cut into chunks that fill the inputs exactly, so there is no padding.
    Each epoch visits all chunks in another order with other masks. Batch `i` depends on
    the seed and `i` alone, so a run resumes at any batch at no cost.

    Args:
        tokens: int array of shape `(num_tokens,)`, or `PreparedTokens`, which stay on the disk.
        tokenizer: `keras_switch.models.SwitchTokenizer`, or another object with its
            `sentinel_ids`, `end_token_id`, `pad_token_id` and `vocabulary_size()`.
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
        task = tasks.SpanCorruption(inputs_length, noise_density, mean_span_length)
        super().__init__(tokens, tokenizer, task, batch_size, seed=seed)

    @property
    def plan(self):
        """How many tokens of a chunk are corrupted, in how many spans."""
        return self.task.plan
