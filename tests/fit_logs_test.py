import unittest

import keras
import numpy as np
from absl.testing import parameterized
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers.routing_metrics import SCALARS
from keras_switch.training import RoutingMetrics

TENSORFLOW = keras.backend.backend() == "tensorflow"


def wrapped(inputs):
    """A model of two Switch layers in a model that Keras calls as a layer."""
    x = SwitchDense(4, 8, name="first")(inputs)
    inner = keras.Sequential([keras.Input((6, 8)), SwitchDense(4, 8, name="second")], name="inner")
    return inner(x)


def block(inputs):
    return SwitchTransformerBlock(2, 8, 4, expert_attention=True, name="block")(inputs)


def dense(inputs):
    return keras.layers.Dense(8, dtype="float32")(inputs)


def compiled(make, **kwargs):
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, make(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", **kwargs)
    return model


def structure(value):
    """The keys of a dictionary, names themselves, the length of a list, or 0 for a number."""
    if isinstance(value, list) and isinstance(value[0], str):
        return value
    if isinstance(value, dict):
        return sorted(value)
    return len(value) if isinstance(value, list) else np.ndim(value)


class ContractTest(parameterized.TestCase):
    """What Keras returns is what it returns for a model of dense layers."""

    @parameterized.product(
        make=[wrapped, block],
        kwargs=[
            {},
            {"metrics": ["mae"]},
            {"metrics": ["mae"], "run_eagerly": True},
            {"weighted_metrics": ["mae"], "steps_per_execution": 2},
        ],
    )
    def test_results_and_names(self, make, kwargs):
        x = tokens(8, 6, 8)
        seen = []
        for build in (make, dense):
            model = compiled(build, **kwargs)
            results = []
            for _ in range(2):  # Before `fit` and after it.
                for method in (model.train_on_batch, model.test_on_batch):
                    results += [method(x, x), method(x, x, return_dict=True)]
                results += [
                    model.evaluate(x, x, batch_size=4, verbose=0),
                    model.evaluate(x, x, batch_size=4, verbose=0, return_dict=True),
                    model.metrics_names,
                ]
                model.fit(x, x, batch_size=4, epochs=2, verbose=0, validation_data=(x, x))
            seen.append([structure(result) for result in results])
        self.assertEqual(*seen)

    @parameterized.parameters({}, {"steps_per_execution": 2}, {"run_eagerly": True})
    def test_history_has_each_layer_once_an_epoch(self, **kwargs):
        x = tokens(12, 6, 8)
        for make, layers in (
            (wrapped, ["first", "inner/second"]),
            (block, [f"block/{x}" for x in ("feed_forward", "query", "key_value")]),
        ):
            model = compiled(make, **kwargs)
            history = model.fit(
                x,
                x,
                batch_size=4,
                epochs=3,
                verbose=0,
                validation_data=(x, x),
                callbacks=[RoutingMetrics()],
            ).history
            names = {name for name in history if name.rsplit("/", 1)[-1] in SCALARS}
            self.assertEqual(len(names), 5 * len(layers))
            self.assertEqual(set(history) - names, {"loss", "val_loss"})
            for layer in layers:
                last = layer.rsplit("/", 1)[-1]
                self.assertTrue(any(f"{last}/" in name for name in names), names)
            self.assertEqual({len(values) for values in history.values()}, {3})

    def test_epochs_average_their_own_steps(self):
        model = compiled(lambda x: SwitchDense(4, 8, exploration="argmax", name="switch")(x))
        model.optimizer.learning_rate = 0.0
        x = tokens(8, 6, 8)
        logs = []
        take = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, log: logs.append(log))
        for _ in range(3):
            model.train_on_batch(np.ones((8, 6, 8), "float32"), x)  # All to one expert.
        model.fit(x, x, epochs=2, verbose=0, callbacks=[RoutingMetrics(), take])
        (layer,) = [layer for layer in model.layers if isinstance(layer, SwitchDense)]
        expected = layer.route(x).logits
        share = np.bincount(np.asarray(expected).argmax(-1).ravel(), minlength=4) / 48
        for log in logs:
            self.assertAlmostEqual(log["switch/busiest"], 4 * share.max(), places=4)

    @unittest.skipIf(not TENSORFLOW, "JAX's `fit` shows them through the callback only.")
    def test_later_callbacks_and_the_end_of_training_see_them(self):
        seen = {}
        take = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.update(epoch=logs),
            on_train_end=lambda logs: seen.update(end=logs),
        )
        x = tokens(4, 6, 8)
        compiled(wrapped).fit(x, x, verbose=0, callbacks=[take])
        for logs in seen.values():
            self.assertIn("first/dropped", logs)
        self.assertEqual(seen["epoch"], seen["end"])


class CallbackListTest(unittest.TestCase):
    def test_a_list_without_a_model(self):
        seen = []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(epoch),
            on_epoch_end=lambda epoch, logs: seen.append(logs),
        )
        callbacks = keras.callbacks.CallbackList([callback])
        callbacks.on_epoch_begin(0)
        callbacks.on_epoch_end(0, {"loss": 1.0})
        self.assertEqual(seen, [0, {"loss": 1.0}])


if __name__ == "__main__":
    unittest.main()
