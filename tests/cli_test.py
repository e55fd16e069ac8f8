import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import huggingface_helpers as helpers
import keras
from absl import flags

from keras_switch import cli
from keras_switch import export
from keras_switch import models
from keras_switch import tpu
from keras_switch import training
from keras_switch.training import pretrain

# What pip makes of the entry point.
SCRIPT = "from keras_switch.cli import main\nmain()\n"


class ProcessTest(unittest.TestCase):
    """Runs the program as its users do, with a name that says that it is the command."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.script = cls.root / "keras-switch"
        cls.script.write_text(SCRIPT)

    def run_command(self, *args, code, **environment):
        """Returns what it prints, and its errors."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        command = [sys.executable, str(self.script), *args]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout, done.stderr

    def test_help_of_a_command_lists_its_flags(self):
        output, errors = self.run_command("pretrain", "--help", code=0)
        self.assertIn("--vocabulary_size    Ids of the vocabulary. (default: ", output)
        self.assertEqual(errors, "")

    def test_bad_flags_are_explained(self):
        for flag, message in (
            ("--batch_size=0", "flag --batch_size=0"),
            ("--seed=2147483648", "flag --seed=2147483648"),
            ("--nothing", "Unknown command line flag 'nothing'"),
            ("x", "Unexpected argument: 'x'"),
        ):
            output, errors = self.run_command("pretrain", flag, code=1)
            self.assertIn(message, output + errors)

    def test_a_missing_corpus_is_explained_and_leaves_nothing_behind(self):
        directory = self.root / "run"
        flag = f"--output_dir={directory}"
        output, errors = self.run_command("pretrain", flag, "--corpus=/none", code=1)
        self.assertEqual(output, "")
        self.assertEqual(
            errors,
            "keras-switch pretrain: `path` must be an existing text file. Received: path='/none'\n",
        )
        self.assertFalse(directory.exists())

    def test_a_slice_that_does_not_exist_is_explained(self):
        output, errors = self.run_command("rehearse", "--topology=v9:2x2", code=1)
        self.assertEqual(output, "")
        self.assertIn("keras-switch rehearse: `topology` must name a chip", errors)

    def test_weights_are_converted(self):
        folder, output = self.root / "theirs", self.root / "ours"
        helpers.write(folder, helpers.SWITCH, helpers.tensors(helpers.SWITCH))
        given = (f"--input={folder}", f"--output={output}")
        printed, errors = self.run_command("convert", *given, code=0)
        self.assertEqual(printed.splitlines()[-1], f"Converted {folder} to {output}.")
        self.assertEqual(errors, "")
        self.assertTrue((output / "model.weights.h5").is_file())

    def test_weights_that_cannot_be_converted_are_explained(self):
        output = self.root / "none"
        for given, message in (
            (("--input=/none",), "keras-switch convert: `input` does not exist"),
            (("--input=/none", "--to=t5x"), "flag --to=t5x"),
            ((), "flag --input=None: Flag --input must have a value"),
        ):
            printed, errors = self.run_command("convert", f"--output={output}", *given, code=1)
            self.assertIn(message, printed + errors)
        self.assertFalse(output.exists())

    @unittest.skipUnless(importlib.util.find_spec("jax"), "JAX is not installed.")
    def test_another_backend_is_refused_at_the_start(self):
        _, errors = self.run_command(
            "pretrain", f"--output_dir={self.root / 'jax'}", code=1, KERAS_BACKEND="jax"
        )
        self.assertIn("SavedModels need the TensorFlow backend", errors)


