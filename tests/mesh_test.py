"""Meshes on the TensorFlow backend: any layout gives what one core gives."""

import collections
import functools
import unittest
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import keras
import mesh_helpers
import numpy as np
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import X
from mesh_helpers import Y
from mesh_helpers import assert_same
from mesh_helpers import compiled
from mesh_helpers import dense
from mesh_helpers import fit
from mesh_helpers import stepper
from mesh_helpers import switch
from switch_helpers import tokens

from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import dropless

if IS_TENSORFLOW:
    import tensorflow as tf

    from keras_switch.tpu.tensorflow import exchange

# Each layer of the model of all features has one of these.
FEATURES = (
    {"overflow": "dropless", "num_selected_experts": 2, "gated": True, "expert_dropout": 0.2},
    {"overflow": "reroute", "exploration": "sample", "z_loss_weight": 0.1},
    {"priority": "probability", "exploration": "input_dropout", "expert_dropout": 0.2},
    {"num_groups": None, "group_size": 4, "output_dim": 6},
    {"num_groups": None, "group_size": "row", "num_selected_experts": 2, "min_capacity": 1},
    {"routing": "expert_choice", "expert_dropout": 0.2, "z_loss_weight": 0.1, "min_capacity": 1},
)


def all_features(features=FEATURES):
    inputs = keras.Input((4, 6))
    x = dense(6, 1)(keras.layers.Masking()(inputs))
    for seed, kwargs in enumerate(features):
        x = keras.layers.Add()([x, switch(seed=seed, **kwargs)(x)])
    return keras.Model(inputs, x)


def blocks():
    """An encoder and a decoder, whose embeddings give masks."""
    ids, text = (keras.Input((4,), dtype="int32") for _ in range(2))
    embedding = keras.layers.Embedding(9, 8, "glorot_uniform", mask_zero=True, dtype="float32")
    embedding.build()
    embedding.embeddings.assign(tokens(9, 8))
    args = {
        "num_heads": 2,
        "intermediate_dim": 4,
        "num_experts": 8,
        "dtype": "float32",
        "switch": {"num_groups": 8},
    }
    encoded = SwitchTransformerBlock(**args, expert_attention=True, seed=1)(embedding(ids))
    decoder = SwitchTransformerBlock(**args, causal=True, cross_attention=True, seed=2)
    return keras.Model([ids, text], decoder(embedding(text), encoded))


class LateSwitch(keras.layers.Layer):
    """It makes its layer as late as it can."""

    def build(self, shape):
        self.switch = switch(name="switch")
        self.switch.build(shape)

    def call(self, x, training=None):
        return x + self.switch(x, training=training)


class Recomputed(keras.layers.Layer):
    """A Switch layer that keeps nothing for the backward pass."""

    def __init__(self):
        super().__init__()
        self.switch = switch(name="switch")

    def build(self, shape):
        self.switch.build(shape)

    def call(self, x, training=None):
        return x + keras.remat(lambda x: self.switch(x, training=training))(x)


