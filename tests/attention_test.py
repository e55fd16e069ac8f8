import unittest
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from block_helpers import numpy
from block_helpers import set_random_weights
from block_helpers import tokens
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.layers.attention import Attention
from keras_switch.layers.attention_masks import causal_mask
from keras_switch.layers.attention_masks import combine
from keras_switch.layers.feed_forward import FeedForward

EXPERTS = {
    "num_experts": 4,
    "intermediate_dim": 6,
    "activation": "gelu",
    "overflow": "dropless",
}


def make(num_heads=3, key_value_dim=5, dim=8, **kwargs):
    layer = Attention(num_heads, key_value_dim, **{"dtype": "float32"} | kwargs)
    layer.build((None, None, dim))
    set_random_weights(layer)
    return layer


def heads(layer, x):
    """`(batch, length, width)` split into the layer's heads."""
    return x.reshape(*x.shape[:2], layer.num_heads, layer.key_value_dim)


def projections(layer, queries, keys):
    """Queries, keys and values of all heads."""
    if layer.switch is None:
        kernels = [numpy(x.kernel) for x in (layer.query, layer.key, layer.value)]
        parts = [x @ kernel for x, kernel in zip((queries, keys, keys), kernels)]
    else:
        key_value = numpy(layer.key_value(keys))
        parts = [numpy(layer.query(queries)), key_value, key_value]
    return [heads(layer, part) for part in parts]


def attend(layer, queries, keys, bias=0.0, mask=True):
    """The layer in plain loops."""
    q, k, v = projections(layer, queries, keys)
    shape = (len(queries), layer.num_heads, queries.shape[1], keys.shape[1])
    bias, mask = np.broadcast_to(bias, shape), np.broadcast_to(mask, shape)
    outputs = np.zeros(q.shape, "float32")
    for batch, head, query in np.ndindex(shape[:3]):
        seen = mask[batch, head, query]
        logits = k[batch, seen, head] @ q[batch, query, head] + bias[batch, head, query, seen]
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        outputs[batch, query, head] = weights @ v[batch, seen, head]
    return outputs.reshape(*outputs.shape[:2], -1) @ numpy(layer.output_dense.kernel)


class ReferenceTest(parameterized.TestCase):
    @parameterized.product(
        switch=[None, EXPERTS],
        lengths=[(4, 4), (4, 6), (1, 6)],
        masked=[False, True],
        biased=[False, True],
    )
    def test_equals_the_loops(self, switch, lengths, masked, biased):
        layer = make(switch=switch)
        length, key_length = lengths
        x = tokens(2, length, 8)
        keys = x if length == key_length else tokens(2, key_length, 8, seed=1)
        shape = (2, 3, *lengths)
        bias = 2 * tokens(*shape, seed=2) if biased else None
        mask = np.ones(shape, bool)
        if masked:
            mask = np.random.default_rng(3).random((2, 1, *shape[2:])) < 0.5
            mask[..., 1] = True
        outputs, cache = layer(x, keys, bias=bias, attention_mask=ops.array(mask))
        self.assertIsNone(cache)
        expected = attend(layer, x, keys, 0.0 if bias is None else bias, mask)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)

    @parameterized.parameters((1, 8), (4, 2), (2, 7))
    def test_number_and_size_of_heads(self, num_heads, key_value_dim):
        layer = make(num_heads, key_value_dim)
        x = tokens(2, 5, 8)
        np.testing.assert_allclose(layer(x, x)[0], attend(layer, x, x), atol=1e-5)

    @parameterized.parameters((None,), (EXPERTS,))
    def test_steps_with_a_cache(self, switch):
        layer = make(switch=switch)
        x = tokens(2, 6, 8)
        expected = attend(layer, x, x, mask=np.tril(np.ones((6, 6), bool)))
        cache = ops.zeros((2, 2, 9, 3, 5))
        for start, stop in ((0, 3), (3, 4), (4, 6)):
            piece = ops.array(x[:, start:stop])
            mask = combine(None, causal_mask(stop - start, 9, start))
            outputs, cache = layer(
                piece, piece, attention_mask=mask, cache=cache, cache_update_index=start
            )
            np.testing.assert_allclose(outputs, expected[:, start:stop], atol=1e-5)
        _, k, v = projections(layer, x, x)
        np.testing.assert_allclose(cache[:, :, :6], np.stack([k, v], 1), atol=1e-5)
        np.testing.assert_array_equal(cache[:, :, 6:], np.zeros((2, 2, 3, 3, 5)))

    def test_a_filled_cache_needs_no_keys(self):
        layer = make()
        x, keys = tokens(2, 3, 8), tokens(2, 4, 8, seed=1)
        cache = ops.zeros((2, 2, 4, 3, 5))
        expected, cache = layer(x, keys, cache=cache, cache_update_index=0)
        outputs, same = layer(x, cache=cache, cache_update_index=0)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        np.testing.assert_array_equal(same, cache)

    def test_dropout_acts_on_the_weights_in_training_only(self):
        layer = make(dropout=0.5, seed=0)
        x = ops.array(tokens(2, 6, 8))
        expected = attend(layer, numpy(x), numpy(x))
        np.testing.assert_allclose(layer(x, x, training=False)[0], expected, atol=1e-5)
        trained = numpy(layer(x, x, training=True)[0])
        self.assertGreater(np.abs(trained - expected).max(), 0.01)

    def test_padding_takes_no_expert(self):
        layer = make(switch=EXPERTS)
        x = ops.array(tokens(1, 4, 8))
        mask = ops.array([[True, True, False, True]])
        cache = ops.zeros((1, 2, 4, 3, 5))
        _, cache = layer(x, x, query_mask=mask, key_mask=mask, cache=cache, cache_update_index=0)
        zero = [not np.any(numpy(cache)[0, :, position]) for position in range(4)]
        self.assertEqual(zero, [False, False, True, False])


