"""Prepared tokens, read by position."""

import bisect
import copy
import hashlib
import itertools
import pathlib
import threading

import numpy as np

from keras_switch import checks
from keras_switch.data import shards


class PreparedTokens:
    """The tokens that `keras-switch prepare` wrote, as one long row that stays on the disk.

    `SpanCorruptionBatches` takes it in place of an array. What is read is a function of the
    position, so any number of hosts read disjoint parts, and a run resumes at no cost.

    The sizes of all files are checked at once. A damaged file is refused when a part of it is
    read; one that another good file replaced, with `verify`.

    Args:
        folder: Path of the folder.
        verify: bool. Whether to compare the SHA-256 of every file, which reads all of them.

    Attributes:
        tokenizer_path: string. The SentencePiece model that made the tokens, which
            `keras_switch.models.SwitchTokenizer` takes.

    Raises:
        ValueError: If a file is missing, cut or, with `verify`, altered.
        ImportError: If array_record is not installed.

    Example:
    >>> tokens = PreparedTokens("tokens")
    >>> tokenizer = keras_switch.models.SwitchTokenizer(tokens.tokenizer_path)
    >>> batches = keras_switch.data.SpanCorruptionBatches(tokens, tokenizer, 32, batch_size=4)
    """

    def __init__(self, folder, verify=False):
        self._folder = pathlib.Path(folder)
        self._module = shards.array_record()
        self._index = shards.read_index(self._folder)
        tokenizer = self._folder / shards.TOKENIZER
        shards.check_digest(tokenizer, self._index.tokenizer_sha256)
        if checks.check_bool("verify", verify):
            for shard in self._index.shards:
                shards.check_digest(self._folder / shard.file, shard.sha256)
        self.tokenizer_path = str(tokenizer)
        # Where each file's tokens start, and where the last one's end.
        self._starts = [0, *itertools.accumulate(one.tokens for one in self._index.shards)]
        self._readers = {}
        self._lock = threading.Lock()
        self._first, self._length = 0, self._starts[-1]

    def __len__(self):
        return self._length

    @property
    def sha256(self):
        """The SHA-256 of the index, which has those of all files."""
        return hashlib.sha256((self._folder / shards.INDEX).read_bytes()).hexdigest()

    def part(self, start, stop):
        """The tokens from a position to another, as `PreparedTokens` of their own."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(
                f"`start` and `stop` must be positions of the {len(self)} tokens, in this order. "
                f"Received: start={start}, stop={stop}"
            )
        part = copy.copy(self)
        part._first, part._length = self._first + start, stop - start
        return part

    def check_tokenizer(self, tokenizer):
        """Requires that a tokenizer is the one that made the tokens."""
        proto = getattr(tokenizer, "proto", None)
        digest = None if proto is None else hashlib.sha256(proto).hexdigest()
        if digest != self._index.tokenizer_sha256:
            raise ValueError(
                "`tokenizer` must be the one that made the prepared tokens: "
                f"SwitchTokenizer({self.tokenizer_path!r}). Received: tokenizer={tokenizer!r}, "
                f"whose model's SHA-256 is {digest}"
            )

    def read(self, starts, length):
        """Reads rows of tokens.

        Args:
            starts: int array of shape `(num_rows,)`. The position of the first token of each.
            length: int. Tokens of a row.

        Returns:
            int32 array of shape `(num_rows, length)`.

        Raises:
            ValueError: If a position is not one of the tokens, or a file is damaged.
        """
        starts = np.asarray(starts, np.int64)
        if len(starts) and (starts.min() < 0 or starts.max() + length > len(self)):
            raise ValueError(
                f"`starts` must be from 0 to {len(self) - length}, for rows of {length} of "
                f"{len(self)} tokens. Received: {starts.min()} to {starts.max()}"
            )
        rows = np.empty((len(starts), length), np.int32)
        pieces = {}  # Of each file and record: where its tokens go.
        for row, start in enumerate((starts + self._first).tolist()):
            for shard, record, within, column, size in self._pieces(start, length):
                pieces.setdefault((shard, record), []).append((row, column, within, size))
        for shard, group in itertools.groupby(sorted(pieces), key=lambda place: place[0]):
            numbers = [record for _, record in group]
            for record, data in zip(numbers, self._records(shard, numbers)):
                tokens = np.frombuffer(data, self._index.dtype)
                for row, column, within, size in pieces[shard, record]:
                    rows[row, column : column + size] = tokens[within : within + size]
        return rows

    def _pieces(self, start, length):
        """The pieces of records that make a row: file, record, place in it, place, size."""
        block, column = self._index.block_length, 0
        shard = bisect.bisect_right(self._starts, start) - 1
        while column < length:
            if start == self._starts[shard + 1]:
                shard += 1
                continue
            record, within = divmod(start - self._starts[shard], block)
            size = min(block - within, self._starts[shard + 1] - start, length - column)
            yield shard, record, within, column, size
            start, column = start + size, column + size

    def _records(self, number, records):
        shard = self._index.shards[number]
        path = self._folder / shard.file
        with self._lock:
            try:
                if number not in self._readers:
                    # Opening a file that is gone would end the process.
                    shards.check_size(path, shard)
                    self._readers[number] = self._module.ArrayRecordReader(
                        str(path), "readahead_buffer_size:0,max_parallelism:0"
                    )
                return self._readers[number].read(records)
            except (IndexError, RuntimeError) as error:
                raise ValueError(
                    f"{path} must be the file that `keras-switch prepare` wrote ({error}). Copy it "
                    f"again, or prepare the text again. Received: a damaged file"
                ) from None
