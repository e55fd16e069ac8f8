import pathlib
import tempfile
import unittest
import warnings

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tokenizer_helpers

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchTextClassifier
from keras_switch.models import SwitchTextClassifierPreprocessor
from keras_switch.models import SwitchTokenizer

TEXTS = ["The people walk.", "a small house", "The people sleep.", "a house of the people"]
LABELS = np.array([0, 1, 0, 1])
JIT = keras.backend.backend() == "jax"


def preprocessor():
    tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
    return SwitchTextClassifierPreprocessor(tokenizer, sequence_length=8)


def backbone():
    return SwitchBackbone(
        143, 1, 2, 16, 32, num_experts=2, encoder_sparse_layers=[0], seed=1, dtype="float32"
    )


class PreprocessorTest(unittest.TestCase):
    def test_packs_texts_and_pairs(self):
        make = preprocessor()
        ids = [[5, 7, 8, 42, 1, 0, 0, 0], [10, 11, 12, 1, 0, 0, 0, 0]]
        pairs = [[5, 7, 8, 1, 10, 11, 12, 1], [10, 11, 12, 1, 5, 7, 8, 1]]
        for x, expected in ((TEXTS[:2], ids), ((TEXTS[:2], TEXTS[1::-1]), pairs)):
            texts_and_labels = (x, LABELS[:2])
            batch = tf.data.Dataset.from_tensors(texts_and_labels).map(make)
            single = tf.data.Dataset.from_tensor_slices(texts_and_labels).map(make).batch(2)
            outputs = [make(*texts_and_labels), next(iter(batch)), next(iter(single))]
            for rows, labels in outputs:
                self.assertEqual(np.asarray(labels).tolist(), [0, 1])
                rows = {name: np.asarray(value).astype(int) for name, value in rows.items()}
                self.assertEqual(rows.pop("encoder_token_ids").tolist(), expected)
                mask = (np.array(expected) != 0).astype(int)
                self.assertEqual(rows.pop("encoder_padding_mask").tolist(), mask.tolist())
                self.assertEqual(rows.pop("decoder_token_ids").tolist(), [[0], [0]])
                self.assertEqual(rows.pop("decoder_padding_mask").tolist(), [[1], [1]])
                self.assertFalse(rows)

    def test_labels_and_weights_pass_through(self):
        x, y, weights = preprocessor()(TEXTS, LABELS, [1.0, 2.0, 3.0, 4.0])
        self.assertEqual(np.asarray(y).tolist(), LABELS.tolist())
        self.assertEqual(np.asarray(weights).tolist(), [1.0, 2.0, 3.0, 4.0])
        self.assertEqual(np.shape(x["encoder_token_ids"]), (4, 8))


class SwitchTextClassifierTest(unittest.TestCase):
    def test_warns_of_no_softmax_and_of_no_missing_gradient(self):
        model = SwitchTextClassifier(backbone(), 2, preprocessor=preprocessor())
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*softmax|.*Gradients do not exist")
            model.fit(TEXTS, LABELS, verbose=0)
            model.predict(TEXTS, verbose=0)

    def test_learns_from_texts(self):
        model = SwitchTextClassifier(backbone(), 2, preprocessor())
        model.compile(keras.optimizers.Adam(0.01), jit_compile=JIT)
        history = model.fit(TEXTS, LABELS, batch_size=4, epochs=12, verbose=0).history
        self.assertLess(history["loss"][-1], 0.5 * history["loss"][0])
        logits = np.asarray(model(model.preprocessor(TEXTS)))
        self.assertEqual(logits.shape, (4, 2))
        self.assertEqual(logits.argmax(-1).tolist(), LABELS.tolist())

    def test_gives_probabilities_of_the_decoders_first_state(self):
        model = SwitchTextClassifier(backbone(), 3, activation="softmax")
        inputs = preprocessor()(TEXTS)
        states = model.backbone(inputs)["decoder_sequence_output"][:, 0]
        kernel, bias = (np.asarray(weight) for weight in model.output_dense.weights)
        powers = np.exp(np.asarray(states) @ kernel + bias)
        expected = powers / powers.sum(-1, keepdims=True)
        np.testing.assert_allclose(np.asarray(model(inputs)), expected, rtol=1e-5)

    def test_folders_keep_the_classes(self):
        model = SwitchTextClassifier(backbone(), 3, preprocessor(), dropout=0.25)
        inputs = model.preprocessor(TEXTS)
        expected = np.asarray(model(inputs))
        with tempfile.TemporaryDirectory() as folder:
            model.save_to_preset(folder)
            model.save(pathlib.Path(folder, "model.keras"))
            loaded = [
                SwitchTextClassifier.from_preset(folder, dtype="float32"),
                keras_hub.models.TextClassifier.from_preset(folder, dtype="float32"),
                keras.saving.load_model(pathlib.Path(folder, "model.keras")),
            ]
            switch = {"capacity_factor": 100.0}
            loaded.append(SwitchTextClassifier.from_preset(folder, switch=switch, dtype="float32"))
            other = SwitchTextClassifier.from_preset(folder, num_classes=5, dtype="float32")
            writer = SwitchSeq2SeqLM.from_preset(folder)
        for each in loaded:
            self.assertIsInstance(each, SwitchTextClassifier)
            np.testing.assert_array_equal(np.asarray(each(inputs)), expected)
            self.assertEqual(each.get_config()["dropout"], 0.25)
            self.assertEqual(each.preprocessor.sequence_length, 8)
        self.assertEqual(loaded[-1].backbone.switch, switch)
        self.assertEqual(np.shape(other(inputs)), (4, 5))
        self.assertEqual(writer.preprocessor.tokenizer.vocabulary_size(), 143)

    def test_starts_from_the_folder_of_a_language_model(self):
        for tokenizer, cls in (
            (True, keras_hub.models.TextClassifier),
            (False, SwitchTextClassifier),
        ):
            with tempfile.TemporaryDirectory() as folder:
                SwitchSeq2SeqLM(backbone()).save_to_preset(folder)
                if tokenizer:
                    preprocessor().tokenizer.save_to_preset(folder)
                model = cls.from_preset(folder, num_classes=2)
            self.assertIsInstance(model, SwitchTextClassifier)
            self.assertEqual(model.preprocessor is not None, tokenizer)
            self.assertEqual(model.dtype_policy.name, "mixed_bfloat16")
            self.assertEqual(model.compute_output_shape(model.input_shape), (None, 2))

    def test_names_give_classifiers_without_weights(self):
        sizes = {"num_layers": 1, "hidden_dim": 32, "intermediate_dim": 64}
        model = SwitchTextClassifier.from_preset(
            "switch_tiny_8", load_weights=False, num_classes=4, **sizes
        )
        self.assertEqual(model.num_classes, 4)
        self.assertEqual(model.backbone.hidden_dim, 32)
        with self.assertRaisesRegex(ValueError, "No weights come with the name 'switch_tiny_8'"):
            SwitchTextClassifier.from_preset("switch_tiny_8", num_classes=4)
        with self.assertRaisesRegex(ValueError, "`num_classes` must be a positive integer"):
            SwitchTextClassifier(backbone(), 0)
        with self.assertRaisesRegex(
            ValueError, "`compile`. Mind the spelling. Received: classes=3"
        ):
            SwitchTextClassifier(backbone(), 3, classes=3)


if __name__ == "__main__":
    unittest.main()
