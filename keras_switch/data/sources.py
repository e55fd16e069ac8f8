"""Text by one spelling for every kind of source."""

import glob
import os
import pathlib

import tensorflow as tf

from keras_switch.data import shards
from keras_switch.data import text_files
from keras_switch.data import tfds

EMBEDDED = pathlib.Path(__file__).parent / "corpora" / "sotu.txt.xz"


def read_lines(source=None):
    """The passages of a source of text, one after the other, without empty ones.

    It holds one passage at a time in memory, or a file of a compressed format one block.

    Args:
        source: string or path, or a list of them. Each is

            - a UTF-8 text file, a passage a line, plain or compressed: `news.txt`, `news.txt.gz`,
              `news.txt.xz`, `news.txt.zst`;
            - JSON lines, plain or compressed: `web.jsonl` has a `"text"` in each object, and
              `web.jsonl.gz#body` a `"body"`;
            - a glob that matches such files, which are read in the order of their names:
              `news/*.txt`;
            - a data set of tensorflow-datasets that is prepared on this machine: `tfds:c4/en`,
              with a split, `tfds:c4/en:validation`, or `tfds:glue/cola:train[:10%]#sentence`,
              with the name of a feature. The split is `train`, and the feature `text`, where
              nothing is said.

            Names such as `gs://bucket/news.txt` are read by TensorFlow. Defaults to the corpus in
            this package, the State of the Union addresses.

    Yields:
        Strings.

    Raises:
        ValueError: If a source does not exist, is not text, or holds no words.
        ImportError: If it needs a package of the extra `data` that is not installed.

    Example:
    >>> next(read_lines())[:26]
    'Fellow-Citizens of the Sen'
    """
    for spelling, files in _all_parts(source):
        is_empty = True
        for part in files:
            for line in read_part(part):
                is_empty = False
                yield line
        if is_empty:
            raise ValueError(f"`path` must hold some text. Received: path={spelling!r}")


def parts(source=None):
    """Spells a source as a list of sources that can be read independently.

    Each is one file; their texts, one after the other, are those of the source.

    Args:
        source: What `read_lines` takes.

    Returns:
        List of strings.
    """
    return [part for _, files in _all_parts(source) for part in files]


def read_part(part):
    """The passages of one of the `parts` of a source, which may be none."""
    if tfds.is_tfds(part):
        return tfds.read_passages(part)
    return text_files.read_passages(*_path_and_key(part))


def _all_parts(source):
    """Pairs of a spelling and its parts."""
    sources = source if isinstance(source, (list, tuple)) else [EMBEDDED if not source else source]
    if not sources:
        raise ValueError("`source` must name some text. Received: source=[]")
    return [(os.fspath(one), _parts(os.fspath(one))) for one in sources]


def _parts(spelling):
    if tfds.is_tfds(spelling):
        return tfds.parts(spelling)
    path, key = _path_and_key(spelling)
    suffix = "" if key is None else f"#{key}"
    if os.path.isfile(path):
        return [spelling]
    if os.path.isdir(path):
        has_tokens = os.path.exists(os.path.join(path, shards.INDEX))
        advice = (
            "It holds tokens, which `keras_switch.data.PreparedTokens` reads"
            if has_tokens
            else f"Name its files by a glob, such as {os.path.join(path, '*.txt')!r}"
        )
        raise ValueError(
            f"`path` must be an existing text file, not a folder. {advice}. "
            f"Received: path={spelling!r}"
        )
    if not glob.has_magic(path):
        # Whether it exists is seen when it is opened.
        return [spelling]
    found = tf.io.gfile.glob(path) if "://" in path else glob.glob(path, recursive=True)
    files = [name for name in found if "://" in name or os.path.isfile(name)]
    if not files:
        raise ValueError(
            f"`path` must be an existing text file, or a glob that matches some. "
            f"Received: path={spelling!r}"
        )
    return [f"{name}{suffix}" for name in sorted(files)]


def _path_and_key(spelling):
    """Splits `a.jsonl#body` at the last `#`. A file may have one in its name, too."""
    path, _, key = spelling.rpartition("#")
    if key and ".jsonl" in path and not os.path.exists(spelling):
        return path, key
    return spelling, None
