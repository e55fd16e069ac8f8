"""`keras-switch export`."""

from keras_switch import command_line
from keras_switch import process
from keras_switch.commands import language_model


def define_flags(flags):
    flags.DEFINE_string("model", None, "Folder of a language model, or of a run.")
    flags.DEFINE_string("output", None, "Folder of versions; the next free one is written.")
    flags.DEFINE_integer("max_length", 64, "The longest completion, in ids.", lower_bound=1)


def run(values):
    with process.loading():
        from keras_switch import export

    export.check_backend()
    model = language_model.load(values.model)
    print(export.export_text_model(model, values.output, values.max_length))


COMMAND = command_line.Command(
    "write a SavedModel that takes and gives text",
    define_flags,
    run,
    required=("model", "output"),
    aliases={"preset": "model", "path": "output"},
)
