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
from switch_helpers import make
from switch_helpers import run
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless
from keras_switch.layers import placement

TENSORFLOW = keras.backend.backend() == "tensorflow"


def choosing(num_experts=4, **kwargs):
    return make(num_experts, routing="expert_choice", **kwargs)


def two_experts(logits, **kwargs):
    """A layer of two experts whose logits are the tokens, one expert doubling its input."""
    layer = choosing(2, intermediate_dim=2, min_capacity=1, **kwargs)
    layer.build((None, 2))
    layer.router.kernel.assign(np.eye(2))
    layer.kernel_in.assign([np.eye(2), np.eye(2)])
    layer.kernel_out.assign([2 * np.eye(2), [[0, 1], [1, 0]]])
    return layer, np.array(logits, "float32")


class PlanTest(unittest.TestCase):
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 10**6),
        st.integers(1, 3),
        st.integers(1, 24),
        st.integers(1, 6),
        st.floats(0, 1),
        st.data(),
    )
    def test_entries_and_slots_are_inverse(self, seed, groups, size, experts, share, data):
        capacity = data.draw(st.integers(1, size + 3))
        slots = min(capacity, size)
        taken = np.random.default_rng(seed).random((groups, size, experts)) < share
        plan = placement.plan_of_experts(ops.array(taken), capacity)
        slot, entry, counts, order = (ops.convert_to_numpy(x) for x in plan)
        for group in range(groups):
            expected = np.full((experts, size), -1)
            for expert in range(experts):
                first = np.flatnonzero(taken[group, :, expert])[:slots]
                expected[expert, first] = expert * slots + np.arange(len(first))
            np.testing.assert_array_equal(slot[group], expected)
            owners = np.full(experts * slots, -1)
            owners[expected[expected >= 0]] = np.flatnonzero(expected.ravel() >= 0)
            np.testing.assert_array_equal(entry[group], owners)
            np.testing.assert_array_equal(counts[group], (expected >= 0).sum(-1))
            np.testing.assert_array_equal(np.sort(order[group]), np.arange(experts * slots))
            in_order = np.where(owners >= 0, owners % size, size)[order[group]]
            self.assertTrue((np.diff(in_order) >= 0).all())


