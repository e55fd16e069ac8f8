"""SentencePiece with T5's sentinels."""

import keras
import keras_hub
import numpy as np
from sentencepiece import sentencepiece_model_pb2

from keras_switch import checks
from keras_switch.backend import sentinels
from keras_switch.backend import texts
from keras_switch.models.preset_folders import PresetTexts
from keras_switch.models.switch_backbone import SwitchBackbone


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchTokenizer(PresetTexts, keras_hub.tokenizers.T5Tokenizer):
    """Tokenizer of T5 and of Switch Transformers.

    A released `spiece.model` has no sentinels. They are appended, counting down, so that
    `<extra_id_0>` has the last id, 32099, and `<extra_id_99>` the first after the pieces, 32000. A
    model that has sentinels, such as those of `keras_switch.data.train_sentencepiece`, stays as
    it is. No piece changes its id.

    A sentinel in a text is one id. White space before it goes, and what follows it starts a word,
    with white space or without: the ids are those of transformers' `T5Tokenizer`. SentencePiece
    itself would put a lone space before the sentinel, which T5 saw in no training example.
    Detokenizing gives `"the<extra_id_0> of"` back. A `"</s>"` in a text is four characters, where
    transformers would end the text.

    `"</s>"` ends a text, and `"<pad>"` pads it and starts the decoder's. An embedding often has
    more rows than there are pieces, 32128 for 32100. Detokenizing takes such ids for padding.

    Args:
        proto: bytes, or string, the path of a SentencePiece model.
        num_sentinels: int. Sentinels to append to a model that has none.
        **kwargs: Arguments of `keras_hub.tokenizers.SentencePieceTokenizer` other than
            `sequence_length`.

    Attributes:
        num_sentinels: int. Sentinels that the model has.
        sentinel_ids: List of ints, the ids of `<extra_id_0>`, `<extra_id_1>`, ...

    Raises:
        ValueError: If the model lacks `"</s>"` or `"<pad>"`, or an argument is not as described.

    Example:
    >>> tokenizer = SwitchTokenizer("spiece.model")
    >>> ids = tokenizer("The <extra_id_0> of the people")
    >>> int(ids[1]) == tokenizer.vocabulary_size() - 1
    True
    >>> tokenizer.detokenize(ids)
    'The<extra_id_0> of the people'
    """

    backbone_cls = SwitchBackbone

    def __init__(self, proto=None, num_sentinels=100, **kwargs):
        self.num_sentinels = checks.check_integer("num_sentinels", num_sentinels, 0)
        super().__init__(proto, **kwargs)
        if self.sequence_length is not None or "int" not in self.compute_dtype:
            raise ValueError(
                "A `SwitchTokenizer` gives ids of as many pieces as a text has. Pad them with "
                "`SwitchSeq2SeqLMPreprocessor`. Received: "
                f"sequence_length={self.sequence_length}, dtype={self.compute_dtype}"
            )

    def set_proto(self, proto):
        try:
            super().set_proto(proto)
        except (ImportError, OSError, ValueError):
            raise
        except Exception as error:
            raise ValueError(
                "`proto` must be a SentencePiece model with pieces for padding, the end and the "
                f"unknown, or its path. Received: proto={str(proto)[:80]} ({error})"
            ) from error
        if self.proto is None:
            return
        complete = sentinels.append(self.proto, self.num_sentinels)
        if complete != self.proto:
            super().set_proto(complete)
        pieces = self.get_vocabulary()
        self.sentinel_ids = sentinels.find(pieces)
        self.num_sentinels = len(self.sentinel_ids)
        self._is_sentinel = np.isin(np.arange(len(pieces)), self.sentinel_ids)
        self._sentinels = "(" + "|".join(pieces[index] for index in self.sentinel_ids) + ")"
        if self.num_sentinels and "▁" not in pieces:
            raise ValueError(
                "A vocabulary with sentinels must have the piece '▁', a lone space. Received: "
                f"{len(pieces)} pieces, {self.num_sentinels} of them sentinels"
            )

    def tokenize(self, inputs):
        self._check_vocabulary()
        self._renew()
        if not self.num_sentinels:
            return super().tokenize(inputs)
        ids = super().tokenize(texts.substitute(self._sentinels, r"\1 ", inputs))
        return texts.drop_before(ids, self.token_to_id("▁"), self._is_sentinel)

    def detokenize(self, inputs):
        self._check_vocabulary()
        self._renew()
        return super().detokenize(
            texts.replace_unknown(inputs, self.vocabulary_size(), self.pad_token_id)
        )

    def _renew(self):
        """Makes TensorFlow's tokenizer anew if it was freed, as by every new random seed."""
        if texts.is_freed(self._sentence_piece):
            with texts.outside_graphs():
                super().set_proto(self.proto)

    def spiece_model(self):
        """Returns the model without its sentinels, as T5 and transformers release it.

        Those append `num_sentinels` sentinels themselves.

        Raises:
            ValueError: If the sentinels are not the last ids, counting down.
        """
        self._check_vocabulary()
        proto = sentencepiece_model_pb2.ModelProto.FromString(self.proto)
        size = len(proto.pieces) - self.num_sentinels
        names = [piece.piece for piece in proto.pieces[size:]]
        if names != [f"<extra_id_{number}>" for number in reversed(range(self.num_sentinels))]:
            raise ValueError(
                "The sentinels must be the last pieces, counting down to `<extra_id_0>`. Received: "
                f"{self.num_sentinels} sentinels, and the last pieces {names[:2]} ... {names[-2:]}"
            )
        del proto.pieces[size:]
        proto.trainer_spec.vocab_size = size
        return proto.SerializeToString(deterministic=True)

    def get_config(self):
        return {**super().get_config(), "num_sentinels": self.num_sentinels}
