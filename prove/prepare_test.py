"""Prepares text on Apache Beam, by the command and by the function, and kills it in between."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

from keras_switch.data import PreparedTokens
from keras_switch.data import SpanCorruptionBatches
from keras_switch.data import prepare
from keras_switch.data import read_corpus
from keras_switch.data import read_lines
from keras_switch.data import tokenize_corpus
from keras_switch.data import train_sentencepiece
from keras_switch.models import SwitchTokenizer

NUM_FILES = 12


def command(*arguments):
    return [sys.executable, "-m", "keras_switch.cli", "prepare", *arguments]


class PrepareTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.folder = pathlib.Path(directory.name)
        lines = read_corpus()
        for number in range(NUM_FILES):
            text = "\n".join(lines[number::NUM_FILES])
            (cls.folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
        cls.input = f"{cls.folder}/*.txt"
        cls.vocabulary = cls.folder / "given.model"
        cls.vocabulary.write_bytes(train_sentencepiece(lines[:2000], 1000))
        cls.tokenizer = SwitchTokenizer(str(cls.vocabulary))
        cls.expected = tokenize_corpus(list(read_lines(cls.input)), cls.tokenizer)

    def run_command(self, output, *arguments, code=0):
        """Returns what the command prints."""
        flags = [f"--input={self.input}", f"--output={output}", *arguments]
        done = subprocess.run(command(*flags), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def check(self, output):
        """The tokens are those of the text, and batches are made of them."""
        tokens = PreparedTokens(output, verify=True)
        np.testing.assert_array_equal(tokens.read([0], len(tokens))[0], self.expected)
        tokenizer = SwitchTokenizer(tokens.tokenizer_path)
        batches = SpanCorruptionBatches(tokens, tokenizer, inputs_length=64, batch_size=8)
        memory = SpanCorruptionBatches(self.expected, tokenizer, inputs_length=64, batch_size=8)
        for one, other in zip(batches.dataset(999, 2), memory.dataset(999, 2), strict=True):
            np.testing.assert_array_equal(one[1], other[1])

    def test_the_command_prepares_what_the_tokenizer_gives(self):
        output = self.folder / "whole"
        printed = self.run_command(output, f"--vocabulary={self.vocabulary}", "--num_groups=4")
        self.assertIn(f"Prepared {len(self.expected):,} tokens of", printed)
        self.check(output)
        index = json.loads((output / "index.json").read_text())
        self.assertEqual((len(index["shards"]), index["tokens"]), (4, len(self.expected)))
        printed = self.run_command(output, f"--vocabulary={self.vocabulary}", code=1)
        self.assertIn("--output must be a folder that holds no prepared tokens yet", printed)

    def test_options_go_to_beam(self):
        output = self.folder / "workers"
        options = "--direct_num_workers=2 --direct_running_mode=multi_threading"
        self.run_command(
            output, f"--vocabulary={self.vocabulary}", f"--beam_options={options}", "--num_groups=3"
        )
        self.check(output)
        output = self.folder / "nothing"
        printed = self.run_command(
            output, f"--vocabulary={self.vocabulary}", "--runner=NoSuchRunner", code=1
        )
        self.assertIn("NoSuchRunner", printed)
        self.assertFalse(output.exists())

    def test_a_vocabulary_is_trained(self):
        output = self.folder / "trained"
        self.run_command(output, "--vocabulary_size=700")
        tokens = PreparedTokens(output)
        self.assertEqual(SwitchTokenizer(tokens.tokenizer_path).vocabulary_size(), 700)
        self.assertGreater(len(tokens), len(self.expected) // 2)

    def test_killed_at_any_moment_it_starts_again(self):
        for number in (0, 1, NUM_FILES // 2):
            output = self.folder / f"killed{number}"
            flags = [f"--input={self.input}", f"--output={output}"]
            flags += [f"--vocabulary={self.vocabulary}", "--num_groups=12"]
            process = subprocess.Popen(command(*flags), stderr=subprocess.DEVNULL)
            while len(list(output.glob("tokens-*"))) < number or not output.exists():
                self.assertIsNone(process.poll())
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            self.assertEqual(process.wait(), -signal.SIGKILL)
            with self.assertRaisesRegex(ValueError, "there is no index.json in it"):
                PreparedTokens(output)
            self.run_command(output, *flags[2:])
            self.check(output)
            self.assertEqual(list(output.glob(".*")), [])

    def test_bad_text_is_explained(self):
        bad = self.folder / "bad.jsonl"
        bad.write_text('{"text": "words"}\n{"body": "words"}\n')
        for source, message in (
            (bad, "Line 2 of `path` must be a JSON object whose 'text' is a string"),
            (self.folder / "none.txt", "`path` must be an existing text file"),
        ):
            output = self.folder / "bad"
            with self.assertRaisesRegex(ValueError, message):
                prepare(source, output, self.tokenizer)
            self.assertFalse((output / "index.json").exists())
        empty = self.folder / "empty.jsonl"
        empty.write_text("\n\n")
        with self.assertRaisesRegex(ValueError, "`source` must hold some text"):
            prepare(empty, self.folder / "empty", self.tokenizer)


if __name__ == "__main__":
    unittest.main()
