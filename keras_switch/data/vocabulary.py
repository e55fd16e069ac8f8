"""SentencePiece vocabularies with T5's sentinels."""

import io
import pathlib

import sentencepiece
import tensorflow as tf
import tensorflow_text as tf_text
from sentencepiece import sentencepiece_model_pb2

from keras_switch import atomic

PAD, EOS, UNK = 0, 1, 2
MAX_SENTENCE_BYTES = 4192


class Vocabulary:
    """A SentencePiece model whose last ids are T5's sentinels.

    `<extra_id_0>`, the first sentinel, has the last id, `<extra_id_1>` the one before.
    Padding is 0, the end of a text 1, an unknown piece 2. Make a vocabulary after
    `keras.utils.set_random_seed`: with a new seed TensorFlow frees older tokenizers.

    Args:
        model: bytes. Serialised SentencePiece model.

    Attributes:
        tokenizer: `tensorflow_text.SentencepieceTokenizer`, for tf.data and SavedModels.

    Example:
    >>> lines = keras_switch.data.read_corpus()[:500]
    >>> vocabulary = keras_switch.data.Vocabulary.train(lines, vocabulary_size=600)
    >>> ids = vocabulary.tokenize(["the <extra_id_0> of the people"])
    >>> int(ids[0, 2]) == vocabulary.first_sentinel == 599
    True
    >>> vocabulary.detokenize(ids).numpy()
    array([b'the <extra_id_0> of the people'], dtype=object)
    """

    def __init__(self, model):
        self.model = model
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self.pieces = [piece.piece for piece in proto.pieces]
        with tf.init_scope():
            self.tokenizer = tf_text.SentencepieceTokenizer(model)
        self.num_sentinels = sum(piece.startswith("<extra_id_") for piece in self.pieces)

    @property
    def size(self):
        return len(self.pieces)

    @property
    def first_sentinel(self):
        """The id of `<extra_id_0>`; the next sentinels count down from it."""
        return self.size - 1

    def tokenize(self, texts):
        """Ids of a tensor of strings, as a ragged int32 tensor, without EOS."""
        return self.tokenizer.tokenize(texts)

    def detokenize(self, ids):
        """Strings of a ragged tensor of ids."""
        return self.tokenizer.detokenize(ids)

    def tokenize_corpus(self, lines):
        """All ids of a list of strings in one numpy array, one string after another."""
        dataset = tf.data.Dataset.from_tensor_slices(lines).batch(4096)
        dataset = dataset.map(lambda batch: self.tokenize(batch).flat_values)
        return tf.concat(list(dataset), axis=0).numpy()

    @classmethod
    def train(cls, lines, vocabulary_size=4096, num_sentinels=100):
        """Trains a unigram model.

        Args:
            lines: List of strings.
            vocabulary_size: int. Number of ids, sentinels included.
            num_sentinels: int. Number of sentinels.

        Returns:
            `Vocabulary`.

        Raises:
            ValueError: If the text is too short for that many pieces.
        """
        if not isinstance(vocabulary_size, int) or vocabulary_size <= num_sentinels + 3:
            raise ValueError(
                f"`vocabulary_size` must be an integer above {num_sentinels + 3}, the number of "
                f"sentinels and special ids. Received: vocabulary_size={vocabulary_size}"
            )
        writer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(_cut(lines)),
                model_writer=writer,
                vocab_size=vocabulary_size - num_sentinels,
                model_type="unigram",
                character_coverage=1.0,
                pad_id=PAD,
                eos_id=EOS,
                unk_id=UNK,
                bos_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                "The text must be long enough for the vocabulary. Received: "
                f"vocabulary_size={vocabulary_size} ({str(error).splitlines()[0]})"
            ) from None
        return cls(_append_sentinels(writer.getvalue(), num_sentinels))

    @classmethod
    def load(cls, path):
        """Reads a vocabulary that `save` wrote."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"`path` must be an existing file. Received: path={str(path)!r}")
        return cls(path.read_bytes())

    def save(self, path):
        """Writes the vocabulary, whole or not at all."""
        with atomic.whole(path) as beside:
            beside.write_bytes(self.model)


def _cut(lines):
    """Pieces that SentencePiece's trainer does not skip for their length."""
    for line in lines:
        width = MAX_SENTENCE_BYTES // 4
        for start in range(0, len(line), width):
            yield line[start : start + width]


def _append_sentinels(model, num_sentinels):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for number in reversed(range(num_sentinels)):
        piece = proto.pieces.add()
        piece.piece = f"<extra_id_{number}>"
        piece.score = 0.0
        piece.type = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)
