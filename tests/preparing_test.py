import importlib.util
import os
import pathlib
import tempfile
import types
import unittest
import unittest.mock

import numpy as np
import tokenizer_helpers

from keras_switch.data import PreparedTokens
from keras_switch.data import prepare
from keras_switch.data import preparing
from keras_switch.data import shards
from keras_switch.data import sources
from keras_switch.data import tokenize_corpus
from keras_switch.data import tokens
from keras_switch.models import SwitchTokenizer

LINES = [f"The people {'walk ' * (number % 5)}of the house {number}" for number in range(400)]
HAS_ARRAY_RECORD = bool(importlib.util.find_spec("array_record"))


def write_all(source, output, tokenizer, num_groups=3):
    """What Beam does, one step after the other."""
    dtype = shards.token_dtype(tokenizer.vocabulary_size())
    written = []
    for group in enumerate(preparing._groups(sources.parts(source), num_groups)):
        written += preparing._write_group(group, str(output), tokenizer.proto, dtype)
    preparing._write_index(written, str(output), tokenizer.proto, dtype)
    return PreparedTokens(output)


class PreparingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)
        for number in range(5):
            text = "\n".join(LINES[number::5])
            (self.folder / f"{number}.txt").write_text(text)
        self.source, self.output = f"{self.folder}/*.txt", self.folder / "tokens"

    def test_an_encoder_gives_the_ids_of_the_tokenizer(self):
        encode = tokens.Encoder(self.tokenizer.proto)
        for lines in (LINES, [], [""], ["the<extra_id_0> of  <extra_id_1>a", "<extra_id_99>", "é"]):
            expected = tokenize_corpus(lines, self.tokenizer)
            np.testing.assert_array_equal(encode(lines), expected)
        plain = SwitchTokenizer(tokenizer_helpers.spiece_model(), num_sentinels=0)
        np.testing.assert_array_equal(
            tokens.Encoder(plain.proto)(LINES), tokenize_corpus(LINES, plain)
        )

    @unittest.skipUnless(HAS_ARRAY_RECORD, "array_record is not installed.")
    def test_the_tokens_are_those_of_the_text_in_order(self):
        expected = tokenize_corpus(list(sources.read_lines(self.source)), self.tokenizer)
        with (
            unittest.mock.patch.object(preparing, "SHARD_TOKENS", 600),
            unittest.mock.patch.object(preparing, "_CHARACTERS_AT_ONCE", 500),
        ):
            prepared = write_all(self.source, self.output, self.tokenizer)
        np.testing.assert_array_equal(prepared.read([0], len(prepared))[0], expected)
        index = shards.read_index(self.output)
        self.assertEqual(index.total("documents"), len(LINES))
        names = [shard.file[: len("tokens-00000")] for shard in index.shards]
        self.assertEqual(set(names), {f"tokens-0000{group}" for group in range(3)})
        self.assertGreater(len(names), 6)
        self.assertTrue(all(shard.tokens < 900 for shard in index.shards))

    @unittest.skipUnless(HAS_ARRAY_RECORD, "array_record is not installed.")
    def test_a_killed_call_starts_again(self):
        encode, calls = tokens.Encoder.__call__, []

        def fail_late(encoder, lines):
            calls.append(lines)
            if len(calls) == 3:
                raise RuntimeError("killed")
            return encode(encoder, lines)

        with unittest.mock.patch.object(tokens.Encoder, "__call__", fail_late):
            with self.assertRaisesRegex(RuntimeError, "killed"):
                write_all(self.source, self.output, self.tokenizer)
        self.assertEqual(
            sorted(os.listdir(self.output)), [f"tokens-0000{k}-00000.array_record" for k in (0, 1)]
        )
        with self.assertRaisesRegex(ValueError, "there is no index.json in it"):
            PreparedTokens(self.output)
        other = self.output / "mine.array_record"
        other.touch()
        preparing._clear(str(self.output))
        self.assertEqual(os.listdir(self.output), [other.name])
        write_all(self.source, self.output, self.tokenizer)
        with self.assertRaisesRegex(ValueError, "`output` must be a folder that holds no prepared"):
            preparing._clear(str(self.output))

    def test_files_are_divided_evenly(self):
        groups = preparing._groups(list("abcdefgh"), 3)
        self.assertEqual(groups, [["a", "b"], ["c", "d", "e"], ["f", "g", "h"]])
        self.assertEqual(preparing._groups(["a"], 3), [["a"]])

    def test_text_without_words_is_refused(self):
        with self.assertRaisesRegex(ValueError, "`source` must hold some text"):
            preparing._write_index([], str(self.output), b"", "<u2")

    def test_without_beam_it_says_what_to_install(self):
        with unittest.mock.patch.dict("sys.modules", {"apache_beam": None}):
            with self.assertRaisesRegex(ImportError, "needs Apache Beam: pip install 'keras-sw"):
                prepare(self.source, self.output, self.tokenizer)
        self.assertFalse(self.output.exists())

    def test_bad_arguments_are_explained(self):
        with unittest.mock.patch.object(preparing, "apache_beam", lambda: (None, None)):
            with self.assertRaisesRegex(ValueError, "`num_groups` must be a positive integer"):
                prepare(self.source, self.output, self.tokenizer, num_groups=0)
            empty = types.SimpleNamespace(proto=None)
            with self.assertRaisesRegex(ValueError, "`tokenizer` must have a vocabulary"):
                prepare(self.source, self.output, empty)
            with self.assertRaisesRegex(ValueError, "a glob that matches some. Received: path="):
                prepare(f"{self.folder}/*.none", self.output, self.tokenizer)


if __name__ == "__main__":
    unittest.main()
