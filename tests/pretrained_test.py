"""The trained model that comes with the package."""

import pathlib
import unittest

from keras_switch import models
from keras_switch.models import presets

NAME = "switch_micro_english"
FOLDER = pathlib.Path(presets.address(NAME))


class PretrainedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = models.SwitchSeq2SeqLM.from_preset(NAME)

    def test_every_name_has_a_folder_with_a_card(self):
        for name in presets.PRETRAINED:
            self.assertTrue(pathlib.Path(presets.address(name), "README.md").is_file(), name)

    def test_it_is_small(self):
        size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
        self.assertLess(size, 20e6)

    def test_it_fills_blanks_by_what_stands_around_them(self):
        for text, expected in (
            ("The Congress of the United <extra_id_0> met in December.", "States"),
            ("They are the rights <extra_id_0> the people.", "of"),
            ("He was one <extra_id_0> the men who came from the west.", "of"),
        ):
            [candidates] = models.fill_blanks(self.model, text)
            self.assertIn(expected, [filling for filling, _ in candidates], text)

    def test_it_computes_in_the_default_dtype(self):
        backbone = self.model.backbone
        self.assertEqual(backbone.dtype_policy.name, "mixed_bfloat16")
        self.assertEqual({str(weight.dtype) for weight in backbone.weights}, {"float32"})

    def test_its_parts_have_the_name_too(self):
        backbone = models.SwitchBackbone.from_preset(NAME)
        self.assertEqual(backbone.count_params(), self.model.count_params())
        tokenizer = models.SwitchTokenizer.from_preset(NAME)
        self.assertEqual(tokenizer.proto, self.model.preprocessor.tokenizer.proto)
        classifier = models.SwitchTextClassifier.from_preset(NAME, num_classes=2)
        self.assertEqual(classifier.predict(["A text."], verbose=0).shape, (1, 2))


if __name__ == "__main__":
    unittest.main()
