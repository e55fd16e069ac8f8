"""Tests of Adafactor in `fit`, in files, and of its arguments."""

import math
import pathlib
import tempfile
import unittest

import keras
import numpy as np

import keras_switch
from keras_switch import training

BACKEND = keras.config.backend()


def make_model(optimizer, middle=None):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((6,), dtype="int32"),
        keras.layers.Embedding(11, 8),
        middle or keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(11),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def fit(model, epochs):
    x = np.random.default_rng(0).integers(0, 11, (32, 6))
    y = (x + 1) % 11
    return model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history["loss"]


class FitTest(unittest.TestCase):
    def test_learns(self):
        optimizer = training.Adafactor(0.1, min_dim_size_to_factor=8)
        experts = keras_switch.layers.SwitchDense(2, 16, seed=0)
        losses = fit(make_model(optimizer, experts), epochs=12)
        self.assertGreater(losses[0], 2.0)
        self.assertLess(losses[-1], 0.6)

    @unittest.skipUnless(BACKEND == "tensorflow", "Strategies are TensorFlow's.")
    def test_fits_under_a_strategy(self):
        import tensorflow as tf

        options = {"beta_1": 0.5, "min_dim_size_to_factor": 8}
        expected = fit(make_model(training.Adafactor(0.1, **options)), epochs=2)
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = make_model(training.Adafactor(0.1, **options))
        np.testing.assert_allclose(fit(model, epochs=2), expected, rtol=1e-5)

    def test_saved_state_goes_on_as_if_uninterrupted(self):
        model = make_model(training.Adafactor(0.1, beta_1=0.5, min_dim_size_to_factor=8))
        fit(model, epochs=1)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "model.keras"
            model.save(path)
            loaded = keras.models.load_model(path)
        self.assertIs(type(loaded.optimizer), training.Adafactor)
        self.assertEqual(loaded.optimizer.get_config(), model.optimizer.get_config())
        pairs = zip(loaded.optimizer.variables, model.optimizer.variables, strict=True)
        for variable, other in pairs:
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (variable, other)))
        self.assertEqual(fit(loaded, epochs=1), fit(model, epochs=1))


class ArgumentsTest(unittest.TestCase):
    def test_config_round_trip(self):
        options = {
            "learning_rate": 0.5,
            "decay_exponent": 0.7,
            "beta_1": 0.9,
            "clipping_threshold": None,
            "multiply_by_parameter_scale": False,
            "min_dim_size_to_factor": 64,
            "epsilon_1": 1e-20,
            "epsilon_2": 1e-2,
            "weight_decay": 0.1,
            "clipnorm": 2.0,
        }
        for given in (options, {}):
            optimizer = training.Adafactor(**given)
            config = optimizer.get_config()
            self.assertEqual({name: config[name] for name in given}, given)
            serialized = keras.optimizers.serialize(optimizer)
            for copy in (
                training.Adafactor.from_config(optimizer.get_config()),
                keras.optimizers.deserialize(serialized),
            ):
                self.assertIs(type(copy), training.Adafactor)
                self.assertEqual(copy.get_config(), config)

    def test_bad_arguments_are_explained(self):
        for name, values, message in (
            ("decay_exponent", (0, -0.8, None), "must be a finite positive number"),
            ("beta_1", (1.0, -0.1, "0.9"), "must be a finite number, at least 0 and below 1"),
            ("clipping_threshold", (0, math.nan), "must be a finite positive number"),
            ("multiply_by_parameter_scale", (1, None), "must be True or False"),
            ("min_dim_size_to_factor", (0, 128.0), "must be a positive integer"),
            ("epsilon_1", (0.0, -1e-30), "must be a finite positive number"),
            ("epsilon_2", (-1e-3, math.inf), "must be a finite number, at least 0"),
            ("learning_rate", (1,), "should be float"),
        ):
            for value in values:
                text = f"`{name}` {message}.*{name}={value!r}"
                with self.subTest(name=name, value=value):
                    with self.assertRaisesRegex(ValueError, text):
                        training.Adafactor(**{name: value})


if __name__ == "__main__":
    unittest.main()
