import unittest
from unittest import mock

import keras
import numpy as np
import reference
from absl.testing import parameterized
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from reference import assign
from reference import softmax

from keras_switch import backend
from keras_switch.layers import placement
from keras_switch.layers import routing


class LossTest(parameterized.TestCase):
    @parameterized.parameters((8, 1.0), (128, 1.0))
    def test_balance_loss_of_uniform_routing(self, num_experts, expected):
        p = np.full((1, num_experts, num_experts), 1 / num_experts, "float32")
        first = np.arange(num_experts, dtype="int32")[None]
        loss = routing.balance_loss(ops.array(p), ops.array(first), ops.ones((1, num_experts)))[0]
        self.assertAlmostEqual(float(loss), expected, places=5)

    @parameterized.parameters(8, 128)
    def test_balance_loss_of_one_busy_expert(self, num_experts):
        p = np.zeros((1, 10, num_experts), "float32")
        p[..., 0] = 1
        first = ops.zeros((1, 10), "int32")
        loss = routing.balance_loss(ops.array(p), first, ops.ones((1, 10)))[0]
        self.assertAlmostEqual(float(loss), num_experts, places=4)

    @parameterized.parameters((8, 4.3241), (128, 23.5422))
    def test_z_loss_of_zero_logits(self, num_experts, expected):
        loss = routing.z_loss(ops.zeros((1, 5, num_experts)), ops.ones((1, 5)))[0]
        self.assertAlmostEqual(float(loss), expected, places=3)

    def test_entropy_of_zero_logits(self):
        entropy = routing.entropy(ops.zeros((1, 5, 8)), ops.ones((1, 5)))[0]
        self.assertAlmostEqual(float(entropy), np.log(8), places=5)

    def test_padding_is_left_out_and_an_empty_group_counts_zero(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(1, 6, 4)).astype("float32")
        first = logits.argmax(-1).astype("int32")
        args = softmax(logits), first
        mask = np.ones((1, 6), "float32")
        loss = float(ops.mean(routing.balance_loss(*map(ops.array, (*args, mask)))))
        z = float(ops.mean(routing.z_loss(ops.array(logits), ops.array(mask))))

        def pad(x):
            row = np.concatenate([x, np.ones_like(x)], axis=1)
            return ops.array(np.concatenate([row, np.ones_like(row)]))

        mask = np.zeros((2, 12), "float32")
        mask[0, :6] = 1
        padded = ops.mean(routing.balance_loss(*map(pad, args), ops.array(mask)))
        self.assertAlmostEqual(float(padded), loss / 2, places=5)
        padded = ops.mean(routing.z_loss(pad(logits), ops.array(mask)))
        self.assertAlmostEqual(float(padded), z / 2, places=5)


class CapacityTest(parameterized.TestCase):
    @parameterized.parameters(
        (1024, 1.25, 128, 10), (100, 1.25, 8, 15), (16, 1.0, 8, 4), (1, 1.25, 8, 4), (8, 9.0, 2, 8)
    )
    def test_capacity(self, size, factor, num_experts, expected):
        self.assertEqual(routing.expert_capacity(size, factor, num_experts, 4), expected)
        tensor = routing.expert_capacity(ops.array(size, "int32"), factor, num_experts, 4)
        self.assertEqual(int(tensor), expected)

    def test_capacity_is_the_same_of_numbers_and_of_32_bits(self):
        sizes = np.unique(np.geomspace(1, 2**24, 3000).astype("int32"))
        vectorized = mock.patch.multiple(backend, larger=np.maximum, smaller=np.minimum)
        for factor in (0.5, 0.75, 1, 1.05, 1.1, 1.2, 1.25, 1.33, 1.5, 2.0, 2.5, 4.0, 100.0, 1e9):
            for num_experts in (1, 3, 8, 64, 100, 2048):
                with vectorized:
                    capacities = routing.expert_capacity(sizes, factor, num_experts, 4)
                self.assertEqual(capacities.dtype, "int32")
                numbers = [reference.capacity(int(s), factor, num_experts, 4) for s in sizes]
                np.testing.assert_array_equal(capacities, numbers, f"{factor}, {num_experts}")

    def test_capacity_is_not_a_slot_short_where_a_float_is(self):
        self.assertEqual(int(45 * 1.4), 62)
        self.assertEqual(routing.expert_capacity(45, 1.4, 1, 4), 45)
        self.assertEqual(routing.expert_capacity(90, 1.4, 2, 4), 63)
        tensor = routing.expert_capacity(ops.array(90, "int32"), 1.4, 2, 4)
        self.assertEqual(int(tensor), 63)


