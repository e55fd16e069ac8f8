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

from keras_switch.layers import dropless

# JAX compiles each operation of each shape.
EXAMPLES = 25 if keras.backend.backend() == "tensorflow" else 5

# Batch, length, experts, kind of routing, groups, capacity, seed.
SETTINGS = (
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 5),
    st.fixed_dictionaries(
        {
            "num_selected_experts": st.integers(1, 2),
            "overflow": st.sampled_from(["drop", "reroute", "dropless"]),
            "priority": st.sampled_from(["position", "probability"]),
        }
    )
    | st.just({"routing": "expert_choice"}),
    st.sampled_from([{}, {"group_size": 5}, {"group_size": "row"}, {"num_groups": 2}]),
    st.sampled_from([{}, {"expert_capacity": 2}, {"eval_capacity_factor": 0.5, "min_capacity": 1}]),
    st.integers(0, 10**6),
)


def fitting(kwargs, capacity, num_experts):
    """The arguments, with as many selected experts as may be."""
    if "routing" in kwargs:
        names = {"eval_capacity_factor": "capacity_factor"}
        return kwargs | {names.get(name, name): value for name, value in capacity.items()}
    most = 1 if kwargs["overflow"] == "reroute" else num_experts
    selected = min(kwargs["num_selected_experts"], most)
    return {**kwargs, **capacity, "num_selected_experts": selected}


def example(batch, length, seed, dtype="float32"):
    """Tokens that are exact in the dtype, and a mask."""
    x = ops.cast(tokens(batch, length, 6, seed=seed), dtype)
    mask = np.random.default_rng(seed).random((batch, length)) < 0.8
    return ops.convert_to_numpy(ops.cast(x, "float32")), mask


class ReferenceTest(parameterized.TestCase):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(*SETTINGS, st.sampled_from(["float32", "bfloat16"]))
    def test_equals_the_loop(
        self, batch, length, num_experts, kwargs, groups, capacity, seed, dtype
    ):
        layer = make(
            num_experts,
            dtype=dtype,
            seed=seed,
            **fitting(kwargs, capacity, num_experts),
            **groups,
        )
        x, mask = example(batch, length, seed, dtype)
        outputs = run(layer, x, mask=ops.array(mask))
        expected, _ = reference.switch_dense(layer, x, mask)
        tolerance = 1e-4 if dtype == "float32" else 2e-2 * np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(outputs, expected, atol=tolerance)
        self.assertTrue((outputs[~mask] == 0).all())
        kept = ops.convert_to_numpy(layer.route(x, ops.array(mask)).kept).any(-1)
        self.assertTrue((outputs[~kept] == 0).all())

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(*SETTINGS)
    def test_gradients_equal_those_of_all_experts_on_all_tokens(
        self, batch, length, num_experts, kwargs, groups, capacity, seed
    ):
        kwargs = {**fitting(kwargs, capacity, num_experts), **groups}
        layer = make(num_experts, seed=seed, **kwargs)
        x, mask = example(batch, length, seed)
        layer(x)
        weight = np.cos(np.arange(x.size)).reshape(x.shape).astype("float32")
        assigned = reference.assignments(layer, x, mask)

        def ours(x):
            return ops.sum(layer(x, mask=ops.array(mask)) * weight)

        def theirs(x):
            return ops.sum(reference.all_experts(layer, x, assigned) * weight)

        value, grads = layer_gradients(layer, ours, x)
        expected, expected_grads = layer_gradients(layer, theirs, x)
        np.testing.assert_allclose(value, expected, atol=1e-4)
        for gradient, wanted in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(gradient, wanted, atol=1e-4)

    def test_expert_choice_equals_one_hot_dispatch_with_gradients(self):
        layer = make(8, routing="expert_choice", capacity_factor=1.25)
        x = tokens(32, 6)
        layer(x)
        taken = reference.assignments(layer, x)
        self.assertEqual(taken.sum(0).tolist(), [5] * 8)
        self.assertLessEqual({0, 1, 2, 3}, set(taken.sum(1)))
        weight = np.cos(np.arange(32 * 6)).reshape(32, 6).astype("float32")

        def ours(x):
            return ops.sum(layer(x) * weight)

        def theirs(x):
            return ops.sum(reference.one_hot_expert_choice(layer, x, taken) * weight)

        value, grads = layer_gradients(layer, ours, x)
        expected, expected_grads = layer_gradients(layer, theirs, x)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        for gradient, wanted in zip(grads, expected_grads, strict=True):
            self.assertGreater(np.abs(wanted).max(), 0)
            np.testing.assert_allclose(gradient, wanted, atol=1e-4)

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
        for gradient, wanted in zip(grads, expected_grads, strict=True):
            self.assertGreater(np.abs(wanted).max(), 0)
            np.testing.assert_allclose(gradient, wanted, atol=1e-4)

    @parameterized.parameters(
        {"overflow": "drop", "num_selected_experts": 2},
        {"overflow": "dropless", "num_selected_experts": 2},
        {"routing": "expert_choice"},
    )
    def test_gradients_equal_finite_differences(self, **kwargs):
        normal = keras.initializers.RandomNormal(0, 1, seed=5)
        layer = make(3, activation="tanh", gated=True, kernel_initializer=normal, **kwargs)
        x = tokens(2, 7, 4)
        start = layer.route(x)
        experts, taken = ops.convert_to_numpy(start.experts), ops.convert_to_numpy(start.kept)
        _, grads = layer_gradients(layer, lambda x: ops.sum(ops.square(layer(x))), x)
        for variable, gradient in zip(layer.trainable_variables, grads[1:], strict=True):
            value = np.asarray(variable)
            direction = gradient / np.linalg.norm(gradient)
            values = []
            for step in (1e-2, -1e-2):
                variable.assign(value + step * direction)
                # The loss is smooth only while no token changes its experts.
                record = layer.route(x)
                np.testing.assert_array_equal(ops.convert_to_numpy(record.experts), experts)
                np.testing.assert_array_equal(ops.convert_to_numpy(record.kept), taken)
                values.append(float(ops.sum(ops.square(layer(x)))))
            variable.assign(value)
            slope = (values[0] - values[1]) / 2e-2
            self.assertGreater(slope, 0.1)
            self.assertAlmostEqual(slope / np.linalg.norm(gradient), 1.0, delta=0.02)

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


if __name__ == "__main__":
    unittest.main()
