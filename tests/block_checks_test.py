import unittest

import keras
from absl.testing import parameterized
from block_helpers import make
from block_helpers import tokens
from keras import ops

from keras_switch.layers import SwitchTransformerBlock

ARGUMENTS = [
    ({"num_heads": 0}, "`num_heads` must be a positive integer"),
    ({"intermediate_dim": -1}, "`intermediate_dim` must be a positive integer"),
    ({"num_experts": 0}, "`num_experts` must be a positive integer"),
    ({"key_value_dim": 0}, "`key_value_dim` must be a positive integer"),
    ({"dropout": 1.0}, "`dropout` must be a finite number"),
    ({"layer_norm_epsilon": 0.0}, "`layer_norm_epsilon` must be a finite positive number"),
    ({"causal": "yes"}, "`causal` must be True or False"),
    ({"seed": 1.0}, "`seed` must be an integer or `None`. Received: seed=1.0"),
    ({"num_buckets": 0}, "`num_buckets` must be a positive integer"),
    ({"max_distance": 1.5}, "`max_distance` must be a positive integer"),
    ({"switch": {"capacity": 2}}, "Received: \\['capacity'\\]"),
    ({"num_experts": None, "switch": {"jitter": 0.0}}, "need `num_experts`"),
    ({"num_experts": None, "expert_attention": True}, "need `num_experts`"),
    ({"causal": True, "switch": {"priority": "probability"}}, "later tokens would decide"),
]

SHAPES = [
    ({"num_heads": 3}, (2, 5, 8), "`num_heads` must divide"),
    ({"num_heads": 2}, (5, 8), "needs inputs `\\(batch, length, dim\\)`"),
    ({"num_heads": 2}, (2, 5, None), "last dimension is known"),
]

X = (2, 5, 8)
MASK = "bool"
CACHE = (2, 2, 5, 2, 4)
CAUSAL = {"causal": True}
CROSS = {"cross_attention": True}
BOTH = CAUSAL | CROSS
# The block's arguments, the shape of each tensor of the call, and the message.
CALLS = [
    ({}, {"encoder_sequence": X}, "`encoder_sequence` needs a block with `cross_attention=True`"),
    ({}, {"cross_attention_cache": CACHE}, "`cross_attention_cache` needs a block with `cross_"),
    (CROSS, {}, "Received neither"),
    (CROSS, {"encoder_sequence": (2, 3, 6)}, "`encoder_sequence` must have rank 3 and be as wide"),
    ({}, {"cache_update_index": 0}, "`cache_update_index` needs `self_attention_cache`"),
    ({}, {"self_attention_cache": CACHE, "cache_update_index": 0}, "`causal=True`"),
    (CAUSAL, {"self_attention_cache": CACHE}, "needs `cache_update_index`"),
    (
        BOTH,
        {"encoder_sequence": X, "self_attention_cache": CACHE, "cache_update_index": 0},
        "needs `cross_attention_cache`",
    ),
    (
        CROSS,
        {"encoder_sequence": (2, 3, 8), "cross_attention_cache": CACHE},
        "`cross_attention_cache` must be as long as `encoder_sequence`.*"
        "encoder_sequence.shape=\\(2, 3, 8\\), cross_attention_cache.shape=\\(2, 2, 5, 2, 4\\)",
    ),
    (
        CROSS,
        {"encoder_sequence": (2, 6, 8), "cross_attention_cache": CACHE},
        "`cross_attention_cache` must be as long as `encoder_sequence`",
    ),
    ({}, {"position_bias": (1, 2, 5, 5)}, "`position_bias` needs .* `relative_attention=False`"),
    (
        {"relative_attention": False},
        {"position_bias": (1, 3, 5, 5)},
        "`position_bias` must have rank 4 and broadcast to the shape \\(2, 2, 5, 5\\)",
    ),
    ({}, {"padding_mask": (2, 4)}, "`padding_mask` must have rank 2 and have the shape \\(2, 5\\)"),
    ({}, {"padding_mask": (1, 5)}, "`padding_mask` must have .* padding_mask.shape=\\(1, 5\\)"),
    ({}, {"padding_mask": (2, 5, 5)}, "`padding_mask` must have rank 2"),
    ({}, {"attention_mask": (2, 5)}, "`attention_mask` must have rank 3 and broadcast to"),
    (
        CROSS,
        {"encoder_sequence": X, "encoder_padding_mask": (2, 4)},
        "`encoder_padding_mask` must have rank 2",
    ),
    (
        CROSS,
        {"encoder_sequence": X, "cross_attention_mask": (2, 5)},
        "`cross_attention_mask` must have rank 3",
    ),
]

