"""Settings for everything that is called, or traced, inside a `with` block."""

import contextlib
import contextvars

_dropless = contextvars.ContextVar("dropless", default=False)


@contextlib.contextmanager
def dropless():
    """Makes every `SwitchDense` inside compute without capacity.

    A token's output then depends on no other token. Decoding with a cache and exports
    for serving use it; trained weights need no change.

    Example:
    >>> with keras_switch.layers.dropless():
    ...     outputs = model(inputs)
    """
    token = _dropless.set(True)
    try:
        yield
    finally:
        _dropless.reset(token)


def is_dropless():
    return _dropless.get()
