"""Checks of constructor arguments: each raises a `ValueError` that says what it got."""

import math


def check_positive_integer(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")


def check_choice(name, value, choices):
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}")


def check_number(name, value, low, high=math.inf):
    """Requires a finite number with `low <= value < high`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value < high:
        bound = f"at least {low}" + ("" if high == math.inf else f" and below {high}")
        raise ValueError(f"`{name}` must be a finite number, {bound}. Received: {name}={value!r}")


def check_positive_number(name, value):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be a finite positive number. Received: {name}={value!r}")


def check_bool(name, value):
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def check_keywords(keywords, known):
    """Requires that a function's further keyword arguments are among those that it knows."""
    others = [f"{name}={value!r}" for name, value in keywords.items() if name not in known]
    if others:
        listed = ", ".join(f"`{name}`" for name in known)
        raise ValueError(
            f"Further arguments can only be {listed}. Mind the spelling. "
            f"Received: {', '.join(others)}"
        )