class SelectTest(unittest.TestCase):
    def test_ties_go_to_the_first(self):
        scores = np.array([[[0.0, 2, 1, 2], [-0.0, 0, 0, -0.0], [-1, -3, -1, -2]]], "float32")
        for num_selected, expected in ((1, [[1], [0], [0]]), (2, [[1, 3], [0, 1], [0, 2]])):
            chosen = routing.select(ops.array(np.abs(scores)[:, :2]), num_selected)
            np.testing.assert_array_equal(chosen, [expected[:2]])
        chosen = routing.select(ops.array(scores), 1)
        self.assertEqual(np.asarray(chosen)[..., 0].tolist(), [[1, 0, 0]])
        self.assertEqual(keras.backend.standardize_dtype(chosen.dtype), "int32")


class PlanTest(parameterized.TestCase):
    def check(self, seed, groups, size, num_experts, num_selected, slots, priority, overflow):
        rng = np.random.default_rng(seed)
        p = softmax(rng.normal(size=(groups, size, num_experts))).astype("float32")
        mask = rng.random((groups, size)) < 0.8
        tries = min(4, num_experts) if overflow == "reroute" else num_selected
        choices = routing.select(ops.array(p), tries)
        likelihood = routing.gates(ops.array(p), choices, False)
        likelihood = likelihood if priority == "probability" else None
        args = (choices, ops.array(mask), num_experts, slots, likelihood)
        if overflow == "reroute":
            plan, _ = placement.plan_with_rerouting(*args)
        else:
            plan = placement.plan(*args)
        slot, entry = (ops.convert_to_numpy(x) for x in (plan.slots_GKS, plan.entries_GN))
        for group in range(groups):
            expected = np.full(slot.shape[1:], -1)
            filled = np.zeros(num_experts, int)
            service = assign(p[group], mask[group], num_selected, slots, priority, overflow)
            for token, stage, expert, kept in service:
                if kept:
                    row = 0 if overflow == "reroute" else stage
                    expected[row, token] = expert * slots + filled[expert]
                    filled[expert] += 1
            np.testing.assert_array_equal(slot[group], expected)
            for place, owner in enumerate(entry[group]):
                if owner >= 0:
                    self.assertEqual(slot[group].reshape(-1)[owner], place)
            self.assertEqual((entry[group] >= 0).sum(), (slot[group] >= 0).sum())

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 10**6),
        st.integers(1, 3),
        st.integers(1, 24),
        st.integers(1, 6),
        st.integers(1, 2),
        st.integers(1, 8),
        st.sampled_from(["position", "probability"]),
        st.sampled_from(["drop", "reroute"]),
    )
    def test_equals_the_loop(
        self, seed, groups, size, experts, selected, slots, priority, overflow
    ):
        selected = 1 if overflow == "reroute" else min(selected, experts)
        self.check(seed, groups, size, experts, selected, slots, priority, overflow)

    def test_earliest_tokens_win(self):
        choices = ops.zeros((1, 10, 1), "int32")
        plan = placement.plan(choices, ops.ones((1, 10), "bool"), 2, 4)
        slots = ops.convert_to_numpy(plan.slots_GKS)[0, 0]
        np.testing.assert_array_equal(slots, [0, 1, 2, 3, -1, -1, -1, -1, -1, -1])

    def test_rerouting_fills_four_experts(self):
        p = softmax(np.tile(np.arange(8.0)[::-1], (1, 16, 1)) / 10).astype("float32")
        choices = routing.select(ops.array(p), 4)
        mask = ops.ones((1, 16), "bool")
        plan, experts = placement.plan_with_rerouting(choices, mask, 8, 4)
        np.testing.assert_array_equal(ops.convert_to_numpy(plan.slots_GKS)[0, 0], np.arange(16))
        self.assertEqual(ops.convert_to_numpy(experts)[0, 15, 0], 3)


if __name__ == "__main__":
    unittest.main()
