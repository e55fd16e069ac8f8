import os
import tempfile
import unittest

import keras
import numpy as np
import reference
from absl.testing import parameterized
from gradients import layer_gradients
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from keras.src.testing import TestCase as KerasTestCase

from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless

TENSORFLOW = keras.backend.backend() == "tensorflow"


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(num_experts=4, intermediate_dim=8, **kwargs):
    """A float32 layer whose router decides clearly."""
    kwargs = {
        "dtype": "float32",
        "router_initializer": keras.initializers.RandomNormal(0, 1),
    } | kwargs
    return SwitchDense(num_experts, intermediate_dim, **kwargs)


def run(layer, inputs, **kwargs):
    return np.asarray(ops.convert_to_numpy(ops.cast(layer(inputs, **kwargs), "float32")))


class ReferenceTest(parameterized.TestCase):
    @settings(max_examples=20, deadline=None)
    @given(
        st.integers(1, 3),
        st.integers(1, 12),
        st.integers(1, 5),
        st.integers(1, 2),
        st.sampled_from(["drop", "reroute", "dropless"]),
        st.sampled_from(["position", "probability"]),
        st.sampled_from([{}, {"group_size": 5}, {"group_size": "row"}, {"num_groups": 2}]),
        st.sampled_from(
            [{}, {"expert_capacity": 2}, {"eval_capacity_factor": 0.5, "min_capacity": 1}]
        ),
        st.integers(0, 10**6),
    )
    def test_equals_the_loop(
        self, batch, length, experts, selected, overflow, priority, groups, capacity, seed
    ):
        selected = 1 if overflow == "reroute" else min(selected, experts)
        layer = make(
            experts,
            num_selected_experts=selected,
            overflow=overflow,
            priority=priority,
            **groups,
            **capacity,
        )
        x = tokens(batch, length, 6, seed=seed)
        mask = np.random.default_rng(seed).random((batch, length)) < 0.8
        outputs = run(layer, x, mask=ops.array(mask))
        expected, _ = reference.switch_dense(layer, x, mask)
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
        self.assertTrue((outputs[~mask] == 0).all())
        kept = ops.convert_to_numpy(layer.route(x, ops.array(mask)).kept).any(-1)
        self.assertTrue((outputs[~kept] == 0).all())

    def test_equals_one_hot_dispatch_with_gradients(self):
        layer = make(4, eval_capacity_factor=0.75)
        x = tokens(32, 6)
        layer(x)
        weight = np.cos(np.arange(32 * 6)).reshape(32, 6).astype("float32")

        def ours(x):
            return ops.sum(layer(x) * weight)

        def theirs(x):
            return ops.sum(reference.one_hot_dispatch(layer, x, 6) * weight)

        value, grads = layer_gradients(layer, ours, x)
        expected, expected_grads = layer_gradients(layer, theirs, x)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        for gradient, wanted in zip(grads, expected_grads):
            self.assertGreater(np.abs(wanted).max(), 0)
            np.testing.assert_allclose(gradient, wanted, atol=1e-4)

    @parameterized.parameters("drop", "dropless")
    def test_gradients_equal_finite_differences(self, overflow):
        layer = make(3, overflow=overflow, num_selected_experts=2, activation="tanh", gated=True)
        x = tokens(2, 7, 4)
        layer(x)
        _, grads = layer_gradients(layer, lambda x: ops.sum(ops.square(layer(x))), x)
        rng = np.random.default_rng(1)
        for variable, gradient in zip(layer.trainable_variables, grads[1:]):
            start = np.asarray(variable)
            direction = rng.normal(size=start.shape).astype("float32")
            values = []
            for step in (1e-3, -1e-3):
                variable.assign(start + step * direction)
                values.append(float(ops.sum(ops.square(layer(x)))))
            variable.assign(start)
            slope = (values[0] - values[1]) / 2e-3
            self.assertAlmostEqual(slope, float((gradient * direction).sum()), delta=2e-2)

    def test_permuted_experts_give_the_same(self):
        layer = make(4)
        x = tokens(2, 9, 6)
        expected = run(layer, x)
        order = [2, 0, 3, 1]
        layer.router.kernel.assign(np.asarray(layer.router.kernel)[:, order])
        for kernel in (layer.kernel_in, layer.kernel_out):
            kernel.assign(np.asarray(kernel)[order])
        np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)

    @parameterized.parameters({"overflow": "dropless"}, {"eval_capacity_factor": 8.0})
    def test_appended_padding_changes_nothing(self, **kwargs):
        layer = make(4, **kwargs)
        x = tokens(2, 9, 6)
        padding = np.full((2, 3, 6), np.nan, "float32")
        mask = np.arange(12) < 9
        mask = ops.array(np.stack([mask, mask]))
        outputs = run(layer, np.concatenate([x, padding], 1), mask=mask)
        np.testing.assert_allclose(outputs[:, :9], run(layer, x), atol=1e-5)
        self.assertTrue((outputs[:, 9:] == 0).all())

    def test_rows_are_independent_in_groups_of_a_row(self):
        layer = make(4, group_size="row", expert_capacity=2)
        x = tokens(3, 16, 6)
        alone = np.concatenate([run(layer, x[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(run(layer, x), alone, atol=1e-5)

    def test_dropless_scope(self):
        layer, free = make(4, expert_capacity=1), make(4, overflow="dropless")
        x = tokens(2, 9, 6)
        free(x)
        layer(x)
        free.set_weights(layer.get_weights())
        self.assertTrue((run(layer, x) == 0).all(-1).any())
        with dropless():
            np.testing.assert_allclose(run(layer, x), run(free, x), atol=1e-5)


class TrainingTest(parameterized.TestCase):
    def test_noise_of_a_group_is_the_same_among_more_groups(self):
        x = tokens(4, 8, 6)
        records = []
        for batch in (x, x[:2]):
            layer = make(4, group_size="row", jitter=0.5, seed=7)
            layer.build((None, None, 6))
            layer.router.kernel.assign(np.eye(6, 4))
            records.append(ops.convert_to_numpy(layer.route(batch, training=True).logits))
        np.testing.assert_array_equal(records[0][:2], records[1])
        self.assertGreater(np.abs(records[0] - x[..., :4]).max(), 0.1)

    def test_jitter_reaches_the_router_only(self):
        layer = make(1, jitter=0.9, balance_loss_weight=0.0)
        x = tokens(2, 8, 6)
        np.testing.assert_allclose(run(layer, x, training=True), run(layer, x), atol=1e-6)

    @parameterized.parameters("jitter", "sample", "input_dropout", "argmax")
    def test_exploration_is_for_training_only(self, exploration):
        layer = make(4, exploration=exploration, jitter=0.5, capacity_factor=2.0)
        x = tokens(4, 16, 6)
        np.testing.assert_array_equal(run(layer, x), run(layer, x))
        first, second = (run(layer, x, training=True) for _ in range(2))
        self.assertEqual(np.array_equal(first, second), exploration == "argmax")

    def test_sampling_follows_the_probabilities(self):
        layer = make(2, exploration="sample")
        layer.build((None, 1))
        layer.router.kernel.assign([[np.log(3.0), 0.0]])
        experts = layer.route(np.ones((20000, 1), "float32"), training=True).experts
        self.assertAlmostEqual(ops.convert_to_numpy(experts).mean(), 0.25, delta=0.02)

    @parameterized.parameters("drop", "dropless")
    def test_expert_dropout(self, overflow):
        layer = make(2, 64, expert_dropout=0.5, overflow=overflow, exploration="argmax")
        x = tokens(2, 50, 6)
        expected = run(layer, x)
        mean = np.mean([run(layer, x, training=True) for _ in range(300)], axis=0)
        self.assertGreater(np.corrcoef(mean.ravel(), expected.ravel())[0, 1], 0.95)

    def test_losses_are_added_in_training_only(self):
        layer = make(4, balance_loss_weight=0.5, z_loss_weight=0.25, exploration="argmax")
        x = tokens(3, 16, 6)
        layer(x)
        self.assertEqual(layer.losses, [])
        layer(x, training=True)
        figures = layer.figures()
        expected = 0.5 * figures["balance_loss"] + 0.25 * figures["z_loss"]
        self.assertAlmostEqual(float(sum(layer.losses)), expected, places=5)

    def test_figures(self):
        layer = make(2, expert_capacity=3, exploration="argmax")
        layer.build((None, 2))
        layer.router.kernel.assign([[5.0, 0.0], [0.0, 5.0]])
        x = np.eye(2, dtype="float32")[[0, 0, 0, 0, 0, 0, 1, 1]]
        layer(x, training=True)
        figures = layer.figures()
        np.testing.assert_allclose(figures["load"], [0.75, 0.25])
        self.assertAlmostEqual(figures["busiest"], 1.5, places=5)
        self.assertAlmostEqual(figures["dropped"], 3 / 8, places=5)
        layer.reset_figures()
        self.assertEqual(layer.figures()["busiest"], 0.0)

    def test_all_padding_gives_no_nan(self):
        layer = make(4, z_loss_weight=0.1)
        x = tokens(2, 5, 6)
        mask = ops.zeros((2, 5), "bool")

        def loss(x):
            return ops.sum(layer(x, mask=mask, training=True)) + sum(layer.losses)

        layer(x)
        value, grads = layer_gradients(layer, loss, x)
        self.assertEqual(float(value), 0.0)
        for gradient in grads:
            self.assertTrue((gradient == 0).all())

    @parameterized.parameters((1, 6), (1, 1, 6), (2, 3, 4, 6))
    def test_ranks_and_one_token(self, *shape):
        layer = make(4, output_dim=5)
        outputs = run(layer, tokens(*shape))
        self.assertEqual(outputs.shape, (*shape[:-1], 5))
        expected, _ = reference.switch_dense(layer, tokens(*shape))
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


class ModelTest(parameterized.TestCase):
    @parameterized.parameters(
        (False, "drop", 1),
        (True, "drop", 2),
        (False, "reroute", 2),
        (True, "reroute", 1),
        (False, "dropless", 2),
        (True, "dropless", 1),
    )
    def test_fit_with_unknown_shapes(self, jit, overflow, steps):
        inputs = keras.Input((None, 6))
        outputs = SwitchDense(4, 8, overflow=overflow)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, dtype="float32")(outputs))
        model.compile("adam", "mse", jit_compile=jit, steps_per_execution=steps)
        x = tokens(20, 7, 6)
        history = model.fit(x, x[..., :2], batch_size=8, epochs=3, verbose=0).history
        self.assertLess(history["loss"][-1], history["loss"][0])
        self.assertEqual(model.predict(x[:5, :3], verbose=0).shape, (5, 3, 2))

    def test_learns_what_one_expert_cannot(self):
        keras.utils.set_random_seed(0)
        x = tokens(512, 4)
        sign = np.sign(x[:, :1])
        y = (sign * x[:, 1:2] + (1 - sign) * x[:, 2:3]).astype("float32")
        layer = make(4, 16, output_dim=1, capacity_factor=4.0, jitter=0.0)
        model = keras.Sequential([layer])
        model.compile(keras.optimizers.Adam(0.02), "mse")
        losses = model.fit(x, y, batch_size=128, epochs=40, verbose=0).history["loss"]
        self.assertLess(losses[-1], 0.3 * losses[0])

    def test_implicit_mask(self):
        inputs = keras.Input((None,), dtype="int32")
        embedded = keras.layers.Embedding(10, 6, mask_zero=True)(inputs)
        outputs = make(4)(embedded)
        model = keras.Model(inputs, outputs)
        result = model.predict(np.array([[3, 4, 0], [5, 0, 0]]), verbose=0)
        self.assertTrue((result[0, 2] == 0).all() and (result[1, 1:] == 0).all())
        self.assertTrue((result[0, :2] != 0).any())

    @unittest.skipIf(not TENSORFLOW, "JAX's trainer shows no metrics of layers.")
    def test_figures_show_in_history_under_unique_names(self):
        inputs = keras.Input((6,))
        hidden = SwitchDense(4, 8, name="first")(inputs)
        outputs = SwitchDense(4, 8, name="second", routing_metrics=False)(hidden)
        outputs = SwitchDense(4, 8, name="third")(outputs)
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        x = tokens(32, 6)
        history = model.fit(x, x, epochs=2, verbose=0, validation_data=(x, x)).history
        names = {"dropped", "busiest", "entropy", "balance_loss", "z_loss"}
        expected = {f"{layer}/{name}" for layer in ("first", "third") for name in names}
        self.assertEqual(set(history), expected | {"loss", "val_loss"})
        self.assertGreaterEqual(history["first/busiest"][-1], 1.0)
        self.assertAlmostEqual(history["first/entropy"][0], np.log(4), delta=0.2)

    def test_figures_survive_fit(self):
        layer = SwitchDense(4, 8)
        model = keras.Sequential([layer])
        model.compile("sgd", "mse")
        x = tokens(32, 6)
        model.fit(x, x, batch_size=8, verbose=0)
        self.assertEqual(float(np.asarray(layer.routing_totals)[0]), 4.0)
        self.assertAlmostEqual(float(layer.figures()["load"].sum()), 1.0, places=5)

    def test_save_and_load(self):
        model = keras.Sequential([keras.Input((6,)), make(4, gated=True, activation="gelu")])
        x = tokens(5, 6)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            loaded = keras.saving.load_model(path)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))

    def test_parameter_count_and_initial_scale(self):
        layer = SwitchDense(16, 64, gated=True)
        layer.build((None, 32))
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        self.assertEqual(trainable, 32 * 16 + 3 * 16 * 32 * 64)
        self.assertAlmostEqual(np.asarray(layer.kernel_in).std(), (0.1 / 32) ** 0.5, delta=2e-3)
        self.assertAlmostEqual(np.asarray(layer.kernel_out).std(), (0.1 / 64) ** 0.5, delta=2e-3)
        self.assertFalse(np.array_equal(layer.kernel_in, layer.kernel_gate))

    def test_dtypes(self):
        x = tokens(2, 5, 6)
        layer = SwitchDense(4, 8)
        outputs = layer(x)
        self.assertEqual(keras.backend.standardize_dtype(outputs.dtype), "bfloat16")
        self.assertEqual({w.dtype for w in layer.weights}, {"float32"})
        logits = layer.route(x).logits
        self.assertEqual(keras.backend.standardize_dtype(logits.dtype), "float32")
        single = SwitchDense(4, 8, dtype="float32")
        single(x)
        single.set_weights(layer.get_weights())
        np.testing.assert_allclose(run(layer, x), run(single, x), atol=2e-3)
        keras.config.set_dtype_policy("float64")
        try:
            self.assertEqual(SwitchDense(4, 8).compute_dtype, "float64")
        finally:
            keras.config.set_dtype_policy("float32")


