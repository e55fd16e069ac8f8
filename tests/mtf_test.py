"""Tests of `keras_switch.tpu.mtf`."""

import os
import pathlib
import subprocess
import sys
import unittest
from unittest import mock

from keras_switch.tpu.mtf import mesh_tensorflow

ROOT = pathlib.Path(__file__).resolve().parents[1]

PRINT_WHAT_THE_IMPORT_LEAVES = """
import sys
import keras_switch.tpu
print("mesh_tensorflow" in sys.modules)
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.framework import ops
from keras_switch.tpu.mtf import mesh_tensorflow
before = dict(vars(tf1)), dict(vars(ops)), dict(vars(tf))
mtf = mesh_tensorflow()
print((dict(vars(tf1)), dict(vars(ops)), dict(vars(tf))) == before)
print(hasattr(tf1, "estimator"), "tensorflow.compat.v1.estimator" in sys.modules)
print(mtf.convert_to_shape("batch:4,model:2"), mesh_tensorflow() is mtf)
"""


class MeshTensorFlowTest(unittest.TestCase):
    def test_import_is_lazy_and_leaves_no_trace(self):
        done = subprocess.run(
            [sys.executable, "-c", PRINT_WHAT_THE_IMPORT_LEAVES],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        self.assertEqual(
            done.stdout.splitlines(),
            ["False", "True", "False False", "Shape[batch=4, model=2] True"],
            done.stderr,
        )

    def test_missing(self):
        import tensorflow.compat.v1 as tf1

        mesh_tensorflow.cache_clear()
        with mock.patch.dict(sys.modules, {"mesh_tensorflow": None}):
            with self.assertRaisesRegex(ImportError, "pip install 'mesh-tensorflow>=0.1.21'"):
                mesh_tensorflow()
        self.assertFalse(hasattr(tf1, "estimator"))


if __name__ == "__main__":
    unittest.main()
