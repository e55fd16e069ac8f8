"""A SentencePiece model made by hand, so that its ids follow from no trainer."""

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

WORDS = ("▁the", "▁The", "▁of", "▁people", "▁walk", "s", "▁a", "▁small", "▁house", "▁is", "▁sleep")
LETTERS = "abcdefghijklmnopqrstuvwxyzT,."


def model_proto():
    """A `ModelProto` of 43 pieces without sentinels, as T5 releases it."""
    proto = sentencepiece_model_pb2.ModelProto()
    kinds = proto.SentencePiece

    def add(piece, score, kind=kinds.NORMAL):
        proto.pieces.add(piece=piece, score=score, type=kind)

    add("<pad>", 0.0, kinds.CONTROL)
    add("</s>", 0.0, kinds.CONTROL)
    add("<unk>", 0.0, kinds.UNKNOWN)
    add("▁", -4.0)
    for index, word in enumerate(WORDS):
        add(word, -2.0 - index / 10)
    for letter in LETTERS:
        if letter not in WORDS:
            add(letter, -6.0)
    spec = proto.trainer_spec
    spec.model_type, spec.vocab_size = spec.UNIGRAM, len(proto.pieces)
    spec.pad_id, spec.eos_id, spec.unk_id, spec.bos_id = 0, 1, 2, -1
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    normalizer = proto.FromString(normalizer.serialized_model_proto())
    proto.normalizer_spec.CopyFrom(normalizer.normalizer_spec)
    return proto


def spiece_model():
    """The bytes of `model_proto`."""
    return model_proto().SerializeToString(deterministic=True)
