"""`keras-switch convert`."""

from keras_switch import command_line
from keras_switch import process


def define_flags(flags):
    flags.DEFINE_string("input", None, "Folder of the weights to read.")
    flags.DEFINE_string("output", None, "Folder to write, which must not exist.")
    flags.DEFINE_enum("to", "keras", ["keras", "huggingface"], "Format to write.")


def run(values):
    with process.loading():
        from keras_switch import weights

    output = weights.convert(values.input, values.output, to=values.to)
    print(f"Converted {values.input} to {output}.")


COMMAND = command_line.Command(
    "carry weights from and to the formats of others",
    define_flags,
    run,
    required=("input", "output"),
)
