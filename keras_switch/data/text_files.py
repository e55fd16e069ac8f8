"""Lines of text files and of JSON lines, plain or compressed, one at a time."""

import contextlib
import gzip
import io
import json
import lzma
import os
import zlib

import tensorflow as tf

# Longest lines, in characters. A passage of text is shorter; a JSON line may hold a book.
LONGEST_PASSAGE = 2**20
LONGEST_JSON = 2**26

_JSON = ".jsonl"
_DEFAULT_KEY = "text"
_DAMAGE = (EOFError, UnicodeDecodeError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


def is_json(path):
    """Whether a file has JSON lines, by its name, such as `a.jsonl` or `a.jsonl.gz`."""
    stem, suffix = os.path.splitext(path)
    return (os.path.splitext(stem)[1] if suffix in _UNPACK else suffix) == _JSON


def read_passages(path, key=None):
    """The passages of a file, without empty ones.

    Args:
        path: string. A UTF-8 text file, a passage a line, or JSON lines (`.jsonl`), plain or
            compressed (`.gz`, `.xz`, `.zst`).
        key: string. What holds the text in a JSON object. Defaults to `"text"`.

    Yields:
        Strings.

    Raises:
        ValueError: If the file cannot be read, or does not hold what it should.
    """
    has_json = is_json(path)
    longest = LONGEST_JSON if has_json else LONGEST_PASSAGE
    for number, line in enumerate(_lines(path, longest), start=1):
        line = line.strip()
        if line and has_json:
            line = _text(line, key or _DEFAULT_KEY, path, number).strip()
        if line:
            yield line


def _lines(path, longest):
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(longest + 1):
                number += 1
                if "\0" in line:
                    raise ValueError(
                        f"`path` must hold UTF-8 text (line {number} has a zero byte). "
                        f"Received: path={path!r}"
                    )
                if len(line) > longest:
                    raise ValueError(
                        f"`path` must hold a passage a line, each of at most {longest:,} "
                        f"characters. Break line {number} into several. Received: path={path!r}"
                    )
                yield line
    except _damage() as error:
        raise ValueError(
            f"`path` must hold UTF-8 text ({error}). Received: path={path!r}"
        ) from None
    except (FileNotFoundError, IsADirectoryError, tf.errors.NotFoundError):
        raise ValueError(f"`path` must be an existing text file. Received: path={path!r}") from None
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise ValueError(
            f"`path` must be a file that can be read ({reason}). Received: path={path!r}"
        ) from None


def _text(line, key, path, number):
    """The text in a JSON line."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Line {number} of `path` must be a JSON object ({error}). Received: path={path!r}"
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get(key), str):
        keys = ", ".join(map(repr, value)) if isinstance(value, dict) else "none"
        raise ValueError(
            f"Line {number} of `path` must be a JSON object whose {key!r} is a string; another key "
            f"is named by `{path}#KEY`. Received: path={path!r} with the keys {keys}"
        )
    return value[key]


@contextlib.contextmanager
def _open(path):
    """Opens a file for text. TensorFlow reads those of other file systems, such as `gs://`."""
    unpack = _UNPACK.get(os.path.splitext(path)[1], lambda file: file)
    if "://" in path:
        remote = tf.io.gfile.GFile(path, "rb")
        packed = io.BufferedReader(_Pieces(iter(lambda: remote.read(2**17), b"")))
    else:
        packed = open(path, "rb")
    with packed, unpack(packed) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


class _Pieces(io.RawIOBase):
    """A file that reads the bytes of an iterator."""

    def __init__(self, pieces):
        self._pieces, self._rest = pieces, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._rest:
            self._rest = next(self._pieces, None)
            if self._rest is None:
                self._rest = b""
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _zstd_pieces(file):
    """What a zstd file holds. `zstandard.open` would take a part of one that is cut for it all."""
    decompressor = None
    while packed := file.read(2**17):
        while packed:
            decompressor = decompressor or _zstandard().ZstdDecompressor().decompressobj()
            yield decompressor.decompress(packed)
            packed = b""
            if decompressor.eof:
                packed, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("the compressed file ends too early")


def _unpack_zstd(file):
    _zstandard()
    return io.BufferedReader(_Pieces(_zstd_pieces(file)))


_UNPACK = {".gz": gzip.open, ".xz": lzma.open, ".zst": _unpack_zstd}


def _zstandard():
    try:
        import zstandard
    except ImportError:
        raise ImportError(
            "Reading `.zst` needs zstandard: pip install 'keras-switch[data]'"
        ) from None
    return zstandard


def _damage():
    """The errors of a file that is no text, or is damaged."""
    try:
        return (*_DAMAGE, _zstandard().ZstdError)
    except ImportError:
        return _DAMAGE
