"""Meshes on the JAX backend: eight devices give what one device gives."""

import unittest

import hypothesis
import hypothesis.strategies as st
import jax_mesh_helpers as helpers
import keras
import numpy as np
from jax_mesh_helpers import MESHES
from keras import ops
from switch_helpers import tokens

if helpers.IS_JAX:
    import jax

VARIANTS = {
    "expert dropout": {"expert_dropout": 0.2},
    "dropless": {"overflow": "dropless", "expert_dropout": 0.2},
    "two gated experts": {"num_selected_experts": 2, "gated": True},
    "reroute": {"overflow": "reroute", "exploration": "sample"},
    "likelier first": {"priority": "probability", "exploration": "input_dropout"},
    "expert choice": {"routing": "expert_choice", "min_capacity": 2, "expert_dropout": 0.2},
}


def outcome(layer, x, mask=None, remat=False):
    """Outputs, losses and gradients of a training call, as one list of arrays."""
    state = [variable.value for variable in layer.non_trainable_variables]

    def loss(weights, x):
        call = {"mask": mask, "training": True, "return_losses": True}
        outputs, _, losses = layer.stateless_call(weights, state, x, **call)
        return ops.sum(outputs**2) + sum(losses), (outputs, losses)

    function = keras.remat(loss) if remat else loss
    gradient = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))
    weights = [variable.value for variable in layer.trainable_variables]
    return [np.asarray(array) for array in jax.tree.leaves(gradient(weights, x))]


@unittest.skipUnless(helpers.IS_JAX, "JAX only.")
class JaxMeshTest(unittest.TestCase):
    def check_equal(self, arrays, expected):
        for one, other in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

    def check_training(self, build, loss, data, meshes):
        """Checks that models that train on meshes have the losses and weights of one device."""
        alone, expected = helpers.trained(build, loss, data, None)
        self.assertLess(expected[-1], expected[0])
        for mesh in meshes:
            with self.subTest(mesh=mesh):
                model, losses = helpers.trained(build, loss, data, mesh)
                np.testing.assert_allclose(losses, expected, rtol=1e-5)
                for one, other in zip(model.get_weights(), alone.get_weights(), strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-5)

    def test_outputs_losses_and_gradients(self):
        x, mask = tokens(8, 6, 8), np.ones((8, 6), bool)
        mask[::2, 4:] = False
        for name, kwargs in VARIANTS.items():
            alone = outcome(helpers.layer_on(None, x.shape, **kwargs), x, mask)
            with self.subTest(name):
                layer = helpers.layer_on(("batch:4,model:2", helpers.HIDDEN), x.shape, **kwargs)
                self.check_equal(outcome(layer, x, mask), alone)

    def test_groups_that_do_not_divide(self):
        x = tokens(6, 4, 8)
        for size in ("row", 5):
            kwargs = {"group_size": size, "num_groups": None, "expert_dropout": 0.2}
            alone = outcome(helpers.layer_on(None, x.shape, **kwargs), x)
            for mesh in (MESHES[0], MESHES[5]):
                with self.subTest(size=size, mesh=mesh):
                    layer = helpers.layer_on(mesh, x.shape, **kwargs)
                    self.check_equal(outcome(layer, x), alone)

    def test_rematerialization(self):
        x = tokens(8, 6, 8)
        alone = outcome(helpers.layer_on(None, x.shape), x)
        got = outcome(helpers.layer_on(MESHES[0], x.shape), x, remat=True)
        self.check_equal(got, alone)

    @hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
    @hypothesis.given(
        mesh=st.sampled_from(MESHES[4:]),
        batch=st.integers(1, 9),
        length=st.integers(1, 5),
        groups=st.sampled_from([None, 8, 16]),
    )
    def test_any_shape(self, mesh, batch, length, groups):
        x = tokens(batch, length, 4)
        layer = helpers.layer_on(mesh, x.shape, num_groups=groups)
        alone = helpers.layer_on(None, x.shape, num_groups=groups or 8)
        self.check_equal([layer(x)], [jax.jit(alone)(x)])

    def test_training(self):
        self.check_training(helpers.dense_model, "mse", helpers.rows(), MESHES)

    def test_training_of_blocks(self):
        meshes = MESHES[0], ("model:2,batch:4", helpers.DENSE)
        self.check_training(helpers.transformer, helpers.cross_entropy(), helpers.ids(), meshes)


if __name__ == "__main__":
    unittest.main()
