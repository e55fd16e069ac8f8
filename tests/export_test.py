import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import warnings

import keras
import keras_hub
import lm_helpers
import numpy as np
import tensorflow as tf
import tokenizer_helpers

from keras_switch import atomic
from keras_switch import export
from keras_switch.export import blanks
from keras_switch.export import serve
from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer

TEXT = "The people<extra_id_0> of the house."
LEARNED = {
    "encoder_text": [TEXT, "a <extra_id_0> house <extra_id_1>"],
    "decoder_text": ["<extra_id_0> walk", "<extra_id_0> small <extra_id_1> sleeps"],
}
# Asks a SavedModel in a session, as TensorFlow Serving does.
SESSION = """
import importlib.util, json, pathlib, sys
import tensorflow as tf
(package,) = importlib.util.find_spec("tensorflow_text").submodule_search_locations
tf.load_op_library(str(pathlib.Path(package, "python/ops/_sentencepiece_tokenizer.so")))
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    model = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1])
    signature = model.signature_def["serving_default"]
    names = {name: signature.outputs[name].name for name in ("ids", "filled")}
    answers = session.run(names, {signature.inputs["text"].name: sys.argv[2:]})
print(json.dumps([answers["ids"].tolist(), [text.decode() for text in answers["filled"]]]))
"""


