"""The memory of the host while a split model is built, in a process of its own."""

import json
import subprocess
import sys
import unittest

import keras

PROGRAM = """
import json
import keras
from keras_switch import layers, tpu

def memory(kind):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(kind))

def build(width):
    layer = layers.SwitchDense(8, width, gated=True, dtype="float32")
    layer.build((None, 4, 512))
    optimizer = mesh.optimizer(keras.optimizers.SGD(momentum=0.9))
    return layer, optimizer

tpu.connect(cores=8)
mesh = tpu.Mesh("batch:8", "batch:batch,experts:batch")
with mesh.scope():
    small, optimizer = build(8)
    optimizer.build(small.trainable_weights)
    figures = [memory("VmRSS")]
    layer, optimizer = build(4096)
    figures.append(memory("VmHWM"))
    optimizer.build(layer.trainable_weights)
    figures.append(memory("VmHWM"))
print(json.dumps(figures))
"""


@unittest.skipUnless(sys.platform == "linux", "it reads /proc")
@unittest.skipUnless(keras.config.backend() == "tensorflow", "of the TensorFlow backend")
class MeshMemoryTest(unittest.TestCase):
    def test_building_holds_one_extra_copy_of_the_largest_variable(self):
        run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        before, built, with_slots = json.loads(run.stdout.splitlines()[-1])
        kernel = 8 * 512 * 4096 * 4 / 2**20  # 64 MiB
        # One whole copy and, on its way to a core, one slice; and little else.
        extra = kernel + kernel / 8 + 24
        self.assertLess(built - before, 3 * kernel + extra)
        self.assertLess(with_slots - before, 6 * kernel + extra)


if __name__ == "__main__":
    unittest.main()
