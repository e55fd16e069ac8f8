import contextlib
import importlib.util
import io
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import huggingface_helpers as helpers
import keras

import keras_switch
from keras_switch import cli
from keras_switch import command_line
from keras_switch import data
from keras_switch import export
from keras_switch import models
from keras_switch import tpu
from keras_switch import training
from keras_switch.commands import pretrain as pretrain_command
from keras_switch.commands import rehearse
from keras_switch.training import pretrain

MODEL = unittest.mock.Mock()
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

    def environment(self, **more):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}
        # The command hides what TensorFlow prints of this machine, unless this says otherwise.
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        return environment

    def run_command(self, *args, code, **environment):
        """Returns what it prints, and its errors."""
        command = [sys.executable, str(self.script), *args]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(**environment)
        )
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout, done.stderr

    def test_help_of_a_command_lists_its_flags(self):
        output, errors = self.run_command("pretrain", "--help", code=0)
        self.assertRegex(output, r"--vocabulary_size +Ids of the vocabulary.*\(default: 2048\)")
        self.assertRegex(output, r"--dropout .*\(default: 0\.0\)")
        self.assertEqual(errors, "")

    def test_bad_flags_are_explained_in_one_line(self):
        output, errors = self.run_command("pretrain", "--batch_size=0", code=2)
        self.assertEqual(output, "")
        self.assertEqual(
            errors,
            "keras-switch pretrain: --batch_size must be a positive integer. "
            "Received: --batch_size=0. See: keras-switch pretrain --help\n",
        )

    def test_a_missing_corpus_is_explained_and_leaves_nothing_behind(self):
        directory = self.root / "new" / "run"
        flag = f"--output_dir={directory}"
        output, errors = self.run_command("pretrain", flag, "--corpus=/none", code=1)
        self.assertEqual(output, "")
        self.assertEqual(
            errors,
            "keras-switch pretrain: --corpus must be an existing text file. "
            "Received: --corpus='/none'\n",
        )
        self.assertFalse(directory.parent.exists())

    def run_on_a_full_disk(self, *args, room):
        """Runs a command that can write no file of more bytes; returns its errors."""
        done = subprocess.run(
            [sys.executable, str(self.script), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_a_full_disk_leaves_nothing_of_a_conversion(self):
        folder, output = self.root / "weights", self.root / "new" / "full"
        helpers.write(folder, helpers.SWITCH, helpers.tensors(helpers.SWITCH))
        for to, file in (("keras", output / "model.weights.h5"), ("huggingface", output)):
            flags = (f"--input={folder}", f"--output={output}", f"--to={to}")
            errors = self.run_on_a_full_disk("convert", *flags, room=9_000)
            self.assertEqual(errors, f"keras-switch convert: {file}: File too large\n")
            self.assertFalse(output.parent.exists())

    def test_a_full_disk_keeps_what_a_run_has_saved(self):
        corpus, run = self.root / "corpus.txt", self.root / "full_run"
        corpus.write_text("\n".join(data.read_corpus()[:400]))
        flags = "--vocabulary_size=400 --inputs_length=32 --batch_size=2 --hidden_dim=16 "
        flags += "--intermediate_dim=32 --num_heads=2 --num_experts=2 --steps_per_epoch=2"
        flags = (f"--corpus={corpus}", f"--output_dir={run}", *flags.split())
        errors = self.run_on_a_full_disk("pretrain", *flags, room=300_000)
        step = run / "checkpoints" / "step-000000002-epoch-00001"
        self.assertEqual(errors, f"keras-switch pretrain: {step}: File too large\n")
        self.assertEqual(list((run / "checkpoints").iterdir()), [])
        for name in ("config.json", "vocabulary.model"):
            self.assertTrue((run / name).is_file(), name)

    def test_ctrl_c_while_it_imports_just_stops(self):
        process = subprocess.Popen(
            [sys.executable, str(self.script), "convert", "--input=/none", "--output=/none"],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        libraries = pathlib.Path(f"/proc/{process.pid}/maps")
        while "tensorflow" not in libraries.read_text():
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.communicate(), ("", "\nStopped.\n"))
        self.assertEqual(process.returncode, 130)

    def test_a_closed_pipe_ends_it_without_a_word(self):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, str(self.script), "models"]
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, env=self.environment()
        )
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (1, b""))

    def test_output_that_cannot_be_written_is_an_error(self):
        command = [sys.executable, str(self.script), "models"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, env=self.environment()
            )
        message = b"keras-switch models: [Errno 28] No space left on device\n"
        self.assertEqual((done.returncode, done.stderr), (1, message))

    def test_a_slice_that_does_not_exist_is_explained(self):
        output, errors = self.run_command("rehearse", "--topology=v9:2x2", code=1)
        self.assertEqual(output, "")
        self.assertIn("keras-switch rehearse: --topology must name a chip", errors)

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
        flags = ("--input=/none", f"--output={output}")
        printed, errors = self.run_command("convert", *flags, code=1)
        self.assertEqual(printed, "")
        self.assertEqual(
            errors,
            "keras-switch convert: --input does not exist. Received: --input='/none'\n",
        )
        self.assertFalse(output.exists())

    @unittest.skipUnless(importlib.util.find_spec("jax"), "JAX is not installed.")
    def test_another_backend_is_refused_at_the_start(self):
        flags = ("--model=/none", f"--output={self.root / 'jax'}")
        _, errors = self.run_command("export", *flags, code=1, KERAS_BACKEND="jax")
        self.assertIn("keras-switch export: SavedModels need the TensorFlow backend", errors)


