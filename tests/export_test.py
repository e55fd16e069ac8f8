import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import warnings

import keras
import lm_helpers
import numpy as np
import tensorflow as tf

from keras_switch import atomic
from keras_switch import export
from keras_switch.data import Vocabulary
from keras_switch.export import blanks
from keras_switch.export import serve
from keras_switch.export import text_model
from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless

LINES = ["The people of the states.", "The union of the people.", "A nation of laws."] * 30


def saved_model_cli(path, inputs_name, expression):
    """Runs a SavedModel in a session, as TensorFlow Serving loads it."""
    code = "from tensorflow.python.tools import saved_model_cli as c; c.main()"
    command = [sys.executable, "-c", code, "run", "--dir", str(path), "--tag_set", "serve"]
    command += ["--signature_def", "serving_default"]
    command += ["--input_exprs", f"{inputs_name}={expression}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class FillTest(unittest.TestCase):
    def fill(self, inputs, completions):
        return blanks.fill(tf.constant(inputs), tf.constant(completions), 90, 99).to_list()

    def test_spans_take_the_place_of_their_sentinels(self):
        self.assertEqual(
            self.fill([[5, 99, 6, 98, 7, 1, 0]], [[99, 20, 21, 98, 22, 1]]),
            [[5, 20, 21, 6, 22, 7]],
        )

    def test_order_missing_spans_and_strays_do_not_matter(self):
        self.assertEqual(
            self.fill(
                [[99, 5, 98, 6, 1]] * 3, [[98, 20, 99, 21, 1], [30, 99, 20, 97, 31], [1] * 5]
            ),
            [[21, 5, 20, 6], [20, 5, 6], [5, 6]],
        )


class SavedModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        inputs = keras.Input((None, 4), name="x")
        layer = SwitchDense(4, 8, dtype="float32", seed=1, min_capacity=1, eval_capacity_factor=0.5)
        cls.model = keras.Model(inputs, layer(inputs))
        cls.path = export.export_saved_model(cls.model, cls.directory / "layer")
        cls.serve = tf.saved_model.load(str(cls.path)).signatures["serving_default"]

    def test_equals_the_dropless_model(self):
        x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
        (outputs,) = self.serve(x=tf.constant(x)).values()
        with dropless():
            expected = self.model(x)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        self.assertGreater(np.abs(outputs - self.model(x)).max(), 1e-4)

    def test_an_answer_does_not_depend_on_its_neighbours(self):
        x = np.random.default_rng(1).normal(size=(6, 5, 4)).astype("float32")
        (together,) = self.serve(x=tf.constant(x)).values()
        (alone,) = self.serve(x=tf.constant(x[2:3])).values()
        np.testing.assert_allclose(together[2:3], alone, atol=1e-6)

    def test_experts_that_choose_keep_their_capacity_and_say_so(self):
        def model(length, **kwargs):
            inputs = keras.Input((length, 4), name="x")
            layer = SwitchDense(4, 8, routing="expert_choice", dtype="float32", seed=1, **kwargs)
            return keras.Model(inputs, layer(inputs))

        root = self.directory / "choosing"
        for length, kwargs in ((8, {}), (None, {"group_size": "row"})):
            with self.assertWarnsRegex(
                UserWarning, "depends on the rows.*'expert_choice'.*\"row\""
            ):
                export.export_saved_model(model(length, **kwargs), root)
        x = np.random.default_rng(1).normal(size=(6, 8, 4)).astype("float32")
        for length, kwargs in ((8, {}), (None, {"expert_capacity": 3})):
            made = model(length, group_size="row", **kwargs)
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                path = export.export_saved_model(made, root)
            serve = tf.saved_model.load(str(path)).signatures["serving_default"]
            (together,) = serve(x=tf.constant(x)).values()
            (alone,) = serve(x=tf.constant(x[2:3])).values()
            np.testing.assert_allclose(together, made(x), atol=1e-6)
            np.testing.assert_allclose(together[2:3], alone, atol=1e-6)

    def test_a_session_gives_the_same_numbers(self):
        output = saved_model_cli(self.path, "x", "[[[1.0, 1.0, 1.0, 1.0]]]")
        (expected,) = self.serve(x=tf.ones((1, 1, 4))).values()
        numbers = output[output.rindex("[[[") :].strip("[] \n").split()
        np.testing.assert_allclose([float(x) for x in numbers], expected[0, 0], atol=1e-6)

    def test_exporting_again_writes_the_next_version(self):
        root = self.directory / "twice"
        for number in (1, 2):
            path = export.export_saved_model(self.model, root)
            self.assertEqual(path, root / str(number))
        self.assertEqual(sorted(p.name for p in root.iterdir()), ["1", "2"])
        self.assertEqual(list(self.directory.glob(".*")), [])

    def test_a_failed_write_loses_nothing_and_leaves_no_half(self):
        root = self.directory / "failed"
        export.export_saved_model(self.model, root)
        with unittest.mock.patch.object(atomic, "sync", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                export.export_saved_model(self.model, root)
        self.assertEqual([p.name for p in root.iterdir()], ["1"])
        self.assertEqual(export.export_saved_model(self.model, root), root / "2")
        self.assertEqual(list(self.directory.glob(".failed*")), [])

    def test_another_backend_is_explained(self):
        with unittest.mock.patch("keras.config.backend", return_value="jax"):
            with self.assertRaisesRegex(ValueError, "need the TensorFlow backend.*'jax'"):
                export.export_saved_model(self.model, self.directory / "jax")
            with self.assertRaisesRegex(ValueError, "need the TensorFlow backend.*'jax'"):
                export.export_text_model(self.model, None, self.directory / "jax")

    def test_bad_models_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`model` must be a built functional or Sequential"):
            export.export_saved_model(keras.Sequential([]), self.directory / "bad")


class TextModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.vocabulary = Vocabulary.train(LINES, vocabulary_size=30, num_sentinels=10)
        cls.model = lm_helpers.make()
        cls.path = export.export_text_model(
            cls.model, cls.vocabulary, pathlib.Path(directory.name) / "text", max_length=12
        )
        cls.serve = tf.saved_model.load(str(cls.path)).signatures["serving_default"]

    def decode_without_caches(self, text):
        ids = [*self.vocabulary.tokenize([text])[0].numpy(), 1]
        written = [0]
        inputs = {
            "encoder_token_ids": np.array([ids]),
            "encoder_padding_mask": np.ones((1, len(ids))),
        }
        for _ in range(12):
            _, logits = lm_helpers.uncached(self.model, inputs, np.array([written]))
            written.append(int(np.argmax(logits[0, -1, 1:])) + 1)
            if written[-1] == 1:
                break
        return written[1:] + [0] * (13 - len(written))

    def test_equals_decoding_without_caches(self):
        for text in ("The people<extra_id_0> of the states.", "A nation<extra_id_0>."):
            ids = self.serve(text=tf.constant([text]))["ids"].numpy()[0].tolist()
            self.assertEqual(ids, self.decode_without_caches(text))

    def test_an_answer_does_not_depend_on_its_neighbours(self):
        texts = ["The<extra_id_0> of laws.", "A nation of people of the states of the union."]
        together = self.serve(text=tf.constant(texts))
        for number, text in enumerate(texts):
            alone = self.serve(text=tf.constant([text]))
            for name in ("filled", "completion", "ids"):
                np.testing.assert_array_equal(together[name][number], alone[name][0])

    def test_answers_without_keras_and_in_a_session(self):
        text = "The people<extra_id_0> of the states."
        expected = self.serve(text=tf.constant([text]))["filled"].numpy()[0].decode()
        command = [sys.executable, serve.__file__, str(self.path), text]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.assertIn(f"Filled: {expected}", output)
        self.assertIn("without keras or keras_switch", output)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`max_length` must be a positive integer"):
            export.export_text_model(self.model, self.vocabulary, "/nowhere", max_length=0)
        other = Vocabulary.train(LINES, vocabulary_size=29, num_sentinels=9)
        with self.assertRaisesRegex(ValueError, "`vocabulary` must be the model's own"):
            export.export_text_model(self.model, other, "/nowhere")

    def test_a_process_that_fails_is_explained(self):
        with self.assertRaisesRegex(RuntimeError, "was to answer failed.*exit code 1(.|\n)*Error"):
            export.ask_in_another_process("/nowhere", "The people.")

    def test_the_decoder_writes_as_many_ids_as_asked(self):
        decoder = text_model.GreedyDecoder(self.model, 5)
        self.assertEqual(decoder(tf.constant([[5, 6, 1, 0]])).shape, (1, 5))

    def test_the_decoder_never_writes_padding(self):
        logits = tf.constant([[9.0, 1.0, 2.0, 8.0], [9.0, -1.0, -2.0, -8.0]])
        self.assertEqual(text_model._likeliest(logits).numpy().tolist(), [3, 1])


if __name__ == "__main__":
    unittest.main()
