"""Switch Transformer layers for Keras 3.

Importing the package registers its classes with Keras, so `keras.models.load_model` finds them. The
other parts load when they are first used; importing touches no device.
"""

import importlib

from keras_switch import process

__version__ = "0.1.0"

_PARTS = ("data", "export", "layers", "models", "tpu", "training", "weights")

__all__ = ["__version__", *_PARTS]

if not process.is_command():
    # The command's help has no use for Keras, which takes seconds to import.
    importlib.import_module("keras_switch.layers")
    importlib.import_module("keras_switch.registered").register()


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_PARTS})
