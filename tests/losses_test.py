import unittest

import keras
import lm_helpers
import mesh_helpers
import numpy as np
from block_helpers import numpy
from lm_helpers import ON_A_MESH
from lm_helpers import QUIET
from mesh_helpers import ONE_CORE
from mesh_helpers import assert_same
from mesh_helpers import values

from keras_switch.models import losses


def reference_losses(logits, y, weight):
    """Cross-entropy and squared logsumexp, means over targets, by numpy in float64."""
    logits = logits.astype("float64")
    lse = np.log(np.exp(logits).sum(-1))
    likelihood = np.take_along_axis(logits, y[..., None], -1)[..., 0] - lse
    return [(x * weight).sum() / weight.sum() for x in (-likelihood, lse**2)]


def trained(mesh_name, data, make_optimizer):
    """Trains on a mesh, or on one core; returns histories, an evaluation, and weights."""
    mesh = mesh_helpers.mesh_of(mesh_name)
    keras.distribution.set_distribution(None)
    with mesh.scope():
        model = lm_helpers.make(num_layers=1, num_experts=8, **ON_A_MESH)
        model.compile(mesh.optimizer(make_optimizer()), jit_compile=False)
    x, y, weight = data
    history = model.fit(x, y, sample_weight=weight, epochs=2, **QUIET).history
    evaluation = model.evaluate(x, y, sample_weight=weight, return_dict=True, verbose=0)
    history = {name: np.array(x) for name, x in history.items()}
    return history, evaluation, values(model.trainable_variables)


class LossTest(unittest.TestCase):
    def setUp(self):
        self.data = lm_helpers.to_train()

    def losses(self, model):
        """The loss in training and, without dropping or noise, in evaluation."""
        x, y, weight = self.data
        training = model.fit(x, y, sample_weight=weight, **QUIET).history["loss"][0]
        return training, model.evaluate(x, y, sample_weight=weight, verbose=0)[0]

    def test_is_the_mean_over_real_targets_and_in_training_the_z_loss(self):
        model = lm_helpers.make(num_experts=None, z_loss_weight=0.5)
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        x, y, weight = self.data
        cross_entropy, z_loss = reference_losses(numpy(model(x)), y, weight)
        training, evaluation = self.losses(model)
        self.assertAlmostEqual(training / (cross_entropy + 0.5 * z_loss), 1, places=4)
        self.assertAlmostEqual(evaluation / cross_entropy, 1, places=4)

    def test_another_loss_is_reduced_by_the_rules_of_keras(self):
        model = lm_helpers.make(num_experts=None, z_loss_weight=0.5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
        x, y, weight = self.data
        cross_entropy, z_loss = reference_losses(numpy(model(x)), y, weight)
        training, evaluation = self.losses(model)
        self.assertAlmostEqual(evaluation / (cross_entropy * weight.mean()), 1, places=4)
        self.assertAlmostEqual((training - evaluation) / (0.5 * z_loss), 1, places=4)

    def test_the_routers_losses_are_added_in_training(self):
        switch = {"balance_loss_weight": 7.0, "exploration": "argmax", "overflow": "dropless"}
        model = lm_helpers.make(z_loss_weight=0.0, switch=switch)
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        training, evaluation = self.losses(model)
        # A balance loss is at least 1, and there are two sparse blocks.
        self.assertGreater(training - evaluation, 14 - 1e-3)

    def test_no_target_at_all_gives_no_loss(self):
        x, y, weight = self.data
        model = lm_helpers.make(num_experts=None)
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        before = values(model.trainable_variables)
        history = model.fit(x, y, sample_weight=0 * weight, **QUIET).history
        self.assertEqual(history["loss"], [0.0])
        assert_same(values(model.trainable_variables), before)

    def test_does_not_depend_on_the_layout_nor_on_scaling(self):
        self.addCleanup(keras.distribution.set_distribution, None)

        sgd, scaled = keras.optimizers.SGD, keras.optimizers.LossScaleOptimizer
        cases = {
            "4": (lambda: sgd(0.1, gradient_accumulation_steps=2),) * 2,
            "2x2": (lambda: scaled(sgd(0.1)), lambda: sgd(0.1)),
        }
        for name, (on_mesh, alone) in cases.items():
            with self.subTest(name):
                # Half of the cores have no target at all.
                expected = trained(ONE_CORE, self.data, alone)
                assert_same(trained(name, self.data, on_mesh), expected, 2e-4, 2e-5)

    def test_is_refused_where_it_is_no_mean_over_the_models_mesh(self):
        self.addCleanup(keras.distribution.set_distribution, None)
        mesh = mesh_helpers.mesh_of("2")
        alone, loss = lm_helpers.make(), losses.TargetCrossEntropy()
        with mesh.scope():
            split, own = lm_helpers.make(**ON_A_MESH), losses.TargetCrossEntropy()
        split.compile(loss=own)
        alone.compile(loss=loss)
        mesh.whole(split).compile(loss=loss)
        for model, other in ((split, loss), (alone, own)):
            for structure in (other, [other]):
                with self.assertRaisesRegex(ValueError, "Make the loss in the `scope`.*Experts"):
                    model.compile(loss=structure)


if __name__ == "__main__":
    unittest.main()
