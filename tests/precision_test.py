"""Tests of `keras_switch.tpu.precision`."""

import importlib.util
import os
import subprocess
import sys
import unittest
from unittest import mock

import keras
import tensorflow as tf

from keras_switch import tpu

LOWER_ON_JAX = """
import jax
import keras
from keras_switch import tpu

x = jax.numpy.ones((4, 4), "float32")
lower = lambda: jax.jit(keras.ops.matmul).lower(x, x).as_text()
print("HIGHEST" in lower())
tpu.highest_float32()
jax.clear_caches()
print("HIGHEST, HIGHEST" in lower())
"""


class HighestFloat32Test(unittest.TestCase):
    def setUp(self):
        before = tf.config.experimental.tensor_float_32_execution_enabled()
        self.addCleanup(tf.config.experimental.enable_tensor_float_32_execution, before)
        tf.config.experimental.enable_tensor_float_32_execution(True)

    def lowered(self):
        matmul = tf.function(lambda x: tf.matmul(x, x), jit_compile=True)
        return matmul.experimental_get_compiler_ir(tf.ones((4, 4)))(stage="hlo")

    def test_tensorflow_turns_tensor_float_32_off(self):
        with mock.patch.object(keras.config, "backend", return_value="tensorflow"):
            tpu.highest_float32()
        self.assertFalse(tf.config.experimental.tensor_float_32_execution_enabled())

    def test_tensorflow_lowers_to_highest_precision(self):
        self.assertNotIn("highest", self.lowered())
        with mock.patch.object(keras.config, "backend", return_value="tensorflow"):
            tpu.highest_float32()
        self.assertIn("operand_precision={highest,highest}", self.lowered())

    @unittest.skipUnless(importlib.util.find_spec("jax"), "JAX is not installed.")
    def test_jax_lowers_to_highest_precision(self):
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
        printed = subprocess.run(
            [sys.executable, "-c", LOWER_ON_JAX],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertEqual(printed.split(), ["False", "True"])

    def test_another_backend_is_refused(self):
        with mock.patch.object(keras.config, "backend", return_value="torch"):
            with self.assertRaisesRegex(
                ValueError,
                r"needs the TensorFlow or the JAX backend\. Received: .*backend\(\)='torch'",
            ):
                tpu.highest_float32()


if __name__ == "__main__":
    unittest.main()
