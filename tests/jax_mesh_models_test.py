"""Whole models on meshes of the JAX backend: eight devices give what one device gives."""

import functools
import pathlib
import tempfile
import unittest

import jax_mesh_helpers as helpers
import keras
import model_helpers
import numpy as np
from jax_mesh_helpers import DENSE
from jax_mesh_helpers import MESHES
from model_helpers import OTHER
from model_helpers import T5
from model_helpers import shallow

from keras_switch.layers import dropless
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.tpu import Mesh

if helpers.IS_JAX:
    import jax

EVERYTHING = ("model:2,batch:4", DENSE)


def trained(mesh, **options):
    """Trains a model on a mesh, or on one device, for three steps; returns it and their loss."""
    with helpers.on(mesh):
        model = shallow(**options)
        model.compile(keras.optimizers.SGD(0.1))
    x, y, weight = model_helpers.batches(3, 16)
    fit = {"batch_size": 16, "sample_weight": weight, "shuffle": False, "verbose": 0}
    return model, model.fit(x, y, **fit).history["loss"]


@functools.cache
def split_everywhere():
    """A model whose every weight is split, not trained; it has the weights of `shallow()`."""
    with helpers.on(EVERYTHING):
        return shallow()


def outputs(model):
    """Logits where no token is dropped: models may group tokens otherwise."""
    x, *_ = model_helpers.batches(1, 8)
    with dropless():
        return np.asarray(model(x))


def mesh_of(mesh):
    return Mesh(*mesh, devices=jax.devices())


@unittest.skipUnless(helpers.IS_JAX, "JAX only.")
class JaxMeshModelsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(split_everywhere.cache_clear)

    def assert_trained_same(self, trained, expected):
        np.testing.assert_allclose(trained[1], expected[1], rtol=1e-5)
        mine, theirs = (model_helpers.values(model) for model in (trained[0], expected[0]))
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=2e-5, atol=2e-6, err_msg=name)

    def test_training_equals_one_device(self):
        alone = trained(None)
        for mesh in (MESHES[0], EVERYTHING):
            with self.subTest(mesh=mesh):
                self.assert_trained_same(trained(mesh), alone)

    def test_other_options_train_as_on_one_device(self):
        self.assert_trained_same(trained(EVERYTHING, **OTHER), trained(None, **OTHER))

    def test_a_mesh_splits_the_models_weights(self):
        """The table of weights' paths fits those of a whole model."""
        with helpers.on(EVERYTHING):
            gated = shallow(gated=True, tie_embedding_weights=False).backbone
        split = {
            name: weight.value.sharding.shard_shape(weight.shape)
            for name, weight in gated.named_weights().items()
        }
        expected = {
            "token_embedding": (8, 8),
            "logits": (8, 8),
            "encoder/0/self_attention/query": (8, 4),
            "encoder/0/self_attention/output": (4, 8),
            "decoder/0/cross_attention/key": (8, 4),
            "decoder/0/cross_attention/value": (8, 4),
            "decoder/0/cross_attention/output": (4, 8),
            "decoder/0/feed_forward/input": (8, 8),
            "decoder/0/feed_forward/gate": (8, 8),
            "decoder/0/feed_forward/output": (8, 8),
            "encoder/0/feed_forward/kernel_in": (2, 8, 8),
            "encoder/0/feed_forward/kernel_gate": (2, 8, 8),
            "encoder/0/feed_forward/kernel_out": (2, 8, 8),
            "encoder/0/feed_forward/router": (8, 8),
            "decoder/norm": (8,),
        }
        self.assertEqual({name: split[name] for name in expected}, expected)

    def test_whole_is_an_equal_model_of_the_same_class(self):
        split = split_everywhere()
        with mesh_of(EVERYTHING).scope():
            expected = outputs(split)
        whole = mesh_of(EVERYTHING).whole(split)
        self.assertIs(type(whole), SwitchSeq2SeqLM)
        np.testing.assert_allclose(outputs(whole), expected, rtol=2e-5, atol=2e-6)

    def test_a_split_model_generates(self):
        prompts = model_helpers.prompts(8)
        texts = []
        for mesh in (EVERYTHING, None):
            with helpers.on(mesh):
                model = split_everywhere() if mesh else shallow()
                model.compile(sampler="greedy")
                texts.append(model.generate(prompts, stop_token_ids=None)["decoder_token_ids"])
        np.testing.assert_array_equal(*texts)

    def test_files_know_no_mesh(self):
        split = split_everywhere()
        with helpers.on(EVERYTHING), tempfile.TemporaryDirectory() as directory:
            path = str(pathlib.Path(directory) / "model.keras")
            split.save(path)
            expected = outputs(split)
            loaded = {}
            for mesh in (None, MESHES[4]):
                with helpers.on(mesh):
                    loaded[mesh] = keras.saving.load_model(path)
                    got = outputs(loaded[mesh])
                np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
        kernel = loaded[MESHES[4]].backbone.named_weights()["encoder/0/feed_forward/kernel_in"]
        self.assertEqual(kernel.value.sharding.shard_shape(kernel.shape), (2, 8, 16))

    def test_a_split_model_is_upcycled(self):
        with helpers.on(MESHES[0]):
            dense = shallow(**T5).backbone
            sparse = dense.upcycle(8, encoder_sparse_layers=[0])
        kernel = sparse.named_weights()["encoder/0/feed_forward/kernel_in"]
        self.assertEqual(kernel.value.sharding.shard_shape(kernel.shape), (1, 8, 16))
        expected = model_helpers.values(dense)["encoder/0/feed_forward/input"]
        for expert in np.asarray(kernel.value):
            np.testing.assert_array_equal(expert, expected)


if __name__ == "__main__":
    unittest.main()
