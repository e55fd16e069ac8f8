import subprocess
import sys
import unittest

import keras
import lm_helpers
import numpy as np
from absl.testing import parameterized
from keras import ops
from switch_helpers import tokens

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers.dtypes import default_dtype
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchTextClassifier

BEFORE_THE_IMPORT = """
import keras
keras.config.set_dtype_policy("float32")
from keras_switch.layers import SwitchDense
print(SwitchDense(4, 8).dtype_policy.name)
"""
AFTER_THE_IMPORT = """
import keras
from keras_switch.layers import SwitchDense
keras.config.set_floatx("float64")
keras.layers.Dense(3)
print(SwitchDense(4, 8).dtype_policy.name)
"""


class _Restore(parameterized.TestCase):
    def setUp(self):
        self.addCleanup(keras.config.set_dtype_policy, keras.config.dtype_policy())
        self.addCleanup(keras.config.set_floatx, keras.config.floatx())


class ChoiceTest(_Restore):
    def test_bfloat16_where_nobody_chose(self):
        self.assertEqual(default_dtype(), "mixed_bfloat16")
        keras.layers.Dense(3)
        self.assertEqual(SwitchDense(4, 8).dtype_policy.name, "mixed_bfloat16")
        keras.utils.clear_session()
        keras.layers.Dense(3)
        self.assertEqual(SwitchDense(4, 8).dtype_policy.name, "mixed_bfloat16")

    @parameterized.parameters("float32", "float64", "mixed_float16", "bfloat16")
    def test_a_global_policy_is_a_choice(self, name):
        for policy in (name, keras.DTypePolicy(name)):
            keras.config.set_dtype_policy(policy)
            made = (
                SwitchDense(4, 8),
                SwitchTransformerBlock(2, 8, 4),
                SwitchBackbone(50, 1, 2, 8, 16, num_experts=2),
            )
            self.assertEqual({layer.dtype_policy.name for layer in made}, {name})
            self.assertEqual(SwitchDense(4, 8, dtype="bfloat16").dtype_policy.name, "bfloat16")

    @parameterized.parameters("float32", "float64", "float16")
    def test_floatx_is_a_choice(self, name):
        keras.config.set_floatx(name)
        self.assertEqual(keras.dtype_policies.get(default_dtype()).name, name)
        keras.utils.clear_session()
        self.assertEqual(keras.dtype_policies.get(default_dtype()).name, name)

    @parameterized.parameters((BEFORE_THE_IMPORT, "float32"), (AFTER_THE_IMPORT, "float64"))
    def test_in_a_process_of_its_own(self, code, name):
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(printed.stdout.split(), [name], printed.stderr)


IS_JAX = keras.backend.backend() == "jax"
FLOATX = ("float64", "float16") if IS_JAX else ("float64", "float16", "bfloat16")


