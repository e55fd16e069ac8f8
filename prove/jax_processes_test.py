"""Two processes of JAX, four devices each, train like one process with eight."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests"
TRAIN = """
import json
import sys

import jax
import jax_mesh_helpers as helpers
import keras
import numpy as np
import tensorflow as tf

shape, layout, address, processes, process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 8 // int(processes))
if processes != "1":
    keras.distribution.initialize(address, int(processes), int(process))
with helpers.on((shape, layout)):
    model = helpers.compiled(helpers.transformer(), helpers.cross_entropy())
x, y = helpers.ids()
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16, drop_remainder=True)
losses = model.fit(dataset, epochs=10, verbose=0).history["loss"]
layer = model.get_layer("sparse").feed_forward
held = sum(shard.data.size for shard in layer.kernel_in.value.addressable_shards)
mesh = layer.kernel_in.value.sharding.mesh
whole = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(mesh, jax.P()))
weights = [np.asarray(whole(weight.value)).tolist() for weight in model.trainable_weights]
entropy = layer.get_routing_metrics()["entropy"]
print(json.dumps({"losses": losses, "weights": weights, "entropy": entropy, "held": held}))
"""


def free_address():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return "localhost:{}".format(listener.getsockname()[1])


def train(mesh, processes):
    """Starts the processes; returns what each of them prints, or the errors."""
    address = free_address()
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(TESTS)}
    with contextlib.ExitStack() as stack:
        # Files, because processes that wait for each other must not wait for a reader.
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2 * processes)]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, *mesh, address, str(processes), str(process)],
                env=environment,
                stdout=files[process],
                stderr=files[processes + process],
            )
            for process in range(processes)
        ]
        for process in running:
            stack.callback(process.kill)
        failed = any([process.wait(timeout=300) for process in running])
        for file in files:
            file.seek(0)
        if failed:
            return [file.read() for file in files[processes:]]
        return [json.loads(file.read().splitlines()[-1]) for file in files[:processes]]


class JaxProcessesTest(unittest.TestCase):
    def check_like_one(self, shape, layout):
        [alone] = train((shape, layout), 1)
        self.assertLess(alone["losses"][-1], alone["losses"][0])
        for result in train((shape, layout), 2):
            np.testing.assert_allclose(result["losses"], alone["losses"], rtol=1e-5)
            np.testing.assert_allclose(result["entropy"], alone["entropy"], rtol=1e-5)
            for one, other in zip(result["weights"], alone["weights"], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
            self.assertEqual(result["held"], alone["held"] // 2)

    def test_experts_over_both(self):
        self.check_like_one("batch:8", "batch:batch,experts:batch")

    def test_a_mesh_of_two_axes(self):
        self.check_like_one(
            "outer:2,inner:2,model:2",
            "outer_batch:outer,batch:inner,experts:inner,expert_hidden:model,heads:model",
        )

    def test_parts_of_a_batch_out_of_order(self):
        layout = "batch:batch,experts:batch,heads:model"
        for error in train(("model:2,batch:4", layout), 2):
            self.assertRegex(error, r"name \['batch'\] first in the mesh")


if __name__ == "__main__":
    unittest.main()
