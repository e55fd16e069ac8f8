import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

SCRIPT = pathlib.Path(__file__).parent / "backend_outputs.py"
TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 3e-2}


@unittest.skipUnless(importlib.util.find_spec("jax"), "JAX is not installed.")
class BackendsEqualTest(unittest.TestCase):
    def outputs(self, backend):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "outputs.npz")
            environment = {**os.environ, "KERAS_BACKEND": backend}
            subprocess.run([sys.executable, str(SCRIPT), path], env=environment, check=True)
            with np.load(path) as saved:
                outputs = dict(saved)
        self.assertEqual(outputs.pop("backend"), backend)
        return outputs

    def test_outputs_losses_gradients_and_noise(self):
        tensorflow, jax = self.outputs("tensorflow"), self.outputs("jax")
        self.assertEqual(set(tensorflow), set(jax))
        for name, expected in tensorflow.items():
            size = np.abs(expected).max()
            self.assertGreater(size, 0, name)
            error = np.abs(jax[name] - expected).max() / size
            self.assertLess(error, TOLERANCES[name.split("/")[1]], name)


if __name__ == "__main__":
    unittest.main()
