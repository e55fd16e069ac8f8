import unittest

import keras
import numpy as np
from absl.testing import parameterized
from block_helpers import compiled
from block_helpers import make
from block_helpers import numpy
from block_helpers import run
from block_helpers import tokens
from keras import ops

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import dropless

PARTS = ((0, 3), (3, 4), (4, 6))
# One row is whole, one is padded on the left, one has a short prompt and then goes on.
PADDED = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1]], bool)


def decode(block, x, encoded=None, parts=PARTS, max_length=8, padding=None, **kwargs):
    """The outputs of a prefill and of further steps."""
    heads, size = block.num_heads, block.key_value_dim
    cache = ops.zeros((len(x), 2, max_length, heads, size))
    crossed = None if encoded is None else ops.zeros((len(x), 2, encoded.shape[1], heads, size))
    outputs = []
    for start, stop in parts:
        state = {"self_attention_cache": cache, "cache_update_index": start} | kwargs
        if padding is not None:
            whole = np.ones((len(x), max_length), bool)
            whole[:, : padding.shape[1]] = padding
            state["padding_mask"] = ops.array(whole)
        piece = ops.array(x[:, start:stop])
        if encoded is None:
            y, cache = block(piece, **state)
        else:
            sequence = encoded if start == 0 else None
            y, cache, crossed = block(piece, sequence, cross_attention_cache=crossed, **state)
        outputs.append(numpy(y))
    return np.concatenate(outputs, axis=1)


