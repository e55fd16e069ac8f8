"""Text to tokens in files, on Apache Beam."""

import itertools
import os
import re

import tensorflow as tf

from keras_switch import checks
from keras_switch.data import shards
from keras_switch.data import sources
from keras_switch.data import tokens

# Tokens of a file at most, and characters that are tokenized at once.
SHARD_TOKENS = 2**27
_CHARACTERS_AT_ONCE = 2**16
_SHARD = re.compile(r"tokens-\d{5,}-\d{5,}\.array_record")


def prepare(source, output, tokenizer, *, num_groups=256, beam_options=()):
    """Tokenizes text of any size to a folder, which `PreparedTokens` reads.

    The folder gets ArrayRecord files, a copy of the tokenizer, and last an index with the number
    of tokens, records and documents and the SHA-256 of each file. Each file is written beside and
    renamed, and without the index nothing is read. After a kill the same call starts again.

    It runs on Apache Beam, which needs the extra `beam`: by default in this process, on other
    runners by their own options. A worker reads and writes one group of files at a time, and
    holds little of it in memory. One large file is the work of one worker.

    Args:
        source: What `read_lines` takes.
        output: Path of the folder to make, also of another file system, such as `gs://`. It may
            hold what a killed call left.
        tokenizer: `keras_switch.models.SwitchTokenizer`.
        num_groups: int. The files of the source are divided into at most so many groups.
        beam_options: List of strings, Beam's own, such as `["--runner=FlinkRunner"]`.

    Returns:
        `keras_switch.data.shards.Index`, what is written.

    Raises:
        ImportError: If Apache Beam or array_record is not installed.
        ValueError: If the text cannot be read or has no words, or `output` is complete.

    Example:
    >>> index = prepare("news/*.txt.gz", "new_tokens", tokenizer)  # doctest: +SKIP
    >>> index.total("tokens")  # doctest: +SKIP
    120034
    """
    beam, pipeline_options = apache_beam()
    shards.array_record()
    num_groups = checks.check_positive_integer("num_groups", num_groups)
    output, proto = os.fspath(output), tokenizer.proto
    if proto is None:
        raise ValueError("`tokenizer` must have a vocabulary. Received: one without")
    groups = _groups(sources.parts(source), num_groups)
    _clear(output)
    dtype = shards.token_dtype(tokenizer.vocabulary_size())
    options = pipeline_options.PipelineOptions(list(beam_options))
    with beam.Pipeline(options=options) as pipeline:
        written = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(groups)))
            | "ToWorkers" >> beam.Reshuffle()
            | "Tokenize" >> beam.FlatMap(_write_group, output, proto, dtype)
            | "Collect" >> beam.combiners.ToList()
        )
        written | "Index" >> beam.Map(_write_index, output, proto, dtype)
    with tf.io.gfile.GFile(os.path.join(output, shards.INDEX)) as file:
        return shards.index_of(file.read())


def apache_beam():
    """The modules of Apache Beam, which are imported when they are needed."""
    try:
        import apache_beam
        from apache_beam.options import pipeline_options
    except ImportError:
        raise ImportError(
            "Preparing text needs Apache Beam: pip install 'keras-switch[beam]'. It may need an "
            "environment of its own, since it asks for an older protobuf"
        ) from None
    return apache_beam, pipeline_options


def _groups(parts, num_groups):
    """Divides a list into lists of about equal length, in order."""
    num_groups = min(num_groups, len(parts))
    cuts = [len(parts) * number // num_groups for number in range(num_groups + 1)]
    return [parts[start:end] for start, end in zip(cuts, cuts[1:])]


def _clear(output):
    """Removes the files that a killed call left; refuses a complete folder."""
    if tf.io.gfile.exists(os.path.join(output, shards.INDEX)):
        raise ValueError(
            "`output` must be a folder that holds no prepared tokens yet. "
            f"Received: output={output!r}"
        )
    if tf.io.gfile.isdir(output):
        for name in tf.io.gfile.listdir(output):
            if _SHARD.fullmatch(name):
                tf.io.gfile.remove(os.path.join(output, name))


def _write_group(group, output, proto, dtype):
    """Writes the shards of a group of files; yields what the index says of each."""
    number, parts = group
    encode = tokens.Encoder(proto)
    lines = itertools.chain.from_iterable(map(sources.read_part, parts))
    pieces = ((encode(batch), len(batch)) for batch in _batches(lines))
    for shard in itertools.count():
        first = next(pieces, None)
        if first is None:
            return
        path = os.path.join(output, f"tokens-{number:05}-{shard:05}.array_record")
        yield shards.write_shard(path, _up_to(SHARD_TOKENS, first, pieces), dtype)


def _batches(lines):
    """Lists of lines that are long enough to be worth a call."""
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _up_to(num_tokens, piece, pieces):
    """A piece and those that follow it, until there are so many tokens."""
    while piece is not None:
        yield piece
        num_tokens -= len(piece[0])
        piece = next(pieces, None) if num_tokens > 0 else None


def _write_index(written, output, proto, dtype):
    if not written:
        raise ValueError("`source` must hold some text. Received: none")
    shards.write_index(output, written, proto, dtype)
