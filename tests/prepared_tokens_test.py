import importlib.util
import json
import os
import pathlib
import tempfile
import types
import unittest
import unittest.mock

import numpy as np
import tensorflow as tf

from keras_switch.data import PreparedTokens
from keras_switch.data import SpanCorruptionBatches
from keras_switch.data import shards

HAS_ARRAY_RECORD = bool(importlib.util.find_spec("array_record"))
MODEL = b"a SentencePiece model"
TOKENIZER = types.SimpleNamespace(
    sentinel_ids=range(9999, 9899, -1),
    end_token_id=1,
    pad_token_id=0,
    vocabulary_size=lambda: 10000,
    proto=MODEL,
)
# Tokens of each file: empty ones, and lengths on both sides of a block's.
SIZES = (1500, 3, 0, 1024, 2047, 1)


def write(folder, sizes=SIZES, dtype="<u2"):
    """Prepares the tokens 100, 101, ..."""
    tokens = np.arange(100, 100 + sum(sizes))
    written = []
    for number, part in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        path = os.path.join(folder, f"tokens-00000-{number:05}.array_record")
        written.append(shards.write_shard(path, [(part[:700], 2), (part[700:], 1)], dtype))
    return shards.write_index(str(folder), written, MODEL, dtype)


@unittest.skipUnless(HAS_ARRAY_RECORD, "array_record is not installed.")
class PreparedTestCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)


class ReadTest(PreparedTestCase):
    def test_any_position_is_read(self):
        for dtype in ("<u2", "<i4"):
            index = write(self.folder, dtype=dtype)
            tokens = PreparedTokens(self.folder, verify=True)
            self.assertEqual(len(tokens), sum(SIZES))
            for length in (1, 34, 1030, len(tokens)):
                starts = np.random.default_rng(0).permutation(len(tokens) - length + 1)[:200]
                rows = tokens.read(starts, length)
                self.assertEqual(rows.dtype, "int32")
                np.testing.assert_array_equal(rows, 100 + starts[:, None] + np.arange(length))
            self.assertEqual(tokens.read([], 5).shape, (0, 5))
        self.assertEqual(index.total("tokens"), sum(SIZES))
        self.assertEqual(index.total("documents"), 3 * len(SIZES))
        self.assertEqual([shard.records for shard in index.shards], [2, 1, 0, 1, 2, 1])

    def test_large_vocabularies_have_wider_tokens(self):
        self.assertEqual(shards.token_dtype(2**16), "<u2")
        self.assertEqual(shards.token_dtype(2**16 + 1), "<i4")
        path = os.path.join(self.folder, "tokens-00000-00000.array_record")
        written = [shards.write_shard(path, [([250_000, 2], 1)], "<i4")]
        shards.write_index(str(self.folder), written, MODEL, "<i4")
        self.assertEqual(PreparedTokens(self.folder).read([0], 2).tolist(), [[250_000, 2]])

    def test_batches_are_those_of_the_tokens_in_memory(self):
        write(self.folder)
        options = {"inputs_length": 32, "batch_size": 8, "seed": 3}
        prepared = SpanCorruptionBatches(PreparedTokens(self.folder), TOKENIZER, **options)
        memory = SpanCorruptionBatches(np.arange(100, 100 + sum(SIZES)), TOKENIZER, **options)
        self.assertEqual(prepared.batches_per_epoch, memory.batches_per_epoch)
        for arguments in ({}, {"first_batch": 17, "shard_index": 1, "num_shards": 2}):
            one, other = (x.dataset(num_batches=15, **arguments) for x in (prepared, memory))
            self.assertEqual(one.element_spec, other.element_spec)
            for pair in zip(one, other, strict=True):
                for received, expected in zip(*map(tf.nest.flatten, pair), strict=True):
                    np.testing.assert_array_equal(received, expected)

    def test_positions_that_are_not_there_are_explained(self):
        write(self.folder)
        for starts in ([-1], [0, sum(SIZES) - 1]):
            with self.assertRaisesRegex(ValueError, "`starts` must be from 0 to .*, for rows of 2"):
                PreparedTokens(self.folder).read(starts, 2)


