import json
import os
import tempfile
import unittest
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from keras import ops
from keras.src.testing import TestCase as KerasTestCase
from switch_dense_test import tokens

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import dropless
from keras_switch.layers.relative_position_bias import relative_position_bucket


def make(num_experts=4, **kwargs):
    return SwitchTransformerBlock(2, 16, num_experts, **{"dtype": "float32"} | kwargs)


def run(layer, *args, **kwargs):
    outputs = layer(*args, **kwargs)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    return np.asarray(ops.convert_to_numpy(ops.cast(outputs, "float32")))


class RelativePositionBiasTest(KerasTestCase):
    def buckets(self, positions, bidirectional):
        positions = ops.array(positions, "int32")
        return list(
            ops.convert_to_numpy(relative_position_bucket(positions, bidirectional, 32, 128))
        )

    def test_bidirectional_buckets(self):
        positions = [0, -1, 1, -8, 8, -16, -64, -127, 128]
        self.assertEqual(self.buckets(positions, True), [0, 1, 17, 8, 24, 10, 14, 15, 31])

    def test_causal_buckets(self):
        positions = [5, -15, -16, -20, -32, -64, -128]
        self.assertEqual(self.buckets(positions, False), [0, 15, 16, 17, 21, 26, 31])

    def test_offset_is_a_later_row(self):
        layer = RelativePositionBias(2, bidirectional=False)
        whole = layer(tokens(1, 9, 4))
        row = layer(tokens(1, 1, 4), tokens(1, 9, 4), offset=6)
        self.assertAllClose(row[:, :, 0], whole[:, :, 6])

    def test_layer(self):
        self.run_layer_test(
            RelativePositionBias,
            init_kwargs={"num_heads": 2},
            input_shape=(2, 5, 6),
            expected_output_shape=(1, 2, 5, 5),
            expected_num_trainable_weights=1,
            expected_num_non_trainable_weights=0,
            run_training_check=False,
            run_mixed_precision_check=False,
        )

    def test_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "`num_heads` must be a positive integer"):
            RelativePositionBias(0)
        with self.assertRaisesRegex(ValueError, "`num_buckets` must be at least 4"):
            RelativePositionBias(2, num_buckets=2)
        with self.assertRaisesRegex(ValueError, "max_distance=16"):
            RelativePositionBias(2, num_buckets=32, max_distance=16)


class T5Test(parameterized.TestCase):
    @parameterized.product(decoder=[False, True], gated=[False, True])
    def test_dense_block_equals_kerashub(self, decoder, gated):
        from keras_hub.src.models.t5.t5_transformer_layer import T5TransformerLayer

        theirs = T5TransformerLayer(
            is_decoder=decoder,
            hidden_dim=12,
            intermediate_dim=16,
            key_value_dim=5,
            dropout=0.0,
            activation="gelu" if gated else "relu",
            layer_norm_epsilon=1e-6,
            num_heads=2,
            use_gated_activation=gated,
            use_relative_attention_bias=True,
        )
        x, encoded = tokens(2, 7, 12), tokens(2, 5, 12, seed=1)
        kwargs = {"use_causal_mask": True, "encoder_hidden_states": encoded} if decoder else {}
        mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
        kwargs["attention_mask"] = ops.array(mask[:, None] * np.ones((1, 7, 1)), "int32")
        theirs(x, **kwargs)
        activation = keras.activations.gelu if gated else "relu"
        ours = make(
            None,
            causal=decoder,
            cross_attention=decoder,
            key_value_dim=5,
            gated=gated,
            activation=activation,
        )
        args = (x, encoded) if decoder else (x,)
        ours(*args)
        self.copy_weights(theirs, ours)
        expected = theirs(x, **kwargs)
        expected = expected[0] if isinstance(expected, (tuple, list)) else expected
        outputs = run(ours, *args, padding_mask=ops.array(mask, "bool"))
        np.testing.assert_allclose(outputs, ops.convert_to_numpy(expected), atol=1e-4)

    def copy_weights(self, theirs, ours):
        """Random values in the order of theirs; every one of ours is set."""
        parts = ["self_attention"] + ["cross_attention"] * ours.cross_attention
        names = ["position_bias/embedding"]
        for part in parts:
            names += [f"{part}/{name}/kernel" for name in ("query", "key", "value", "output")]
            names += [f"{part}_norm/scale"]
        # KerasHub's gated input projector is the one with the activation.
        hidden = ["gate", "input", "output"] if ours.gated else ["input", "output"]
        names += [f"feed_forward/{name}/kernel" for name in hidden] + ["feed_forward_norm/scale"]
        targets = {weight.path.split("/", 1)[1]: weight for weight in ours.weights}
        self.assertEqual(set(names), set(targets))
        self.assertEqual(len(names), len(theirs.weights))
        rng = np.random.default_rng(0)
        for name, weight in zip(names, theirs.weights):
            value = rng.normal(size=weight.shape) * 0.3
            weight.assign(value)
            targets[name].assign(value)


