"""`keras-switch COMMAND [flags]`."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import sys
import traceback

from absl import logging

from keras_switch import __version__
from keras_switch import atomic
from keras_switch import command_line
from keras_switch import process

FAILED, MISUSED = 1, 2
SIZES = (
    "vocabulary_size",
    "hidden_dim",
    "intermediate_dim",
    "num_heads",
    "num_layers",
    "num_experts",
)
MODELS = pathlib.Path(__file__).parent / "models" / "presets.md"


def _pretrain_flags(flags):
    flags.DEFINE_string("output_dir", "runs/pretrain", "Where everything is written.")
    flags.DEFINE_bool("restart", False, "Move an earlier run aside, and start anew.")
    flags.DEFINE_string("corpus", "", "Text file, a passage a line. Default: the one shipped.")
    flags.DEFINE_integer("vocabulary_size", 2048, "Ids of the vocabulary.", lower_bound=1)
    flags.DEFINE_integer("inputs_length", 128, "Tokens the encoder reads.", lower_bound=4)
    flags.DEFINE_float("noise_density", 0.3, "Share of the text to hide; T5 hides 0.15.", 0.0, 1.0)
    flags.DEFINE_integer("batch_size", 16, "Texts in a batch.", lower_bound=1)
    flags.DEFINE_integer("hidden_dim", 128, "Width of the model.", lower_bound=1)
    flags.DEFINE_integer("intermediate_dim", 512, "Hidden width of an expert.", lower_bound=1)
    flags.DEFINE_integer("num_heads", 4, "Attention heads.", lower_bound=1)
    flags.DEFINE_integer("num_layers", 2, "Blocks of the encoder, and of the decoder.", 2)
    flags.DEFINE_integer("num_experts", 8, "Experts of each sparse block.", lower_bound=1)
    flags.DEFINE_enum(
        "dtype",
        "mixed_bfloat16",
        ["float32", "bfloat16", "mixed_bfloat16"],
        "Dtype of the layers.",
    )
    flags.DEFINE_float("learning_rate", 3e-3, "The highest learning rate.", lower_bound=0.0)
    flags.DEFINE_integer("warmup_steps", 100, "Steps to get there.", lower_bound=0)
    flags.DEFINE_integer("epochs", 20, "Epochs; more than a run has extend it.", lower_bound=1)
    flags.DEFINE_integer("steps_per_epoch", 100, "Steps between two checkpoints.", lower_bound=1)
    flags.DEFINE_integer("validation_steps", 8, "Batches of held-out text.", lower_bound=1)
    flags.DEFINE_integer(
        "seed", 0, "Seed of everything random.", lower_bound=0, upper_bound=2**31 - 2
    )


def _pretrain(values):
    with process.loading():
        from keras_switch import export
        from keras_switch import tpu
        from keras_switch.training import checkpoint
        from keras_switch.training import pretrain
        from keras_switch.training import run_directory

    export.check_backend()
    tpu.highest_float32()
    names = [field.name for field in dataclasses.fields(pretrain.PretrainConfig)]
    config = pretrain.PretrainConfig(**{name: values[name].value for name in names})
    model = pretrain.pretrain(config, values.output_dir, restart=values.restart)
    output_dir = pathlib.Path(values.output_dir)
    with run_directory.lock(output_dir):
        newest = checkpoint.latest(output_dir / "checkpoints")
        path = run_directory.exported(output_dir, newest)
        if path:
            print(f"The export, {path}, is that of this model already.")
        else:
            path = export.export_text_model(model, output_dir / "saved_model")
            run_directory.write_exported(output_dir, newest, path)
            print(f"Exported {path}, which takes and gives text.")
    export.ask_in_another_process(path, pretrain.question(config))


def _rehearse_flags(flags):
    flags.DEFINE_string("topology", "v5e:2x4", "Chip and slice, such as v4:2x2x4 or v5p:8x8x16.")
    flags.DEFINE_string("mesh", "", "Axes and their cores. Default: batch:CORES.")
    flags.DEFINE_string("layout", "batch:batch,experts:batch", "Dimensions and their axes.")
    flags.DEFINE_string("preset", "switch_base_8", "A name that `keras-switch models` prints.")
    for name in SIZES:
        flags.DEFINE_integer(name, None, "In place of the preset's.", lower_bound=1)
    flags.DEFINE_integer("inputs_length", 512, "Tokens the encoder reads.", lower_bound=1)
    flags.DEFINE_integer("targets_length", 114, "Tokens the decoder writes.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Texts in a batch. Default: 8 a core.", lower_bound=1)
    flags.DEFINE_string("optimizer", "adafactor", "Ours; or the name of one of Keras's.")
    flags.DEFINE_bool("search", True, "Whether to look for a slice that fits, if this does not.")
    flags.DEFINE_string("json", "", "File to write, besides the table.")


def _rehearse(values):
    with process.loading():
        from keras_switch import models
        from keras_switch import tpu

    sizes = {name: values[name].value for name in SIZES if values[name].value is not None}
    config = {**models.presets.preset(values.preset), **sizes}
    mesh = values.mesh or f"batch:{tpu.rehearsal.chips.Topology(values.topology).num_cores}"
    # That the file can be written is seen before the work of minutes.
    with _writing(values.json) as file:
        rehearsal = tpu.rehearse(
            lambda: models.SwitchSeq2SeqLM(models.SwitchBackbone(**config), compile=False),
            values.topology,
            (mesh, values.layout),
            optimizer=_optimizer(values.optimizer),
            loss=models.losses.TargetCrossEntropy(),
            batch_size=values.batch_size,
            sequence_length={
                f"{side}_{name}": length
                for side, length in (
                    ("encoder", values.inputs_length),
                    ("decoder", values.targets_length),
                )
                for name in ("token_ids", "padding_mask")
            },
            search=values.search,
        )
        print(rehearsal, flush=True)
        if file:
            file.write_text(f"{rehearsal.to_json()}\n", encoding="utf-8")


@contextlib.contextmanager
def _writing(path):
    """Gives a path to write a file to, which appears whole or not at all; `None` for none."""
    if not path:
        yield None
        return
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with atomic.whole(path) as beside:
        beside.touch()
        yield beside


def _optimizer(name):
    import keras

    from keras_switch.training import Adafactor

    if name == "adafactor":
        return Adafactor()
    try:
        return keras.optimizers.get(name)
    except ValueError:
        raise ValueError(
            '`optimizer` must be "adafactor" or the name of one of Keras\'s. '
            f"Received: optimizer={name!r}"
        ) from None


def _convert_flags(flags):
    flags.DEFINE_string("input", None, "Folder of the weights to read.")
    flags.DEFINE_string("output", None, "Folder to write, which must not exist.")
    flags.DEFINE_enum("to", "keras", ["keras", "huggingface"], "Format to write.")


def _convert(values):
    with process.loading():
        from keras_switch import weights

    output = weights.convert(values.input, values.output, to=values.to)
    print(f"Converted {values.input} to {output}.")


def _models(values):
    print(MODELS.read_text(encoding="utf-8"), end="")


COMMANDS = {
    "pretrain": command_line.Command(
        "train a small Switch Transformer on text, and export it",
        _pretrain_flags,
        _pretrain,
        aliases={"path": "corpus", "lines": "corpus", "tokens": "corpus"},
    ),
    "rehearse": command_line.Command(
        "compile a Switch Transformer's train step for a TPU slice, without a TPU",
        _rehearse_flags,
        _rehearse,
    ),
    "models": command_line.Command(
        "list the models of the paper, with their parameters and operations",
        lambda flags: None,
        _models,
    ),
    "convert": command_line.Command(
        "carry weights from and to the formats of others",
        _convert_flags,
        _convert,
        required=("input", "output"),
    ),
}


def main(argv=None):
    """Runs a command; returns its exit code by `SystemExit`."""
    try:
        code = _main((sys.argv if argv is None else argv)[1:])
        sys.stdout.flush()
    except command_line.UsageError as error:
        print(error, file=sys.stderr)
        code = MISUSED
    except BrokenPipeError:
        # Whoever read the output has gone, and Python would flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def _main(arguments):
    """Answers a call for help, or runs a command; returns the exit code."""
    name, *rest = arguments or ["help"]
    if name == "--version":
        print(f"keras-switch {__version__}")
        return 0
    asks = name == "help" or command_line.is_help(name)
    if asks and not rest:
        print(command_line.usage(COMMANDS))
        return 0
    if asks:
        name, *rest = [*rest, "--help"]
    if name.startswith("-"):
        raise command_line.UsageError(f"Unknown flag: {name}. A command comes before its flags.")
    if name not in COMMANDS:
        proposal = command_line.did_you_mean(name, COMMANDS)
        known = ", ".join(COMMANDS)
        raise command_line.UsageError(
            f"Unknown command: {name!r}.{proposal} The commands are: {known}."
        )
    if any(map(command_line.is_help, rest)):
        print(command_line.command_usage(name, COMMANDS[name]))
        return 0
    values = command_line.define(COMMANDS[name].define_flags)
    command_line.parse(name, values, rest)
    command_line.require(name, values, COMMANDS[name].required)
    return _run(name, values)


def _run(name, values):
    logging.set_verbosity(logging.ERROR)
    try:
        COMMANDS[name].run(values)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print(f"\nStopped.{_how_to_resume(values)}", file=sys.stderr)
        return process.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get(command_line.TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        else:
            if sys.stdout.isatty():
                print(flush=True)  # A progress bar may be in the line.
            message = command_line.explain(error, values, COMMANDS[name].aliases)
            print(f"keras-switch {name}: {message}", file=sys.stderr)
        return FAILED


def _how_to_resume(values):
    """What to do after Ctrl-C in a command that saves checkpoints."""
    if "restart" not in values:
        return ""
    from keras_switch.training import checkpoint

    if checkpoint.latest(pathlib.Path(values["output_dir"].value) / "checkpoints") is None:
        return " There is no checkpoint yet."
    again = " The same command again"
    if values["restart"].value:
        again += ", but without --restart,"
    return f"{again} resumes from the last checkpoint."


if __name__ == "__main__":
    main()
