"""`keras-switch generate`."""

import sys

from keras_switch import command_line
from keras_switch import process
from keras_switch.commands import language_model


def define_flags(flags):
    flags.DEFINE_string("model", None, "Folder of a language model, or of a run.")
    flags.DEFINE_integer("candidates", 3, "Fillings to print for each blank.", lower_bound=1)
    flags.DEFINE_integer("max_length", 16, "The longest filling, in ids.", lower_bound=1)


def run(values, *texts):
    texts = _with_lines(texts)
    with process.loading():
        from keras_switch import models
        from keras_switch import tpu

    tpu.highest_float32()
    model = language_model.load(values.model)
    results = models.fill_blanks(model, texts, values.candidates, values.max_length)
    for text, result in zip(texts, results, strict=True):
        _warn_if_long(model, text)
        print(f"Text:   {text}\nFilled: {result.text}")
        for number, candidates in enumerate(result, 1):
            listed = ", ".join(f"{filling} ({share:.1%})" for filling, share in candidates)
            print(f"Blank {number}: {listed}")
        print(flush=True)


def _with_lines(texts):
    """The texts of the command line, and in the place of "-" or of none the lines of stdin."""
    given = []
    for text in texts or ["-"]:
        given += [line.strip() for line in sys.stdin] if text == "-" else [text]
    given = [text for text in given if text.strip()]
    if not given:
        raise ValueError(
            "There must be a text with a blank, as an argument or as a line of the standard "
            'input: "The <extra_id_0> walks." Received: no text'
        )
    return given


def _warn_if_long(model, text):
    """Says so if a text is longer than those that the model knows. T5 itself has no limit."""
    preprocessor = model.preprocessor
    length = len(preprocessor.tokenizer.tokenize(text)) + 1
    if length > preprocessor.encoder_sequence_length:
        print(
            f"keras-switch generate: A text has {length} ids, and those that the model reads have "
            f"at most {preprocessor.encoder_sequence_length}: the answer may be poor.",
            file=sys.stderr,
        )


COMMAND = command_line.Command(
    "fill the blanks of texts, <extra_id_0>, <extra_id_1>, ..., with candidates",
    define_flags,
    run,
    required=("model",),
    aliases={"preset": "model", "num_candidates": "candidates"},
    arguments='["TEXT" ...]',
)
