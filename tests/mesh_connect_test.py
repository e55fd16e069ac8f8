"""`connect`, in processes of its own: devices can be made once only."""

import subprocess
import sys
import unittest
from unittest import mock

import keras

from keras_switch import tpu
from keras_switch.tpu import cores

MESH = 'tpu.Mesh("batch:4", "batch:batch,experts:batch")'
USE = (
    "import keras; keras.ops.ones((2,))\n"
    "if keras.config.backend() == 'jax': import jax; jax.devices()\n"
)


def run(code):
    """Runs a program to its end; returns the lines of what it prints, errors last."""
    code = f"import keras\nfrom keras_switch import tpu\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return (result.stdout + result.stderr).splitlines()


class MeshConnectTest(unittest.TestCase):
    def test_it_says_in_one_line_what_it_found(self):
        lines = run("print(tpu.connect(cores=4)); print(tpu.connect(cores=4))")
        self.assertEqual(lines[:4], ["4 virtual CPU cores.", "4"] * 2)

    def test_a_second_number_is_too_late(self):
        last = run("tpu.connect(cores=4); keras.ops.ones((2,)); tpu.connect(cores=2)")[-1]
        self.assertRegex(last, "RuntimeError: .*cannot make 2 CPU cores: .*before anything else")

    def test_after_the_first_use_it_is_too_late(self):
        last = run(f"{USE}tpu.connect(cores=4)")[-1]
        self.assertRegex(last, "RuntimeError: .*cannot make 4 CPU cores: .*before anything else")

    def test_a_mesh_needs_it(self):
        last = run(MESH)[-1]
        self.assertRegex(last, r"RuntimeError: .*call keras_switch.tpu.connect\(\) at the start")

    def test_a_mesh_larger_than_the_cores(self):
        last = run(f"tpu.connect(cores=2); {MESH}")[-1]
        self.assertRegex(last, "ValueError: The mesh has 4 cores,? and (there are 2|2 are there): ")

    def test_numbers_that_are_none(self):
        for number in (0, -1, 2.0, True, "8"):
            with self.assertRaisesRegex(ValueError, f"positive integer. .*cores={number!r}"):
                tpu.connect(cores=number)

    @unittest.skipUnless(keras.config.backend() == "tensorflow", "of the TensorFlow backend")
    def test_a_strategy_of_another_size(self):
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with self.assertRaisesRegex(ValueError, "has 4 cores, and the strategy 2 replicas"):
            tpu.Mesh("batch:4", "batch:batch,experts:batch", devices=strategy)
        mesh = tpu.Mesh("batch:2", "batch:batch,experts:batch", devices=strategy)
        self.assertEqual(repr(mesh), "Mesh('batch:2', 'batch:batch,experts:batch')")

    @unittest.skipUnless(keras.config.backend() == "tensorflow", "of the TensorFlow backend")
    def test_a_tpu_that_does_not_start(self):
        with mock.patch.object(cores, "_has_tpu", lambda: True):
            with self.assertRaisesRegex(RuntimeError, "tensorflow-tpu.*KERAS_BACKEND=jax"):
                tpu.connect()

    @unittest.skipUnless(keras.config.backend() == "jax", "of the JAX backend")
    def test_jax_reaches_no_tpu_by_name(self):
        with self.assertRaisesRegex(ValueError, "leave `tpu` out.*Received: tpu='name'"):
            tpu.connect(tpu="name")


if __name__ == "__main__":
    unittest.main()
