import contextlib
import io
import json
import pathlib
import shutil
import tempfile
import unittest
import unittest.mock

import tokenizer_helpers

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer
from keras_switch.weights import convert
from keras_switch.weights import huggingface_files

TEXT = "The <extra_id_0> people <extra_id_9>"
# What transformers 5.23.0 gives for `TEXT` with 10 extra ids.
IDS = [5, 52, 7, 43]


class ConvertTokenizerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model(), num_sentinels=10)
        backbone = SwitchBackbone(64, 2, 1, 4, 4, num_experts=2)
        model = SwitchSeq2SeqLM(backbone, SwitchSeq2SeqLMPreprocessor(tokenizer))
        model.save_to_preset(cls.folder / "ours")
        convert(cls.folder / "ours", cls.folder / "theirs", to="huggingface", verbose=0)
        cls.config = (cls.folder / "theirs/tokenizer_config.json").read_text()

    def copy(self, **files):
        """Copies their folder; `None` removes a file, and JSON replaces one."""
        folder = self.folder / f"{self.id()}.copy"
        shutil.copytree(self.folder / "theirs", folder)
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            path.unlink() if content is None else path.write_text(json.dumps(content))
        return folder

    def convert(self, folder):
        """Converts a folder; returns the path of the result, and what was printed."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            path = convert(folder, self.folder / self.id())
        return str(path), output.getvalue()

    def test_a_folder_of_transformers_5_keeps_its_tokenizer(self):
        content = tokenizer_helpers.tokenizer_json(tokenizer_helpers.model_proto(), 10)
        path, output = self.convert(self.copy(spiece__model=None, tokenizer__json=content))
        self.assertNotIn("left out", output)
        tokenizer = SwitchTokenizer.from_preset(path)
        self.assertEqual(list(tokenizer(TEXT)), IDS)
        self.assertEqual(tokenizer.spiece_model(), tokenizer_helpers.spiece_model())

    def test_a_tokenizer_that_is_left_out_is_told(self):
        content = tokenizer_helpers.tokenizer_json(tokenizer_helpers.model_proto(), 10)
        content["pre_tokenizer"] = None
        path, output = self.convert(self.copy(spiece__model=None, tokenizer__json=content))
        self.assertIsNone(SwitchSeq2SeqLM.from_preset(path).preprocessor)
        self.assertRegex(output.splitlines()[-1], "^The tokenizer was left out: tokenizer.json")

    def test_added_tokens_are_refused_before_a_weight_is_read(self):
        folder = self.copy(added_tokens__json={"<sql>": 53, "<col>": 54})
        with unittest.mock.patch.object(huggingface_files.Tensors, "read", side_effect=OSError):
            with self.assertRaisesRegex(ValueError, "tokens of its own.*'<sql>': 53, '<col>': 54"):
                self.convert(folder)
        self.assertFalse((self.folder / self.id()).exists())

    def convert_with(self, config):
        """Converts their folder with another tokenizer_config.json."""
        (self.folder / "theirs/tokenizer_config.json").write_text(config)
        return convert(self.folder / "theirs", self.folder / self.id(), verbose=0)

    def test_transformers_finds_the_sentinels(self):
        model = (self.folder / "theirs/spiece.model").read_bytes()
        self.assertEqual(model, tokenizer_helpers.spiece_model())

    def test_a_number_of_sentinels_survives_the_round_trip(self):
        expected = {"tokenizer_class": "T5Tokenizer", "extra_ids": 10}
        self.assertEqual(json.loads(self.config), expected)
        tokenizer = SwitchTokenizer.from_preset(str(self.convert_with(self.config)))
        self.assertEqual(tokenizer.num_sentinels, 10)
        self.assertEqual(list(tokenizer(TEXT)), IDS)

    def test_wrong_numbers_of_sentinels_are_explained(self):
        for number in ("-1", "65", "1e99", '"ten"', "null", "2.5"):
            with self.subTest(number):
                with self.assertRaisesRegex(
                    ValueError, "`extra_ids` in tokenizer_config.json must"
                ):
                    self.convert_with(f'{{"extra_ids": {number}}}')
                self.assertFalse((self.folder / self.id()).exists())
        with self.assertRaisesRegex(ValueError, "must not have more ids than the model"):
            self.convert_with('{"extra_ids": 22}')
        with self.assertRaisesRegex(ValueError, "A file must be JSON"):
            self.convert_with("{")


if __name__ == "__main__":
    unittest.main()
