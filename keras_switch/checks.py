"""Checks of arguments: each returns the plain Python value, or raises a `ValueError` that names it.

NumPy's scalars are numbers, too.
"""

import math
import numbers

import numpy as np


def plain(value):
    """A scalar of NumPy as a number of Python; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def as_array(value):
    """A list or a tuple as an array of NumPy; anything else as it is."""
    return np.asarray(value) if isinstance(value, (list, tuple)) else value


def is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive_integer(name, value):
    if not is_integer(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)


def check_integer(name, value, low):
    """Requires an integer of at least `low`."""
    if not is_integer(value) or value < low:
        raise ValueError(
            f"`{name}` must be an integer of at least {low}. Received: {name}={value!r}"
        )
    return int(value)


def check_seed(value):
    if value is not None and not is_integer(value):
        raise ValueError(f"`seed` must be an integer or `None`. Received: seed={value!r}")
    return None if value is None else int(value)


def check_choice(name, value, choices):
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}")
    return value


def check_number(name, value, low, high=math.inf):
    """Requires a finite number with `low <= value < high`."""
    if not _is_finite(value) or not low <= value < high:
        bound = f"at least {low}" + ("" if high == math.inf else f" and below {high}")
        raise ValueError(f"`{name}` must be a finite number, {bound}. Received: {name}={value!r}")
    return plain(value)


def check_positive_number(name, value):
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"`{name}` must be a finite positive number. Received: {name}={value!r}")
    return plain(value)


def check_bool(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def check_attributes(holder, check, names, *bounds):
    """Checks attributes of an object, which then are plain Python values."""
    for name in names:
        setattr(holder, name, check(name, getattr(holder, name), *bounds))


def check_keywords(keywords, known):
    """Requires that a function's further keyword arguments are among those that it knows."""
    others = [f"{name}={value!r}" for name, value in keywords.items() if name not in known]
    if others:
        listed = ", ".join(f"`{name}`" for name in known)
        raise ValueError(
            f"Further arguments can only be {listed}. Mind the spelling. "
            f"Received: {', '.join(others)}"
        )