class CommandLineTest(unittest.TestCase):
    def run_command(self, *args, code):
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            with self.assertRaises(SystemExit) as stop:
                cli.main(["keras-switch", *args])
        self.assertEqual(stop.exception.code, code)
        return output.getvalue() + errors.getvalue()

    def test_help_lists_the_commands(self):
        for args in ((), ("--help",)):
            output = self.run_command(*args, code=0)
            self.assertIn("pretrain  train a small Switch Transformer", output)

    def test_unknown_commands_are_explained(self):
        output = self.run_command("pretrian", code=2)
        self.assertIn("Unknown command: 'pretrian'. The commands are: pretrain, rehearse,", output)

    def stop(self, restart=None):
        """What the program says after Ctrl-C."""
        values, output = flags.FlagValues(), io.StringIO()
        if restart is not None:
            flags.DEFINE_bool("restart", restart, "", flag_values=values)
        values.mark_as_parsed()
        run = unittest.mock.Mock(side_effect=KeyboardInterrupt)
        with (
            unittest.mock.patch.dict(cli.COMMANDS, {"stop": cli.Command("", None, run)}),
            unittest.mock.patch.object(cli.flags, "FLAGS", values),
            contextlib.redirect_stdout(output),
            self.assertRaises(SystemExit) as stop,
        ):
            cli._run("stop", ["keras-switch stop"])
        self.assertEqual(stop.exception.code, cli.INTERRUPTED)
        return output.getvalue()

    def test_ctrl_c_says_how_to_resume(self):
        self.assertIn("The same command again resumes from", self.stop(restart=False))
        self.assertIn("again, but without --restart, resumes from", self.stop(restart=True))

    def test_ctrl_c_of_a_command_that_saves_nothing_just_stops(self):
        self.assertEqual(self.stop(), "\nStopped.\n")

    def rehearse(self, **changes):
        """Runs `rehearse` with its flags' defaults; returns what it asked for and printed."""
        names = flags.FlagValues()
        with unittest.mock.patch.object(cli.flags, "FLAGS", names):
            define = [
                unittest.mock.patch.object(
                    cli.flags, name, functools.partial(getattr(flags, name), flag_values=names)
                )
                for name in ("DEFINE_string", "DEFINE_integer", "DEFINE_bool")
            ]
            with contextlib.ExitStack() as stack:
                for patch in define:
                    stack.enter_context(patch)
                cli._rehearse_flags()
        names.mark_as_parsed()
        for name, value in changes.items():
            names[name].value = value
        answer = unittest.mock.Mock()
        answer.to_json.return_value = "{}"
        output = io.StringIO()
        with (
            unittest.mock.patch.object(tpu, "rehearse", return_value=answer) as rehearse,
            contextlib.redirect_stdout(output),
        ):
            cli._rehearse(names)
        self.assertEqual(output.getvalue(), f"{answer}\n")
        return rehearse.call_args

    def test_rehearse_asks_for_what_the_flags_say(self):
        call = self.rehearse(
            topology="v4:2x2x1", preset="t5_tiny", num_layers=1, hidden_dim=24, batch_size=16
        )
        self.assertEqual(call.args[1:], ("v4:2x2x1", ("batch:8", "batch:batch,experts:batch")))
        self.assertIsInstance(call.kwargs["optimizer"], training.Adafactor)
        self.assertIsInstance(call.kwargs["loss"], models.losses.TargetCrossEntropy)
        self.assertEqual(call.kwargs["batch_size"], 16)
        lengths = {"encoder_token_ids": 512, "decoder_token_ids": 114}
        lengths |= {"encoder_padding_mask": 512, "decoder_padding_mask": 114}
        self.assertEqual(call.kwargs["sequence_length"], lengths)
        backbone = call.args[0]().backbone
        self.assertEqual([backbone.num_layers, backbone.hidden_dim], [1, 24])
        self.assertEqual([backbone.num_heads, backbone.num_experts], [4, None])

    def test_rehearse_takes_a_mesh_and_writes_json(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "rehearsal.json"
            call = self.rehearse(mesh="batch:4,model:2", optimizer="sgd", json=str(path))
            self.assertEqual(path.read_text(), "{}\n")
        self.assertEqual(call.args[2][0], "batch:4,model:2")
        self.assertIsInstance(call.kwargs["optimizer"], keras.optimizers.SGD)

    def test_an_unknown_preset_is_explained(self):
        with self.assertRaisesRegex(ValueError, "There is no such preset.* 'c_2048'; there are"):
            self.rehearse(preset="c_2048")

    def test_models_prints_the_table(self):
        output = io.StringIO()
        with (
            unittest.mock.patch.object(models.sizes, "table", return_value=["one", "two"]),
            contextlib.redirect_stdout(output),
        ):
            cli.COMMANDS["models"].run(None)
        self.assertEqual(output.getvalue(), "one\ntwo\n")

    def test_pretrain_asks_for_true_float32_and_exports(self):
        calls = unittest.mock.Mock()
        calls.pretrain.return_value = "model"
        values = unittest.mock.MagicMock(output_dir="/somewhere", restart=False)
        with (
            unittest.mock.patch.object(tpu, "highest_float32", calls.highest_float32),
            unittest.mock.patch.object(pretrain, "pretrain", calls.pretrain),
            unittest.mock.patch.object(export, "export_text_model", calls.export_text_model),
            unittest.mock.patch.object(export, "ask_in_another_process", calls.ask),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            cli._pretrain(values)
        names = [call[0] for call in calls.method_calls]
        self.assertEqual(names, ["highest_float32", "pretrain", "export_text_model", "ask"])
        path = pathlib.Path("/somewhere/saved_model")
        calls.export_text_model.assert_called_with("model", path)


if __name__ == "__main__":
    unittest.main()
