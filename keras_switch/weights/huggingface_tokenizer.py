"""The tokenizer of a Hugging Face folder: spiece.model, or tokenizer.json, and added tokens."""

import base64
import os
import typing

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from keras_switch.backend import sentinels
from keras_switch.weights import untrusted_folder

_CONFIG, _FAST, _ADDED = "tokenizer_config.json", "tokenizer.json", "added_tokens.json"
# Files of tokenizers of other kinds.
_OTHERS = (_FAST, _CONFIG, "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model")
_SPACE = "▁"


class Tokenizer(typing.NamedTuple):
    """What a folder says of its tokenizer.

    Attributes:
        spiece: bytes. A SentencePiece model, or `None`.
        num_sentinels: Sentinels that a model without any gets: an int, unless the file is wrong.
        added: List of pairs of a token that is not split into pieces, and its id.
        left_out: string. A line that says why there is no tokenizer, or `None`.
    """

    spiece: bytes | None
    num_sentinels: typing.Any
    added: list
    left_out: str | None


def read(folder):
    """Reads the tokenizer of a folder, whose files are checked.

    A folder without spiece.model may have a tokenizer.json of the form that transformers makes
    of one. It becomes the model that it was made of. Any other tokenizer is left out.

    Returns:
        `Tokenizer`.

    Raises:
        ValueError: If a file is broken.
    """
    config, fast, added = (
        untrusted_folder.read_json(folder, name) if os.path.lexists(folder / name) else {}
        for name in (_CONFIG, _FAST, _ADDED)
    )
    spiece, left_out = untrusted_folder.read_spiece(folder), None
    if spiece is None and fast:
        left_out = _why_not(fast)
        spiece = None if left_out else _to_spiece(folder, fast)
    elif spiece is None:
        others = [name for name in _OTHERS if os.path.lexists(folder / name)]
        left_out = f"it has {' and '.join(others)}, and no spiece.model" if others else None
    if left_out:
        left_out = (
            f"The tokenizer was left out: {left_out}. The model takes ids of tokens. Put the "
            "spiece.model of the model that this one comes from into the folder, if its tokenizer "
            "is T5's, and convert again; or set the model's `preprocessor`."
        )
    pairs = [*_pairs(folder, config, fast), *added.items()]
    return Tokenizer(spiece, config.get("extra_ids", 100), pairs, left_out)


def check_added(path, tokenizer, added):
    """Requires that the tokens which a folder does not split are those that ours does not split.

    Args:
        path: Path of the folder.
        tokenizer: `SwitchTokenizer`.
        added: List of pairs of a token and its id.

    Raises:
        ValueError: If there is another token, or one has another id.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    ids = {x.piece: i for i, x in enumerate(proto.pieces) if x.type != proto.SentencePiece.NORMAL}
    others = [
        f"{token!r}: {repr(number):.80}" for token, number in added if ids.get(token) != number
    ]
    others = list(dict.fromkeys(others))  # Several files may list the same one.
    if others:
        raise ValueError(
            "The folder's tokenizer has tokens of its own, which SentencePiece would split into "
            f"pieces. Remove them from {_ADDED}, {_CONFIG} and {_FAST} if the model can do "
            f"without. Received: input={str(path)!r}, {', '.join(others[:8])}"
            + (f" and {len(others) - 8} more" if len(others) > 8 else "")
        )


def _pairs(folder, config, fast):
    """The added tokens of tokenizer_config.json and of tokenizer.json, with their ids."""
    decoder = config.get("added_tokens_decoder") or {}
    listed = fast.get("added_tokens") or []
    if not isinstance(decoder, dict) or not isinstance(listed, list):
        _refuse(folder, "added tokens that are no list")
    entries = [(number, entry) for number, entry in decoder.items()]
    entries += [(x.get("id") if isinstance(x, dict) else None, x) for x in listed]
    pairs = []
    for number, entry in entries:
        token = entry.get("content") if isinstance(entry, dict) else entry
        number = int(number) if str(number).isdecimal() and len(str(number)) < 10 else None
        if not isinstance(token, str) or number is None:
            _refuse(folder, f"an added token {entry!r:.80}")
        pairs.append((token, number))
    return pairs


def _why_not(fast):
    """Says why a tokenizer.json is no SentencePiece model of T5's kind; `None` if it is."""
    model = fast.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "Unigram":
        return f"tokenizer.json has a model of type {kind!r:.80}, not 'Unigram'"
    if model.get("byte_fallback"):
        return "tokenizer.json falls back on bytes"
    normalizers = _steps(fast.get("normalizer"), "normalizers")
    splitters = _steps(fast.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in normalizers]
    # Either drops the spaces that SentencePiece drops.
    if splitters[:-1] == [{"type": "WhitespaceSplit"}]:
        fits = kinds[:1] == ["Precompiled"] and set(kinds[1:]) <= {"Strip", "Replace"}
    else:
        fits = len(splitters) == 1 and kinds == ["Precompiled", "Strip", "Replace"]
    if not fits or not _is_metaspace(splitters[-1]) or not all(map(_is_known, normalizers)):
        return "tokenizer.json does not normalise and split texts as T5 does"
    return None


