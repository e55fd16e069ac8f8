"""Settings for everything that is called, or traced, inside a `with` block."""

import contextlib
import contextvars

import keras

from keras_switch.private.keras import UNINITIALIZED_VARIABLES
from keras_switch.private.keras import global_state

_dropless = contextvars.ContextVar("dropless", default=False)


@contextlib.contextmanager
def dropless():
    """Makes every `SwitchDense` that is called inside compute without capacity.

    A token's output then depends on no other token. Decoding with a cache and exports
    for serving use it; trained weights need no change. A compiled function, such as
    that of a `model.predict` before, keeps what it was traced with.

    With `routing="expert_choice"` the capacity is no limit, but what an expert takes: such a
    layer computes in the scope what it computes outside it.

    Example:
    >>> layer = keras_switch.layers.SwitchDense(num_experts=2, intermediate_dim=4)
    >>> with keras_switch.layers.dropless():
    ...     outputs = layer(keras.ops.ones((8, 4)))
    """
    token = _dropless.set(True)
    try:
        yield
    finally:
        _dropless.reset(token)


def is_dropless():
    return _dropless.get()


@contextlib.contextmanager
def without_values():
    """Makes the variables that are made inside shapes without values, for good.

    Keras alone would give them values at the end of the next `keras.StatelessScope`, such as that
    of a training step on JAX, however many billions they are.
    """
    waiting = list(global_state.get_global_attribute(UNINITIALIZED_VARIABLES, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(UNINITIALIZED_VARIABLES, waiting)
