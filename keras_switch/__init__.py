"""Switch Transformer layers for Keras 3.

Importing this package is cheap: its parts load when they are first used.
"""

import importlib

__version__ = "0.1.0"

_PARTS = ("data", "export", "layers", "tpu", "training")

__all__ = ["__version__", *_PARTS]


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_PARTS})
