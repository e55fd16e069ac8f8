"""Models on meshes of the JAX backend beside models on none, and batches that do not divide."""

import unittest

import jax_mesh_helpers as helpers
import keras
import model_helpers
import numpy as np
from jax_mesh_helpers import DENSE
from jax_mesh_helpers import MESHES
from switch_helpers import make

from keras_switch.layers import SwitchDense
from keras_switch.tpu import Mesh

if helpers.IS_JAX:
    import jax

HIDDEN = ("batch:4,model:2", helpers.HIDDEN)


def compiled(mesh, build=helpers.dense_model, **kwargs):
    with helpers.on(mesh):
        model = helpers.compiled(build(), "mse")
        model.compile(model.optimizer, "mse", **kwargs)
    return model


@unittest.skipUnless(helpers.IS_JAX, "JAX only.")
class JaxMeshBesideTest(unittest.TestCase):
    def assert_same(self, ours, theirs):
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)

    def check(self, models, x, y, expected=None):
        """Trains each, and compares with one that knew no mesh."""
        for model in models:
            losses = helpers.train(model, x, y, epochs=2)
            got = losses, model.evaluate(x, y, verbose=0), model.predict(x[:3], verbose=0)
            expected = expected or got
            self.assert_same(got, expected)
        return expected

    def test_models_on_meshes_and_off_them_in_any_order(self):
        x, y = helpers.rows()
        alone = compiled(None)
        split = compiled(MESHES[0])
        self.assertIsNone(keras.distribution.distribution())
        other, later = compiled(HIDDEN), compiled(None)
        expected = self.check([alone], x, y)
        self.check([split, later, other], x, y, expected)
        expected = self.check([alone], x, y)
        with helpers.on(MESHES[4]):
            self.check([other, later, split], x, y, expected)
        self.assertEqual(split.get_layer("switch").kernel_in.value.sharding.num_devices, 8)
        self.assertEqual(later.get_layer("switch").kernel_in.value.sharding.num_devices, 1)

    def test_a_distribution_of_keras_stays(self):
        x, y = helpers.rows()
        split = compiled(MESHES[1])
        expected = self.check([compiled(None)], x, y)
        parallel = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
        with parallel.scope():
            self.check([split], x, y, expected)
            self.assertIs(keras.distribution.distribution(), parallel)

    def test_what_is_built_late_is_on_the_mesh(self):
        def build():
            initializer = keras.initializers.RandomNormal(seed=1)
            dense = keras.layers.Dense(8, kernel_initializer=initializer)
            return keras.Sequential([dense, make(8, num_groups=8, name="switch")])

        x, y = helpers.rows()
        late, alone = compiled(MESHES[0], build), compiled(None, build)
        self.check([late], x, y, self.check([alone], x, y))
        self.assertEqual(late.layers[1].kernel_in.value.sharding.num_devices, 8)
        with helpers.on(MESHES[0]):
            late = build()
        self.assert_same(late.predict(x[:3], verbose=0), build().predict(x[:3], verbose=0))
        self.assertEqual(late.layers[0].kernel.value.sharding.num_devices, 8)

    def test_what_is_made_outside_the_scope_moves_to_the_mesh(self):
        x, y = helpers.rows()
        with helpers.on(MESHES[0]):
            split = helpers.dense_model()
        alone = helpers.dense_model()
        for model in (split, alone):
            model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
        self.check([split], x, y, self.check([alone], x, y))
        self.assertEqual(split.optimizer.iterations.value.sharding.num_devices, 8)

    def test_models_of_several_meshes(self):
        x, y = helpers.rows()
        with helpers.on(MESHES[1]):
            optimizer = keras.optimizers.Adam()
        split, alone = compiled(MESHES[0]), compiled(None)
        for model, message in (
            (split, "lie on one mesh.*'batch:8'.*'batch:4'"),
            (alone, "were made on a mesh and the model was not"),
        ):
            model.compile(optimizer, "mse")
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                model.fit(x, y, verbose=0)

    def test_an_equal_mesh_is_the_same(self):
        with helpers.on(MESHES[0]):
            optimizer = keras.optimizers.Adam()
        split = compiled(MESHES[0])
        split.compile(optimizer, "mse")
        split.fit(*helpers.rows(), verbose=0)

    def test_the_whole_model_is_on_no_mesh(self):
        x, _ = helpers.rows()
        split = compiled(MESHES[0])
        mesh = Mesh(*MESHES[0], devices=jax.devices())
        whole = mesh.whole(split)
        with mesh.scope():
            inside = mesh.whole(split)
        for model in (whole, inside):
            self.assert_same(model.predict(x[:16], verbose=0).shape, (16, 6, 8))
            self.assertEqual(model.predict(x[:3], verbose=0).shape, (3, 6, 8))
            self.assertEqual({len(v.value.sharding.device_set) for v in model.variables}, {1})

    def test_any_number_of_rows_is_evaluated(self):
        x, y = helpers.rows()
        weight = np.linspace(0, 2, len(x), dtype="float32")[:, None]
        metrics = {"weighted_metrics": ["mae"], "metrics": ["mse"]}
        alone = compiled(None, **metrics)
        for mesh in (MESHES[0], HIDDEN, ("model:2,batch:4", DENSE)):
            split = compiled(mesh, **metrics)
            for rows in (1, 3, 9, 23):
                with self.subTest(mesh=mesh, rows=rows):
                    data = x[:rows], y[:rows], weight[:rows]
                    got, expected = (
                        [
                            model.predict(data[0], batch_size=16, verbose=0),
                            model.predict_on_batch(data[0]),
                            model.evaluate(*data[:2], 16, 0, data[2]),
                            model.test_on_batch(*data),
                        ]
                        for model in (split, alone)
                    )
                    self.assert_same(got, expected)

    def test_training_with_any_number_of_rows_to_validate(self):
        x, y = helpers.rows()
        fit = {"batch_size": 16, "validation_data": (x[:9], y[:9]), "shuffle": False, "verbose": 0}
        got, expected = (compiled(mesh).fit(x, y, **fit).history for mesh in (HIDDEN, None))
        self.assertIn("val_loss", expected)
        self.assert_same(got, expected)
        with self.assertRaisesRegex(ValueError, "drop_remainder"):
            compiled(HIDDEN).train_on_batch(x[:9], y[:9])

    def test_language_models_evaluate_and_generate_for_any_number_of_rows(self):
        models = []
        for mesh in (MESHES[0], None):
            with helpers.on(mesh):
                models.append(model_helpers.shallow())
                models[-1].compile(keras.optimizers.SGD(0.1), sampler="greedy")
        x, y, weight = model_helpers.batches(1, 11)
        args = {"batch_size": 8, "verbose": 0}
        self.assert_same(*(m.evaluate(x, y, sample_weight=weight, **args) for m in models))
        self.assert_same(*(m.predict(x, **args) for m in models))
        with helpers.on(MESHES[0]):
            texts = [
                m.generate(model_helpers.prompts(3), stop_token_ids=None)["decoder_token_ids"]
                for m in models
            ]
        np.testing.assert_array_equal(*texts)

    def test_training_without_routing_metrics(self):
        def build():
            inputs = keras.Input((6, 8))
            layer = SwitchDense(8, 16, num_groups=8, seed=1, dtype="float32", routing_metrics=False)
            return keras.Model(inputs, layer(inputs))

        x, y = helpers.rows()
        self.check([compiled(HIDDEN, build)], x, y, self.check([compiled(None, build)], x, y))


if __name__ == "__main__":
    unittest.main()