class BlockTest(parameterized.TestCase):
    @parameterized.product(cross=[False, True], expert_attention=[False, True])
    def test_cached_equals_uncached(self, cross, expert_attention):
        block = make(
            causal=True, cross_attention=cross, key_value_dim=3, expert_attention=expert_attention
        )
        x, encoded = tokens(2, 6, 8), tokens(2, 4, 8, seed=1)
        args = (encoded,) if cross else ()
        mask = ops.array([[True] * 4, [True, True, False, False]])
        kwargs = {"encoder_padding_mask": mask} if cross else {}
        block(x, *args)
        with dropless():
            expected = run(block, x, *args, **kwargs)
        cache = ops.zeros((2, 2, 6, 2, 3))
        crossed = ops.zeros((2, 2, 4, 2, 3))
        for start, stop in ((0, 2), (2, 3), (3, 6)):
            piece = ops.array(x[:, start:stop])
            state = {"self_attention_cache": cache, "cache_update_index": start} | kwargs
            if cross:
                state["cross_attention_cache"] = crossed
                first = args if start == 0 else ()
                outputs, cache, crossed = block(piece, *first, **state)
            else:
                outputs, cache = block(piece, **state)
            np.testing.assert_allclose(outputs, expected[:, start:stop], atol=1e-5)

    def test_causal_outputs_do_not_see_the_future(self):
        block = make(causal=True)
        x = tokens(1, 8, 8)
        changed = x.copy()
        changed[:, 5:] += 1
        with dropless():
            first, second = run(block, x), run(block, changed)
        np.testing.assert_allclose(first[:, :5], second[:, :5], atol=1e-5)
        self.assertGreater(np.abs(first[:, 5:] - second[:, 5:]).max(), 0.1)

    def test_padding_changes_nothing(self):
        block = make(switch={"eval_capacity_factor": 8.0})
        x = tokens(2, 6, 8)
        padded = np.concatenate([x, 9 * tokens(2, 3, 8, seed=2)], axis=1)
        mask = ops.array(np.arange(9)[None] < np.array([[6], [6]]))
        outputs = run(block, padded, padding_mask=mask)
        np.testing.assert_allclose(outputs[:, :6], run(block, x), atol=1e-5)

    def test_packed_rows_equal_unpacked_ones(self):
        block = make(switch={"overflow": "dropless"})
        first, second = tokens(1, 4, 8), tokens(1, 5, 8, seed=1)
        segment = np.array([0] * 4 + [1] * 5)
        mask = ops.array((segment[:, None] == segment)[None])
        outputs = run(block, np.concatenate([first, second], 1), attention_mask=mask)
        np.testing.assert_allclose(outputs[:, :4], run(block, first), atol=1e-5)
        np.testing.assert_allclose(outputs[:, 4:], run(block, second), atol=1e-5)

    def test_shared_bias_equals_an_own_one(self):
        own = make()
        shared = make(relative_attention=False)
        x = tokens(2, 6, 8)
        own(x), shared(x)
        bias = own.position_bias_layer
        shared.set_weights([w for w in own.get_weights() if w.shape != bias.embedding.shape])
        np.testing.assert_allclose(run(shared, x, position_bias=bias(x)), run(own, x), atol=1e-5)

    def test_implicit_mask(self):
        inputs = keras.Input((None,), dtype="int32")
        embedded = keras.layers.Embedding(10, 8, mask_zero=True)(inputs)
        model = keras.Model(inputs, make(switch={"overflow": "dropless"})(embedded))
        long, short = np.array([[3, 4, 5, 0, 0]]), np.array([[3, 4, 5]])
        expected = model.predict(short, verbose=0)
        np.testing.assert_allclose(model.predict(long, verbose=0)[:, :3], expected, atol=1e-5)

    def test_implicit_mask_of_the_encoder(self):
        block = make(cross_attention=True)
        embedding = keras.layers.Embedding(10, 8, mask_zero=True)
        x = tokens(1, 3, 8)
        expected = run(block, x, embedding(np.array([[3, 4]])))
        outputs = run(block, x, embedding(np.array([[3, 4, 0, 0]])))
        np.testing.assert_allclose(outputs, expected, atol=1e-5)

    def test_a_bias_is_not_rounded_to_bfloat16(self):
        block = make(None, relative_attention=False, dtype="mixed_bfloat16")
        seen = []
        x = tokens(1, 3, 8)
        block(x)
        block.self_attention.call = lambda x, *args, bias, **kwargs: (seen.append(bias), (x, None))[
            1
        ]
        block(x, position_bias=ops.ones((1, 2, 3, 3), "float32"))
        self.assertEqual(keras.backend.standardize_dtype(seen[0].dtype), "float32")

    def test_symbolic_call_with_caches(self):
        block = make(causal=True, cross_attention=True)
        inputs, encoded = keras.KerasTensor((2, 1, 8)), keras.KerasTensor((2, 3, 8))
        cache, crossed = keras.KerasTensor((2, 2, 6, 2, 4)), keras.KerasTensor((2, 2, 3, 2, 4))
        outputs = block(
            inputs,
            encoded,
            self_attention_cache=cache,
            cache_update_index=0,
            cross_attention_cache=crossed,
        )
        shapes = [x.shape for x in outputs]
        self.assertEqual(shapes, [inputs.shape, cache.shape, crossed.shape])
        self.assertEqual(block.compute_output_shape((None, None, 8)), (None, None, 8))

    def test_masks_do_not_warn(self):
        embedding = keras.layers.Embedding(10, 8, mask_zero=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for num_experts in (None, 4):
                make(num_experts, causal=True)(embedding(np.array([[3, 4, 0]])))
        self.assertEqual([str(w.message) for w in caught if "mask" in str(w.message)], [])

    def test_config_is_plain(self):
        block = make(switch={"router_initializer": keras.initializers.RandomNormal(0.0, 0.5)})
        config = json.loads(json.dumps(block.get_config()))
        again = SwitchTransformerBlock.from_config(config)
        again.build((None, None, 8))
        self.assertEqual(again.feed_forward.router_initializer.stddev, 0.5)

    @parameterized.product(jit=[False, True], num_experts=[None, 4])
    def test_trains_and_every_weight_moves(self, jit, num_experts):
        inputs, encoded = keras.Input((None, 8)), keras.Input((None, 8))
        block = SwitchTransformerBlock(
            2, 16, num_experts, causal=True, cross_attention=True, dropout=0.1, gated=True
        )
        outputs = block(inputs, encoded)
        model = keras.Model([inputs, encoded], keras.layers.Dense(2, dtype="float32")(outputs))
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit)
        before = [np.array(w) for w in model.trainable_weights]
        x = tokens(16, 6, 8)
        history = model.fit([x, x[:, :4]], x[..., :2], batch_size=8, epochs=4, verbose=0).history
        self.assertLess(history["loss"][-1], history["loss"][0])
        for weight, old in zip(model.trainable_weights, before):
            self.assertFalse(np.array_equal(weight, old), weight.path)

    def test_save_and_load(self):
        inputs = keras.Input((None, 8))
        block = make(expert_attention=True, switch={"capacity_factor": 2.0}, activation="gelu")
        model = keras.Model(inputs, block(inputs))
        x = tokens(2, 5, 8)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            loaded = keras.saving.load_model(path)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))

    def test_bfloat16_is_the_default(self):
        block = SwitchTransformerBlock(2, 16, 4)
        outputs = block(tokens(2, 5, 8))
        self.assertEqual(keras.backend.standardize_dtype(outputs.dtype), "bfloat16")
        self.assertEqual({w.dtype for w in block.weights}, {"float32"})


