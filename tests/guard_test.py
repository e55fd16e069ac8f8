import pathlib
import tempfile
import unittest
import warnings

import keras
import numpy as np

from keras_switch import training
from keras_switch.layers import SwitchDense
from keras_switch.training.guard import describe_not_finite

STEPS = 6


def make_model(dead=(), learning_rate=0.01):
    """A model with two Switch layers, and experts of the second that no token takes."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((4, 8))
    for name in ("first", "second"):
        x = SwitchDense(4, 8, seed=5, dtype="float32", name=name)(x)
        x = keras.layers.LayerNormalization(name=f"{name}_norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(x))
    model.get_layer("first_norm").beta.assign(np.full(8, 10.0))
    kill(model, dead)
    # A few steps take TensorFlow less time than to trace them.
    eagerly = keras.config.backend() == "tensorflow"
    model.compile(keras.optimizers.SGD(learning_rate), "mse", run_eagerly=eagerly)
    return model


def kill(model, dead):
    kernel = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    # What the norm before adds to all tokens speaks against the dead ones, and for no other.
    kernel -= kernel.mean(axis=0)
    kernel[:, list(dead)] = -1.0
    model.get_layer("second").router.kernel.assign(kernel)


def fit(*given, model, epochs=1, initial_epoch=0, validation=None):
    """Trains six steps an epoch."""
    x = np.random.default_rng(0).normal(size=(STEPS * 2, 4, 8)).astype("float32")
    model.fit(
        x,
        x[..., :1],
        batch_size=2,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=list(given),
        validation_data=validation,
    )


def spoiler(model, batch):
    """Spoils a weight before a step."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda number, logs: (
            number == batch and model.get_layer("first_norm").beta.assign(np.full(8, np.nan))
        )
    )


spoils_weights = unittest.skipUnless(
    keras.config.backend() == "tensorflow",
    "On JAX a callback cannot change a weight in the middle of an epoch.",
)


class NotFiniteTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    @spoils_weights
    def test_stops_before_a_checkpoint_and_says_where(self):
        for asynchronous in (False, True):
            directory = self.directory / str(asynchronous)
            saver = training.Checkpoint(directory, every=2, asynchronous=asynchronous)
            model = make_model()
            message = (
                r"The loss is nan after step 4 \(epoch 1, batch 4\)\. The first router .* that of "
                r"`second`\. 12 of 12 weights .* the first is `first/.*lower learning rate"
            )
            with self.assertRaisesRegex(ValueError, message):
                fit(training.TrainingGuard(), saver, spoiler(model, 3), model=model)
            saver.wait()
            names = [path.name for path in directory.iterdir()]
            self.assertEqual(names, ["step-000000002-epoch-00000"])

    @spoils_weights
    def test_warns_once_an_epoch(self):
        model = make_model()
        guard = training.TrainingGuard(not_finite="warn", dead_experts=None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(guard, spoiler(model, 3), model=model, epochs=2)
        messages = [str(x.message) for x in caught if "loss is" in str(x.message)]
        self.assertEqual(len(messages), 2)
        self.assertIn("(epoch 1, batch 4)", messages[0])
        self.assertIn("(epoch 2, batch 1)", messages[1])

    def test_held_out_data_is_watched_too(self):
        held_out = (np.ones((2, 4, 8), "float32"), np.full((2, 4, 1), np.inf, "float32"))
        message = r"val_loss is (inf|nan) after step 6.*All weights are finite: look at the data"
        with self.assertRaisesRegex(ValueError, message):
            fit(training.TrainingGuard(), model=make_model(), validation=held_out)
        fit(training.TrainingGuard(not_finite=None), model=make_model(), validation=held_out)

    def test_names_the_first_weight(self):
        model = make_model()
        kernel = model.get_layer("second").kernel_in
        kernel.assign(np.full(kernel.shape, -np.inf))
        message = "1 of 12 weights hold such values, the first is `second/kernel_in`."
        self.assertEqual(describe_not_finite(model), message)


class DeadExpertsTest(unittest.TestCase):
    def fit(self, guard, **kwargs):
        """Trains; returns the warnings about experts."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(guard, **kwargs)
        return [str(x.message) for x in caught if "Experts" in str(x.message)]

    def test_warns_once_of_each_and_forgets_those_that_wake(self):
        guard = training.TrainingGuard(dead_after=8)
        model = make_model([1, 3], learning_rate=0.0)
        self.assertEqual(self.fit(guard, model=model), [])
        (message,) = self.fit(guard, model=model, epochs=3, initial_epoch=1)
        words = r"no token for 8 steps after step 8 \(epoch 2, batch 2\): \[1, 3\] of `second`"
        self.assertRegex(message, words)
        self.assertIn("balance_loss_weight", message)
        self.assertEqual(guard.dead, {"second": [1, 3]})
        kill(model, [3])
        self.assertEqual(self.fit(guard, model=model, epochs=4, initial_epoch=3), [])
        self.assertEqual(guard.dead, {"second": [3]})

    def test_stops(self):
        guard = training.TrainingGuard(dead_experts="stop", dead_after=3)
        with self.assertRaisesRegex(ValueError, r"after step 3 .*: \[2\] of `second`"):
            fit(guard, model=make_model([2], learning_rate=0.0))

    def test_a_resumed_run_goes_on_counting(self):
        model = make_model([2], learning_rate=0.0)
        before, after = (training.TrainingGuard(dead_after=8) for _ in range(2))
        self.assertEqual(self.fit(before, model=model), [])
        after.set_state(before.get_state())
        (message,) = self.fit(after, model=model, epochs=2, initial_epoch=1)
        self.assertIn("(epoch 2, batch 2)", message)

    def test_looks_at_the_routers_ten_times(self):
        guard = training.TrainingGuard(dead_after=30)
        reads = []
        read = guard._loads.read
        guard._loads.read = lambda model: reads.append(1) or read(model)
        fit(guard, model=make_model(), epochs=2)
        self.assertEqual(len(reads), 4)

    def test_bad_arguments_are_explained(self):
        for kwargs, message in (
            ({"not_finite": "halt"}, "`not_finite` must be one of 'stop', 'warn', None"),
            ({"dead_experts": True}, "`dead_experts` must be one of .*dead_experts=True"),
            ({"dead_after": 0}, "`dead_after` must be a positive integer"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                training.TrainingGuard(**kwargs)


if __name__ == "__main__":
    unittest.main()
