"""Tests of `keras-switch generate`."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest
import unittest.mock

import fill_blanks_helpers
import keras_hub

from keras_switch import cli
from keras_switch import models

TEXT = "The <extra_id_0> walks to a small<extra_id_1>."


class GenerateCommandTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.run_directory = cls.root / "run"
        cls.folder = cls.run_directory / "model"
        fill_blanks_helpers.make().save_to_preset(str(cls.folder))
        cls.model = models.SwitchSeq2SeqLM.from_preset(str(cls.folder))

    def generate(self, *arguments, lines="", code=0):
        """Runs the command; returns what it prints, and its errors."""
        output, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            unittest.mock.patch("sys.stdin", io.StringIO(lines)),
            self.assertRaises(SystemExit) as stop,
        ):
            cli.main(["keras-switch", "generate", *arguments])
        self.assertEqual(stop.exception.code, code, errors.getvalue())
        return output.getvalue(), errors.getvalue()

    def expected(self, *texts, **kwargs):
        """What is printed of texts."""
        lines, results = [], models.fill_blanks(self.model, texts, **kwargs)
        for text, fillings in zip(texts, results, strict=True):
            lines += [f"Text:   {text}", f"Filled: {fillings.text}"]
            for number, candidates in enumerate(fillings, 1):
                listed = ", ".join(f"{name} ({100 * value:.1f}%)" for name, value in candidates)
                lines.append(f"Blank {number}: {listed}")
            lines.append("")
        return "\n".join([*lines, ""])

    def test_texts_are_filled_with_candidates(self):
        flags = (f"--model={self.folder}", "--candidates=2")
        output, errors = self.generate(flags[0], TEXT, flags[1], "a <extra_id_0>")
        self.assertEqual(output, self.expected(TEXT, "a <extra_id_0>", num_candidates=2))
        self.assertEqual(output.count("(") + output.count(")"), 3 * 2 * 2)
        self.assertIn("A text has 13 ids, and those that the model reads have at most 8", errors)

    def test_lines_of_the_standard_input_in_the_directory_of_a_run(self):
        lines, flag = "\na <extra_id_0>\n\n", f"--model={self.run_directory}"
        expected = self.expected("a <extra_id_0>", max_length=1)
        for arguments in ((), ("-",)):
            output, errors = self.generate(flag, "--max_length=1", *arguments, lines=lines)
            self.assertEqual((output, errors), (expected, ""))

    def test_a_text_may_look_like_a_flag_at_the_end(self):
        output, _ = self.generate(f"--model={self.folder}", "--", "--a <extra_id_0>")
        self.assertTrue(output.startswith("Text:   --a <extra_id_0>\n"), output)

    def error(self, *arguments, **kwargs):
        output, errors = self.generate(*arguments, code=1, **kwargs)
        self.assertEqual((output, errors.count("\n")), ("", 1))
        return errors

    def test_texts_that_have_no_answer_are_explained(self):
        flag = f"--model={self.folder}"
        for text, message in (
            ("The house.", "Each text must have a blank, `<extra_id_0>`, where something"),
            ("<extra_id_0> <extra_id_3>", "The tokenizer has 3 sentinels, for as many blanks"),
            ("<extra_id_0> <extra_id_0>", "Each blank must have a sentinel of its own"),
            (" ", "There must be a text with a blank, as an argument or as a line"),
        ):
            self.assertIn(f"keras-switch generate: {message}", self.error(flag, text))
        self.assertIn("There must be a text with a blank", self.error(flag, lines="\n"))

    def test_models_that_cannot_answer_are_explained(self):
        tokenizer, sizes = self.model.preprocessor.tokenizer, (1, 2, 8, 16)
        backbone = models.SwitchBackbone(tokenizer.vocabulary_size(), *sizes)
        backbone.save_to_preset(str(self.root / "backbone"))
        preprocessor = models.SwitchTextClassifierPreprocessor(tokenizer, 8)
        classifier = models.SwitchTextClassifier(backbone, 2, preprocessor=preprocessor)
        classifier.save_to_preset(str(self.root / "classifier"))
        keras_hub.models.T5Backbone(20, *sizes).save_to_preset(str(self.root / "t5"))
        for name in ("nothing", "running"):
            (self.root / name).mkdir()
        (self.root / "running" / "config.json").write_text(json.dumps({"settings": {}}))
        for name, message in (
            ("none", "There is no such preset, nor such a folder. Received: --model="),
            ("nothing", "A preset folder must have the config.json"),
            ("running", "The run has not ended yet, and has saved no model."),
            ("backbone", "--model must be a `SwitchSeq2SeqLM` with a preprocessor"),
            ("classifier", "--model must be the folder of a `SwitchSeq2SeqLM`, which writes text."),
            ("t5", "Unable to find a subclass of SwitchSeq2SeqLM"),
        ):
            line = self.error(f"--model={self.root / name}", TEXT)
            self.assertIn(f"keras-switch generate: {message}", line)
        self.assertIn("No weights come with the name", self.error("--model=switch_tiny_8", TEXT))

    def test_help_shows_what_else_it_takes(self):
        output, _ = self.generate("--help")
        self.assertIn('usage: keras-switch generate [flags] ["TEXT" ...]\n', output)


if __name__ == "__main__":
    unittest.main()
