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

from keras_switch.layers import dropless
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.tpu import Mesh

if helpers.IS_JAX:
    import jax

EVERYTHING = ("model:2,batch:4", DENSE)
VARIANTS = {
    "two experts, as T5 1.1": {
        "gated": True,
        "activation": "gelu_approximate",
        "tie_embedding_weights": False,
        "switch": {"num_groups": 8, "num_selected_experts": 2, "expert_dropout": 0.2},
    },
    "expert attention, dropless": {
        "expert_attention": True,
        "switch": {"num_groups": 8, "overflow": "dropless"},
    },
    "dense": {"num_experts": None, "decoder_sparse_layers": None, "switch": None},
}


@functools.cache
def trained(mesh, variant=None):
    """A model on a mesh, or on one device, after three steps, and their mean loss."""
    options = VARIANTS[variant] if variant else {}
    with helpers.on(mesh):
        model = model_helpers.language_model(**options)
        model.compile(keras.optimizers.Adam(1e-2))
    x, y, weight = model_helpers.batches(3, 16)
    fit = {"batch_size": 16, "sample_weight": weight, "shuffle": False, "verbose": 0}
    return model, model.fit(x, y, **fit).history["loss"]


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
        cls.addClassCleanup(keras.distribution.set_distribution, None)
        cls.addClassCleanup(trained.cache_clear)

    def assert_trains_as_alone(self, mesh, variant=None):
        alone, expected = trained(None, variant)
        model, losses = trained(mesh, variant)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for one, other in zip(model.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_training_equals_one_device(self):
        for mesh in (MESHES[0], MESHES[4], EVERYTHING):
            with self.subTest(mesh=mesh):
                self.assert_trains_as_alone(mesh)

    def test_every_option_trains_as_on_one_device(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.assert_trains_as_alone(EVERYTHING, variant)

    def test_a_mesh_splits_the_models_weights(self):
        """The table of weights' paths fits those of a whole model."""
        variant = "two experts, as T5 1.1"
        backbone = trained(EVERYTHING, variant)[0].backbone
        split = {
            name: weight.value.sharding.shard_shape(weight.shape)
            for name, weight in backbone.named_weights().items()
        }
        expected = {
            "token_embedding": (8, 8),
            "logits": (8, 8),
            "encoder/0/self_attention/query": (8, 4),
            "encoder/0/self_attention/output": (4, 8),
            "decoder/0/cross_attention/key": (8, 4),
            "decoder/0/cross_attention/value": (8, 4),
            "decoder/0/cross_attention/output": (4, 8),
            "encoder/0/feed_forward/input": (8, 8),
            "encoder/0/feed_forward/gate": (8, 8),
            "encoder/0/feed_forward/output": (8, 8),
            "encoder/1/feed_forward/kernel_in": (2, 8, 8),
            "encoder/1/feed_forward/kernel_gate": (2, 8, 8),
            "encoder/1/feed_forward/kernel_out": (2, 8, 8),
            "encoder/1/feed_forward/router": (8, 8),
            "decoder/norm": (8,),
        }
        self.assertEqual({name: split[name] for name in expected}, expected)

    def test_whole_is_an_equal_model_of_the_same_class(self):
        split, _ = trained(EVERYTHING)
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
                model, _ = trained(mesh)
                model.compile(sampler="greedy")
                texts.append(model.generate(prompts, stop_token_ids=None)["decoder_token_ids"])
        np.testing.assert_array_equal(*texts)

    def test_files_know_no_mesh(self):
        split, _ = trained(EVERYTHING)
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
        kernel = loaded[MESHES[4]].backbone.named_weights()["encoder/1/feed_forward/kernel_in"]
        self.assertEqual(kernel.value.sharding.shard_shape(kernel.shape), (2, 8, 16))

    def test_a_split_model_is_upcycled(self):
        with helpers.on(MESHES[0]):
            dense = model_helpers.language_model(**VARIANTS["dense"]).backbone
            sparse = dense.upcycle(8)
        kernel = sparse.named_weights()["encoder/1/feed_forward/kernel_in"]
        self.assertEqual(kernel.value.sharding.shard_shape(kernel.shape), (1, 8, 16))
        expected = model_helpers.values(dense)["encoder/1/feed_forward/input"]
        for expert in np.asarray(kernel.value):
            np.testing.assert_array_equal(expert, expected)


if __name__ == "__main__":
    unittest.main()
