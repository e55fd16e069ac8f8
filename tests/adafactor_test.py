"""Tests of Adafactor's rule: against the paper's algorithms, and expert by expert."""

import unittest

import keras
import numpy as np

from keras_switch import training

BACKEND = keras.config.backend()
STEPS = 20
# Weights with two factored matrices, small matrices, a factored matrix of zeros, a vector, a
# scalar. Factored from four rows and columns on.
SHAPES = ((2, 6, 5), (2, 6, 3), (7, 4), (9,), ())
MIN_DIM = 4


def initial_weights(seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    return [weight * (weight.shape != (7, 4)) for weight in weights]


def gradients_of_steps(steps=STEPS, seed=1):
    """Gradients whose size and direction vary, by step, expert, row and column."""
    rng = np.random.default_rng(seed)

    def gradient(shape):
        x = rng.normal(size=shape)
        for axis, size in enumerate(shape):
            x = x * np.expand_dims(rng.lognormal(size=size), tuple(range(1, len(shape) - axis)))
        return np.asarray(x, "float32")

    return [[gradient(shape) for shape in SHAPES] for _ in range(steps)]


def run(optimizer, weights, gradients):
    """Applies the gradients of some steps; returns the weights after them."""
    variables = [keras.Variable(weight, name=f"w{i}") for i, weight in enumerate(weights)]
    for step in gradients:
        tensors = [keras.ops.convert_to_tensor(gradient) for gradient in step]
        optimizer.apply(tensors, variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def paper(weight, gradients, rates, options):
    """Algorithms 4 (matrices) and 5 (vectors), in float64, for one matrix or vector."""
    beta_1, decay = options.get("beta_1"), options.get("weight_decay")
    threshold = options.get("clipping_threshold", 1.0)
    x = weight.astype("float64")
    factored = x.ndim == 2 and min(x.shape) >= MIN_DIM
    r, c, v, m = np.zeros(x.shape[:1]), np.zeros(x.shape[1:]), np.zeros(x.shape), np.zeros(x.shape)
    for t, (g, rho) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = g.astype("float64")
        if decay:
            x = x - x * decay * rho
        scale = max(1e-3, rms(x)) if options.get("multiply_by_parameter_scale", True) else 1.0
        beta_2 = 1 - t ** -options.get("decay_exponent", 0.8)
        squared = g**2 + 1e-30
        if factored:
            r = beta_2 * r + (1 - beta_2) * squared.sum(axis=1)
            c = beta_2 * c + (1 - beta_2) * squared.sum(axis=0)
            v = np.outer(r, c) / r.sum()
        else:
            v = beta_2 * v + (1 - beta_2) * squared
        u = g / np.sqrt(v)
        if threshold:
            u = u / max(1.0, rms(u) / threshold)
        step = rho * scale * u
        if beta_1:
            step = m = beta_1 * m + (1 - beta_1) * step
        x = x - step
    return x


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def paper_by_matrix(weight, gradients, rates, options):
    if weight.ndim < 3:
        return paper(weight, gradients, rates, options)
    per_expert = zip(weight, zip(*gradients, strict=True), strict=True)
    return np.stack([paper(w, g, rates, options) for w, g in per_expert])


class PaperTest(unittest.TestCase):
    def check(self, rates=None, **options):
        optimizer = training.Adafactor(min_dim_size_to_factor=MIN_DIM, **options)
        gradients = gradients_of_steps()
        new = run(optimizer, initial_weights(), gradients)
        rates = rates or [options["learning_rate"]] * STEPS
        for i, weight in enumerate(initial_weights()):
            expected = paper_by_matrix(weight, [g[i] for g in gradients], rates, options)
            self.assertGreater(np.abs(expected - weight).max(), 1e-5)
            np.testing.assert_allclose(new[i], expected, rtol=2e-5, atol=2e-6)

    def test_relative_step(self):
        self.check(rates=[0.01] * STEPS)

    def test_fixed_rate(self):
        self.check(learning_rate=0.3)

    def test_momentum(self):
        self.check(learning_rate=0.1, beta_1=0.9)

    def test_weight_decay(self):
        self.check(learning_rate=0.1, weight_decay=0.1)

    def test_no_clipping_and_another_decay(self):
        self.check(learning_rate=0.1, clipping_threshold=None, decay_exponent=0.5)

    def test_hard_clipping(self):
        self.check(learning_rate=0.1, clipping_threshold=0.2)

    def test_absolute_rate(self):
        self.check(learning_rate=0.01, multiply_by_parameter_scale=False)

    def test_schedule(self):
        schedule = keras.optimizers.schedules.PolynomialDecay(0.2, STEPS, 0.1)
        rates = [0.2 - 0.1 * step / STEPS for step in range(STEPS)]
        self.check(rates, learning_rate=schedule)

    def test_relative_step_falls_with_the_root(self):
        rate = training.RelativeStep()
        steps = (0, 9_999, 39_999, 999_999)
        rates = [float(rate(step)) for step in steps]
        np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.001], rtol=1e-6)


