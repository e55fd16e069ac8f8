"""Tests of `balance_over="mesh"`: the balance loss of all tokens, wherever they lie."""

import unittest

import keras
import numpy as np
from keras import ops
from switch_helpers import make
from switch_helpers import tokens

IS_JAX = keras.config.backend() == "jax"
if IS_JAX:
    import jax
    import jax_mesh_helpers
else:
    import mesh_helpers
    import tensorflow as tf

X = tokens(16, 4, 6)
MASK = np.arange(4) < (np.arange(16) % 5)[:, None]  # Some groups have few tokens, or none.


def loss_of(layer, x=X, mask=MASK):
    layer(x, mask=mask, training=True)
    return float(ops.convert_to_numpy(sum(layer.losses)))


def made(**kwargs):
    return make(exploration="argmax", overflow="dropless", **kwargs)


class BalanceOverTest(unittest.TestCase):
    def test_the_loss_is_that_of_one_group(self):
        expected = loss_of(made(num_groups=1))
        self.assertNotAlmostEqual(loss_of(made(num_groups=8)), expected, 4)
        for groups in ({"num_groups": 1}, {"num_groups": 8}, {"group_size": "row"}):
            loss = loss_of(made(balance_over="mesh", **groups))
            self.assertAlmostEqual(loss, expected, 6)

    def test_metrics_stay_those_of_the_groups(self):
        layers = [made(num_groups=8, balance_over=name) for name in ("group", "mesh")]
        losses = [loss_of(layer) for layer in layers]
        metrics = [layer.get_routing_metrics() for layer in layers]
        self.assertGreater(abs(losses[0] - losses[1]), 1e-4)
        for name, value in metrics[0].items():
            np.testing.assert_allclose(metrics[1][name], value)

    def test_no_token_at_all_has_no_loss(self):
        layer = made(balance_over="mesh", num_groups=4)
        self.assertEqual(loss_of(layer, mask=np.zeros_like(MASK)), 0.0)

    def test_it_is_in_the_config(self):
        layer = made(balance_over="mesh")
        self.assertEqual(type(layer).from_config(layer.get_config()).balance_over, "mesh")

    def test_what_is_wrong_is_explained(self):
        with self.assertRaisesRegex(ValueError, "`balance_over` must be one of 'group', 'mesh'."):
            make(balance_over="cores")
        with self.assertRaisesRegex(ValueError, "`balance_over` means nothing with `routing='ex"):
            make(routing="expert_choice", balance_over="mesh")


@unittest.skipIf(IS_JAX, "of the TensorFlow backend")
class TensorFlowMeshTest(unittest.TestCase):
    """Several cores with the loss of one core that has one group."""

    def model(self, balance_over, num_groups):
        def build():
            inputs = keras.Input(mesh_helpers.SHAPE)
            x = mesh_helpers.dense(6, 1)(keras.layers.Masking()(inputs))
            options = {"overflow": "dropless", "exploration": "argmax", "num_groups": num_groups}
            layer = mesh_helpers.switch(
                name="switch", balance_loss_weight=1.0, balance_over=balance_over, **options
            )
            x = keras.layers.Add()([x, layer(x)])
            return keras.Model(inputs, mesh_helpers.dense(3, 2)(x))

        return build

    def test_gradients(self):
        x = mesh_helpers.X[:16].copy()
        x[:5, 1:] = 0.0  # The cores have different numbers of real tokens.
        target = mesh_helpers.Y[:16]
        one = mesh_helpers.compiled(mesh_helpers.ONE_CORE, build=self.model("group", 1))
        expected = mesh_helpers.stepper(one)([x], target)
        for name in ("8", "2x2"):
            with self.subTest(name):
                split = mesh_helpers.compiled(name, build=self.model("mesh", 8))
                got = mesh_helpers.stepper(split)([x], target)
                for ours, theirs in zip(tf.nest.flatten(got), tf.nest.flatten(expected)):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_training(self):
        x, y = mesh_helpers.X[:64], mesh_helpers.Y[:64]
        args = {"optimizer": lambda: keras.optimizers.SGD(0.1)}
        one = mesh_helpers.compiled(
            mesh_helpers.ONE_CORE, build=self.model("group", 1), **args
        ).fit(x, y, 16, 2, verbose=0, shuffle=False)
        split = mesh_helpers.compiled("8", build=self.model("mesh", None), **args).fit(
            x, y, 16, 2, verbose=0, shuffle=False
        )
        np.testing.assert_allclose(split.history["loss"], one.history["loss"], rtol=1e-5)


@unittest.skipUnless(IS_JAX, "JAX only.")
class JaxMeshTest(unittest.TestCase):
    """Several devices with the loss of one device that has one group."""

    def outcome(self, mesh, x, mask, **kwargs):
        kwargs |= {"overflow": "dropless", "exploration": "argmax", "balance_loss_weight": 1.0}
        layer = jax_mesh_helpers.layer_on(mesh, x.shape, **kwargs)
        state = [variable.value for variable in layer.non_trainable_variables]

        def loss(weights, x):
            call = {"mask": mask, "training": True, "return_losses": True}
            outputs, _, losses = layer.stateless_call(weights, state, x, **call)
            return ops.sum(outputs**2) + sum(losses), (outputs, losses)

        weights = [variable.value for variable in layer.trainable_variables]
        gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weights, x)
        return [np.asarray(array) for array in jax.tree.leaves(gradients)]

    def test_losses_and_gradients(self):
        x, mask = tokens(8, 6, 8), np.ones((8, 6), bool)
        mask[:3, 2:] = False
        expected = self.outcome(None, x, mask, num_groups=1)
        for mesh in (jax_mesh_helpers.MESHES[0], jax_mesh_helpers.MESHES[5]):
            with self.subTest(mesh=mesh):
                got = self.outcome(mesh, x, mask, balance_over="mesh")
                for ours, theirs in zip(got, expected, strict=True):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_groups_that_do_not_divide(self):
        x = tokens(6, 4, 8)
        mask = np.ones((6, 4), bool)
        expected = self.outcome(None, x, mask, num_groups=1)
        kwargs = {"num_groups": None, "group_size": "row", "balance_over": "mesh"}
        got = self.outcome(jax_mesh_helpers.MESHES[0], x, mask, **kwargs)
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
