"""Switch Transformers for Keras.

Subpackages load when they are first used: `keras_switch.layers` and the others cost
nothing until then, and importing the package touches no device.
"""

import importlib

__version__ = "0.1.0"

_SUBPACKAGES = ("backend", "data", "export", "layers", "tpu", "training")


def __getattr__(name):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"keras_switch.{name}")
    raise AttributeError(f"module 'keras_switch' has no attribute {name!r}")


def __dir__():
    return [*globals(), *_SUBPACKAGES]
