"""Runs the examples of the public docstrings, and checks names and links in the documents."""

import ast
import doctest
import importlib
import io
import os
import pathlib
import re
import tempfile
import unittest

import keras
import tokenizer_helpers

from keras_switch import models
from keras_switch.data import shards

# The examples print TensorFlow's shapes and tensors.
TENSORFLOW = keras.backend.backend() == "tensorflow"
PARTS = ("layers", "models", "training", "data", "weights", "export", "tpu")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ROOT = pathlib.Path(__file__).resolve().parents[1]
API = ROOT / "docs" / "api.md"
# Folders that hold no document of this project.
MADE = ("build", "dist", "runs")
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")


def public_objects():
    """Yields the name and the value of the classes and functions that the parts export."""
    for part in PARTS:
        module = importlib.import_module(f"keras_switch.{part}")
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"keras_switch.{part}.{name}", value


def write_files():
    """Writes what the examples read: a vocabulary, a model of it, and tokens."""
    pathlib.Path("spiece.model").write_bytes(tokenizer_helpers.spiece_model())
    tokenizer = models.SwitchTokenizer("spiece.model")
    preprocessor = models.SwitchSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=8, decoder_sequence_length=6
    )
    backbone = models.SwitchBackbone(
        tokenizer.vocabulary_size(), 1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    models.SwitchSeq2SeqLM(backbone, preprocessor).save_to_preset("my_folder")
    shard = shards.write_shard("tokens/tokens-00000-00000.array_record", [(range(500), 9)], "<u2")
    shards.write_index("tokens", [shard], tokenizer.proto, "<u2")


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


def documents():
    """Yields the paths of the Markdown files of the repository."""
    for path in sorted(ROOT.rglob("*.md")):
        folders = path.relative_to(ROOT).parts[:-1]
        if not any(x.startswith((".", "bazel-")) or x in MADE for x in folders):
            yield path


def prose(path):
    """The text of a document without its blocks of code, whose lines stay, empty."""
    text = path.read_text(encoding="utf-8")
    blocks = re.compile(r"^(```+).*?^\1 *$", re.MULTILINE | re.DOTALL)
    return blocks.sub(lambda block: "\n" * block[0].count("\n"), text)


def anchors(path):
    """The anchors that GitHub gives to the headings of a document."""
    found = []
    for title in re.findall(r"^#+ +(.*?) *$", prose(path), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", LINK.sub(r"\g<text>", title).lower()).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(words)}(-\d+)?", x) is not None for x in found)
        found.append(f"{words}-{number}" if number else words)
    return found


def dead_links(path):
    """The relative links of a document that lead nowhere."""
    for link in LINK.finditer(prose(path)):
        target, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / target) if target else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            yield link["target"]


def defined_names(path):
    """The names that a module defines at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (x.id for x in node.targets if isinstance(x, ast.Name))


class DocumentsTest(unittest.TestCase):
    def test_relative_links_lead_somewhere(self):
        paths = list(documents())
        self.assertIn(ROOT / "README.md", paths)
        for path in paths:
            with self.subTest(path.relative_to(ROOT)):
                self.assertEqual(list(dead_links(path)), [])

    def test_a_dead_link_is_seen(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "page.md")
            path.write_text(
                "# A `title`, twice\n# A title, twice\n```\n# no title\n[code](no.py)\n```\n"
                "[file](gone.md) [here](page.md) [web](https://keras.io) [no](#no-title)\n"
                "[one](#a-title-twice) [two](page.md#a-title-twice-1) [three](#a-title-twice-2)\n"
            )
            self.assertEqual(list(dead_links(path)), ["gone.md", "#no-title", "#a-title-twice-2"])

    def test_the_files_that_docstrings_of_parts_name_exist(self):
        for path in sorted((ROOT / "keras_switch").rglob("__init__.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            for name in re.findall(r"`([\w/]+\.py|\w+/)`", docstring):
                places = (path.parent / name, ROOT / name)
                self.assertTrue(any(x.exists() for x in places), f"{path} names {name}")

    def test_api_has_every_public_name_and_no_other(self):
        sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", API.read_text(), re.M | re.S))
        self.assertEqual(set(sections), {f"keras_switch.{part}" for part in (*PARTS, "backend")})
        for name, section in sections.items():
            lines = re.findall(r"^- \[`(\w+)`\]\([^)]+\):\s+\S", section, re.MULTILINE)
            self.assertCountEqual(lines, importlib.import_module(name).__all__, name)

    def test_api_links_to_the_files_that_define_the_names(self):
        links = list(LINK.finditer(API.read_text()))
        self.assertTrue(links)
        for link in links:
            path = (API.parent / link["target"]).resolve()
            self.assertIn(link["text"].strip("`"), list(defined_names(path)), link[0])


if __name__ == "__main__":
    unittest.main()
