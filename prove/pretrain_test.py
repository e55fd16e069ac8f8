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
    path = checkpoint.latest(directory / "checkpoints")
    return None if path is None else checkpoint.read_state(path)


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

    def stop(self, directory, number, epoch):
        """Starts a run and signals it after an epoch; returns its exit code and output."""
        process = subprocess.Popen(
            command("pretrain", f"--output_dir={directory}", *self.flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 240
        while (state := state_of(directory)) is None or state.epoch < epoch:
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
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
        ):
            self.assertTrue((self.whole / name).is_file(), name)
        for words in ("tokens/s", "dropped", "val_loss", "Filled: ", "without keras or"):
            self.assertIn(words, self.output)
        self.assertEqual(state_of(self.whole).step, 18)

    def test_a_second_run_finds_the_run_finished(self):
        output = run("pretrain", f"--output_dir={self.whole}", *self.flags)
        self.assertIn("nothing left to train", output)
        self.assertIn("Filled: ", output)
        self.assertNotIn("Epoch 1/3", output)

    def test_ctrl_c_and_kill_lose_nothing(self):
        directory = self.root / "stopped"
        code, output = self.stop(directory, signal.SIGINT, 1)
        self.assertEqual(code, 130)
        self.assertIn("The same command again resumes", output)
        code, _ = self.stop(directory, signal.SIGKILL, 2)
        self.assertEqual(code, -signal.SIGKILL)
        output = run("pretrain", f"--output_dir={directory}", *self.flags)
        self.assertIn("resumed, at step", output)
        history = state_of(directory).history
        expected = state_of(self.whole).history
        history.pop("tokens_per_second")
        expected.pop("tokens_per_second")
        self.assertEqual(history, expected)

    def test_other_settings_are_refused_and_restart_moves_the_run_aside(self):
        directory = self.root / "other"
        directory.mkdir()
        (directory / "config.json").write_text((self.whole / "config.json").read_text())
        flags = [f"--output_dir={directory}", *self.flags, "--batch_size=100000"]
        output = run("pretrain", *flags, code=1)
        self.assertIn("has other settings", output)
        self.assertIn("batch_size=100000 (was 4)", output)
        output = run("pretrain", "--restart", *flags, code=1)
        self.assertIn("must fill a batch of 100000 chunks", output)
        self.assertTrue((self.root / "other.1" / "config.json").is_file())


class CommandLineTest(unittest.TestCase):
    def test_help_lists_the_commands(self):
        for args in ((), ("--help",)):
            self.assertIn("pretrain  train a small Switch Transformer", run(*args))

    def test_help_of_a_command_lists_its_flags(self):
        output = run("pretrain", "--help")
        self.assertIn("--vocabulary_size    Ids of the vocabulary. (default: 4096)", output)
        self.assertNotIn("tensorflow", output.lower())

    def test_bad_commands_and_flags_are_explained(self):
        output = run("pretrian", code=2)
        self.assertIn("Unknown command: 'pretrian'. The commands are: pretrain.", output)
        self.assertIn("batch_size", run("pretrain", "--batch_size=0", code=1))
        self.assertIn("Unknown command line flag", run("pretrain", "--nothing", code=1))
        self.assertIn("Unexpected argument: 'x'", run("pretrain", "x", code=1))

    def test_a_missing_corpus_is_explained(self):
        with tempfile.TemporaryDirectory() as directory:
            output = run("pretrain", "--corpus=/none", f"--output_dir={directory}/run", code=1)
        self.assertIn("`path` must be an existing text file. Received: path='/none'", output)


if __name__ == "__main__":
    unittest.main()
