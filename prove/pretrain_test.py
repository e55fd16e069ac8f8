import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from keras_switch.data import read_corpus
from keras_switch.training import checkpoint

FLAGS = (
    "--vocabulary_size=500 --inputs_length=32 --batch_size=4 --hidden_dim=16 --num_heads=2 "
    "--intermediate_dim=32 --num_experts=4 --epochs=3 --steps_per_epoch=6 --warmup_steps=2 "
    "--validation_steps=1"
).split()


def command(*args):
    return [sys.executable, "-m", "keras_switch.cli", *map(str, args)]


def run(*args, code=0):
    """Runs the program to its end; returns what it prints."""
    result = subprocess.run(command(*args), capture_output=True, text=True, check=False)
    if result.returncode != code:
        raise AssertionError(f"exit code {result.returncode}: {result.stdout}\n{result.stderr}")
    return result.stdout + result.stderr


def state_of(directory):
    return checkpoint.read_state(checkpoint.latest(directory / "checkpoints"))


class PretrainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.corpus = cls.root / "corpus.txt"
        cls.corpus.write_text("\n".join(read_corpus()[:600]))
        cls.flags = [*FLAGS, f"--corpus={cls.corpus}"]
        cls.whole = cls.root / "whole"
        cls.output = run("pretrain", f"--output_dir={cls.whole}", *cls.flags)

    def stop(self, directory, number, sign):
        """Starts a run, signals it at a sign in its checkpoints; returns exit code and output."""
        process = subprocess.Popen(
            command("pretrain", f"--output_dir={directory}", *self.flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 240
        while not list((directory / "checkpoints").glob(sign)):
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.002)
        os.kill(process.pid, number)
        output, _ = process.communicate()
        return process.returncode, output

    def test_trains_draws_exports_and_serves(self):
        for name in (
            "vocabulary.model",
            "config.json",
            "figures/loss.png",
            "figures/expert_load.png",
            "saved_model/1/saved_model.pb",
            "model/model.weights.h5",
            "model/assets/tokenizer/vocabulary.spm",
        ):
            self.assertTrue((self.whole / name).is_file(), name)
        for words in ("tokens/s", "dropped", "val_nats_per_token", "Filled: ", "without keras or"):
            self.assertIn(words, self.output)
        self.assertNotIn("Assets written to", self.output)
        self.assertEqual(state_of(self.whole).step, 18)

    def test_the_saved_model_generates_in_a_fresh_process(self):
        code = (
            "from keras_switch.models import SwitchSeq2SeqLM as Model; "
            f"print('Wrote:', Model.from_preset({str(self.whole / 'model')!r})"
            ".generate('The <extra_id_0> of the people'))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertRegex(result.stdout, "Wrote: .+")

    def test_a_second_run_finds_the_run_finished(self):
        output = run("pretrain", f"--output_dir={self.whole}", *self.flags)
        self.assertIn("nothing left to train", output)
        self.assertIn("Filled: ", output)
        self.assertEqual([x.name for x in (self.whole / "saved_model").iterdir()], ["1"])
        self.assertNotIn("Epoch 1/3", output)

    def test_ctrl_c_and_kill_lose_nothing(self):
        directory = self.root / "stopped"
        code, output = self.stop(directory, signal.SIGINT, "step-*-epoch-00001")
        self.assertEqual(code, 130)
        self.assertIn("The same command again resumes", output)
        # A kill while it writes the checkpoint at the end of the second epoch.
        code, _ = self.stop(directory, signal.SIGKILL, ".step-000000012-epoch-00002.*.tmp")
        self.assertEqual(code, -signal.SIGKILL)
        output = run("pretrain", f"--output_dir={directory}", *self.flags)
        self.assertIn("resumed, at step", output)
        self.assertEqual(state_of(directory).history, state_of(self.whole).history)

    def test_a_run_goes_on_on_another_mesh(self):
        directory = self.root / "mesh"
        flags = [f"--output_dir={directory}", *self.flags, "--dtype=float32"]
        output = run("pretrain", *flags, "--mesh=batch:4", "--epochs=2")
        self.assertIn("4 virtual CPU cores.", output)
        self.assertIn("Filled: ", output)
        self.assertEqual(state_of(directory).step, 12)
        output = run("pretrain", *flags, "--mesh=batch:2")
        self.assertIn("resumed, at step 12", output)
        self.assertEqual(state_of(directory).step, 18)

    def test_jax_trains_and_another_process_exports(self):
        directory = self.root / "jax"
        output = run("pretrain", f"--output_dir={directory}", *self.flags, "--backend=jax")
        for words in ("tokens/s", "dropped", "val_shuffled_nats_per_token", "Filled: "):
            self.assertIn(words, output)
        self.assertEqual(state_of(directory).step, 18)
        output = run("generate", f"--model={directory}", "The <extra_id_0> of the people")
        self.assertRegex(output, "Blank 1: .*%")


if __name__ == "__main__":
    unittest.main()
