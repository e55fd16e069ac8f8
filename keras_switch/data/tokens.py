"""Lines of text to a SentencePiece model, and to ids."""

import io
import itertools
import re

import numpy as np
import sentencepiece
import tensorflow as tf

from keras_switch import checks
from keras_switch.backend import sentinels

_LONGEST_BYTES = 4192  # The trainer skips longer lines.
_LINES_AT_ONCE = 4096


def train_sentencepiece(lines, vocabulary_size=4096, num_sentinels=100):
    """Trains a SentencePiece model of the unigram kind, with T5's special ids.

    Padding is 0, the end of a text 1, an unknown piece 2. The last ids are T5's sentinels:
    `<extra_id_0>` has the very last one, `<extra_id_1>` the one before. A sentinel in the text
    is no word.

    Args:
        lines: List of strings.
        vocabulary_size: int. Number of ids, sentinels included.
        num_sentinels: int. Number of sentinels.

    Returns:
        bytes. The serialised model, which `keras_switch.models.SwitchTokenizer` takes.

    Raises:
        ValueError: If a number is not as described, or the text is too short for so many pieces.

    Example:
    >>> lines = keras_switch.data.read_corpus()[:500]
    >>> proto = train_sentencepiece(lines, vocabulary_size=600)
    >>> tokenizer = keras_switch.models.SwitchTokenizer(proto)
    >>> tokenizer.vocabulary_size(), tokenizer.token_to_id("<extra_id_0>")
    (600, 599)
    """
    num_sentinels = checks.check_integer("num_sentinels", num_sentinels, 0)
    if not checks.is_integer(vocabulary_size) or vocabulary_size <= num_sentinels + 3:
        raise ValueError(
            f"`vocabulary_size` must be an integer above {num_sentinels + 3}, the number of "
            f"sentinels and special ids. Received: vocabulary_size={vocabulary_size}"
        )
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut(lines),
            model_writer=writer,
            vocab_size=int(vocabulary_size) - num_sentinels,
            model_type="unigram",
            character_coverage=1.0,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            "The text must be long enough for the vocabulary. Received: "
            f"vocabulary_size={vocabulary_size} ({str(error).splitlines()[0]})"
        ) from None
    return sentinels.append(writer.getvalue(), num_sentinels)


def tokenize_corpus(lines, tokenizer):
    """All ids of a list of strings in one row, one string after another.

    Args:
        lines: List of strings.
        tokenizer: `keras_switch.models.SwitchTokenizer`.

    Returns:
        numpy array of int32.

    Example:
    >>> tokenize_corpus(["The people walk.", "The house"], tokenizer)
    array([ 5,  7,  8, 42,  5, 12], dtype=int32)
    """
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(lines, tf.string))
    rows = dataset.batch(_LINES_AT_ONCE).map(lambda batch: tokenizer(batch).flat_values)
    return tf.concat([tf.zeros((0,), tf.int32), *rows], axis=0).numpy()


class Encoder:
    """The ids that `keras_switch.models.SwitchTokenizer` gives, by the SentencePiece library alone.

    It needs no model of Keras, so a worker makes one of the bytes of the model.

    Args:
        proto: bytes. A SentencePiece model with its sentinels.
    """

    def __init__(self, proto):
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        pieces = [self._processor.id_to_piece(number) for number in range(len(self._processor))]
        self._sentinels = sentinels.find(pieces)
        self._names = re.compile("|".join(pieces[number] for number in self._sentinels) or "(?!)")
        self._space = self._processor.piece_to_id("▁")

    def __call__(self, lines):
        """All ids of a list of strings in one row, one string after another."""
        # As the tokenizer does: what follows a sentinel starts a word, and no lone space is before.
        spaced = [self._names.sub(r"\g<0> ", line) for line in lines]
        rows = self._processor.encode(spaced, num_threads=1)
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
        if spaced == lines:
            return ids
        before_sentinel = np.append(np.isin(ids[1:], self._sentinels), False)
        return ids[~(before_sentinel & (ids == self._space))]


def _cut(lines):
    """Pieces of lines that the trainer does not skip for their length, without sentinels."""
    width = _LONGEST_BYTES // 4
    for line in lines:
        line = sentinels.SENTINEL.sub(" ", line)
        for start in range(0, len(line), width):
            yield line[start : start + width]