class KerasArgumentsTest(unittest.TestCase):
    def test_clipnorm(self):
        # Keras clips the norm of a whole weight, so experts apart are not a reference.
        options = {"learning_rate": 0.1, "clipnorm": 0.5}
        gradients = gradients_of_steps()
        clipped = [[g * min(1.0, 0.5 / np.linalg.norm(g)) for g in step] for step in gradients]
        optimizers = [
            training.Adafactor(min_dim_size_to_factor=MIN_DIM, **kwargs)
            for kwargs in (options, {"learning_rate": 0.1})
        ]
        new = run(optimizers[0], initial_weights(), gradients)
        expected = run(optimizers[1], initial_weights(), clipped)
        for value, other in zip(new, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)

    def test_accumulated_gradients_are_their_mean(self):
        options = {"learning_rate": 0.1, "beta_1": 0.5, "min_dim_size_to_factor": MIN_DIM}
        weights, gradients = initial_weights()[:2], [g[:2] for g in gradients_of_steps(4)]
        pairs = zip(gradients[::2], gradients[1::2], strict=True)
        means = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in pairs]
        accumulating = training.Adafactor(gradient_accumulation_steps=2, **options)
        new = run(accumulating, weights, gradients)
        expected = run(training.Adafactor(**options), weights, means)
        for value, other in zip(new, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


class ExpertsTest(unittest.TestCase):
    def test_each_expert_is_a_weight_of_its_own(self):
        for beta_1 in (None, 0.9):
            options = {"beta_1": beta_1, "min_dim_size_to_factor": MIN_DIM}
            gradients = [step[:2] for step in gradients_of_steps()]
            whole = training.Adafactor(**options)
            apart = training.Adafactor(**options)
            new = run(whole, initial_weights()[:2], gradients)
            experts = [expert for weight in initial_weights()[:2] for expert in weight]
            split = [[expert for gradient in step for expert in gradient] for step in gradients]
            expected = run(apart, experts, split)
            np.testing.assert_allclose(new[0], expected[:2], rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(new[1], expected[2:], rtol=1e-7, atol=1e-7)

    def test_keeps_row_and_column_means_of_each_expert(self):
        weight = keras.Variable(np.ones((4, 128, 256), "float32"), name="kernel")
        small = keras.Variable(np.ones((4, 127, 256), "float32"), name="small")
        slots = {None: [(4, 128), (4, 256), (4, 127, 256)]}
        slots[0.9] = [(4, 128), (4, 256), (4, 128, 256), (4, 127, 256), (4, 127, 256)]
        for beta_1, expected in slots.items():
            optimizer = training.Adafactor(beta_1=beta_1)
            optimizer.build([weight, small])
            variables = optimizer.variables[1:]
            self.assertEqual([tuple(variable.shape) for variable in variables], expected)
            self.assertEqual(len({variable.path for variable in variables}), len(variables))

    @unittest.skipUnless(BACKEND == "jax", "Only the JAX backend has layouts.")
    def test_slots_lie_as_their_axes_of_the_weight(self):
        devices = keras.distribution.list_devices()[:1]
        mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), devices)
        layout = keras.distribution.TensorLayout(("batch", None, "model"), mesh)
        weight = keras.Variable(np.ones((2, 128, 128), "float32"), layout=layout, name="kernel")
        optimizer = training.Adafactor(beta_1=0.9)
        optimizer.build([weight])
        layouts = [variable._layout for variable in optimizer.variables[1:]]
        expected = [("batch", None), ("batch", "model"), ("batch", None, "model")]
        self.assertEqual([layout.axes for layout in layouts], expected)
        self.assertEqual({layout.device_mesh for layout in layouts}, {mesh})

    def test_means_can_be_completed_over_the_cores_that_split_a_weight(self):
        class OnCores(training.Adafactor):
            """Holds the slices of two cores as a leading axis."""

            def _mean(self, x, axes, variable):
                x = super()._mean(x, axes, variable)
                if split not in axes:
                    return x
                whole = keras.ops.mean(x, axis=0, keepdims=True)
                return keras.ops.broadcast_to(whole, x.shape)

        rng = np.random.default_rng(0)
        weight, *gradients = rng.normal(size=(11, 2, 8, 8)).astype("float32")
        options = {"beta_1": 0.5, "min_dim_size_to_factor": MIN_DIM}
        expected = run(training.Adafactor(**options), [weight], [[g] for g in gradients])[0]
        for split in (-1, -2):

            def slices(x, axis=split):
                return np.stack(np.split(x, 2, axis=axis))

            new = run(OnCores(**options), [slices(weight)], [[slices(g)] for g in gradients])[0]
            np.testing.assert_allclose(new, slices(expected), rtol=1e-5, atol=1e-6)

    @unittest.skipUnless(BACKEND == "jax", "Only the JAX backend has stateless optimizers.")
    def test_stateless_steps_equal_the_others(self):
        import jax

        options = {"beta_1": 0.5, "min_dim_size_to_factor": MIN_DIM}
        optimizer = training.Adafactor(**options)
        weights, gradients = initial_weights()[:2], [g[:2] for g in gradients_of_steps(4)]
        expected = run(training.Adafactor(**options), weights, gradients)
        optimizer.build([keras.Variable(weight) for weight in weights])
        state = [variable.value for variable in optimizer.variables]
        for step in gradients:
            weights, state = jax.jit(optimizer.stateless_apply)(state, step, weights)
        for value, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


