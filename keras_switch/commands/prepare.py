"""`keras-switch prepare`."""

import itertools
import shlex

from keras_switch import command_line
from keras_switch import process

# Those of the input that a vocabulary is trained on.
VOCABULARY_LINES = 500_000


def define_flags(flags):
    flags.DEFINE_multi_string(
        "input", None, "Files, a glob, JSON lines or tfds:NAME; several by several --input."
    )
    flags.DEFINE_string("output", None, "Folder to write.")
    flags.DEFINE_string("vocabulary", None, "SentencePiece model, such as spiece.model.")
    flags.DEFINE_integer(
        "vocabulary_size", 32100, "Ids of one to train, if none is given.", lower_bound=1
    )
    flags.DEFINE_integer("num_groups", 256, "Groups of files, at most.", lower_bound=1)
    flags.DEFINE_string("runner", "DirectRunner", "Runner of Apache Beam.")
    flags.DEFINE_string("beam_options", "", "Further options of Beam, as it spells them.")


def run(values):
    with process.loading():
        from keras_switch import data
        from keras_switch import models
        from keras_switch.data import preparing

    preparing.apache_beam()
    vocabulary = values.vocabulary
    if vocabulary is None:
        lines = itertools.islice(data.read_lines(values.input), VOCABULARY_LINES)
        vocabulary = data.train_sentencepiece(lines, values.vocabulary_size)
    elif values["vocabulary_size"].present:
        raise ValueError(
            "`vocabulary_size` is for training a vocabulary, and `vocabulary` gives one. "
            f"Received: vocabulary_size={values.vocabulary_size}, vocabulary={vocabulary}"
        )
    index = data.prepare(
        values.input,
        values.output,
        models.SwitchTokenizer(vocabulary),
        num_groups=values.num_groups,
        beam_options=[f"--runner={values.runner}", *shlex.split(values.beam_options)],
    )
    print(
        f"Prepared {index.total('tokens'):,} tokens of {index.total('documents'):,} passages in "
        f"{values.output}."
    )


COMMAND = command_line.Command(
    "tokenize text of any size to files, on Apache Beam",
    define_flags,
    run,
    required=("input", "output"),
    aliases={"path": "input", "source": "input", "proto": "vocabulary"},
)
