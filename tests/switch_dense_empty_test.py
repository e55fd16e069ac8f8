"""No tokens, or one: what a replica of a strategy may get of a batch."""

import unittest

import keras
import numpy as np
from absl.testing import parameterized
from switch_helpers import make
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock

GROUPINGS = ({}, {"num_groups": 3}, {"group_size": 4}, {"group_size": "row"})
OPTIONS = (
    {},
    {"overflow": "dropless"},
    {"overflow": "reroute"},
    {"priority": "probability", "num_selected_experts": 2},
    {"expert_capacity": 2, "expert_dropout": 0.1},
)


class EmptyTest(parameterized.TestCase):
    @parameterized.product(
        shape=[(0, 5, 6), (3, 0, 6), (0, 0, 6), (1, 1, 6)], options=OPTIONS, grouping=GROUPINGS
    )
    def test_adds_nothing(self, shape, options, grouping):
        layer = make(**options, **grouping)
        x = tokens(*shape)
        self.assertEqual(layer(x, training=True).shape, shape)
        self.assertEqual(layer(x).shape, shape)
        self.assertEqual(layer.route(x).kept.shape[:-1], shape[:-1])
        metrics = layer.get_routing_metrics()
        self.assertTrue(all(np.isfinite(value).all() for value in metrics.values()))
        layer(x, training=True)
        loss = float(layer.losses[0])
        if 0 in shape:
            self.assertEqual(loss, 0)
            self.assertEqual(sum(np.sum(value) for value in metrics.values()), 0)
        else:
            self.assertGreater(loss, 0)

    @parameterized.parameters((0, 5, 8), (3, 0, 8))
    def test_blocks(self, *shape):
        x = tokens(*shape)
        block = SwitchTransformerBlock(2, 8, 4, expert_attention=True)
        self.assertEqual(block(x, training=True).shape, shape)
        block = SwitchTransformerBlock(2, 8, causal=True, cross_attention=True)
        self.assertEqual(block(x, x, training=True).shape, shape)


@unittest.skipIf(keras.backend.backend() != "tensorflow", "JAX has no replicas.")
class StrategyTest(parameterized.TestCase):
    @parameterized.parameters(*GROUPINGS)
    def test_a_batch_of_fewer_rows_than_replicas(self, **grouping):
        import tensorflow as tf

        x = tokens(5, 3, 6)
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            layer = SwitchDense(4, 8, dtype="float32", **grouping)
            model = keras.Sequential([keras.Input((3, 6)), layer])
            model.compile("sgd", "mse", jit_compile=False)
        history = model.fit(x, x, batch_size=4, verbose=0).history
        self.assertTrue(np.isfinite(history["loss"][0]))
        self.assertTrue(all(np.isfinite(weight).all() for weight in model.get_weights()))
        metrics = layer.get_routing_metrics()
        self.assertTrue(all(np.isfinite(value).all() for value in metrics.values()))


if __name__ == "__main__":
    unittest.main()