class CommandLineTest(unittest.TestCase):
    def run_command(self, *args, code):
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            with self.assertRaises(SystemExit) as stop:
                cli.main(["keras-switch", *args])
        self.assertEqual(stop.exception.code, code)
        return output.getvalue() + errors.getvalue()

    def test_help_lists_the_commands(self):
        for spelling in ((), ("--help",), ("-h",), ("help",), ("--helpshort",), ("--helpfull",)):
            output = self.run_command(*spelling, code=0)
            self.assertIn("pretrain  train a small Switch Transformer", output)
            self.assertIn("KERAS_SWITCH_TRACEBACK=1", output)

    def test_help_of_a_command_has_many_spellings(self):
        expected = self.run_command("convert", "--help", code=0)
        self.assertIn("--output", expected)
        for spelling in ("-h", "-help", "--helpshort", "--helpfull"):
            self.assertEqual(self.run_command("convert", spelling, code=0), expected)
            self.assertEqual(self.run_command("convert", "--to=keras", spelling, code=0), expected)
        for spelling in ("help", "--help", "-h"):
            self.assertEqual(self.run_command(spelling, "convert", code=0), expected)

    def test_help_without_flags_lists_none(self):
        (line,) = self.run_command("models", "--help", code=0).splitlines()
        self.assertIn("keras-switch models: list the models", line)

    def test_version(self):
        output = self.run_command("--version", code=0)
        self.assertEqual(output, f"keras-switch {keras_switch.__version__}\n")

    def test_unknown_commands_are_explained(self):
        for arguments in (["pretrian"], ["help", "pretrian"]):
            self.assertEqual(
                self.run_command(*arguments, code=2),
                "keras-switch: Unknown command: 'pretrian'. Did you mean pretrain? The commands "
                f"are: {', '.join(cli.COMMANDS)}. See: keras-switch --help\n",
            )
        output = self.run_command("--to=keras", "convert", code=2)
        self.assertIn("Unknown flag: --to=keras. A command comes before its flags.", output)

    def test_flags_that_must_be_given_are_asked_for(self):
        output = self.run_command("convert", "--input=/none", code=2)
        self.assertIn("keras-switch convert: --output must be given: Folder to write", output)

    def run_and_raise(self, error, environment=""):
        """Returns what a command prints whose work raises an error."""
        command = cli.COMMANDS["convert"]._replace(run=unittest.mock.Mock(side_effect=error))
        with (
            unittest.mock.patch.dict(cli.COMMANDS, {"convert": command}),
            unittest.mock.patch.dict(os.environ, {"KERAS_SWITCH_TRACEBACK": environment}),
        ):
            return self.run_command("convert", "--input=a", "--output=b", code=1)

    def test_errors_are_one_line(self):
        for error, line in (
            (ValueError("`input` is\n  bad. Received: input='a'"), "--input is bad. Received: --i"),
            (PermissionError(13, "Permission denied", "/b/c"), "/b/c: Permission denied\n"),
            (ImportError("No module named 'x'"), "No module named 'x'\n"),
            (KeyError("x"), "KeyError: 'x' (KERAS_SWITCH_TRACEBACK=1 shows where.)\n"),
            (MemoryError(), "MemoryError:  (KERAS_SWITCH_TRACEBACK=1 shows where.)\n"),
        ):
            output = self.run_and_raise(error)
            self.assertTrue(output.startswith(f"keras-switch convert: {line}"), output)
            self.assertEqual(output.count("\n"), 1)

    def test_a_traceback_is_printed_to_who_asks_for_it(self):
        for environment, expected in (("1", True), ("0", False), ("", False)):
            output = self.run_and_raise(ValueError("bad"), environment)
            self.assertEqual(output.startswith("Traceback (most recent call last)"), expected)
            self.assertEqual("in _run" in output, expected)

    def stop(self, name, *arguments):
        """What the program says after Ctrl-C."""
        run = unittest.mock.Mock(side_effect=KeyboardInterrupt)
        command = cli.COMMANDS[name]._replace(run=run)
        with unittest.mock.patch.dict(cli.COMMANDS, {name: command}):
            return self.run_command(name, *arguments, code=130)

    def test_ctrl_c_says_how_to_resume_if_there_is_a_checkpoint(self):
        with tempfile.TemporaryDirectory() as directory:
            flag = f"--output_dir={directory}"
            message = self.stop("pretrain", flag)
            self.assertEqual(message, "\nStopped. There is no checkpoint yet.\n")
            (pathlib.Path(directory) / "checkpoints" / "step-000000001-epoch-00000").mkdir(
                parents=True
            )
            message = self.stop("pretrain", flag)
            self.assertIn("The same command again resumes from the last checkpoint.", message)
            message = self.stop("pretrain", flag, "--restart")
            self.assertIn("again, but without --restart, resumes from", message)

    def test_ctrl_c_of_a_command_that_saves_nothing_just_stops(self):
        self.assertEqual(self.stop("models"), "\nStopped.\n")

    def rehearse(self, **changes):
        """Runs `rehearse` with its flags' defaults; returns what it asked for and printed."""
        names = command_line.define(rehearse.define_flags)
        names.mark_as_parsed()
        for name, value in changes.items():
            names[name].value = value
        answer = unittest.mock.Mock()
        answer.to_json.return_value = "{}"
        output = io.StringIO()
        with (
            unittest.mock.patch.object(tpu, "rehearse", return_value=answer) as self.rehearsals,
            contextlib.redirect_stdout(output),
        ):
            rehearse.run(names)
        self.assertEqual(output.getvalue(), f"{answer}\n")
        return self.rehearsals.call_args

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
        with self.assertRaisesRegex(
            ValueError, "There is no such preset.* preset='c_2048'; there are"
        ):
            self.rehearse(preset="c_2048")

    def test_json_that_cannot_be_written_is_seen_before_the_work(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "file"
            file.touch()
            for path, error in ((directory, IsADirectoryError), (file / "x", NotADirectoryError)):
                with self.assertRaises(error) as raised:
                    self.rehearse(json=str(path))
                self.rehearsals.assert_not_called()
                self.assertEqual(raised.exception.filename, str(path).removesuffix("/x"))

    def test_json_for_which_there_is_no_room_is_an_error(self):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "new" / "rehearsal.json"
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
            with self.assertRaises(OSError) as raised:
                self.rehearse(json=str(path))
            self.assertEqual(raised.exception.filename, str(path))
            self.assertEqual(os.listdir(directory), [])

    def test_an_unknown_optimizer_is_explained(self):
        with self.assertRaisesRegex(ValueError, "`optimizer` must be .* optimizer='foo'"):
            self.rehearse(optimizer="foo")

    def test_models_prints_the_table(self):
        output = self.run_command("models", code=0)
        self.assertIn("\n| switch_base_8    |       619,339,008 |", output)

    def pretrain(self, directory, exported=None):
        """Runs `pretrain` whose parts are mocks; returns their calls, and what is printed."""
        calls, output = unittest.mock.Mock(), io.StringIO()
        calls.pretrain.return_value = MODEL
        calls.export_pretrained.side_effect = lambda model, folder, path: path / "1"
        values = command_line.define(pretrain_command.define_flags)
        values(["keras-switch", f"--output_dir={directory}"])
        (directory / "checkpoints" / "step-1").mkdir(parents=True, exist_ok=True)
        with (
            unittest.mock.patch.object(tpu, "highest_float32", calls.highest_float32),
            unittest.mock.patch.object(pretrain, "pretrain", calls.pretrain),
            unittest.mock.patch.object(pretrain, "question", return_value="question"),
            unittest.mock.patch.object(export, "export_pretrained", calls.export_pretrained),
            unittest.mock.patch.object(export, "ask_in_another_process", calls.ask),
            contextlib.redirect_stdout(output),
        ):
            pretrain_command.run(values)
        return calls, output.getvalue()

    def test_pretrain_asks_for_true_float32_and_exports(self):
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            calls, output = self.pretrain(directory)
            names = [call[0] for call in calls.method_calls]
            self.assertEqual(names, ["highest_float32", "pretrain", "export_pretrained", "ask"])
            path = directory / "saved_model"
            calls.export_pretrained.assert_called_with(MODEL, directory / "model", path)
            calls.ask.assert_called_with(path / "1", "question")
            self.assertIn(f"Exported {path / '1'}", output)

    def test_what_has_not_changed_is_not_exported_again(self):
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            self.pretrain(directory)
            path = directory / "saved_model" / "1"
            path.mkdir(parents=True)
            calls, output = self.pretrain(directory)
            calls.export_pretrained.assert_not_called()
            calls.ask.assert_called_with(path, "question")
            self.assertIn(f"The export, {path}, is that of this model already.", output)
            (directory / "checkpoints" / "step-2").mkdir()
            calls, _ = self.pretrain(directory)
            calls.export_pretrained.assert_called()


if __name__ == "__main__":
    unittest.main()