ROOM = "must find room in `self_attention_cache`.*Received: cache_update_index="
# The shape of the cache, its index, further tensors of the call, and the message.
CACHES = [
    ((2, 5, 2, 4), 0, {}, "`self_attention_cache` must have the shape"),
    ((2, 3, 5, 2, 4), 0, {}, "here \\(2, 2, None, 2, 4\\)"),
    ((3, 2, 5, 2, 4), 0, {}, "self_attention_cache.shape=\\(3, 2, 5, 2, 4\\)"),
    ((2, 2, 5, 3, 4), 0, {}, "self_attention_cache.shape=\\(2, 2, 5, 3, 4\\)"),
    ((2, 2, 5, 2, 5), 0, {}, "self_attention_cache.shape=\\(2, 2, 5, 2, 5\\)"),
    (CACHE, 1, {}, ROOM + "1, a length of 5 and a cache of 5"),
    (CACHE, -1, {}, ROOM + "-1"),
    ((2, 2, 4, 2, 4), keras.KerasTensor((), "int32"), {}, ROOM),
    (CACHE, True, {}, "`cache_update_index` must be an integer.*Received: cache_update_index=True"),
    (CACHE, 0.0, {}, "must be an integer or an integer scalar tensor"),
    (CACHE, keras.KerasTensor((1,), "int32"), {}, "must be an integer or an integer scalar"),
    (CACHE, keras.KerasTensor((), "float32"), {}, "must be an integer or an integer scalar"),
    ((2, 2, 7, 2, 4), 0, {"padding_mask": (2, 5)}, "`padding_mask` .* the shape \\(2, 7\\)"),
    ((2, 2, 7, 2, 4), 0, {"attention_mask": (2, 5, 5)}, "`attention_mask` .* \\(2, 5, 7\\)"),
]


def tensors(call):
    """Symbolic tensors of the shapes of a call."""
    return {
        name: keras.KerasTensor(x, MASK if "mask" in name else "float32")
        if isinstance(x, tuple)
        else x
        for name, x in call.items()
    }


def values(call):
    """Tensors like the symbolic ones."""
    return {
        name: ops.ones(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x
        for name, x in call.items()
    }


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(*ARGUMENTS)
    def test_arguments(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            kwargs = {"num_heads": 2, "intermediate_dim": 8, "num_experts": 4} | kwargs
            SwitchTransformerBlock(**kwargs)

    @parameterized.parameters(*SHAPES)
    def test_shapes(self, kwargs, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchTransformerBlock(intermediate_dim=8, **kwargs).build(shape)

    @parameterized.parameters(*CALLS)
    def test_calls(self, init, call, message):
        self.check(init, tensors(call), message)

    @parameterized.parameters(*CACHES)
    def test_caches(self, cache, index, call, message):
        call = {"self_attention_cache": cache} | call
        self.check(CAUSAL, tensors(call) | {"cache_update_index": index}, message)

    def check(self, init, call, message):
        """The same message for symbolic tensors and for real ones."""
        with self.assertRaisesRegex(ValueError, message):
            make(**init)(keras.KerasTensor(X), **call)
        with self.assertRaisesRegex(ValueError, message):
            make(**init)(tokens(*X), **values(call))

    def test_mask_is_checked_as_the_padding_mask(self):
        with self.assertRaisesRegex(ValueError, "`padding_mask` must have rank 2"):
            make()(tokens(*X), mask=ops.ones((2, 4), "bool"))

    @parameterized.parameters(1, 4)
    def test_another_width(self, width):
        block = make(cross_attention=True)
        block(tokens(2, 5, 8), tokens(2, 3, 8))
        message = f"as wide as those that the block was built for, 8.*5, {width}\\)"
        for inputs in (tokens(2, 5, width), keras.Input((5, width))):
            with self.assertRaisesRegex(ValueError, message):
                block(inputs, inputs)
        with self.assertRaisesRegex(ValueError, f"as wide as the inputs.*2, 3, {width}\\)"):
            block(tokens(2, 5, 8), tokens(2, 3, width))
        with self.assertRaisesRegex(ValueError, f"axis -1.*value 8.*2, 3, {width}\\)"):
            block.make_cross_attention_cache(tokens(2, 3, width))

    def test_integer_inputs(self):
        with self.assertRaisesRegex(ValueError, "needs floating point inputs.*dtype=int32"):
            make()(ops.ones((2, 5, 8), "int32"))

    def test_unknown_sizes_pass(self):
        block = make(**BOTH)
        cache = keras.KerasTensor((None, 2, None, 2, 4))
        outputs = block(
            keras.KerasTensor((None, None, 8)),
            keras.KerasTensor((None, None, 8)),
            padding_mask=keras.KerasTensor((None, None), "bool"),
            self_attention_cache=cache,
            cache_update_index=3,
            cross_attention_cache=cache,
        )
        self.assertEqual(outputs[0].shape, (None, None, 8))


if __name__ == "__main__":
    unittest.main()