class FloatxTest(_Restore):
    """Keras's optimizers, losses and layers take what `floatx` says."""

    @unittest.skipUnless(IS_JAX, "TensorFlow keeps integers.")
    def test_bfloat16_is_refused_on_jax(self):
        keras.config.set_floatx("bfloat16")
        for make in (
            lambda: SwitchDense(4, 8, dtype="float32"),
            lambda: SwitchTransformerBlock(2, 8),
            lambda: RelativePositionBias(2, dtype="float32"),
            lambda: SwitchBackbone(50, 1, 2, 8, 16),
        ):
            with self.assertRaisesRegex(ValueError, "set_dtype_policy.*floatx\\(\\)='bfloat16'"):
                make()

    @parameterized.parameters(*FLOATX)
    def test_layers_are_called_in_training(self, name):
        keras.config.set_floatx(name)
        for kwargs in (
            {"exploration": "sample", "num_selected_experts": 2, "gated": True},
            {"exploration": "input_dropout", "overflow": "dropless", "expert_dropout": 0.1},
            {"overflow": "reroute", "priority": "probability", "z_loss_weight": 0.1},
        ):
            layer = SwitchDense(4, 8, **kwargs)
            outputs = layer(tokens(4, 3, 4), training=True)
            self.assertTrue(np.isfinite(ops.convert_to_numpy(ops.cast(outputs, "float32"))).all())
            self.assertEqual(layer.dtype_policy.name, name)
            self.assertGreater(layer.get_routing_metrics()["entropy"], 0)
            (loss,) = layer.losses
            self.assertEqual(loss.dtype, outputs.dtype)

    @parameterized.parameters(*FLOATX)
    def test_models_train(self, name):
        keras.config.set_floatx(name)
        x, y, weight = lm_helpers.to_train(2)
        model = lm_helpers.make(dtype=None, dropout=0.1)
        model.compile("sgd", jit_compile=False)
        loss = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)["loss"]
        self.assertTrue(np.isfinite(float(loss)))
        classifier = SwitchTextClassifier(model.backbone, 3)
        classifier.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        loss = classifier.train_on_batch(x, y[:, 0] % 3, return_dict=True)["loss"]
        self.assertTrue(np.isfinite(float(loss)))


@unittest.skipIf(IS_JAX, "JAX has no float64 unless it is asked for.")
class Float64Test(_Restore):
    def test_a_layer_computes_in_float64(self):
        x = tokens(7, 6).astype("float64")
        layer = SwitchDense(3, 8, overflow="dropless", dtype="float64", seed=0)
        outputs = np.asarray(layer(x, training=True))
        self.assertEqual({weight.dtype for weight in layer.weights}, {"float64"})
        record = layer.route(x)
        for name in ("logits", "probabilities", "gates"):
            self.assertEqual(getattr(record, name).dtype, "float64")
        experts = np.asarray(record.experts)[:, 0]
        kernel_in, kernel_out = np.asarray(layer.kernel_in), np.asarray(layer.kernel_out)
        logits = x @ np.asarray(layer.router.kernel)
        np.testing.assert_allclose(record.logits, logits, atol=1e-15)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        layer.exploration = "argmax"
        outputs = np.asarray(layer(x))
        for token, expert in enumerate(experts):
            hidden = np.maximum(x[token] @ kernel_in[expert], 0)
            expected = p[token, expert] * (hidden @ kernel_out[expert])
            np.testing.assert_allclose(outputs[token], expected, atol=1e-15)

    @parameterized.parameters({}, {"num_experts": 2, "switch": {"overflow": "dropless"}})
    def test_a_block_computes_in_float64(self, **kwargs):
        x = tokens(2, 5, 8).astype("float64")
        block = SwitchTransformerBlock(2, 16, causal=True, dtype="float64", **kwargs)
        outputs = np.asarray(block(x))
        self.assertEqual(block.position_bias_layer.embedding.dtype, "float64")
        # What is done in float32 somewhere does not follow so small a change.
        step, changed = 1e-9, x.copy()
        changed[0, 0, 0] += step
        slope = (np.asarray(block(changed)) - outputs)[0] / step
        changed[0, 0, 0] += step
        again = (np.asarray(block(changed)) - outputs)[0] / (2 * step)
        self.assertGreater(np.abs(slope[-1]).max(), 1e-3)
        np.testing.assert_allclose(slope, again, atol=1e-5)

    def test_a_model_computes_in_float64(self):
        model = lm_helpers.make(dtype="float64")
        x, _, _ = lm_helpers.to_train(2)
        self.assertEqual(model(x).dtype, "float64")
        self.assertEqual({weight.dtype for weight in model.weights}, {"float64"})

    def test_a_position_bias_follows_the_choice(self):
        self.assertEqual(RelativePositionBias(2).compute_dtype, "float32")
        keras.config.set_dtype_policy("float64")
        self.assertEqual(RelativePositionBias(2).compute_dtype, "float64")


if __name__ == "__main__":
    unittest.main()