class SharedKeysTest(parameterized.TestCase):
    """A cache of 2 rows serves 4 rows, and masks have a row for each of either."""

    def setUp(self):
        self.block = make(None, causal=True, cross_attention=True)
        self.x, self.encoded = tokens(4, 3, 8), tokens(2, 5, 8, seed=1)
        self.block(self.x, np.repeat(self.encoded, 2, 0))
        self.cache = self.block.make_cross_attention_cache(self.encoded)

    @parameterized.product(
        padding_rows=[None, 2, 4],
        mask_shape=[None, (2, 3, 5), (4, 3, 5), (1, 3, 5), (2, 1, 5), (4, 1, 5), (1, 1, 5)],
        is_known=[True, False],
    )
    def test_equals_as_many_rows(self, padding_rows, mask_shape, is_known):
        whole, shared = {}, {}
        rng = np.random.default_rng(0)

        def add(name, mask):
            mask[..., 0] = True
            shared[name] = ops.array(mask)
            whole[name] = np.repeat(mask, 4 // len(mask), 0)

        if padding_rows is not None:
            add("encoder_padding_mask", rng.random((padding_rows, 5)) > 0.3)
        if mask_shape is not None:
            add("cross_attention_mask", rng.random(mask_shape) > 0.3)
        expected = run(self.block, self.x, np.repeat(self.encoded, 2, 0), **whole)

        def call(x, cache, shared):
            return self.block(x, cross_attention_cache=cache, **shared)

        if not is_known and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            def unknown(x):
                return tf.TensorSpec((None, *x.shape[1:]), x.dtype)

            tensors = (ops.array(self.x), self.cache, shared)
            call = tf.function(call, tf.nest.map_structure(unknown, tensors))
        outputs = numpy(call(ops.array(self.x), self.cache, shared))
        np.testing.assert_allclose(outputs, expected, atol=1e-5)

    def test_other_numbers_of_rows_are_refused(self):
        for name, shape in (
            ("encoder_padding_mask", (3, 5)),
            ("encoder_padding_mask", (1, 5)),
            ("cross_attention_mask", (3, 3, 5)),
            ("cross_attention_mask", (2, 2, 5)),
        ):
            with self.assertRaisesRegex(ValueError, f"`{name}` must have rank .*{name}.shape="):
                mask = {name: ops.ones(shape, "bool")}
                self.block(self.x, cross_attention_cache=self.cache, **mask)

    def test_no_rows(self):
        outputs = self.block(self.x[:0], cross_attention_cache=self.cache[:0])
        self.assertEqual(outputs.shape, (0, 3, 8))


class CacheTest(parameterized.TestCase):
    @parameterized.product(cross=[False, True], expert_attention=[False, True])
    def test_cached_equals_uncached(self, cross, expert_attention):
        block = make(
            causal=True, cross_attention=cross, key_value_dim=3, expert_attention=expert_attention
        )
        x = tokens(2, 6, 8)
        encoded = tokens(2, 4, 8, seed=1) if cross else None
        mask = ops.array([[True] * 4, [True, True, False, False]])
        kwargs = {"encoder_padding_mask": mask} if cross else {}
        args = (encoded,) if cross else ()
        with dropless():
            expected = run(block, x, *args, **kwargs)
        for max_length in (6, 8):
            outputs = decode(block, x, encoded, max_length=max_length, **kwargs)
            np.testing.assert_allclose(outputs, expected, atol=1e-5)

    @parameterized.product(
        expert_attention=[False, True], relative_attention=[False, True], cross=[False, True]
    )
    def test_cached_equals_uncached_with_padding(self, expert_attention, relative_attention, cross):
        block = make(
            causal=True,
            key_value_dim=3,
            cross_attention=cross,
            expert_attention=expert_attention,
            relative_attention=relative_attention,
        )
        x = tokens(3, 6, 8)
        encoded = tokens(3, 4, 8, seed=1) if cross else None
        args = (encoded,) if cross else ()
        with dropless():
            expected = run(block, x, *args, padding_mask=ops.array(PADDED))
            unmasked = run(block, x, *args)
        for parts in (PARTS, ((0, 6),)):
            outputs = decode(block, x, encoded, parts, padding=PADDED)
            np.testing.assert_allclose(outputs[PADDED], expected[PADDED], atol=1e-5)
        self.assertGreater(np.abs(unmasked - expected)[PADDED].max(), 0.01)

    def test_left_padding_equals_no_padding(self):
        block = make(causal=True, key_value_dim=3)
        x = tokens(3, 6, 8)
        block(x)
        outputs = decode(block, x, padding=PADDED)
        alone = decode(block, x[1:2, 2:], parts=((0, 2), (2, 4)))
        np.testing.assert_allclose(outputs[1:2, 2:], alone, atol=1e-5)

    def test_packed_rows(self):
        block = make(causal=True, key_value_dim=3)
        x = tokens(1, 6, 8)
        segments = np.array([0, 0, 0, 0, 1, 1])
        with dropless():
            mask = segments[:, None] == segments
            expected = run(block, x, attention_mask=ops.array(mask[None]))
        mask = np.concatenate([mask, np.ones((6, 2), bool)], axis=1)[None]
        outputs = decode(block, x, parts=((0, 6),), attention_mask=ops.array(mask))
        np.testing.assert_allclose(outputs, expected, atol=1e-5)

    def test_shared_bias(self):
        block = make(causal=True, key_value_dim=3, relative_attention=False)
        shared = RelativePositionBias(2, bidirectional=False)
        x = tokens(2, 6, 8)
        with dropless():
            expected = run(block, x, position_bias=shared(x))
        row = shared(x[:, :1], tokens(1, 8, 1), offset=5)
        cache = ops.zeros((2, 2, 8, 2, 3))
        bias = shared(x[:, :5], tokens(1, 8, 1))
        state = {"self_attention_cache": cache, "cache_update_index": 0}
        _, cache = block(ops.array(x[:, :5]), position_bias=bias, **state)
        state = {"self_attention_cache": cache, "cache_update_index": 5}
        outputs, _ = block(ops.array(x[:, 5:]), position_bias=row, **state)
        np.testing.assert_allclose(outputs, expected[:, 5:], atol=1e-5)

    @parameterized.parameters("int32", "int64")
    def test_compiled_steps(self, dtype):
        block = make(causal=True, key_value_dim=3)
        x = tokens(3, 6, 8)
        block(x)
        expected = decode(block, x, padding=PADDED)
        whole = ops.array(np.concatenate([PADDED, np.ones((3, 2), bool)], axis=1))

        def step(piece, cache, index):
            return block(
                piece,
                padding_mask=whole,
                self_attention_cache=cache,
                cache_update_index=index,
                training=False,
            )

        step = compiled(step)
        cache = ops.zeros((3, 2, 8, 2, 3))
        for index in range(6):
            piece = ops.array(x[:, index : index + 1])
            outputs, cache = step(piece, cache, ops.array(index, dtype))
            seen = PADDED[:, index]
            np.testing.assert_allclose(numpy(outputs)[seen, 0], expected[seen, index], atol=1e-5)

    def test_symbolic_call_with_caches(self):
        block = make(causal=True, cross_attention=True)
        inputs, encoded = keras.KerasTensor((2, 1, 8)), keras.KerasTensor((2, 3, 8))
        cache, crossed = keras.KerasTensor((2, 2, 6, 2, 4)), keras.KerasTensor((2, 2, 3, 2, 4))
        outputs = block(
            inputs,
            encoded,
            padding_mask=keras.KerasTensor((2, 6), dtype="bool"),
            self_attention_cache=cache,
            cache_update_index=keras.KerasTensor((), dtype="int32"),
            cross_attention_cache=crossed,
        )
        shapes = [x.shape for x in outputs]
        self.assertEqual(shapes, [inputs.shape, cache.shape, crossed.shape])
        self.assertEqual(block.compute_output_shape((None, None, 8)), (None, None, 8))


if __name__ == "__main__":
    unittest.main()