def saved_model_cli(path, inputs_name, expression):
    """Runs a SavedModel in a session, as TensorFlow Serving loads it."""
    code = "from tensorflow.python.tools import saved_model_cli as c; c.main()"
    command = [sys.executable, "-c", code, "run", "--dir", str(path), "--tag_set", "serve"]
    command += ["--signature_def", "serving_default"]
    command += ["--input_exprs", f"{inputs_name}={expression}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class FillTest(unittest.TestCase):
    def fill(self, inputs, completions):
        sentinels = range(99, 89, -1)
        return blanks.fill(
            tf.constant(inputs), tf.constant(completions), sentinels, [1, 0]
        ).to_list()

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

    def test_a_full_disk_is_an_error_of_the_version(self):
        root = self.directory / "full"
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        for room in (10, 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
            with self.assertRaisesRegex(OSError, f"] File too large: '{root / '1'}'"):
                export.export_saved_model(self.model, root)
            self.assertFalse(root.exists())

    def test_another_backend_is_explained(self):
        with unittest.mock.patch("keras.config.backend", return_value="jax"):
            with self.assertRaisesRegex(ValueError, "need the TensorFlow backend.*'jax'"):
                export.export_saved_model(self.model, self.directory / "jax")
            with self.assertRaisesRegex(ValueError, "need the TensorFlow backend.*'jax'"):
                export.export_text_model(self.model, self.directory / "jax")

    def test_bad_models_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`model` must be a built functional or Sequential"):
            export.export_saved_model(keras.Sequential([]), self.directory / "bad")


class TextModelTest(unittest.TestCase):
    """A model of more ids than its tokenizer has pieces, as converted ones are."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        cls.model = lm_helpers.make(vocabulary_size=160, seed=8, tie_embedding_weights=False)
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        cls.model.preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 16, 13)
        cls.model.compile(keras.optimizers.Adam(0.01), sampler="greedy", jit_compile=False)
        cls.model.fit(tf.data.Dataset.from_tensors(LEARNED).repeat(50), verbose=0)
        keras.utils.set_random_seed(1)  # It frees the tokenizer of TensorFlow's Text library.
        cls.path = export.export_text_model(cls.model, cls.directory / "text", max_length=12)
        cls.signature = tf.saved_model.load(str(cls.path)).signatures["serving_default"]

    def serve(self, texts):
        outputs = self.signature(text=tf.constant(texts, tf.string))
        return {name: output.numpy() for name, output in outputs.items()}

    def ask_a_session(self, path):
        command = [sys.executable, "-c", SESSION, str(path), TEXT]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(output)

    def test_writes_what_generate_writes(self):
        texts = [
            TEXT,
            "",
            "a <extra_id_3>",
            "日本 \u0301\U0001f600 <extra_id_0>",
            "the people " * 99,
        ]
        outputs = self.serve(texts)
        completions = [text.decode() for text in outputs["completion"]]
        self.assertEqual(completions, self.model.generate(texts, max_length=13))
        self.assertGreater(len(set(completions)), 2)
        self.assertEqual(outputs["ids"].shape, (5, 12))

    def test_equals_decoding_without_caches(self):
        ids = [*self.model.preprocessor.tokenizer(TEXT), 1]
        inputs = {
            "encoder_token_ids": np.array([ids]),
            "encoder_padding_mask": np.ones((1, len(ids))),
            "decoder_token_ids": np.zeros((1, 13), "int32"),
            "decoder_padding_mask": np.eye(1, 13, dtype=bool),
        }
        written = lm_helpers.greedy(self.model, inputs)[0, 1:].tolist()
        written = written[: written.index(1) + 1] if 1 in written else written
        self.assertEqual(self.serve([TEXT])["ids"][0, : len(written)].tolist(), written)

    def test_an_answer_does_not_depend_on_its_neighbours(self):
        texts = ["The<extra_id_0> of the house.", "A house of people of the small house."]
        together = self.serve(texts)
        for number, text in enumerate(texts):
            alone = self.serve([text])
            for name in ("filled", "completion", "ids"):
                np.testing.assert_array_equal(together[name][number], alone[name][0])

    def test_blanks_are_filled_and_ids_end_with_zeros(self):
        outputs = self.serve(LEARNED["encoder_text"])
        filled = ["The people walk of the house.", "a small house sleeps"]
        self.assertEqual([text.decode() for text in outputs["filled"]], filled)
        completions = ["<extra_id_0> walk", "<extra_id_0> small<extra_id_1> sleeps"]
        self.assertEqual([text.decode() for text in outputs["completion"]], completions)
        self.assertEqual(outputs["ids"][0].tolist(), [142, 8, 1] + [0] * 9)

    def test_no_text_gives_no_answer(self):
        outputs = self.serve([])
        self.assertEqual(outputs["ids"].shape, (0, 12))
        self.assertEqual((len(outputs["filled"]), len(outputs["completion"])), (0, 0))

    def test_texts_are_cut_to_the_length_of_the_preprocessor(self):
        # Fifteen words and the end.
        cut, long = (self.serve(["the people of " * times + "a house"]) for times in (5, 50))
        for name in ("filled", "completion", "ids"):
            np.testing.assert_array_equal(cut[name], long[name])

    def test_answers_without_keras_and_in_a_session(self):
        expected = self.serve([TEXT])
        filled, ids = expected["filled"][0].decode(), expected["ids"][0]
        command = [sys.executable, serve.__file__, str(self.path), TEXT]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.assertIn(f"Filled: {filled}", output)
        self.assertIn("without keras or keras_switch", output)
        self.assertEqual(self.ask_a_session(self.path), [[ids.tolist()], [filled]])

    def test_the_sampler_is_chosen_and_nothing_is_said(self):
        sampler = keras_hub.samplers.TopKSampler(k=20, seed=0, temperature=100.0)
        # TensorFlow would tell the name of a folder that is gone.
        with self.assertNoLogs("tensorflow", "INFO"):
            path = export.export_text_model(self.model, self.directory / "top_k", 12, sampler)
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        texts = {signature(text=tf.constant([TEXT]))["completion"].numpy()[0] for _ in range(3)}
        self.assertEqual(len(texts), 3)
        self.assertEqual(len(self.ask_a_session(path)[0][0]), 12)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`max_length` must be a positive integer"):
            export.export_text_model(self.model, "/nowhere", max_length=0)
        for model in (lm_helpers.make(), keras.Sequential()):
            with self.assertRaisesRegex(ValueError, "a `SwitchSeq2SeqLM` with a preprocessor"):
                export.export_text_model(model, "/nowhere")
        small = lm_helpers.make(vocabulary_size=142)
        small.preprocessor = self.model.preprocessor
        with self.assertRaisesRegex(ValueError, "143 pieces, and a model of 142 ids"):
            export.export_text_model(small, "/nowhere")

    def test_a_process_that_fails_is_explained(self):
        with self.assertRaisesRegex(RuntimeError, "was to answer failed.*exit code 1(.|\n)*Error"):
            export.ask_in_another_process("/nowhere", "The people.")


if __name__ == "__main__":
    unittest.main()
