"""The commands of `keras-switch`, a module each, which imports Keras only when it runs."""

from keras_switch.commands import convert
from keras_switch.commands import export
from keras_switch.commands import generate
from keras_switch.commands import inspect
from keras_switch.commands import models
from keras_switch.commands import prepare
from keras_switch.commands import pretrain
from keras_switch.commands import rehearse

COMMANDS = {
    "prepare": prepare.COMMAND,
    "pretrain": pretrain.COMMAND,
    "generate": generate.COMMAND,
    "inspect": inspect.COMMAND,
    "export": export.COMMAND,
    "convert": convert.COMMAND,
    "rehearse": rehearse.COMMAND,
    "models": models.COMMAND,
}
