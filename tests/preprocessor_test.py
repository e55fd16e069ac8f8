import unittest

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tokenizer_helpers
from keras import ops

from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer

TEXTS = {
    "encoder_text": ["The <extra_id_0> walks.", "a"],
    "decoder_text": ["<extra_id_0> people <extra_id_1>", "the people walks of the small house"],
}
INPUTS = {
    "encoder_token_ids": [[5, 142, 8, 9, 42, 1, 0, 0], [10, 1, 0, 0, 0, 0, 0, 0]],
    "encoder_padding_mask": [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]],
    "decoder_token_ids": [[0, 142, 7, 141, 1, 0], [0, 4, 7, 8, 9, 6]],
    "decoder_padding_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
}
# A text that is cut has its end all the same.
TARGETS = [[142, 7, 141, 1, 0, 0], [4, 7, 8, 9, 6, 1]]
WEIGHTS = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]


def row(tree, index):
    return keras.tree.map_structure(lambda x: x[index], tree)


class PreprocessorTest(unittest.TestCase):
    def setUp(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        self.preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 6)

    def check(self, outputs, expected):
        """Requires equal numbers in equal structures."""
        keras.tree.map_structure(
            lambda x, y: self.assertEqual(np.asarray(x, int).tolist(), y.tolist()),
            outputs,
            expected,
        )

    def expected(self):
        return keras.tree.map_structure_up_to(
            ({name: 0 for name in INPUTS}, 0, 0), np.array, (INPUTS, TARGETS, WEIGHTS)
        )

    def test_packs_pairs_as_t5_does(self):
        self.check(self.preprocessor(TEXTS), self.expected())

    def test_packs_single_texts(self):
        for index in range(2):
            outputs = self.preprocessor({name: texts[index] for name, texts in TEXTS.items()})
            self.check(outputs, row(self.expected(), index))

    def test_packs_in_a_pipeline(self):
        dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
        batches = list(dataset.batch(2).map(self.preprocessor))
        self.assertEqual(len(batches), 1)
        self.check(batches[0], self.expected())
        for index, outputs in enumerate(dataset.map(self.preprocessor)):
            self.check(outputs, row(self.expected(), index))

    def test_a_call_may_ask_for_other_lengths(self):
        x, y, weights = self.preprocessor(TEXTS, encoder_sequence_length=3, sequence_length=2)
        self.check(x["encoder_token_ids"], np.array([[5, 142, 1], [10, 1, 0]]))
        self.check(x["decoder_token_ids"], np.array([[0, 142], [0, 4]]))
        self.check(y, np.array([[142, 1], [4, 1]]))
        self.check(weights, np.array([[1, 1], [1, 1]]))

    def test_generates_from_padding_on(self):
        outputs = self.preprocessor.generate_preprocess(TEXTS["encoder_text"])
        starts = np.array([[0, 0, 0, 0, 0, 0]] * 2)
        mask = np.array([[1, 0, 0, 0, 0, 0]] * 2)
        self.check(outputs["encoder_token_ids"], np.array(INPUTS["encoder_token_ids"]))
        self.check(outputs["encoder_padding_mask"], np.array(INPUTS["encoder_padding_mask"]))
        self.check(outputs["decoder_token_ids"], starts)
        self.check(outputs["decoder_padding_mask"], mask)
        one = self.preprocessor.generate_preprocess(TEXTS["encoder_text"][0], sequence_length=4)
        self.check(one["decoder_token_ids"], starts[0, :4])

    def test_generates_from_a_prompt_on(self):
        outputs = self.preprocessor.generate_preprocess(TEXTS)
        self.check(
            outputs["decoder_token_ids"], np.array([[0, 142, 7, 141, 0, 0], [0, 4, 7, 8, 9, 6]])
        )
        self.check(
            outputs["decoder_padding_mask"], np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
        )
        self.assertEqual(
            self.preprocessor.generate_postprocess(outputs),
            ["<extra_id_0> people<extra_id_1>", "the people walks of"],
        )

    def test_texts_of_what_a_model_wrote(self):
        ids = np.array([[0, 142, 6, 143, 32127, 7, 1, 5], [0, 10, 1, 0, 0, 0, 0, 0]])
        mask = np.array([[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]], bool)
        expected = ["<extra_id_0> of people", "a"]
        for kind in (np.array, ops.array):
            outputs = {"decoder_token_ids": kind(ids), "decoder_padding_mask": kind(mask)}
            self.assertEqual(self.preprocessor.generate_postprocess(outputs), expected)
        single = {"decoder_token_ids": ids[0], "decoder_padding_mask": mask[0]}
        self.assertEqual(self.preprocessor.generate_postprocess(single), expected[0])
        dataset = tf.data.Dataset.from_tensors(outputs | {"decoder_token_ids": ids})
        texts = next(iter(dataset.map(self.preprocessor.generate_postprocess)))
        self.assertEqual([text.decode() for text in texts.numpy()], expected)

    def test_survives_keras_serialisation(self):
        config = keras.saving.serialize_keras_object(self.preprocessor)
        again = keras.saving.deserialize_keras_object(config)
        self.assertIsInstance(again, SwitchSeq2SeqLMPreprocessor)
        self.assertIsInstance(again, keras_hub.models.Seq2SeqLMPreprocessor)
        self.assertIsInstance(again.tokenizer, SwitchTokenizer)
        self.assertEqual(again.get_config(), self.preprocessor.get_config())
        self.assertEqual(again.decoder_sequence_length, 6)
        again.tokenizer.set_proto(self.preprocessor.tokenizer.proto)
        self.check(again(TEXTS), self.expected())


if __name__ == "__main__":
    unittest.main()
