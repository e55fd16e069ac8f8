"""`keras-switch COMMAND [flags]`."""

import dataclasses
import os
import pathlib
import sys
import typing

from absl import app
from absl import flags
from absl import logging

INTERRUPTED = 130
SIZES = (
    "vocabulary_size",
    "hidden_dim",
    "intermediate_dim",
    "num_heads",
    "num_layers",
    "num_experts",
)
EXAMPLE = "The Congress of the<extra_id_0> has the power to<extra_id_1> the people of this country."


class Command(typing.NamedTuple):
    """A command: what it does in a line, its flags, and what runs it."""

    summary: str
    define_flags: typing.Callable
    run: typing.Callable


def _pretrain_flags():
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
    flags.DEFINE_integer("epochs", 20, "Number of epochs.", lower_bound=1)
    flags.DEFINE_integer("steps_per_epoch", 100, "Steps between two checkpoints.", lower_bound=1)
    flags.DEFINE_integer("validation_steps", 8, "Batches of held-out text.", lower_bound=1)
    flags.DEFINE_integer(
        "seed", 0, "Seed of everything random.", lower_bound=0, upper_bound=2**31 - 2
    )


def _pretrain(values):
    from keras_switch import export
    from keras_switch import tpu
    from keras_switch.training import pretrain

    export.check_backend()
    tpu.highest_float32()
    names = [field.name for field in dataclasses.fields(pretrain.PretrainConfig)]
    config = pretrain.PretrainConfig(**{name: values[name].value for name in names})
    model = pretrain.pretrain(config, values.output_dir, restart=values.restart)
    output_dir = pathlib.Path(values.output_dir)
    path = export.export_text_model(model, output_dir / "saved_model")
    print(f"Exported {path}, which takes and gives text.")
    export.ask_in_another_process(path, EXAMPLE)


def _rehearse_flags():
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
    import keras

    from keras_switch import models
    from keras_switch import tpu
    from keras_switch.training import Adafactor

    sizes = {name: values[name].value for name in SIZES if values[name].value is not None}
    config = {**models.presets.preset(values.preset), **sizes}
    optimizer = values.optimizer
    mesh = values.mesh or f"batch:{tpu.rehearsal.chips.Topology(values.topology).num_cores}"
    rehearsal = tpu.rehearse(
        lambda: models.SwitchSeq2SeqLM(models.SwitchBackbone(**config), compile=False),
        values.topology,
        (mesh, values.layout),
        optimizer=Adafactor() if optimizer == "adafactor" else keras.optimizers.get(optimizer),
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
    print(rehearsal)
    if values.json:
        pathlib.Path(values.json).write_text(rehearsal.to_json() + "\n", encoding="utf-8")


def _convert_flags():
    flags.DEFINE_string("input", None, "Folder of the weights to read.", required=True)
    flags.DEFINE_string("output", None, "Folder to write, which must not exist.", required=True)
    flags.DEFINE_enum("to", "keras", ["keras", "huggingface"], "Format to write.")


def _convert(values):
    from keras_switch import weights

    output = weights.convert(values.input, values.output, to=values.to)
    print(f"Converted {values.input} to {output}.")


def _models(values):
    from keras_switch.models import sizes

    for line in sizes.table():
        print(line, flush=True)


COMMANDS = {
    "pretrain": Command(
        "train a small Switch Transformer on text, and export it",
        _pretrain_flags,
        _pretrain,
    ),
    "rehearse": Command(
        "compile a Switch Transformer's train step for a TPU slice, without a TPU",
        _rehearse_flags,
        _rehearse,
    ),
    "models": Command(
        "list the models of the paper, with their parameters and operations",
        lambda: None,
        _models,
    ),
    "convert": Command(
        "carry weights from and to the formats of others",
        _convert_flags,
        _convert,
    ),
}


def usage():
    """The help of the program."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Switch Transformers for Keras.",
            "",
            "usage: keras-switch COMMAND [flags]",
            "",
            "commands:",
            *lines,
            "",
            "keras-switch COMMAND --help lists the flags of a command.",
        ]
    )


def command_usage(name):
    """The help of a command."""
    lines = [f"keras-switch {name}: {COMMANDS[name].summary}", "", "flags:"]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        default = "" if flag.default in (None, "", False) else f" (default: {flag.default})"
        lines.append(f"  --{flag.name:18} {flag.help}{default}")
    return "\n".join(lines)


def main(argv=None):
    """Runs a command; returns its exit code by `SystemExit`."""
    argv = sys.argv if argv is None else argv
    name = argv[1] if len(argv) > 1 else "--help"
    if name in ("--help", "-h", "help", "--helpfull"):
        print(usage())
        sys.exit(0)
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"Unknown command: {name!r}. The commands are: {known}.", file=sys.stderr)
        sys.exit(2)
    command = COMMANDS[name]
    command.define_flags()
    if {"--help", "-h", "-help", "--helpfull"} & set(argv[2:]):
        print(command_usage(name))
        sys.exit(0)
    app.run(lambda rest: _run(name, rest), argv=[f"{argv[0]} {name}", *argv[2:]])


def _run(name, rest):
    if len(rest) > 1:
        raise app.UsageError(f"Unexpected argument: {rest[1]!r}")
    values = flags.FLAGS
    logging.set_verbosity(logging.ERROR)
    try:
        COMMANDS[name].run(values)
    except KeyboardInterrupt:
        print(f"\nStopped.{_how_to_resume(values)}", flush=True)
        sys.exit(INTERRUPTED)
    except (FileNotFoundError, ImportError, ValueError) as error:
        if os.environ.get("KERAS_SWITCH_TRACEBACK"):
            raise
        print(f"keras-switch {name}: {error}", file=sys.stderr)
        sys.exit(1)


def _how_to_resume(values):
    if "restart" not in values:
        return ""
    again = " The same command again"
    if values["restart"].value:
        again += ", but without --restart,"
    return f"{again} resumes from the last checkpoint."


if __name__ == "__main__":
    main()
