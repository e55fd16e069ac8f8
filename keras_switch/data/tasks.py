"""T5's tasks on chunks of tokens: what the encoder reads, and what the decoder is to write.

A task makes examples of a fixed shape of chunks of `chunk_length` tokens:

    check(ids)                   refuses a tokenizer that does not suit the task
    split(tokens, seeds, ids)    inputs `(chunks, inputs_length)` and targets
                                 `(chunks, targets_length)`, of tokens `(chunks, chunk_length)` and
                                 seeds `(chunks, 2)`, on which alone they depend
"""

import typing

import tensorflow as tf

from keras_switch import checks
from keras_switch.data import randomness
from keras_switch.data import span_corruption


class SpecialIds(typing.NamedTuple):
    """The ids of a tokenizer that a task puts between the tokens."""

    sentinels: list
    end: int
    pad: int

    @classmethod
    def of(cls, tokenizer):
        return cls(list(tokenizer.sentinel_ids), tokenizer.end_token_id, tokenizer.pad_token_id)


def check_ids(name, ids, tokenizer):
    """Requires an array of a tokenizer's ids, the one that pads excepted."""
    size = tokenizer.vocabulary_size()
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(
            f"`{name}` must be integers in a row. "
            f"Received: shape={ids.shape}, dtype={ids.dtype.name}"
        )
    wrong = (ids < 0) | (ids >= size) | (ids == tokenizer.pad_token_id)
    if wrong.any():
        raise ValueError(
            f"`{name}` must be ids of the tokenizer's vocabulary of {size}, without the one that "
            f"pads, {tokenizer.pad_token_id}. Received: {int(ids[wrong.argmax()])}"
        )
    return ids.astype("int32")


def _with_end(tokens, end):
    return tf.concat([tokens, tf.fill((tf.shape(tokens)[0], 1), end)], axis=1)


class SpanCorruption:
    """T5's span corruption: the decoder writes the spans that the encoder does not see.

    The inputs are filled exactly, and there is no padding.

    Args:
        inputs_length: int. Length of the encoder's inputs.
        noise_density: float. Fraction of the tokens to corrupt, at most 0.9.
        mean_span_length: float. Mean length of a corrupted span.

    Raises:
        ValueError: If an argument is not as described.

    Example:
    >>> task = SpanCorruption(inputs_length=512)
    >>> task.chunk_length, task.targets_length
    (568, 114)

    Reference:
    - [Raffel et al., 2020](https://arxiv.org/abs/1910.10683), section 3.1.4
    """

    def __init__(self, inputs_length, noise_density=0.15, mean_span_length=3.0):
        self.plan = span_corruption.plan(inputs_length, noise_density, mean_span_length)
        self.chunk_length = self.plan.length
        self.inputs_length = self.plan.inputs_length
        self.targets_length = self.plan.targets_length

    def check(self, ids):
        """Requires that a tokenizer has as many sentinels as there are spans."""
        if self.plan.num_spans > len(ids.sentinels):
            raise ValueError(
                f"`inputs_length` needs {self.plan.num_spans} sentinels, and the tokenizer has "
                f"{len(ids.sentinels)}. Received: inputs_length={self.inputs_length}"
            )

    def split(self, tokens, seeds, ids):
        mask = span_corruption.noise_mask(self.plan, seeds)
        inputs, targets = span_corruption.corrupt(tokens, mask, ids.sentinels, ids.end)
        # Of no chunks at all, too: a batch of a mixture may lack a text.
        inputs = tf.reshape(inputs, (-1, self.inputs_length))
        return inputs, tf.reshape(targets, (-1, self.targets_length))


class PrefixLM:
    """T5's prefix language model: the decoder goes on from where the encoder's input ends.

    The end of the prefix is drawn anew for each chunk, so that both sides have padding.

    Args:
        inputs_length: int. Length of the encoder's inputs. A chunk has one token less, since
            both sides end in the id that ends a text.

    Raises:
        ValueError: If `inputs_length` is not as described.

    Example:
    >>> task = PrefixLM(inputs_length=512)
    >>> task.chunk_length, task.targets_length
    (511, 511)

    Reference:
    - [Raffel et al., 2020](https://arxiv.org/abs/1910.10683), section 3.2.3
    """

    def __init__(self, inputs_length):
        self.inputs_length = checks.check_integer("inputs_length", inputs_length, 3)
        self.chunk_length = self.inputs_length - 1
        self.targets_length = self.chunk_length

    def check(self, ids):
        """Needs no sentinels."""

    def split(self, tokens, seeds, ids):
        numbers = tf.cast(randomness.mix(randomness.keys(seeds)), tf.int64)
        return self.split_at(tokens, 1 + tf.cast(numbers % (self.chunk_length - 1), tf.int32), ids)

    def split_at(self, tokens, sizes, ids):
        """Splits each chunk behind its first `sizes` tokens, int32 of shape `(chunks, 1)`."""
        ended = _with_end(tokens, ids.end)
        places = tf.range(self.chunk_length + 1)[tf.newaxis]
        inputs = tf.where(places < sizes, ended, ids.pad)
        inputs = tf.where(places == sizes, ids.end, inputs)
        places = places[:, :-1] + sizes
        targets = tf.gather(ended, tf.minimum(places, self.chunk_length), batch_dims=1)
        return inputs, tf.where(places <= self.chunk_length, targets, ids.pad)


class CausalLM:
    """T5's language model: the decoder writes the whole chunk, and the encoder reads nothing.

    T5 ends each text in an id, and so the empty one: that id is all of the encoder's input.

    Args:
        targets_length: int. Length of the targets. A chunk has one token less, since the targets
            end in the id that ends a text.

    Raises:
        ValueError: If `targets_length` is not as described.

    Example:
    >>> task = CausalLM(targets_length=512)
    >>> task.chunk_length, task.inputs_length
    (511, 1)

    Reference:
    - [Raffel et al., 2020](https://arxiv.org/abs/1910.10683), section 3.2.3
    """

    inputs_length = 1

    def __init__(self, targets_length):
        self.targets_length = checks.check_integer("targets_length", targets_length, 2)
        self.chunk_length = self.targets_length - 1

    def check(self, ids):
        """Needs no sentinels."""

    def split(self, tokens, seeds, ids):
        return tf.fill((tf.shape(tokens)[0], 1), ids.end), _with_end(tokens, ids.end)
