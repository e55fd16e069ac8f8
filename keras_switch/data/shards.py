"""Tokens in ArrayRecord files, each whole or not there, and the index that makes them a corpus."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import tempfile

import numpy as np
import tensorflow as tf

from keras_switch import atomic

BLOCK_LENGTH = 1024
INDEX, TOKENIZER = "index.json", "spiece.model"
_FORMAT = "keras_switch tokens, version 1"
# A record is read by its number, alone.
_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Shard:
    """What the index says of a file.

    Attributes:
        file: string. Its name.
        tokens: int.
        records: int. Blocks of tokens, of which the last may be shorter.
        documents: int. Passages of text.
        bytes: int. Its size.
        sha256: string. Its digest.
    """

    file: str
    tokens: int
    records: int
    documents: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What is prepared.

    Attributes:
        dtype: string. The type of the tokens in records, `"<u2"` or `"<i4"`.
        block_length: int. Tokens of a record.
        tokenizer_sha256: string. The digest of the SentencePiece model.
        shards: Tuple of `Shard`s.
    """

    dtype: str
    block_length: int
    tokenizer_sha256: str
    shards: tuple

    def total(self, name):
        """The sum of a number over all shards."""
        return sum(getattr(shard, name) for shard in self.shards)


def array_record():
    """The module of ArrayRecord, which is imported when it is needed."""
    try:
        from array_record.python import array_record_module
    except ImportError:
        raise ImportError(
            "Prepared tokens need array_record: pip install 'keras-switch[data]'"
        ) from None
    return array_record_module


def token_dtype(vocabulary_size):
    """The smallest type of tokens that has so many."""
    return "<u2" if vocabulary_size <= 2**16 else "<i4"


def write_shard(path, pieces, dtype):
    """Writes tokens to an ArrayRecord file, which takes its name when it is whole.

    Args:
        path: string, of this machine or of another file system, such as `gs://`.
        pieces: Iterable of pairs, an int array and how many documents it holds.
        dtype: string, of `token_dtype`.

    Returns:
        `Shard`.
    """
    num_tokens = num_records = num_documents = 0
    with _whole(path) as beside:
        writer = array_record().ArrayRecordWriter(str(beside), _OPTIONS)
        rest = np.zeros((0,), dtype)
        for tokens, documents in pieces:
            num_tokens, num_documents = num_tokens + len(tokens), num_documents + documents
            rest = np.concatenate([rest, np.asarray(tokens).astype(dtype)])
            while len(rest) >= BLOCK_LENGTH:
                writer.write(rest[:BLOCK_LENGTH].tobytes())
                rest, num_records = rest[BLOCK_LENGTH:], num_records + 1
        if len(rest):
            writer.write(rest.tobytes())
            num_records += 1
        writer.close()
        size, digest = os.path.getsize(beside), atomic.sha256(beside)
    name = os.path.basename(path)
    return Shard(name, num_tokens, num_records, num_documents, size, digest)


def write_index(folder, shards, tokenizer_proto, dtype):
    """Writes the tokenizer and then the index, with which a folder of shards is complete.

    Args:
        folder: string.
        shards: List of `Shard`s.
        tokenizer_proto: bytes. The SentencePiece model.
        dtype: string, of `token_dtype`.

    Returns:
        `Index`.
    """
    digest = hashlib.sha256(tokenizer_proto).hexdigest()
    index = Index(dtype, BLOCK_LENGTH, digest, tuple(sorted(shards, key=lambda one: one.file)))
    with _whole(os.path.join(folder, TOKENIZER)) as beside:
        beside.write_bytes(tokenizer_proto)
    totals = {name: index.total(name) for name in ("tokens", "records", "documents")}
    content = {"format": _FORMAT, **totals, **dataclasses.asdict(index)}
    with _whole(os.path.join(folder, INDEX)) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return index


def read_index(folder):
    """Reads the index of a folder, and checks that the files are those that it names.

    Raises:
        ValueError: If there is no index, or a file is missing or has another size.
    """
    folder = pathlib.Path(folder)
    path = folder / INDEX
    try:
        index = index_of(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"`folder` must be a folder of this machine that `keras-switch prepare` has completed; "
            f"there is no {INDEX} in it. Received: folder={str(folder)!r}"
        ) from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} must be an index that `keras-switch prepare` wrote ({error}). Prepare the "
            f"text again. Received: folder={str(folder)!r}"
        ) from None
    for shard in index.shards:
        check_size(folder / shard.file, shard)
    return index


def index_of(text):
    """The `Index` that the text of an index file has."""
    content = json.loads(text)
    if content["format"] != _FORMAT:
        raise KeyError(f"the format {content['format']!r}")
    shards = tuple(Shard(**shard) for shard in content["shards"])
    return Index(content["dtype"], content["block_length"], content["tokenizer_sha256"], shards)


def check_size(path, shard):
    """Requires that a file has the size that the index gives."""
    size = path.stat().st_size if path.is_file() else None
    if size != shard.bytes:
        found = "none" if size is None else f"{size:,} bytes"
        raise ValueError(
            f"{path} must be the file of {shard.bytes:,} bytes that {INDEX} names. Copy it again, "
            f"or prepare the text again. Received: {found}"
        )


def check_digest(path, digest):
    """Requires that a file has the digest that the index gives."""
    if not path.is_file() or atomic.sha256(path) != digest:
        raise ValueError(
            f"{path} must be the file whose SHA-256 {INDEX} has; it was altered. Copy it again, or "
            f"prepare the text again. Received: another SHA-256 than {digest}"
        )


@contextlib.contextmanager
def _whole(path):
    """Gives a path of this machine to write to; the file is at `path` once it is whole."""
    if "://" not in path:
        with atomic.whole(path) as beside:
            yield beside
        return
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder) / "file"
        yield local
        beside = f"{path}.{secrets.token_hex(4)}.tmp"
        tf.io.gfile.makedirs(os.path.dirname(path))
        tf.io.gfile.copy(str(local), beside)
        tf.io.gfile.rename(beside, path, overwrite=True)