class GradientsTest(unittest.TestCase):
    def test_statistics_of_bfloat16_weights_are_float32(self):
        weight = keras.Variable(np.full((4, 4), 2.0), dtype="bfloat16", name="kernel")
        optimizer = training.Adafactor(0.25, beta_1=0.5, min_dim_size_to_factor=MIN_DIM)
        optimizer.apply([keras.ops.full((4, 4), 1e-12, dtype="bfloat16")], [weight])
        dtypes = {variable.dtype for variable in optimizer.variables[1:]}
        self.assertEqual(dtypes, {"float32"})
        # RMS 2, a rate of 1/4, half of the first update: the gradient's size plays no part.
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight).astype("float32"), 1.75)

    def test_zero_gradients_change_nothing(self):
        weights = initial_weights()
        zeros = [[np.zeros_like(weight) for weight in weights]] * 3
        new = run(training.Adafactor(min_dim_size_to_factor=MIN_DIM), weights, zeros)
        for value, weight in zip(new, weights, strict=True):
            np.testing.assert_array_equal(value, weight)

    @unittest.skipUnless(BACKEND == "tensorflow", "Only TensorFlow has sparse gradients.")
    def test_sparse_gradients_equal_dense_ones(self):
        import tensorflow as tf

        rng = np.random.default_rng(0)
        table, values = rng.normal(size=(2, 5, 4)).astype("float32")
        indices = [3, 1, 3, 3, 0]
        dense = np.zeros_like(table)
        np.add.at(dense, indices, values)
        sparse = tf.IndexedSlices(tf.constant(values), tf.constant(indices), (5, 4))
        variable = keras.Variable(table, name="table")
        optimizer = training.Adafactor(min_dim_size_to_factor=MIN_DIM)
        optimizer.apply([sparse], [variable])
        expected = run(training.Adafactor(min_dim_size_to_factor=MIN_DIM), [table], [[dense]])[0]
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


if __name__ == "__main__":
    unittest.main()
