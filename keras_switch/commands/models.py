"""`keras-switch models`."""

import pathlib

from keras_switch import command_line

TABLE = pathlib.Path(__file__).parents[1] / "models" / "presets.md"


def run(values):
    print(TABLE.read_text(encoding="utf-8"), end="")


COMMAND = command_line.Command(
    "list the models of the paper, with their parameters and operations", lambda flags: None, run
)
