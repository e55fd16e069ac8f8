import json
import pathlib
import tempfile
import unittest

from keras_switch import command_line
from keras_switch.configs import PretrainConfig


class PretrainConfigTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name) / "config.json"

    def test_values_out_of_range_are_refused(self):
        for name, value, message in (
            ("num_experts", 0, "`num_experts` must be an integer of at least 1"),
            ("num_experts", 2.5, "`num_experts` must be an integer"),
            ("inputs_length", 3, "`inputs_length` must be an integer of at least 4"),
            ("noise_density", 0.95, "`noise_density` must be at most 0.9"),
            ("noise_density", float("nan"), "`noise_density` must be a finite number"),
            ("learning_rate", -1, "`learning_rate` must be a finite number, at least 0"),
            ("optimizer", "lion", "`optimizer` must be one of adafactor, adam. Received.*lion"),
            ("dtype", None, "`dtype` must be one of"),
            ("corpus", 5, "`corpus` must be a string. Received: corpus=5"),
            ("seed", 2**31, "`seed` must be at most"),
            ("learning_rate", 0.0, "`learning_rate` must be positive"),
            ("optimizer", "adam", "`learning_rate` must be at most 0.03 with Adam"),
            (
                "epochs",
                10,
                "`short_epochs` must be fewer .*short_epochs=10, epochs=10",
            ),
            ("batch_size", 3, "`batch_size` must be even"),
        ):
            with self.subTest(name=name, value=value):
                with self.assertRaisesRegex(ValueError, message):
                    PretrainConfig(**{name: value})

    def test_files_give_settings(self):
        for settings in ({"num_experts": 16}, {"settings": {"num_experts": 16}, "more": 1}):
            self.path.write_text(json.dumps(settings))
            self.assertEqual(PretrainConfig.from_file(self.path), PretrainConfig(num_experts=16))

    def test_files_that_hold_no_settings_are_refused(self):
        for text, message in (
            (None, "`config` must be a JSON file of settings .*No such file"),
            ("{", "`config` must be a JSON file of settings"),
            ("[]", "`config` must be a JSON object"),
            ('{"num_expert": 8}', "names are among .*num_experts.*Received: .'num_expert'"),
            ('{"num_experts": "8"}', "`num_experts` must be an integer"),
        ):
            with self.subTest(text=text):
                if text is not None:
                    self.path.write_text(text)
                with self.assertRaisesRegex(ValueError, message):
                    PretrainConfig.from_file(self.path)

    def test_flags_replace_what_a_file_says(self):
        self.path.write_text('{"num_experts": 16, "epochs": 13}')

        def define_flags(flags):
            flags.DEFINE_string("config", "", "")
            command_line.define_settings(flags, PretrainConfig)

        for arguments, expected in (
            ([], PretrainConfig()),
            (["--epochs=15"], PretrainConfig(epochs=15)),
            ([f"--config={self.path}", "--epochs=15"], PretrainConfig(num_experts=16, epochs=15)),
        ):
            values = command_line.define(define_flags)
            values(["keras-switch", *arguments])
            self.assertEqual(command_line.settings(PretrainConfig, values), expected)


if __name__ == "__main__":
    unittest.main()
