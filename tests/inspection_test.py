"""Tests of `inspect_experts`, its picture, and `keras-switch inspect`."""

import collections
import contextlib
import io
import json
import pathlib
import tempfile
import unittest
import unittest.mock

import fill_blanks_helpers
import lm_helpers
import numpy as np
from keras import ops
from matplotlib import image

from keras_switch import cli
from keras_switch.layers import SwitchDense
from keras_switch.training import inspect_experts
from keras_switch.training import plots


def batches(number=2, rows=3, length=8, size=40):
    rng = np.random.default_rng(0)
    for _ in range(number):
        batch = {}
        for side in ("encoder", "decoder"):
            real = np.arange(length) < rng.integers(3, length + 1, (rows, 1))
            batch[f"{side}_token_ids"] = rng.integers(3, size, (rows, length)) * real
            batch[f"{side}_padding_mask"] = real.astype("int32")
        yield batch


def naive(model, name, factor):
    """Tokens by expert and id, and the dropped share, by a loop over eager calls."""
    side = name.split("_")[0]
    layer = getattr(model.backbone, f"{side}_blocks")[1].feed_forward
    call, counts, dropped, total = SwitchDense.call, collections.Counter(), 0, 0
    for batch in batches():
        seen = []

        def recording(self, inputs, mask=None, training=None, seen=seen):
            if self is layer:
                seen.append((inputs, mask))
            return call(self, inputs, mask, training)

        with unittest.mock.patch.object(SwitchDense, "call", recording):
            model(batch, training=False)
        ((inputs, mask),) = seen
        experts = ops.convert_to_numpy(layer.route(inputs, mask).experts)
        real = batch[f"{side}_padding_mask"].astype(bool)
        ids = batch[f"{side}_token_ids"][real]
        counts.update(zip(experts[real][:, 0].tolist(), ids.tolist(), strict=True))
        room = max(min(real.size, int(real.size * factor / 4)), 4)
        dropped += sum(max(n - room, 0) for n in np.bincount(experts[real][:, 0]))
        total += real.sum()
    return counts, dropped / total, total


class InspectionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = fill_blanks_helpers.make()
        cls.layers = inspect_experts(cls.model, batches(), num_pieces=50, capacity_factors=(1, 2))

    def test_what_experts_take_equals_a_plain_loop(self):
        names = self.model.preprocessor.tokenizer.get_vocabulary()
        self.assertEqual([x.name for x in self.layers], ["encoder_block_1", "decoder_block_1"])
        for layer in self.layers:
            counts, dropped, total = naive(self.model, layer.name, 1)
            self.assertEqual(layer.num_tokens, total)
            self.assertAlmostEqual(layer.dropped[1], dropped)
            self.assertGreater(dropped, 0)
            for number, expert in enumerate(layer.experts):
                own = {names[i]: n for (e, i), n in counts.items() if e == number}
                self.assertEqual(dict(expert.frequent), own)
                self.assertAlmostEqual(expert.load, 4 * sum(own.values()) / total)
                self.assertEqual(set(dict(expert.typical)), set(own))
                numbers = [n for _, n in expert.frequent]
                self.assertEqual(numbers, sorted(numbers, reverse=True))

    def test_typical_pieces_are_those_that_other_experts_do_not_take(self):
        for layer in self.layers:
            totals = collections.Counter()
            for expert in layer.experts:
                totals.update(dict(expert.frequent))
            for expert in layer.experts:
                share, own = expert.load / 4, dict(expert.frequent)
                for piece, lift in expert.typical:
                    expected = (own[piece] + 10 * share) / (totals[piece] + 10) / share
                    self.assertAlmostEqual(lift, expected)
                lifts = [lift for _, lift in expert.typical]
                self.assertEqual(lifts, sorted(lifts, reverse=True))

    def test_the_model_stays_as_it_is(self):
        layer = self.model.backbone.encoder_blocks[1].feed_forward
        self.assertNotIn("call", vars(layer))
        self.assertEqual((layer.capacity_factor, layer.eval_capacity_factor), (1.25, 2.0))

    def test_dead_experts_are_named(self):
        model = lm_helpers.make(encoder_sparse_layers=[1], decoder_sparse_layers=[])
        router = model.backbone.encoder_blocks[1].feed_forward.router.kernel
        kernel = ops.convert_to_numpy(router).copy()
        # A mean is never the largest.
        kernel[:, 2] = kernel[:, [0, 1, 3]].mean(axis=1)
        router.assign(kernel)
        (layer,) = inspect_experts(model, batches(size=30))
        self.assertEqual(layer.dead, [2])
        self.assertEqual(layer.experts[2], (0.0, [], []))
        self.assertIn("\n  dead experts: 2\n", str(layer))
        self.assertIn("\n       2  0.00\n", str(layer))

    def test_expert_choice(self):
        model = lm_helpers.make(
            decoder_sparse_layers=[], switch={"routing": "expert_choice", "capacity_factor": 1.0}
        )
        (layer,) = inspect_experts(model, batches(size=30), 30, capacity_factors=(1.0,))
        # Each expert takes as many: a quarter of 24 positions in either batch.
        self.assertEqual([sum(n for _, n in e.frequent) for e in layer.experts], [12] * 4)
        self.assertGreater(layer.dropped[1.0], 0)

    def test_what_is_wrong_is_explained(self):
        with self.assertRaisesRegex(ValueError, "`batches` must hold a batch. Received: none"):
            inspect_experts(self.model, [])
        with self.assertRaisesRegex(ValueError, "must have experts. Received: a model of dense"):
            inspect_experts(lm_helpers.make(num_experts=None), batches())
        with self.assertRaisesRegex(ValueError, "`capacity_factors` must be a finite positive"):
            inspect_experts(self.model, batches(), capacity_factors=[0])
        with self.assertRaisesRegex(ValueError, "`num_pieces` must be a positive integer"):
            inspect_experts(self.model, batches(), num_pieces=0)

    def test_the_picture(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "new", "experts.png")
            plots.plot_experts(self.layers, path)
            pixels = image.imread(path)
            self.assertGreater(min(pixels.shape[:2]), 300)
            self.assertGreater(pixels.std(), 0.05)
            dead = [x._replace(load=0.0, typical=[]) for x in self.layers[0].experts]
            dead = self.layers[0]._replace(experts=dead)
            plots.plot_experts([dead], path, num_pieces=2, most_experts=3)
            self.assertLess(image.imread(path).shape[0], pixels.shape[0])
            with self.assertRaisesRegex(ValueError, "`layers` must hold a layer"):
                plots.plot_experts([], path)


class InspectCommandTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def inspect(self, *arguments, code=0):
        output, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            self.assertRaises(SystemExit) as stop,
        ):
            cli.main(["keras-switch", "inspect", *arguments])
        self.assertEqual(stop.exception.code, code, errors.getvalue())
        return output.getvalue() + errors.getvalue()

    def test_a_run_is_inspected(self):
        model = fill_blanks_helpers.make()
        model.save_to_preset(str(self.root / "model"))
        text = self.root / "text.txt"
        text.write_text("The people of the small house walk.\n" * 200)
        settings = {"corpus": str(text), "noise_density": 0.3}
        (self.root / "config.json").write_text(json.dumps({"settings": settings}))
        flags = ("--batch_size=2", "--batches=2")
        output = self.inspect(f"--run={self.root}", *flags)
        figure = self.root / "figures" / "experts.png"
        self.assertIn("encoder_block_1: 4 experts, 16 tokens\n", output)
        self.assertIn(f"Figure: {figure}.\n", output)
        self.assertTrue(figure.is_file())
        figure = self.root / "own.png"
        flags += (f"--model={self.root / 'model'}", f"--text={text}", f"--figure={figure}")
        self.assertIn("encoder_block_1: 4", self.inspect(*flags, "--inputs_length=6"))
        self.assertTrue(figure.is_file())
        line = self.inspect(f"--run={self.root}", "--batch_size=500", code=1)
        self.assertIn("keras-switch inspect: --text must fill a batch of 500 chunks", line)

    def test_what_is_wrong_is_explained(self):
        for arguments, message in (
            ((), "Either --run or --model must be given"),
            (("--run=a", "--model=b"), "Received: --run='a', --model='b'"),
            ((f"--run={self.root}",), "--run must be the directory of a run of `keras-switch"),
            (("--model=/none",), "There is no such preset, nor such a folder"),
        ):
            line = self.inspect(*arguments, code=1)
            self.assertTrue(line.startswith("keras-switch inspect: "), line)
            self.assertIn(message, line)


if __name__ == "__main__":
    unittest.main()