class WriteTest(PreparedTestCase):
    def test_files_of_other_file_systems_are_copied_there(self):
        path = "ram://prepared/tokens-00000-00000.array_record"
        shard = shards.write_shard(path, [(range(5), 1)], "<u2")
        shards.write_index("ram://prepared", [shard], MODEL, "<u2")
        names = tf.io.gfile.listdir("ram://prepared")
        self.assertEqual(sorted(names), ["index.json", "spiece.model", os.path.basename(path)])
        for name in names:
            tf.io.gfile.copy(f"ram://prepared/{name}", str(self.folder / name))
        self.assertEqual(PreparedTokens(self.folder, True).read([1], 4).tolist(), [[1, 2, 3, 4]])

    def test_an_error_leaves_no_half_written_file(self):
        def pieces():
            yield range(5000), 1
            raise RuntimeError("The source ends in the middle.")

        path = self.folder / "tokens-00000-00000.array_record"
        with self.assertRaisesRegex(RuntimeError, "ends in the middle"):
            shards.write_shard(str(path), pieces(), "<u2")
        self.assertEqual(os.listdir(self.folder), [])


class FaultsTest(PreparedTestCase):
    def check_error(self, message, **options):
        with self.assertRaisesRegex(ValueError, message):
            PreparedTokens(self.folder, **options)

    def shard(self):
        write(self.folder)
        return self.folder / "tokens-00000-00004.array_record"

    def test_a_folder_without_an_index_is_refused(self):
        self.check_error("`folder` must be a folder of this machine .* no index.json in it. Rec")
        self.shard()
        os.remove(self.folder / "index.json")
        self.check_error("there is no index.json in it")
        with self.assertRaisesRegex(ValueError, "folder='gs:/bucket/tokens'"):
            PreparedTokens("gs://bucket/tokens")

    def test_a_broken_index_is_refused(self):
        self.shard()
        index = self.folder / "index.json"
        whole = index.read_text()
        for text in (whole[:-9], "[]", "{}", whole.replace("version 1", "version 9")):
            index.write_text(text)
            self.check_error("index.json must be an index that `keras-switch prepare` wrote")

    def test_a_file_that_is_cut_or_missing_is_refused(self):
        path = self.shard()
        whole = path.read_bytes()
        for size in (len(whole) - 1, len(whole) // 2, 0):
            path.write_bytes(whole[:size])
            self.check_error(f"00004.array_record must be the file of .* Received: {size:,} bytes")
        os.remove(path)
        self.check_error("00004.array_record must be the file of .* Received: none")

    def test_a_file_that_vanishes_later_is_refused(self):
        path = self.shard()
        tokens = PreparedTokens(self.folder)
        os.remove(path)
        with self.assertRaisesRegex(ValueError, "00004.array_record must be the file of"):
            tokens.read([0], len(tokens))

    def test_an_altered_file_is_refused(self):
        path = self.shard()
        data = bytearray(path.read_bytes())
        data[data.index(np.arange(3000, 3010, dtype="<u2").tobytes())] ^= 1
        path.write_bytes(data)
        self.check_error("00004.array_record must be the file whose SHA-256 .* has", verify=True)
        tokens = PreparedTokens(self.folder)
        with self.assertRaisesRegex(ValueError, "00004.array_record must be the file that `k"):
            tokens.read([0], len(tokens))

    def test_a_file_of_the_same_size_is_refused_where_asked(self):
        path = self.shard()
        index = json.loads((self.folder / "index.json").read_text())
        shards.write_shard(str(path), [(range(index["shards"][4]["tokens"]), 1)], "<u2")
        self.assertEqual(len(PreparedTokens(self.folder)), sum(SIZES))
        self.check_error("must be the file whose SHA-256 index.json has", verify=True)

    def test_another_tokenizer_is_refused(self):
        self.shard()
        tokens = PreparedTokens(self.folder)
        for proto in (b"another", None):
            tokenizer = types.SimpleNamespace(**{**vars(TOKENIZER), "proto": proto})
            with self.assertRaisesRegex(
                ValueError,
                "`tokenizer` must be the one that made .* SwitchTokenizer.'.*spiece.model",
            ):
                SpanCorruptionBatches(tokens, tokenizer, 32, 4)
        (self.folder / "spiece.model").write_bytes(b"another")
        self.check_error("spiece.model must be the file whose SHA-256")

    def test_too_few_tokens_are_explained(self):
        self.shard()
        with self.assertRaisesRegex(ValueError, "`tokens` must fill a batch of 500 chunks of 34"):
            SpanCorruptionBatches(PreparedTokens(self.folder), TOKENIZER, 32, 500)


class WithoutArrayRecordTest(unittest.TestCase):
    def test_it_is_explained(self):
        missing = {"array_record": None, "array_record.python": None}
        with unittest.mock.patch.dict("sys.modules", missing):
            with self.assertRaisesRegex(ImportError, "need array_record: pip install 'keras-swi"):
                PreparedTokens("folder")


if __name__ == "__main__":
    unittest.main()