class KerasContractTest(KerasTestCase):
    def test_layer(self):
        self.run_layer_test(
            SwitchTransformerBlock,
            init_kwargs={
                "num_heads": 2,
                "intermediate_dim": 8,
                "num_experts": 4,
                "dtype": "float32",
            },
            input_shape=(2, 5, 6),
            expected_output_shape=(2, 5, 6),
            expected_num_trainable_weights=10,
            expected_num_non_trainable_weights=1,
            expected_num_seed_generators=1,
            expected_num_losses=0,
            supports_masking=True,
            run_mixed_precision_check=False,
        )


BAD_ARGUMENTS = [
    ({"num_heads": 0}, "`num_heads` must be a positive integer"),
    ({"intermediate_dim": -1}, "`intermediate_dim` must be a positive integer"),
    ({"num_experts": 0}, "`num_experts` must be a positive integer"),
    ({"key_value_dim": 0}, "`key_value_dim` must be a positive integer"),
    ({"dropout": 1.0}, "`dropout` must be a finite number"),
    ({"layer_norm_epsilon": 0.0}, "`layer_norm_epsilon` must be a finite positive number"),
    ({"causal": "yes"}, "`causal` must be True or False"),
    ({"switch": {"capacity": 2}}, "Received: \\['capacity'\\]"),
    ({"num_experts": None, "switch": {"jitter": 0.0}}, "need `num_experts`"),
    ({"num_experts": None, "expert_attention": True}, "need `num_experts`"),
    ({"causal": True, "switch": {"priority": "probability"}}, "later tokens would decide"),
]


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(*BAD_ARGUMENTS)
    def test_arguments(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            kwargs = {"num_heads": 2, "intermediate_dim": 8, "num_experts": 4} | kwargs
            SwitchTransformerBlock(**kwargs)

    @parameterized.parameters(
        ({"num_heads": 3}, (2, 5, 8), "`num_heads` must divide"),
        ({"num_heads": 2}, (5, 8), "needs inputs `\\(batch, length, dim\\)`"),
        ({"num_heads": 2}, (2, 5, None), "last dimension is known"),
    )
    def test_shapes(self, kwargs, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchTransformerBlock(intermediate_dim=8, **kwargs).build(shape)

    def test_calls(self):
        x, cache = tokens(2, 5, 8), ops.zeros((2, 2, 5, 2, 4))
        cases = [
            ({}, {"encoder_sequence": x}, "needs a block with `cross_attention=True`"),
            ({"cross_attention": True}, {}, "Received neither"),
            ({}, {"cache_update_index": 0}, "needs `self_attention_cache`"),
            ({}, {"self_attention_cache": cache, "cache_update_index": 0}, "`causal=True`"),
            ({"causal": True}, {"self_attention_cache": cache}, "needs `cache_update_index`"),
            (
                {"causal": True},
                {"self_attention_cache": cache[0], "cache_update_index": 0},
                "must have the shape",
            ),
            ({}, {"padding_mask": ops.ones((2, 4), "bool")}, "`padding_mask` must have rank 2"),
            ({}, {"padding_mask": ops.ones((2, 5, 5), "bool")}, "`padding_mask` must have rank 2"),
            ({}, {"attention_mask": ops.ones((2, 5), "bool")}, "`attention_mask` must have rank 3"),
            (
                {"causal": True, "cross_attention": True},
                {"encoder_sequence": x, "self_attention_cache": cache, "cache_update_index": 0},
                "needs `cross_attention_cache`",
            ),
            (
                {"cross_attention": True},
                {"encoder_sequence": tokens(2, 3, 6)},
                "`encoder_sequence` must have rank 3 and be as wide",
            ),
            (
                {"cross_attention": True},
                {"cross_attention_cache": cache[0]},
                "`cross_attention_cache` must have the shape",
            ),
            (
                {"cross_attention": True},
                {"encoder_sequence": x, "encoder_padding_mask": ops.ones((2, 4), "bool")},
                "`encoder_padding_mask` must have rank 2",
            ),
            (
                {"cross_attention": True},
                {"encoder_sequence": x, "cross_attention_mask": ops.ones((2, 5), "bool")},
                "`cross_attention_mask` must have rank 3",
            ),
        ]
        for init, call, message in cases:
            with self.assertRaisesRegex(ValueError, message):
                make(**init)(x, **call)


if __name__ == "__main__":
    unittest.main()
