"""`keras-switch pretrain`."""

import os
import pathlib

from keras_switch import command_line
from keras_switch import configs
from keras_switch import process


def define_flags(flags):
    flags.DEFINE_string("output_dir", "runs/pretrain", "Where everything is written.")
    flags.DEFINE_bool("restart", False, "Move an earlier run aside, and start anew.")
    flags.DEFINE_string("config", "", "JSON file of settings, which flags replace.")
    flags.DEFINE_integer(
        "checkpoint_steps", None, "Steps between checkpoints. Default: an epoch.", 1
    )
    flags.DEFINE_integer("fillings_every", 5, "Epochs between two tables of fillings; 0: none.", 0)
    choices = ["stop", "warn", "ignore"]
    flags.DEFINE_enum("not_finite", "stop", choices, "What a loss that is not finite does.")
    flags.DEFINE_enum("dead_experts", "warn", choices, "What experts without tokens do.")
    flags.DEFINE_bool("tensorboard", False, "Write TensorBoard's events, too.")
    flags.DEFINE_enum("backend", None, ["tensorflow", "jax"], "Keras's backend.")
    command_line.define_settings(flags, configs.PretrainConfig)


def run(values):
    config = command_line.settings(configs.PretrainConfig, values)
    if values.backend:
        os.environ["KERAS_BACKEND"] = values.backend
    with process.loading():
        from keras_switch import export
        from keras_switch import tpu
        from keras_switch.training import pretrain

    tpu.highest_float32()
    model = pretrain.pretrain(
        config,
        values.output_dir,
        restart=values.restart,
        fillings_every=values.fillings_every,
        checkpoint_every=values.checkpoint_steps or "epoch",
        not_finite=None if values.not_finite == "ignore" else values.not_finite,
        dead_experts=None if values.dead_experts == "ignore" else values.dead_experts,
        tensorboard=values.tensorboard,
    )
    path = _export(model, pathlib.Path(values.output_dir))
    export.ask_in_another_process(path, pretrain.question(config, model.preprocessor.tokenizer))


def _export(model, output_dir):
    """Returns the path of a SavedModel of the trained model, which is made unless it is there."""
    from keras_switch import export
    from keras_switch.training import checkpoint
    from keras_switch.training import run_directory

    with run_directory.lock(output_dir):
        newest = checkpoint.latest(output_dir / "checkpoints")
        path = run_directory.exported(output_dir, newest)
        if path:
            print(f"The export, {path}, is that of this model already.")
            return path
        path = export.export_pretrained(model, output_dir / "model", output_dir / "saved_model")
        run_directory.write_exported(output_dir, newest, path)
        print(f"Exported {path}, which takes and gives text.")
        return path


COMMAND = command_line.Command(
    "train a small Switch Transformer on text, and export it",
    define_flags,
    run,
    aliases={"path": "corpus", "lines": "corpus", "tokens": "corpus"},
)
