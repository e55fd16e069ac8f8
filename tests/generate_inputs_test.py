"""Tests of what `SwitchSeq2SeqLM.generate` takes."""

import unittest

import numpy as np
import tokenizer_helpers
from absl.testing import parameterized

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer

TEXT = "The people walk."
PROMPTS = {"encoder_text": [TEXT, "a"], "decoder_text": ["the people", "a"]}


class GenerateInputsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 12)
        backbone = SwitchBackbone(
            tokenizer.vocabulary_size(), 1, 2, 8, 16, num_experts=2, seed=0, dtype="float32"
        )
        cls.model = SwitchSeq2SeqLM(backbone, preprocessor)
        cls.model.compile(sampler="greedy")
        cls.answer = cls.model.generate(TEXT)

    def test_texts_in_any_form(self):
        self.assertEqual(self.model.generate(TEXT.encode()), self.answer)
        for form in (list, tuple, np.array, lambda x: np.array([x[0].encode()])):
            self.assertEqual(self.model.generate(form([TEXT])), [self.answer])
        self.assertEqual(self.model.generate({"encoder_text": [TEXT]}), [self.answer])
        self.assertEqual(self.model.generate({"encoder_text": TEXT}), self.answer)

    def test_no_texts_give_no_answers(self):
        for texts in ([], (), np.array([]), {"encoder_text": []}):
            self.assertEqual(self.model.generate(texts), [])
        self.assertEqual(self.model.generate({"encoder_text": [], "decoder_text": []}), [])

    def test_inputs_stay_as_they_are(self):
        inputs = {"encoder_text": TEXT, "decoder_text": "the"}
        self.model.generate(inputs)
        self.assertEqual(inputs, {"encoder_text": TEXT, "decoder_text": "the"})

    def test_prompts_are_left_out(self):
        whole = self.model.generate(PROMPTS)
        rest = self.model.generate(PROMPTS, strip_prompt=True)
        for text, prompt, written in zip(whole, PROMPTS["decoder_text"], rest, strict=True):
            self.assertTrue(text.startswith(prompt))
            self.assertEqual(text.removeprefix(prompt).split(), written.split())
        self.assertEqual(self.model.generate(TEXT, strip_prompt=True), self.answer)

    def test_max_length_of_numpy(self):
        short = self.model.generate(TEXT, max_length=np.int64(4))
        self.assertEqual(short, self.model.generate(TEXT, max_length=4))
        self.assertLess(len(short), len(self.answer))

    @parameterized.parameters(
        (3, {}, "`inputs` must be a text, or a list of texts. Received: 3"),
        (None, {}, "`inputs` must be a text, or a list of texts. Received: None"),
        (["a", 3], {}, "`inputs` must be a text, or a list of texts. Received: 3"),
        ({"encoder_text": [None]}, {}, "`encoder_text` must be a text, .* Received: None"),
        ({"decoder_text": ["a"]}, {}, "has `encoder_text` and.*Received: .'decoder_text'."),
        ({"encoder_text": "a", "text": "b"}, {}, "Received: .'encoder_text', 'text'."),
        (
            {"encoder_text": ["a", "b"], "decoder_text": ["c"]},
            {},
            "a prompt for each text. Received: 2 texts and 1 prompts",
        ),
        (
            TEXT,
            {"max_length": 0},
            "`max_length` must be a positive integer. Received: max_length=0",
        ),
        (TEXT, {"strip_prompt": "yes"}, "`strip_prompt` must be True or False. Received"),
    )
    def test_what_is_wrong_is_explained(self, inputs, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            self.model.generate(inputs, **kwargs)


if __name__ == "__main__":
    unittest.main()