def _steps(part, name):
    """The steps of a part of a tokenizer.json, each a dictionary."""
    steps = part.get(name) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return steps if isinstance(steps, list) and all(isinstance(x, dict) for x in steps) else []


def _is_metaspace(step):
    scheme = step.get("prepend_scheme", "always")
    known = {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}
    kept = step.get("split", True) is True and step.get("add_prefix_space", True) is True
    named = (step.get("type"), step.get("replacement"), scheme) == ("Metaspace", _SPACE, "always")
    return named and kept and step.keys() <= known


def _is_known(step):
    """Whether a normalizer is as transformers writes it."""
    rest = {name: value for name, value in step.items() if name != "type"}
    if step["type"] == "Strip":
        return rest == {"strip_left": False, "strip_right": True}
    if step["type"] == "Replace":
        pattern = {"Regex": " {2,}"}
        return rest in [{"pattern": pattern, "content": space} for space in (_SPACE, " ")]
    return rest.keys() == {"precompiled_charsmap"}


def _to_spiece(folder, fast):
    """Makes the serialised SentencePiece model of a tokenizer.json."""
    pieces, unknown = fast["model"].get("vocab"), fast["model"].get("unk_id")
    if not isinstance(pieces, list) or type(unknown) is not int:
        _refuse(folder, f"a vocabulary of type {type(pieces).__name__}, unk_id={unknown!r:.80}")
    wrong = next((entry for entry in pieces if not _is_piece(entry)), None)
    if wrong is not None:
        _refuse(folder, f"the piece {wrong!r:.80}")
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    pad, end = ids.get("<pad>"), ids.get("</s>")
    if len(ids) < len(pieces) or not 0 <= unknown < len(pieces) or None in (pad, end):
        _refuse(folder, f"{len(pieces)} pieces, {len(ids)} of them different, {pad=}, {end=}")
    proto = sentencepiece_model_pb2.ModelProto()
    kinds = proto.SentencePiece
    special = {pad: kinds.CONTROL, end: kinds.CONTROL, unknown: kinds.UNKNOWN}
    special |= dict.fromkeys(sentinels.find(ids), kinds.USER_DEFINED)
    for index, (piece, score) in enumerate(pieces):
        proto.pieces.add(piece=piece, score=score, type=special.get(index, kinds.NORMAL))
    spec, normalizer = proto.trainer_spec, proto.normalizer_spec
    spec.model_type, spec.vocab_size, spec.bos_id = spec.UNIGRAM, len(pieces), -1
    spec.pad_id, spec.eos_id, spec.unk_id = pad, end, unknown
    normalizer.name = "nmt_nfkc"
    normalizer.precompiled_charsmap = _charsmap(folder, fast)
    return proto.SerializeToString(deterministic=True)


def _is_piece(entry):
    """Whether an entry of a vocabulary is a piece and its score, which float32 can hold."""
    if not isinstance(entry, list) or len(entry) != 2 or type(entry[1]) not in (int, float):
        return False
    piece, score = entry
    is_text = isinstance(piece, str) and piece.encode("utf-8", "replace").decode() == piece
    return is_text and piece != "" and abs(score) <= float(np.finfo("float32").max)


def _charsmap(folder, fast):
    first = _steps(fast["normalizer"], "normalizers")[0]
    try:
        return base64.b64decode(first["precompiled_charsmap"], validate=True)
    except (TypeError, ValueError) as error:
        return _refuse(folder, f"a precompiled_charsmap that is no base64 ({error})")


def _refuse(folder, what):
    raise ValueError(
        "A tokenizer's files must be those of transformers. Remove them to convert the weights "
        f"alone. Received: input={str(folder)!r}, {what}"
    )
