import os
import tempfile
import unittest

import keras
import numpy as np
import reference
from absl.testing import parameterized
from gradients import layer_gradients
from keras import ops
from keras.src.testing import TestCase as KerasTestCase
from switch_helpers import make
from switch_helpers import run
from switch_helpers import tokens

from keras_switch.layers import SwitchDense

TENSORFLOW = keras.backend.backend() == "tensorflow"


class TrainingTest(parameterized.TestCase):
    @parameterized.parameters("jitter", "sample", "input_dropout")
    def test_noise_of_a_group_is_the_same_among_more_groups(self, exploration):
        row = tokens(1, 8, 6)
        x = np.repeat(row, 4, axis=0)
        records = []
        for batch in (x, x[:2]):
            layer = make(4, group_size="row", jitter=0.5, exploration=exploration, seed=7)
            layer.build((None, None, 6))
            layer.router.kernel.assign(np.eye(6, 4))
            records.append(layer.route(batch, training=True))
        eight, two = ([ops.convert_to_numpy(x) for x in record] for record in records)
        np.testing.assert_array_equal(eight[0][:2], two[0])
        np.testing.assert_array_equal(eight[2][:2], two[2])
        # Equal rows, other noise.
        self.assertFalse(np.array_equal(two[0][0], two[0][1]) and (two[2][0] == two[2][1]).all())

    @parameterized.parameters({}, {"overflow": "dropless"}, {"num_selected_experts": 2})
    def test_eight_groups_one_by_one_draw_what_one_core_draws(self, **kwargs):
        x = tokens(8, 16, 6)
        kwargs |= {"exploration": "jitter", "jitter": 0.5, "expert_dropout": 0.5}
        layer = make(4, group_size="row", **kwargs)
        layer.build(x.shape)
        outputs = run(layer, x, training=True)
        again = make(4, group_size="row", **kwargs)
        again.build(x.shape)
        np.testing.assert_array_equal(run(again, x, training=True), outputs)
        fewer = make(4, group_size="row", **kwargs)
        fewer.build(x.shape)
        np.testing.assert_allclose(run(fewer, x[:3], training=True), outputs[:3], atol=1e-6)

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
    def test_expert_dropout_zeroes_hidden_activations(self, overflow):
        layer = make(1, 200, expert_dropout=0.25, overflow=overflow, output_dim=200)
        x = tokens(2, 50, 6)
        layer.build(x.shape)
        layer.kernel_out.assign(np.eye(200)[None])
        hidden = run(layer, x)
        first, second = (run(layer, x, training=True) for _ in range(2))
        self.assertFalse(np.array_equal(first, second))
        alive = hidden > 0
        self.assertAlmostEqual((first[alive] == 0).mean(), 0.25, delta=0.02)
        kept = first != 0
        np.testing.assert_allclose(first[kept], hidden[kept] / 0.75, rtol=1e-5)

    def test_losses_are_added_in_training_only(self):
        layer = make(4, balance_loss_weight=0.5, z_loss_weight=0.25, exploration="argmax")
        x = tokens(3, 16, 6)
        layer(x)
        self.assertEqual(layer.losses, [])
        layer(x, training=True)
        metrics = layer.get_routing_metrics()
        expected = 0.5 * metrics["balance_loss"] + 0.25 * metrics["z_loss"]
        self.assertAlmostEqual(float(sum(layer.losses)), expected, places=5)

    def test_routing_metrics(self):
        layer = make(2, expert_capacity=3, exploration="argmax")
        layer.build((None, 2))
        layer.router.kernel.assign([[5.0, 0.0], [0.0, 5.0]])
        x = np.eye(2, dtype="float32")[[0, 0, 0, 0, 0, 0, 1, 1]]
        layer(x, training=True)
        metrics = layer.get_routing_metrics()
        np.testing.assert_allclose(metrics["load"], [0.75, 0.25])
        self.assertAlmostEqual(metrics["busiest"], 1.5, places=5)
        self.assertAlmostEqual(metrics["dropped"], 3 / 8, places=5)
        layer.reset_routing_metrics()
        self.assertAlmostEqual(layer.get_routing_metrics()["busiest"], 1.5, places=5)
        layer(np.eye(2, dtype="float32"), training=True)
        self.assertAlmostEqual(layer.get_routing_metrics()["busiest"], 1.0, places=5)

    def test_an_empty_batch(self):
        for overflow in ("drop", "dropless", "reroute"):
            layer = make(4, overflow=overflow)
            outputs = run(layer, np.zeros((0, 5, 6), "float32"), training=True)
            self.assertEqual(outputs.shape, (0, 5, 6))
            self.assertEqual(layer.get_routing_metrics()["dropped"], 0.0)

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
    def test_routing_metrics_show_in_history_under_unique_names(self):
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

    @parameterized.parameters(False, True)
    def test_routing_metrics_after_fit_are_those_of_the_last_epoch(self, validate):
        layer = make(4, exploration="argmax")
        model = keras.Sequential([layer])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        x = tokens(32, 6)
        validation = (x, x) if validate else None
        model.fit(x, x, batch_size=8, epochs=2, verbose=0, validation_data=validation)
        steps = 8.0 if not TENSORFLOW else 4.0
        self.assertEqual(abs(np.asarray(layer.routing_totals)[0]), steps)
        metrics = layer.get_routing_metrics()
        self.assertAlmostEqual(float(metrics["load"].sum()), 1.0, places=5)
        expected = ops.convert_to_numpy(layer.route(x).logits).argmax(-1)
        load = np.bincount(expected, minlength=4) / 32
        np.testing.assert_allclose(metrics["load"], load, atol=1e-6)

    @unittest.skipIf(not TENSORFLOW, "JAX traces values as arguments.")
    def test_xla_compiles_once_for_all_seeds_and_inputs(self):
        import tensorflow as tf

        for overflow in ("drop", "reroute", "dropless"):
            layer = make(4, overflow=overflow)
            x = tf.constant(tokens(16, 6))
            layer(x)
            step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
            code = step.experimental_get_compiler_ir(x)(stage="hlo")
            arguments = code.split("entry_computation_layout={(")[1].split(")->")[0]
            # Whatever is missing here, XLA takes for a constant, and compiles anew for each value.
            expected = 1 + len(step.get_concrete_function(x).captured_inputs)
            self.assertEqual(arguments.count("]{") + arguments.count("[]"), expected, arguments)

    def test_save_and_load(self):
        model = keras.Sequential([keras.Input((6,)), make(4, gated=True, activation="gelu")])
        x = tokens(5, 6)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            loaded = keras.saving.load_model(path)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))

    def test_weights_do_not_depend_on_the_routing_metrics(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.weights.h5")
            keras.Sequential([keras.Input((6,)), make(4)]).save_weights(path)
            layer = make(4, seed=1, routing_metrics=False)
            keras.Sequential([keras.Input((6,)), layer]).load_weights(path)
        expected = make(4)
        expected.build((None, 6))
        np.testing.assert_array_equal(layer.kernel_in, expected.kernel_in)

    def test_parameter_count_and_initial_scale(self):
        layer = SwitchDense(16, 64, gated=True)
        layer.build((None, 32))
        self.assertEqual(layer.count_params(), 32 * 16 + 3 * 16 * 32 * 64)
        self.assertAlmostEqual(np.asarray(layer.kernel_in).std(), (0.1 / 32) ** 0.5, delta=2e-3)
        self.assertAlmostEqual(np.asarray(layer.kernel_out).std(), (0.1 / 64) ** 0.5, delta=2e-3)

    @parameterized.parameters(0, None)
    def test_no_kernel_is_another_one(self, seed):
        layer = SwitchDense(4, 6, gated=True, seed=seed)
        layer.build((None, 6))
        kernels = [np.ravel(x) for x in (layer.kernel_in, layer.kernel_gate, layer.kernel_out)]
        correlations = np.corrcoef([*kernels, np.resize(layer.router.kernel, 144)])
        self.assertLess(np.abs(correlations - np.eye(4)).max(), 0.5)

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


class KerasContractTest(KerasTestCase):
    def test_layer(self):
        for dtype in ("float32", "bfloat16"):
            self.run_layer_test(
                SwitchDense,
                init_kwargs={"num_experts": 4, "intermediate_dim": 8, "dtype": dtype},
                input_shape=(2, 5, 6),
                expected_output_shape=(2, 5, 6),
                expected_num_trainable_weights=3,
                expected_num_non_trainable_weights=0,
                expected_num_non_trainable_variables=3,
                expected_num_seed_generators=2,
                expected_num_losses=0,
                supports_masking=True,
                run_mixed_precision_check=False,
            )


if __name__ == "__main__":
    unittest.main()
