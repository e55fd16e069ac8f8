"""Runs the examples of the public docstrings."""

import doctest
import importlib
import io
import os
import pathlib
import tempfile
import unittest

import keras
import tokenizer_helpers

from keras_switch import models

# The examples print TensorFlow's shapes and tensors.
TENSORFLOW = keras.backend.backend() == "tensorflow"
PARTS = ("layers", "models", "training", "data", "weights", "export", "tpu")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_objects():
    """Yields the name and the value of the classes and functions that the parts export."""
    for part in PARTS:
        module = importlib.import_module(f"keras_switch.{part}")
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"keras_switch.{part}.{name}", value


def write_files():
    """Writes what the examples read: a vocabulary, and a model of it."""
    pathlib.Path("spiece.model").write_bytes(tokenizer_helpers.spiece_model())
    tokenizer = models.SwitchTokenizer("spiece.model")
    preprocessor = models.SwitchSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=8, decoder_sequence_length=6
    )
    backbone = models.SwitchBackbone(
        tokenizer.vocabulary_size(), 1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    models.SwitchSeq2SeqLM(backbone, preprocessor).save_to_preset("my_folder")


def names_of(value):
    """What an example may use without an import: its own module, Keras, and a tokenizer."""
    names = {"keras": keras, "keras_switch": importlib.import_module("keras_switch")}
    names["tokenizer"] = models.SwitchTokenizer("spiece.model")
    return {**vars(importlib.import_module(value.__module__)), **names}


def run_examples(name, value):
    """Runs the examples of an object and of its methods; returns how many, and failures."""
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    out = io.StringIO()
    for test in doctest.DocTestFinder(recurse=isinstance(value, type)).find(
        value, name, globs=names_of(value)
    ):
        runner.run(test, out=out.write)
    return runner.tries, out.getvalue()


@unittest.skipUnless(TENSORFLOW, "The examples are written for the TensorFlow backend.")
class ExamplesTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        write_files()

    def test_examples_run(self):
        total = 0
        for name, value in public_objects():
            with self.subTest(name=name):
                tries, failures = run_examples(name, value)
                total += tries
                self.assertEqual(failures, "")
        self.assertGreater(total, 0)

    def test_public_classes_and_functions_have_docstrings(self):
        for name, value in public_objects():
            self.assertTrue(value.__doc__, name)


if __name__ == "__main__":
    unittest.main()
