"""T5's sentinels, `<extra_id_0>`, `<extra_id_1>`, ..., as pieces of a SentencePiece model."""

import re

from sentencepiece import sentencepiece_model_pb2

SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,8})>")


def find(pieces):
    """Returns the ids of the sentinels among a list of pieces, that of `<extra_id_0>` first."""
    matches = {index: SENTINEL.fullmatch(piece) for index, piece in enumerate(pieces)}
    numbers = {index: int(match[1]) for index, match in matches.items() if match}
    return sorted(numbers, key=numbers.get)


def append(model, num_sentinels):
    """Appends sentinels, counting down, to a serialised model, unless it has some.

    Args:
        model: bytes. A SentencePiece model.
        num_sentinels: int. Number of sentinels.

    Returns:
        bytes.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    if find(piece.piece for piece in proto.pieces):
        return model
    for number in reversed(range(num_sentinels)):
        proto.pieces.add(
            piece=f"<extra_id_{number}>", score=0.0, type=proto.SentencePiece.USER_DEFINED
        )
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)
