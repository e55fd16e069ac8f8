import importlib.util
import json
import os
import tempfile
import unittest
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from block_helpers import make
from block_helpers import numpy
from block_helpers import run
from block_helpers import set_random_weights
from block_helpers import tokens
from block_helpers import weights_by_name
from keras import ops
from keras.src.testing import TestCase as KerasTestCase

from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import dropless


class T5Test(parameterized.TestCase):
    @parameterized.product(decoder=[False, True], gated=[False, True])
    @unittest.skipUnless(importlib.util.find_spec("keras_hub"), "KerasHub is not installed.")
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
        theirs.self_attention.supports_masking = True  # It warns otherwise.
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
        targets = weights_by_name(ours)
        self.assertEqual(set(names), set(targets))
        self.assertEqual(len(names), len(theirs.weights))
        rng = np.random.default_rng(0)
        for name, weight in zip(names, theirs.weights):
            value = rng.normal(size=weight.shape) * 0.3
            weight.assign(value)
            targets[name].assign(value)


class BlockTest(parameterized.TestCase):
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

    def test_implicit_mask_beside_other_tensors(self):
        block = make(relative_attention=False, switch={"overflow": "dropless"})
        embedding = keras.layers.Embedding(10, 8, mask_zero=True)
        expected = run(block, embedding(np.array([[3, 4, 5]])))
        bias = ops.zeros((1, 2, 5, 5))
        outputs = run(block, embedding(np.array([[3, 4, 5, 0, 0]])), position_bias=bias)
        np.testing.assert_allclose(outputs[:, :3], expected, atol=1e-5)

    def test_an_explicit_mask_wins_over_an_implicit_one(self):
        block = make(switch={"overflow": "dropless"})
        x = keras.layers.Embedding(10, 8, mask_zero=True)(np.array([[3, 4, 0]]))
        expected = run(block, numpy(x))
        outputs = run(block, x, padding_mask=ops.ones((1, 3), "bool"))
        np.testing.assert_allclose(outputs, expected, atol=1e-6)

    def test_a_bias_is_not_rounded_to_bfloat16(self):
        block = make(None, relative_attention=False, dtype="mixed_bfloat16")
        x = tokens(1, 2, 8)
        block(x)
        set_random_weights(block)
        flat = run(block, x, position_bias=ops.ones((1, 2, 2, 2)) * 1024)
        bias = np.array([1024.0, 1025.0], "float32") * np.ones((1, 2, 2, 1), "float32")
        self.assertGreater(np.abs(run(block, x, position_bias=ops.array(bias)) - flat).max(), 0.05)

    def test_masks_do_not_warn(self):
        embedding = keras.layers.Embedding(10, 8, mask_zero=True)
        x = embedding(np.array([[3, 4, 0]]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for num_experts in (None, 4):
                for expert_attention in {False, num_experts is not None}:
                    block = make(
                        num_experts,
                        causal=True,
                        cross_attention=True,
                        expert_attention=expert_attention,
                        gated=True,
                        dropout=0.1,
                    )
                    block(x, x, training=True)
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
        before = [numpy(w) for w in model.trainable_weights]
        x = tokens(16, 6, 8)
        history = model.fit([x, x[:, :4]], x[..., :2], batch_size=8, epochs=4, verbose=0).history
        self.assertLess(history["loss"][-1], history["loss"][0])
        for weight, old in zip(model.trainable_weights, before):
            self.assertFalse(np.array_equal(numpy(weight), old), weight.path)

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
    @parameterized.named_parameters(
        ("switch", {"num_experts": 4}, 10, 2),
        ("dense", {}, 9, 0),
        ("gated", {"num_experts": 4, "gated": True, "dropout": 0.1}, 11, 4),
        ("expert_attention", {"num_experts": 4, "expert_attention": True}, 13, 6),
        ("decoder", {"num_experts": 4, "causal": True, "cross_attention": True}, 15, 2),
    )
    def test_layer(self, kwargs, weights, seed_generators):
        cross = "cross_attention" in kwargs
        shapes = {"inputs_shape": (2, 5, 6), "encoder_sequence_shape": (2, 4, 6)}
        self.run_layer_test(
            SwitchTransformerBlock,
            init_kwargs={"num_heads": 2, "intermediate_dim": 8, "dtype": "float32"} | kwargs,
            input_shape=shapes if cross else (2, 5, 6),
            run_training_check=not cross,  # It takes one tensor only.
            expected_output_shape=(2, 5, 6),
            expected_num_trainable_weights=weights,
            expected_num_non_trainable_weights=0,
            expected_num_seed_generators=seed_generators,
            expected_num_losses=0,
            supports_masking=True,
        )


if __name__ == "__main__":
    unittest.main()
