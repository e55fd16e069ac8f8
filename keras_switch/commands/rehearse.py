"""`keras-switch rehearse`."""

import contextlib
import errno
import os

from keras_switch import atomic
from keras_switch import command_line
from keras_switch import process

SIZES = (
    "vocabulary_size",
    "hidden_dim",
    "intermediate_dim",
    "num_heads",
    "num_layers",
    "num_experts",
)


def define_flags(flags):
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


def run(values):
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


COMMAND = command_line.Command(
    "compile a Switch Transformer's train step for a TPU slice, without a TPU", define_flags, run
)