class InitializationTest(parameterized.TestCase):
    def test_scales_are_those_of_t5(self):
        layer = Attention(8, 32, dtype="float32", seed=0)
        layer.build((None, None, 64))
        expected = {
            "query": (64 * 32) ** -0.5,
            "key": 64**-0.5,
            "value": 64**-0.5,
            "output_dense": (8 * 32) ** -0.5,
        }
        for name, stddev in expected.items():
            measured = numpy(getattr(layer, name).kernel).std()
            self.assertLess(abs(measured / stddev - 1), 0.03, name)

    def test_feed_forward(self):
        layer = FeedForward(256, gated=True, dtype="float32", seed=0)
        layer.build((None, None, 64))
        for name, size in (("input_dense", 64), ("gate_dense", 64), ("output_dense", 256)):
            measured = numpy(getattr(layer, name).kernel).std()
            self.assertLess(abs(measured / size**-0.5 - 1), 0.03, name)

    def test_feed_forward_takes_any_initializer(self):
        def constant(shape, dtype=None):
            return ops.full(shape, 2.0, dtype=dtype)

        unseeded = keras.initializers.RandomNormal()
        for initializer in (constant, "ones", unseeded):
            layer = FeedForward(8, gated=True, kernel_initializer=initializer, dtype="float32")
            layer.build((None, 8))
        first, second = numpy(layer.input_dense.kernel), numpy(layer.gate_dense.kernel)
        self.assertGreater(np.abs(first - second).max(), 0.01)
        layer = FeedForward(8, kernel_initializer=constant, dtype="float32")
        layer.build((None, 8))
        np.testing.assert_array_equal(layer.output_dense.kernel, np.full((8, 8), 2.0))


class SingleKeyTest(parameterized.TestCase):
    def test_warns_of_nothing(self):
        layer = make()
        x = tokens(2, 1, 8)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*softmax.*")
            outputs, _ = layer(x, x)
            values = numpy(layer.value(x))
            np.testing.assert_allclose(numpy(outputs), numpy(layer.output_dense(values)), atol=1e-6)

    def test_one_expert_warns_of_nothing(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*softmax.*")
            SwitchDense(1, 4)(tokens(2, 3, 8), training=True)


class PrecisionTest(parameterized.TestCase):
    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_bias_and_softmax_are_float32(self, dtype):
        layer = make(dtype=dtype)
        layer.query.kernel.assign(np.zeros(layer.query.kernel.shape))
        x = ops.cast(tokens(1, 2, 8), layer.compute_dtype)
        # bfloat16 has nothing between 1024 and 1032, float16 nothing between 1024 and 1025.
        bias = np.array([1024.0, 1024.5], "float32")
        for queries in (x, x[:, :1]):
            outputs = numpy(layer(queries, x, bias=ops.array(bias))[0])
            expected = attend(layer, numpy(queries), numpy(x), bias)
            np.testing.assert_allclose(outputs, expected, atol=0.02)
            flat = numpy(layer(queries, x)[0])
            self.assertGreater(np.abs(outputs - flat).max(), 0.05)

    @parameterized.parameters("float32", "mixed_bfloat16", "mixed_float16")
    def test_masks_stay_finite(self, dtype):
        layer = make(dtype=dtype)
        x = ops.cast(tokens(1, 3, 8), layer.compute_dtype)
        mask = np.array([[True, False, False], [True, True, False], [False, False, False]])
        outputs = numpy(layer(x, x, attention_mask=ops.array(mask[None, None]))[0])
        self.assertTrue(np.isfinite(outputs).all())
        expected = attend(layer, numpy(x)[:, :2], numpy(x)[:, :2], mask=mask[:2, :2])
        np.testing.assert_allclose(outputs[:, :2], expected, atol=0.03)


class MaskTest(unittest.TestCase):
    def test_causal_mask(self):
        expected = [[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]]
        np.testing.assert_array_equal(causal_mask(2, 5, 2), expected)

    def test_combine(self):
        padding = np.array([[1, 1, 0]])
        pairs = np.array([[[1, 0, 1], [0, 1, 1]]])
        self.assertIsNone(combine(None, None))
        both = combine(padding, pairs, None)
        np.testing.assert_array_equal(both, [[[[1, 0, 0], [0, 1, 0]]]])
        np.testing.assert_array_equal(combine(padding), padding[:, None, None])


if __name__ == "__main__":
    unittest.main()
