"""Runs the notebooks of `colabs/` from their first cell to the last, on both backends, small."""

import ast
import os
import pathlib
import re
import tempfile
import unittest

import nbclient
import nbformat
import numpy as np

from keras_switch.data import read_corpus
from keras_switch.data import train_sentencepiece
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer
from keras_switch.weights import convert

BACKENDS = ("tensorflow", "jax")
COLABS = pathlib.Path(__file__).resolve().parents[1] / "colabs"

# What takes the place of the cell that is tagged `parameters`.
SMALL = {
    "switch_transformer": """
VOCABULARY_SIZE = 1000
LENGTH, BATCH_SIZE = 32, 8
DIM, HIDDEN_DIM, NUM_HEADS, NUM_EXPERTS = 32, 64, 2, 4
EPOCHS, STEPS = 2, 10
""",
    "experts_across_cores": """
DIM, HIDDEN_DIM, NUM_EXPERTS, LENGTH = 16, 32, 8, 8
BATCH_SIZE, STEPS, EPOCHS = 16, 4, 2
""",
    "pretrain_on_tpu": """
CORPUS, RUN = "", "run"
SIZES = dict(vocabulary_size=500, hidden_dim=16, intermediate_dim=32, num_heads=2, num_layers=2)
NUM_EXPERTS, BATCH_SIZE = 8, 16
LENGTHS = dict(inputs_length=32, short_inputs_length=16)
STEPS = dict(epochs=2, short_epochs=1, steps_per_epoch=3, validation_steps=1)
""",
    "switch_base_generate": """
HUGGING_FACE = ""
PRESET = "switch_tiny_8"
DTYPE = "float32"
ENCODER_LENGTH, DECODER_LENGTH = 32, 8
""",
}


def run(path, backend, parameters=None):
    """Runs a notebook in a fresh kernel and an empty folder; returns it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SMALL[path.stem] if parameters is None else parameters
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(notebook, timeout=600, resources=resources)
        # Most of the time on JAX is compilation.
        client.execute(
            env={**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        )
    return notebook


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs), outputs


class NotebooksTest(unittest.TestCase):
    def test_every_notebook_has_small_sizes(self):
        self.assertEqual(set(SMALL), {path.stem for path in COLABS.glob("*.ipynb")})

    def test_notebooks_are_stored_without_outputs(self):
        for path in COLABS.glob("*.ipynb"):
            self.assertFalse(printed(nbformat.read(path, as_version=4))[1], path)

    def test_the_first_notebook_trains_draws_and_answers(self):
        for backend in BACKENDS:
            with self.subTest(backend):
                text, outputs = printed(run(COLABS / "switch_transformer.ipynb", backend))
                for words in ("parameters", "busiest", "val_loss", "has the power to<extra_id_1>"):
                    self.assertIn(words, text)
                self.assertRegex(text, rf"(?m)^{backend}$")
                self.assertEqual("another process exports the file" in text, backend == "jax")
                self.assertTrue([x for x in outputs if "image/png" in x.get("data", {})])

    def test_experts_across_cores_train_like_one_core(self):
        for backend in BACKENDS:
            with self.subTest(backend):
                text, outputs = printed(run(COLABS / "experts_across_cores.ipynb", backend))
                for words in ("8 virtual CPU cores.", "8x16x32", "1x16x32", "weight for weight"):
                    self.assertIn(words, text)
                self.assertRegex(text, rf"(?m)^{backend}$")
                names = ("one core", "8 cores")
                one, eight = (re.search(rf"{name} (\[.*\])", text)[1] for name in names)
                np.testing.assert_allclose(
                    ast.literal_eval(one), ast.literal_eval(eight), rtol=1e-2
                )
                self.assertTrue([x for x in outputs if "image/png" in x.get("data", {})])

    def test_a_model_is_pretrained_on_a_mesh_and_answers_without_keras(self):
        for backend in BACKENDS:
            with self.subTest(backend):
                text, outputs = printed(run(COLABS / "pretrain_on_tpu.ipynb", backend))
                self.assertRegex(text, rf"(?m)^{backend}$")
                for words in (
                    "8 virtual CPU cores.",
                    "8 experts in every other one",
                    "what the model fills their blanks with",
                    "with the inputs of another text",
                    "Answered by TensorFlow",
                ):
                    self.assertIn(words, text)
                self.assertEqual(len([x for x in outputs if "image/png" in x.get("data", {})]), 2)

    def test_a_model_of_random_weights_writes(self):
        for backend in BACKENDS:
            with self.subTest(backend):
                text, _ = printed(run(COLABS / "switch_base_generate.ipynb", backend))
                self.assertRegex(text, r"\d\d,\d{3},\d{3} parameters")
                self.check_that_it_wrote(text)

    def test_the_weights_of_a_hugging_face_folder_write(self):
        model = SwitchSeq2SeqLM(
            SwitchBackbone(640, 2, 2, 16, 32, num_experts=2),
            SwitchSeq2SeqLMPreprocessor(
                SwitchTokenizer(train_sentencepiece(read_corpus()[:500], 600))
            ),
        )
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "theirs")
            model.save_to_preset(folder)
            convert(folder, path, to="huggingface", verbose=0)
            self.assertIn("spiece.model", {file.name for file in path.iterdir()})
            small = SMALL["switch_base_generate"].replace('""', repr(str(path)))
            for backend in BACKENDS:
                with self.subTest(backend):
                    path = COLABS / "switch_base_generate.ipynb"
                    text, _ = printed(run(path, backend, small))
                    self.assertIn(f"{model.count_params():,} parameters", text)
                    self.check_that_it_wrote(text)

    def check_that_it_wrote(self, text):
        self.assertIn("'<extra_id_0>'", text)
        self.assertIn("\n<extra_id_0>", text)
        self.assertIn("the same alone: True", text)
        for sampler in ("beam", "TopPSampler"):
            self.assertRegex(text, rf"{sampler}, [0-9.]+ s: <extra_id_0> ?d ?o ?g")


if __name__ == "__main__":
    unittest.main()
