"""A run whose experts are split is killed, and goes on as if it had not been."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import keras
import numpy as np

from keras_switch.training import checkpoint

PROGRAM = pathlib.Path(__file__).with_name("mesh_training.py")
MESH = ("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
OTHER = ("batch:8", "batch:batch,experts:batch")


def command(directory, mesh):
    return [sys.executable, str(PROGRAM), str(directory), *mesh]


def finish(directory, mesh):
    """Runs the program to its end; returns the first step and the result."""
    run = subprocess.run(command(directory, mesh), capture_output=True, text=True, check=False)
    if run.returncode:
        raise AssertionError(run.stdout + run.stderr)
    result = json.loads((directory / "result.json").read_text())
    return int(run.stdout.split("from step ")[1].split()[0]), result


@unittest.skipUnless(keras.config.backend() == "tensorflow", "of the TensorFlow backend")
class MeshFaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.start, cls.whole = finish(cls.root, MESH)

    def kill(self, directory, sign):
        """Starts the run and kills it when a path under its checkpoints is there."""
        process = subprocess.Popen(command(directory, MESH), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while not list((directory / "checkpoints").glob(sign)):
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        self.assertEqual(process.wait(), -signal.SIGKILL)

    def assert_result(self, result):
        self.assertEqual(result["history"].keys(), self.whole["history"].keys())
        for name, values in self.whole["history"].items():
            np.testing.assert_allclose(result["history"][name], values, 1e-5, 1e-6)
        for got, expected in zip(result["weights"], self.whole["weights"], strict=True):
            np.testing.assert_allclose(got, expected, 1e-4, 1e-6)

    def test_killed_between_and_while_writing_checkpoints(self):
        self.assertEqual(self.start, 0)
        for mesh in (MESH, OTHER):
            directory = self.root / mesh[0]
            directory.mkdir()
            self.kill(directory, "step-000000004-*")
            # While it writes a later one: the one before stays whole.
            self.kill(directory, ".step-000000010-*.tmp")
            last = checkpoint.read_state(checkpoint.latest(directory / "checkpoints"))
            self.assertIn(last.step, (8, 10))
            step, result = finish(directory, mesh)
            self.assertEqual(step, last.step)
            self.assert_result(result)


if __name__ == "__main__":
    unittest.main()