class ExpertChoiceTest(parameterized.TestCase):
    def test_two_experts_by_hand(self):
        # The probabilities of expert 0: 0.88, 0.73, 0.5 and 0.12; it takes the first two.
        logits = [[2.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 2.0]]
        layer, x = two_experts(logits, capacity_factor=1.0)
        p = reference.softmax(x)
        record = layer.route(x)
        taken = [[True, False], [True, False], [False, True], [False, True]]
        np.testing.assert_array_equal(ops.convert_to_numpy(record.kept), taken)
        np.testing.assert_array_equal(ops.convert_to_numpy(record.experts), [[0, 1]] * 4)
        np.testing.assert_allclose(ops.convert_to_numpy(record.gates), p, atol=1e-6)
        expected = [2 * p[0, 0] * x[0], 2 * p[1, 0] * x[1], p[2, 1] * x[2], p[3, 1] * x[3, ::-1]]
        np.testing.assert_allclose(run(layer, x), expected, atol=1e-6)

    def test_a_token_has_both_experts_or_none(self):
        # Token 1 lies between token 0, which both experts like better, and nobody takes it.
        logits = [[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]]
        layer, x = two_experts(logits, expert_capacity=1)
        np.testing.assert_array_equal(run(layer, x)[1], [0.0, 0.0])
        layer, x = two_experts(logits, expert_capacity=2)
        half = 0.5 * x[1]
        np.testing.assert_allclose(run(layer, x)[1], 2 * half + half[::-1], atol=1e-6)
        kept = ops.convert_to_numpy(layer.route(x).kept)
        np.testing.assert_array_equal(kept, [[True, False], [True, True], [False, True]])

    def test_earlier_ones_of_equals_win(self):
        layer, x = two_experts([[1.0, 1.0]] * 6, expert_capacity=2)
        kept = ops.convert_to_numpy(layer.route(x).kept)
        np.testing.assert_array_equal(kept, [[True, True]] * 2 + [[False, False]] * 4)

    def test_padding_is_never_taken(self):
        for capacity in (1, 2, 5, 8):
            layer = choosing(3, expert_capacity=capacity, group_size="row")
            x = tokens(2, 8, 6)
            mask = np.arange(8) < np.array([[3], [0]])
            # The padding is what the experts would like best.
            x[~mask] = 100 * x[0, 0]
            kept = ops.convert_to_numpy(layer.route(x, ops.array(mask)).kept)
            self.assertFalse(kept[~mask].any())
            np.testing.assert_array_equal(kept.sum(1), [[min(capacity, 3)] * 3, [0] * 3])
            outputs = run(layer, x, mask=ops.array(mask))
            self.assertTrue((outputs[~mask] == 0).all())
            x[~mask] = np.nan
            np.testing.assert_array_equal(run(layer, x, mask=ops.array(mask)), outputs)

    def test_padding_has_no_gradient(self):
        layer = choosing(4, z_loss_weight=0.1)
        x, mask = tokens(2, 5, 6), np.arange(5) < np.array([[4], [0]])
        x[~mask] = np.nan
        layer(x)

        def loss(x):
            outputs = layer(x, mask=ops.array(mask), training=True)
            return ops.sum(ops.square(outputs)) + sum(layer.losses)

        value, grads = layer_gradients(layer, loss, x)
        self.assertTrue(np.isfinite(value))
        self.assertTrue(all(np.isfinite(gradient).all() for gradient in grads))
        self.assertTrue((grads[0][~mask] == 0).all() and (grads[0][mask] != 0).any())

    @parameterized.parameters(1, 2, 3, 5, 8)
    def test_a_token_that_all_experts_take(self, num_experts):
        layer = choosing(num_experts)
        x = tokens(1, 6)
        self.assertTrue(ops.convert_to_numpy(layer.route(x).kept).all())
        np.testing.assert_allclose(run(layer, x), reference.switch_dense(layer, x)[0], atol=1e-5)

    def test_capacity_is_that_of_training_everywhere(self):
        layer = choosing(4, exploration="argmax", capacity_factor=1.5)
        x = tokens(2, 16, 6)
        expected = run(layer, x, training=True)
        np.testing.assert_array_equal(run(layer, x), expected)
        with dropless():
            np.testing.assert_array_equal(run(layer, x), expected)
        kept = ops.convert_to_numpy(layer.route(x).kept)
        np.testing.assert_array_equal(kept.sum((0, 1)), [12] * 4)

    def test_rows_are_independent_in_groups_of_a_row(self):
        x = tokens(3, 16, 6)
        rows, batch = (choosing(4, group_size=size) for size in ("row", None))
        for layer, equal in ((rows, True), (batch, False)):
            alone = np.concatenate([run(layer, x[i : i + 1]) for i in range(3)])
            with dropless():
                together = run(layer, x)
            self.assertEqual(np.allclose(together, alone, atol=1e-5), equal)

    def test_losses_and_routing_metrics(self):
        layer, x = two_experts(
            [[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]], expert_capacity=1, exploration="argmax"
        )
        layer(x, training=True)
        self.assertEqual(layer.losses, [])
        metrics = layer.get_routing_metrics()
        self.assertAlmostEqual(metrics["dropped"], 1 / 3, places=5)
        self.assertAlmostEqual(metrics["busiest"], 1.0, places=5)
        self.assertEqual(metrics["balance_loss"], 0.0)
        np.testing.assert_allclose(metrics["load"], [0.5, 0.5])
        layer = choosing(2, z_loss_weight=0.5)
        layer(tokens(3, 6), training=True)
        expected = 0.5 * layer.get_routing_metrics()["z_loss"]
        self.assertAlmostEqual(float(sum(layer.losses)), expected, places=5)

    @parameterized.parameters("jitter", "sample", "input_dropout")
    def test_noise_decides_in_training(self, exploration):
        layer = choosing(4, exploration=exploration, jitter=0.5)
        x = tokens(2, 16, 6)
        first, second, without = (
            ops.convert_to_numpy(layer.route(x, training=training).kept)
            for training in (True, True, False)
        )
        self.assertFalse(np.array_equal(first, second) and np.array_equal(first, without))
        np.testing.assert_array_equal(first.sum((0, 1)), [10] * 4)

    def test_eight_groups_one_by_one_draw_what_one_core_draws(self):
        x = tokens(8, 16, 6)
        kwargs = {"group_size": "row", "jitter": 0.5, "expert_dropout": 0.5}
        layer, fewer = choosing(4, **kwargs), choosing(4, **kwargs)
        outputs = run(layer, x, training=True)
        np.testing.assert_allclose(run(fewer, x[:3], training=True), outputs[:3], atol=1e-6)

    def test_an_empty_batch(self):
        layer = choosing(4)
        outputs = run(layer, np.zeros((0, 5, 6), "float32"), training=True)
        self.assertEqual(outputs.shape, (0, 5, 6))
        self.assertEqual(layer.get_routing_metrics()["dropped"], 0.0)

    @parameterized.parameters(False, True)
    def test_fit_with_unknown_shapes(self, jit):
        inputs = keras.Input((None, 6))
        # In bfloat16 an expert may choose another of two tokens that are almost equal to it.
        layer = SwitchDense(4, 8, routing="expert_choice", routing_metrics=False, dtype="float32")
        model = keras.Model(inputs, layer(inputs))
        model.compile("adam", "mse", jit_compile=jit)
        for length in (5, 12):
            x = tokens(8, length, 6)
            losses = model.fit(x, x, batch_size=4, epochs=2, verbose=0).history["loss"]
            self.assertLess(losses[-1], losses[0])
            expected = reference.switch_dense(layer, x[:4])[0]
            got = ops.convert_to_numpy(ops.cast(model.predict(x[:4], verbose=0), "float32"))
            np.testing.assert_allclose(got, expected, atol=1e-4)

    @parameterized.parameters(
        ({"overflow": "reroute"}, "`overflow` means nothing with `routing='expert_choice'`"),
        ({"overflow": "dropless"}, "Leave it at 'drop'. Received: overflow='dropless'"),
        ({"priority": "probability"}, "Leave it at 'position'"),
        ({"num_selected_experts": 2}, "Leave it at 1. Received: num_selected_experts=2"),
        ({"eval_capacity_factor": 1.0}, "Leave it at 2.0. Received: eval_capacity_factor=1.0"),
        ({"balance_loss_weight": 0.1}, "Leave it at 0.01. Received: balance_loss_weight=0.1"),
    )
    def test_options_that_mean_nothing_are_refused(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            choosing(4, **kwargs)

    def test_config(self):
        layer = choosing(4, balance_loss_weight=0.0)
        self.assertEqual(layer.get_config()["routing"], "expert_choice")
        again = SwitchDense.from_config(layer.get_config())
        self.assertEqual((again.routing, again.balance_loss_weight), ("expert_choice", 0.0))


if __name__ == "__main__":
    unittest.main()
