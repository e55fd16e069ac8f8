import unittest

import keras
import numpy as np
from absl.testing import parameterized
from gradients import layer_gradients
from keras import ops
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock

TENSORFLOW = keras.backend.backend() == "tensorflow"
# Every kind of noise.
NOISY = {"jitter": 0.3, "expert_dropout": 0.5, "balance_loss_weight": 1.0}


def switch():
    return SwitchDense(4, 16, seed=1, dtype="float32", **NOISY)


def block():
    return SwitchTransformerBlock(
        2, 16, 4, dropout=0.3, expert_attention=True, seed=1, dtype="float32", switch=NOISY
    )


def train(make, steps=2):
    """Trains a model of a layer between two dense ones; returns losses, weights and counts."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    layer = make()
    x = layer(keras.layers.Dense(8, name="before")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="after")(x))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    x = tokens(4, 6, 8)
    losses = [float(model.train_on_batch(x, x[..., :2])) for _ in range(steps)]
    parts = [x for x in layer._flatten_layers() if isinstance(x, SwitchDense)]
    counts = [float(ops.convert_to_numpy(x.routing_totals)[0]) for x in parts]
    return losses, model.get_weights(), counts


class RematScopeTest(parameterized.TestCase):
    @parameterized.parameters(switch, block)
    def test_trains_as_without(self, make):
        def rematerialized():
            with keras.RematScope(mode="full"):
                return make()

        for expected, received in zip(train(make), train(rematerialized), strict=True):
            self.assertEqual(len(expected), len(received))
            for x, y in zip(expected, received, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)

    def test_frozen_weights_stay_as_they_are(self):
        with keras.RematScope(mode="full"):
            layer = SwitchDense(4, 16, seed=1, dtype="mixed_bfloat16")
        layer.build((4, 6, 8))
        layer.trainable = False
        before = [np.array(ops.convert_to_numpy(weight)) for weight in layer.weights]
        layer(ops.convert_to_tensor(tokens(4, 6, 8)))
        for weight, value in zip(layer.weights, before, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)

    def test_is_called_again(self):
        calls = []

        class Counted(SwitchDense):
            def call(self, *args, **kwargs):
                calls.append(self._remat_mode.mode)
                return super().call(*args, **kwargs)

        with keras.RematScope(mode="list_of_layers", layer_names=["chosen"]):
            layers = [Counted(2, 4, name=name, dtype="float32") for name in ("chosen", "other")]
        counts = []
        for layer in layers:
            layer.build((2, 3, 8))
            calls.clear()
            layer_gradients(layer, lambda x, f=layer: ops.sum(f(x, training=True)), tokens(2, 3, 8))
            counts.append(len(calls))
        self.assertEqual(counts, [2 if TENSORFLOW else 1, 1])


@unittest.skipIf(not TENSORFLOW, "JAX's own `keras.remat` takes pure functions only.")
class RematTest(parameterized.TestCase):
    @parameterized.product(graph=[False, True], of=["outputs", "both"])
    def test_gradients_and_counts_are_those_without(self, graph, of):
        import tensorflow as tf

        x = tf.constant(tokens(4, 6, 8))
        seen = []
        for remat in (lambda function: function, keras.remat):
            layers = [switch(), switch()]
            for layer in layers:
                layer.build(x.shape)

            def step(layers=layers, remat=remat):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = x
                    for layer in [*layers, layers[0]]:  # One of them twice.
                        y = y + remat(lambda x, f=layer: f(x, training=True))(y)
                    losses = sum(sum(layer.losses) for layer in layers)
                    value = tf.reduce_sum(y**2) + (0.0 if of == "outputs" else losses)
                weights = [w for layer in layers for w in layer.trainable_variables]
                return tape.gradient(value, [x, *(w.value for w in weights)])

            gradients = (tf.function(step) if graph else step)()
            counts = [layer.routing_totals[0] for layer in layers]
            seen.append(([g for g in gradients if g is not None], counts))
        for expected, received in zip(*seen, strict=True):
            for x_, y_ in zip(expected, received, strict=False):
                np.testing.assert_allclose(x_, y_, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
