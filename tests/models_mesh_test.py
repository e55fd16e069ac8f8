"""Whole models on meshes of the TensorFlow backend: any layout gives what one core gives."""

import functools
import pathlib
import tempfile
import unittest

import keras
import mesh_helpers
import model_helpers
import numpy as np
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import assert_same
from model_helpers import OTHER
from model_helpers import T5
from model_helpers import shallow

from keras_switch.layers import dropless
from keras_switch.models import SwitchSeq2SeqLM


def trained(name, **options):
    """Trains a model on the mesh of this name for three steps; returns what is compared."""
    mesh = mesh_helpers.mesh_of(name)
    with mesh.scope():
        model = shallow(**options)
        model.compile(mesh.optimizer(keras.optimizers.SGD(0.1)), jit_compile=False)
    x, y, weight = model_helpers.batches(3, 16)
    return mesh_helpers.fit(model, x, y, sample_weight=weight)


@functools.cache
def on_2x2():
    """A model on a mesh, not trained; its seed gives it the weights of `shallow()`."""
    with mesh_helpers.mesh_of("2x2").scope():
        return shallow()


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class ModelsMeshTest(unittest.TestCase):
    def assert_outputs_same(self, model, expected, x):
        """Compares where no token is dropped: the models may group them otherwise."""
        with dropless():
            ours, theirs = (keras.ops.convert_to_numpy(m(x)) for m in (model, expected))
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)

    def test_training_equals_one_core(self):
        assert_same(trained("8"), trained(ONE_CORE))

    def test_other_options_train_as_on_one_core(self):
        assert_same(trained("2", **OTHER), trained(ONE_CORE, **OTHER))

    def test_whole_is_an_equal_model_of_the_same_class(self):
        split = on_2x2()
        x, *_ = model_helpers.batches(1, 8)
        whole = mesh_helpers.mesh_of("2x2").whole(split)
        self.assertIs(type(whole), SwitchSeq2SeqLM)
        self.assertFalse([v for v in whole.variables if hasattr(v, "slices")])
        self.assert_outputs_same(whole, split, x)
        backbone = mesh_helpers.mesh_of("2x2").whole(split.backbone)
        self.assertEqual(backbone.get_config(), split.backbone.get_config())
        self.assertEqual(set(backbone.named_weights()), set(split.backbone.named_weights()))

    def test_whole_keeps_the_preprocessor(self):
        mesh = mesh_helpers.mesh_of("2")
        preprocessor = keras.layers.Identity()
        with mesh.scope():
            split = shallow(preprocessor=preprocessor)
        self.assertIs(mesh.whole(split).preprocessor, preprocessor)

    def test_a_split_model_generates_when_it_is_whole(self):
        split = on_2x2()
        prompts = model_helpers.prompts(4)
        with self.assertRaisesRegex(ValueError, "mesh.whole"):
            split.generate(prompts, stop_token_ids=None)
        outputs = []
        for model in (mesh_helpers.mesh_of("2x2").whole(split), shallow()):
            model.compile(sampler="greedy")
            outputs.append(model.generate(prompts, stop_token_ids=None)["decoder_token_ids"])
        np.testing.assert_array_equal(*outputs)

    def test_a_mesh_describes_a_model(self):
        split = on_2x2()
        text = mesh_helpers.mesh_of("2x2").describe(split)
        self.assertRegex(text, r"encoder_block_0/feed_forward/kernel_in +8x8x16 +4x8x8 ")

    def test_files_know_no_mesh(self):
        split = on_2x2()
        x, *_ = model_helpers.batches(1, 8)
        with tempfile.TemporaryDirectory() as directory:
            path = str(pathlib.Path(directory) / "model.keras")
            split.save(path)
            alone = keras.saving.load_model(path)
            self.assert_outputs_same(alone, split, x)
            with mesh_helpers.mesh_of("4").scope():
                other = keras.saving.load_model(path, compile=False)
        self.assert_outputs_same(other, split, x)
        kernel = other.backbone.named_weights()["encoder/0/feed_forward/kernel_in"]
        self.assertEqual(kernel.slices[0].shape, (2, 8, 16))

    def test_folders_know_no_mesh(self):
        split = on_2x2()
        x, *_ = model_helpers.batches(1, 8)
        with tempfile.TemporaryDirectory() as directory:
            split.save_to_preset(directory)
            alone = SwitchSeq2SeqLM.from_preset(directory, dtype="float32")
            self.assert_outputs_same(alone, split, x)

    def test_a_split_model_is_upcycled(self):
        with mesh_helpers.mesh_of("2").scope():
            dense = shallow(**T5).backbone
            sparse = dense.upcycle(8, encoder_sparse_layers=[0])
        alone = shallow(**T5).backbone
        kernel = sparse.named_weights()["encoder/0/feed_forward/kernel_in"]
        self.assertEqual(kernel.slices[0].shape, (4, 8, 16))
        expected = model_helpers.values(alone)["encoder/0/feed_forward/input"]
        for expert in keras.ops.convert_to_numpy(kernel):
            np.testing.assert_array_equal(expert, expected)


if __name__ == "__main__":
    unittest.main()
