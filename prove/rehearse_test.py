"""Compiles train steps for TPU slices with the TPU's compiler.

KERAS_BACKEND=jax .venv-prove-rehearse/bin/python -m pytest prove/rehearse_test.py
"""

import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import unittest

import keras

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.tpu import Rehearsal
from keras_switch.tpu import rehearse

JAX = keras.config.backend() == "jax"
DIM, HIDDEN, EXPERTS, LENGTH, BATCH = 512, 2048, 8, 512, 64


def dense_then_sparse():
    """A model whose sparse layer has an input that needs a gradient."""
    inputs = keras.Input((None, DIM))
    x = keras.layers.Dense(DIM, dtype="mixed_bfloat16")(inputs)
    return keras.Model(inputs, SwitchDense(EXPERTS, HIDDEN)(x))


@functools.cache
def rehearsed(topology, mesh, layout):
    return rehearse(dense_then_sparse, topology, (mesh, layout), batch_size=BATCH)


def of_kind(rehearsal, kind):
    return [row for row in rehearsal.collectives if row["kind"] == kind]


class ExpertsTest(unittest.TestCase):
    def check_exchanges(self, topology, mesh, layout):
        """Two all-to-alls forward and two backward, bfloat16, of the size that theory gives."""
        rehearsal = rehearsed(topology, mesh, layout)
        print(rehearsal)
        cores = 8
        capacity = int(BATCH // cores * LENGTH * 1.25 / EXPERTS)
        (row,) = of_kind(rehearsal, "all-to-all")
        self.assertEqual(row["count"], 4)
        self.assertEqual(row["dtype"], "bf16")
        self.assertEqual(row["bytes"], EXPERTS * capacity * DIM * 2)
        self.assertGreater(row["seconds"], 0)
        self.assertTrue(rehearsal.fits)
        return rehearsal

    def test_v5e(self):
        rehearsal = self.check_exchanges("v5e:2x4", "batch:8", "batch:batch,experts:batch")
        self.assertLessEqual(rehearsal.flops["ratio"], 1.05)
        self.assertGreaterEqual(rehearsal.flops["ratio"], 1.0)
        # A slice of the experts and its two moments, the rest whole, one eighth of the batch.
        experts = 2 * EXPERTS * DIM * HIDDEN // 8
        whole = DIM * EXPERTS + DIM * DIM + DIM
        batch = 2 * BATCH // 8 * LENGTH * DIM
        arguments = rehearsal.memory["arguments"]
        self.assertAlmostEqual(arguments / (4 * (3 * (experts + whole) + batch)), 1, delta=0.01)

    def test_v4_whose_chips_are_two_cores(self):
        self.check_exchanges("v4:2x2x1", "batch:8", "batch:batch,experts:batch")

    def test_a_single_chip(self):
        layer = SwitchDense(EXPERTS, HIDDEN)
        for topology in ("v5e:1x1", "v6e:1x1", "v5p:1x1x1", "v4:1x1x1", "v3:1x1"):
            rehearsal = rehearse(layer, topology, input_shape=(LENGTH, DIM))
            self.assertTrue(rehearsal.fits)
            self.assertEqual(rehearsal.seconds["links"], 0)

    def test_a_model_axis_gathers_and_scatters(self):
        layout = "batch:batch,experts:batch,expert_hidden:model"
        rehearsal = self.check_exchanges("v5e:2x4", "batch:4,model:2", layout)
        self.assertEqual(of_kind(rehearsal, "all-to-all")[0]["group_size"], 4)
        # Gathered and summed over the pairs that share an expert; libtpu may sum and then slice.
        sums = [row for row in rehearsal.collectives if row["group_size"] == 2]
        self.assertEqual({row["dtype"] for row in sums}, {"bf16"})
        self.assertEqual(sum(row["count"] for row in sums), 4)

    def test_replicated_experts_sum_their_gradients(self):
        rehearsal = rehearsed(
            "v5e:2x4", "outer:2,batch:4", "outer_batch:outer,batch:batch,experts:batch"
        )
        self.assertEqual(of_kind(rehearsal, "all-to-all")[0]["group_size"], 4)
        pairs = [row for row in of_kind(rehearsal, "all-reduce") if row["group_size"] == 2]
        self.assertEqual({row["dtype"] for row in pairs}, {"bf16"})
        summed = sum(row["bytes"] * row["count"] for row in pairs)
        self.assertEqual(summed, 2 * EXPERTS // 4 * DIM * HIDDEN * 2)


class ModelsTest(unittest.TestCase):
    def test_a_compiled_model_with_weights(self):
        model = keras.Sequential([keras.Input((16, 128)), SwitchTransformerBlock(4, 256, 4)])
        model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), "mse", metrics=["mae"])
        before = [weight.numpy() if not JAX else weight.value for weight in model.weights]
        rehearsal = rehearse(model, "v6e:2x2")
        self.assertIn("trained by AdamW on batches of float32 (32, 16, 128)", rehearsal.model)
        self.assertEqual("process of its own" in rehearsal.program, not JAX)
        self.assertEqual(sum(row["count"] for row in of_kind(rehearsal, "all-to-all")), 4)
        for weight, old in zip(model.weights, before):
            self.assertTrue(keras.ops.all(weight == old))

    def test_what_does_not_fit_gets_a_proposal(self):
        layer = SwitchDense(16, 65536, exploration="argmax")
        rehearsal = rehearse(layer, "v5e:2x2", input_shape=(512, 4096), batch_size=32)
        print(rehearsal)
        self.assertFalse(rehearsal.fits)
        self.assertEqual(rehearsal.memory["available"], int(15.75 * 2**30))
        self.assertEqual(rehearsal.proposal["topology"], "v5e:2x4")
        self.assertLess(rehearsal.proposal["total"], 15.75 * 2**30)
        self.assertIn("DOES NOT FIT", str(rehearsal))

    @unittest.skipUnless(JAX, "The other process's memory is not seen.")
    def test_two_hundred_billion_parameters_take_no_memory(self):
        def build():
            inputs = x = keras.Input((None, 2080))
            for _ in range(4):
                x = SwitchDense(2048, 6144, min_capacity=2, exploration="argmax")(x)
            return keras.Model(inputs, x)

        rehearsal = rehearse(
            build, "v5p:8x8x16", sequence_length=512, batch_size=2048, optimizer="sgd"
        )
        print(rehearsal)
        self.assertTrue(rehearsal.fits)
        self.assertIn("209,", rehearsal.model)
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 8)

    def test_an_unknown_slice_is_explained(self):
        with self.assertRaisesRegex(ValueError, "libtpu knows no such slice. .*v5e:3x3"):
            rehearse(SwitchDense(9, 16), "v5e:3x3", input_shape=(4, 8))


class CommandTest(unittest.TestCase):
    def test_the_command_prints_a_table_and_writes_json(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "rehearsal.json"
            flags = ["--topology=v5e:2x2", "--hidden_dim=128", "--intermediate_dim=256"]
            flags += ["--num_heads=2", "--num_layers=2", "--vocabulary_size=1024"]
            command = [sys.executable, "-m", "keras_switch.cli", "rehearse", *flags]
            done = subprocess.run(
                [*command, f"--json={path}"],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            rehearsal = Rehearsal.from_dict(json.loads(path.read_text()))
        self.assertEqual(done.stdout, f"{rehearsal}\n")
        self.assertIn(
            "trained by Adafactor on batches of decoder_padding_mask int32 (32, 114), "
            "decoder_token_ids int32 (32, 114), encoder_padding_mask int32 (32, 512), ",
            rehearsal.model,
        )
        self.assertIn("rehearse: compiling the train step", done.stderr)
        # Two sparse blocks, one of each stack.
        exchanges = of_kind(rehearsal, "all-to-all")
        self.assertEqual(sum(row["count"] for row in exchanges), 8)
        self.assertEqual({row["dtype"] for row in exchanges}, {"bf16"})


if __name__ == "__main__":
    unittest.main()
