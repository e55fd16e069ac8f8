"""Texts of varying lengths, or their ids, in one array."""

import typing

import numpy as np
import tensorflow as tf

from keras_switch.data import tasks

_TEXTS_AT_ONCE = 4096


class Ragged(typing.NamedTuple):
    """Rows of ids, one after another.

    Attributes:
        ids: int32 array of shape `(num_ids,)`.
        lengths: int64 array of shape `(num_rows,)`.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self):
        return np.cumsum(self.lengths) - self.lengths

    def take(self, rows):
        """The given rows, in their order."""
        lengths = self.lengths[rows]
        return Ragged(self.ids[places(self.starts[rows], lengths)], lengths)

    def cut(self, most):
        """Rows without what is behind their first `most` ids."""
        lengths = np.minimum(self.lengths, most)
        return Ragged(self.ids[places(self.starts, lengths)], lengths)

    def ended(self, end):
        """Rows with one more id at their ends."""
        ends = np.cumsum(self.lengths)
        return Ragged(np.insert(self.ids, ends, end), self.lengths + 1)


def places(starts, lengths):
    """The numbers from each start on, so many of them."""
    firsts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)


def read(name, texts, tokenizer):
    """`Ragged` of texts, or of sequences of ids.

    Args:
        name: string, the argument's.
        texts: List of strings, list of sequences of ints, or ragged tensor.
        tokenizer: `keras_switch.models.SwitchTokenizer`.
    """
    if isinstance(texts, tf.RaggedTensor):
        parts = [texts]
    elif not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(
            f"`{name}` must be a list of texts, or of sequences of ids. Received: {name}={texts!r}"
        )
    elif isinstance(texts[0], str):
        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(texts, tf.string))
        parts = list(dataset.batch(_TEXTS_AT_ONCE).map(tokenizer))
    else:
        rows = [np.asarray(row) for row in texts]
        flat = np.concatenate([row for row in rows if row.size] or [np.zeros((0,), "int32")])
        return Ragged(tasks.check_ids(name, flat, tokenizer), np.array([len(row) for row in rows]))
    ids = np.concatenate([part.flat_values for part in parts])
    lengths = np.concatenate([part.row_lengths() for part in parts])
    return Ragged(tasks.check_ids(name, ids, tokenizer), lengths)
