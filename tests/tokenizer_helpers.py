"""A SentencePiece model made by hand, so that its ids follow from no trainer."""

import base64

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


def tokenizer_json(proto, num_sentinels=100, transformers=5):
    """What transformers 5, or 4, writes as tokenizer.json of a `ModelProto` without sentinels."""
    names = [f"<extra_id_{number}>" for number in reversed(range(num_sentinels))]
    vocabulary = [[piece.piece, piece.score] for piece in proto.pieces]
    vocabulary += [[name, 0.0] for name in names]
    special = ["<pad>", "</s>", "<unk>", *names]
    ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    metaspace = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    splitter = metaspace = {"type": "Metaspace", **metaspace}
    if transformers == 5:
        pair = [{"type": "WhitespaceSplit"}, metaspace]
        splitter = {"type": "Sequence", "pretokenizers": pair}
    else:
        strip = {"type": "Strip", "strip_left": False, "strip_right": True}
        replace = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
        normalizer = {"type": "Sequence", "normalizers": [normalizer, strip, replace]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[name], "content": name, **flags, "special": True} for name in special
        ],
        "normalizer": normalizer,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": False},
    }