@functools.cache
def one_core():
    trained = compiled(ONE_CORE)
    return trained, fit(trained)


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class MeshTest(unittest.TestCase):
    def assert_steps_same(self, name, build, inputs, target):
        """Compares two steps, so that noise differs from step to step."""
        ours, theirs = (stepper(compiled(x, build=build)) for x in (name, ONE_CORE))
        seen = []
        for _ in range(2):
            seen.append(theirs(inputs, target))
            assert_same(ours(inputs, target), seen[-1])
        return seen

    def test_training_equals_one_core(self):
        _, expected = one_core()
        self.assertIn("switch/balance_loss", expected.history)
        for name in ("1", "2", "8", "2 outer, 4 inner", "4x2", "2x2x2", "experts whole"):
            with self.subTest(name):
                assert_same(fit(compiled(name)), expected)

    def test_every_feature_has_the_same_outputs_losses_and_gradients(self):
        x = X[:16].copy()
        x[3, 1:] = x[8:10] = 0  # Padding, and a core without anything else.
        # Along an outer axis only the noise of experts differs from the rest.
        cases = (
            ("2x2", FEATURES),
            ("2 outer, 2 inner", FEATURES[:3:2]),
            ("8", FEATURES[-1:]),
        )
        for name, features in cases:
            build = functools.partial(all_features, features)
            with self.subTest(name):
                first, second = self.assert_steps_same(name, build, [x], tokens(16, 4, 6))
                self.assertGreater(np.abs(first[0] - second[0]).max(), 1e-3)
                self.assertGreater(min(np.abs(g).max() for g in first[2]), 1e-6)

    def test_blocks_with_masks_cross_attention_and_expert_attention(self):
        rng = np.random.default_rng(0)
        ids, text = rng.integers(1, 9, (2, 16, 4)).astype("int32")
        ids[:, 3], text[5:, 2:] = 0, 0
        first, _ = self.assert_steps_same("2x2", blocks, [ids, text], tokens(16, 4, 8))
        self.assertGreater(min(np.abs(g).max() for g in first[2]), 1e-7)

    def test_a_rematerialized_layer(self):
        def build():
            inputs = keras.Input((4, 6))
            return keras.Model(inputs, dense(3, 2)(Recomputed()(dense(6, 1)(inputs))))

        ours, theirs = (fit(compiled(name, build=build)) for name in ("2x2", ONE_CORE))
        assert_same(ours, theirs)

    def test_calls_outside_training_are_whole(self):
        alone, _ = one_core()
        split = compiled("2x2x2")
        for variable, value in zip(split.variables, alone.variables):
            variable.assign(value)
        expected = alone.predict(X, verbose=0)
        assert_same([split.predict(X, verbose=0)], [expected])
        assert_same([split(X[:32]).numpy()], [alone(X[:32]).numpy()])
        losses = [x.evaluate(X, Y, batch_size=160, verbose=0) for x in (split, alone)]
        assert_same(losses[:1], losses[1:])

    def test_what_is_built_late_is_split(self):
        def build():
            return keras.Sequential([dense(6, 1), LateSwitch(), dense(3, 2)])

        late = compiled("2x2", build=build)
        assert_same(fit(late), one_core()[1])
        self.assertEqual(late.layers[1].switch.kernel_in.slices[0].shape, (4, 6, 2))

    def test_dropless_around_a_call_reaches_all_cores(self):
        def build():
            return mesh_helpers.model(eval_capacity_factor=0.1, min_capacity=1)

        split, alone = (compiled(name, build=build) for name in ("4", ONE_CORE))
        drops = alone.predict(X, verbose=0)
        alone.predict_function = None
        with dropless():
            ours, expected = (x.predict(X, verbose=0) for x in (split, alone))
        assert_same([ours], [expected])
        self.assertGreater(np.abs(drops - expected).max(), 1e-3)

    def test_what_crosses_has_the_compute_dtype(self):
        def build():
            inputs = keras.Input((4, 6))
            return keras.Model(inputs, switch(dtype=None)(dense(6, 1)(inputs)))

        with mock.patch.object(exchange, "_swap", wraps=exchange._swap) as swap:
            stepper(compiled("4", build=build))([X[:16]], tokens(16, 4, 6))
        dtypes = collections.Counter(call.args[0].dtype.name for call in swap.call_args_list)
        # Two all-to-alls forward and two backward, on each of four cores.
        self.assertEqual(dtypes, {"bfloat16": 16})

    def test_batches_that_do_not_divide_over_the_cores(self):
        split = compiled("4")
        with self.assertRaisesRegex(Exception, "divide over the 4 cores.*drop_remainder"):
            split.fit(X[:18], Y[:18], batch_size=8, verbose=0)
        data = tf.data.Dataset.from_tensor_slices((X[:18], Y[:18]))
        with self.assertRaisesRegex(ValueError, "drop_remainder=True.*Received: a batch of 6"):
            split.fit(data.batch(6, drop_remainder=True), verbose=0)
        assert_same(
            [split.evaluate(data.batch(8, drop_remainder=True), verbose=0)],
            [split.evaluate(X[:16], Y[:16], batch_size=8, verbose=0)],
        )

    @hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
    @hypothesis.given(
        st.sampled_from(["2", "2x2", "experts whole"]),
        st.integers(1, 3),
        st.integers(1, 5),
        st.integers(1, 4),
        st.sampled_from(["drop", "reroute", "dropless"]),
        st.booleans(),
    )
    def test_shapes(self, name, experts, length, rows, overflow, gated):
        def build():
            inputs = keras.Input((length, 5))
            layer = switch(
                num_experts=2 * experts,
                num_groups=4,
                overflow=overflow,
                gated=gated,
                num_selected_experts=min(2, experts),
            )
            return keras.Model(inputs, layer(dense(5, 1)(inputs)))

        x = tokens(4 * rows, length, 5)
        self.assert_steps_same(name, build, [x], tokens(4 * rows, length, 5, seed=1))


if __name__ == "__main__":
    unittest.main()