class KerasContractTest(KerasTestCase):
    def test_layer(self):
        for dtype in ("float32", "bfloat16"):
            self.run_layer_test(
                SwitchDense,
                init_kwargs={"num_experts": 4, "intermediate_dim": 8, "dtype": dtype},
                input_shape=(2, 5, 6),
                expected_output_shape=(2, 5, 6),
                expected_num_trainable_weights=3,
                expected_num_non_trainable_weights=1,
                expected_num_seed_generators=1,
                expected_num_losses=0,
                supports_masking=True,
                run_mixed_precision_check=False,
            )


BAD_ARGUMENTS = [
    ({"num_experts": 0}, "`num_experts` must be a positive integer. Received: num_experts=0"),
    ({"num_experts": -2}, "`num_experts` must be a positive integer"),
    ({"num_experts": 2.5}, "`num_experts` must be a positive integer"),
    ({"num_experts": True}, "`num_experts` must be a positive integer"),
    ({"num_experts": None}, "`num_experts` must be a positive integer"),
    ({"intermediate_dim": 0}, "`intermediate_dim` must be a positive integer"),
    ({"intermediate_dim": "8"}, "`intermediate_dim` must be a positive integer"),
    ({"num_selected_experts": 0}, "`num_selected_experts` must be a positive integer"),
    ({"num_selected_experts": 5}, "at most `num_experts`.*num_selected_experts=5, num_experts=4"),
    ({"min_capacity": 0}, "`min_capacity` must be a positive integer"),
    ({"capacity_factor": 0.0}, "`capacity_factor` must be a finite positive number"),
    ({"capacity_factor": float("nan")}, "`capacity_factor` must be a finite positive number"),
    ({"eval_capacity_factor": -1}, "`eval_capacity_factor` must be a finite positive number"),
    ({"eval_capacity_factor": float("inf")}, "`eval_capacity_factor` must be a finite positive"),
    ({"capacity_factor": "big"}, "`capacity_factor` must be a finite positive number"),
    ({"overflow": "spill"}, "`overflow` must be one of 'drop', 'reroute', 'dropless'.*'spill'"),
    ({"priority": "random"}, "`priority` must be one of 'position', 'probability'"),
    ({"exploration": None}, "`exploration` must be one of 'jitter', 'sample'"),
    ({"jitter": 1.0}, "`jitter` must be a finite number, at least 0 and below 1"),
    ({"jitter": -0.1}, "`jitter` must be a finite number"),
    ({"input_dropout": 1.5}, "`input_dropout` must be a finite number"),
    ({"expert_dropout": 1.0}, "`expert_dropout` must be a finite number"),
    ({"expert_dropout": float("nan")}, "`expert_dropout` must be a finite number"),
    ({"balance_loss_weight": -1.0}, "`balance_loss_weight` must be a finite number, at least 0"),
    ({"z_loss_weight": float("inf")}, "`z_loss_weight` must be a finite number"),
    ({"num_groups": 0}, "`num_groups` must be a positive integer"),
    ({"group_size": 0}, "`group_size` must be a positive integer"),
    ({"group_size": "column"}, "`group_size` must be a positive integer"),
    ({"group_size": 8, "num_groups": 2}, "cannot both be given"),
    ({"expert_capacity": -4}, "`expert_capacity` must be a positive integer"),
    ({"output_dim": 0}, "`output_dim` must be a positive integer"),
    ({"overflow": "reroute", "num_selected_experts": 2}, "needs `num_selected_experts=1`"),
    ({"gated": "yes"}, "`gated` must be True or False"),
    ({"routing_metrics": 1}, "`routing_metrics` must be True or False"),
    ({"activation": "rellu"}, "rellu"),
]


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(*BAD_ARGUMENTS)
    def test_arguments(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(**{"num_experts": 4, "intermediate_dim": 8} | kwargs)

    @parameterized.parameters(
        ((6,), "rank 2 or more.*inputs.shape=\\(6,\\)"),
        ((), "rank 2 or more"),
        ((2, None), "last dimension is known"),
    )
    def test_input_shapes(self, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8).build(shape)

    @parameterized.parameters(
        ((2, 4), "mask.shape=\\(2, 4\\)"),
        ((3, 5), "mask.shape=\\(3, 5\\)"),
        ((2,), "mask.shape=\\(2,\\)"),
        ((2, 5, 6), "mask.shape=\\(2, 5, 6\\)"),
    )
    def test_mask_shapes(self, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8)(tokens(2, 5, 6), mask=ops.ones(shape, "bool"))

    def test_integer_inputs(self):
        with self.assertRaisesRegex(ValueError, "floating point inputs.*int32"):
            SwitchDense(4, 8)(ops.ones((2, 5, 6), "int32"))
        with self.assertRaisesRegex(ValueError, "floating point inputs.*int32"):
            SwitchDense(4, 8)(keras.Input((5, 6), dtype="int32"))

    def test_rows_need_a_length(self):
        with self.assertRaisesRegex(ValueError, "rank 3 or more"):
            SwitchDense(4, 8, group_size="row")(tokens(5, 6))

    def test_figures_switched_off(self):
        layer = SwitchDense(4, 8, routing_metrics=False)
        layer(tokens(5, 6))
        with self.assertRaisesRegex(ValueError, "`routing_metrics` is False"):
            layer.figures()


if __name__ == "__main__":
    unittest.main()
