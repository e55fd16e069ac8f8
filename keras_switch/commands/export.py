"""`keras-switch export`."""

from keras_switch import command_line
from keras_switch import process


def define_flags(flags):
    flags.DEFINE_string("model", None, "Folder of a language model and its tokenizer.")
    flags.DEFINE_string("output", None, "Folder of versions; the next free one is written.")
    flags.DEFINE_integer("max_length", 64, "The longest completion, in ids.", lower_bound=1)


def run(values):
    with process.loading():
        from keras_switch import export
        from keras_switch import models

    export.check_backend()
    model = models.SwitchSeq2SeqLM.from_preset(values.model)
    print(export.export_text_model(model, values.output, values.max_length))


COMMAND = command_line.Command(
    "write a SavedModel that takes and gives text",
    define_flags,
    run,
    required=("model", "output"),
    aliases={"preset": "model", "path": "output"},
)
