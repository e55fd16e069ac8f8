"""Initializers for layers with several kernels."""

import keras


def fresh(initializer):
    """Returns an initializer for one more kernel: a clone, or the same plain callable."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def offset(seed, by):
    """Returns another seed, or `None` for `None`; kernels of one seed would be equal."""
    return None if seed is None else seed + by
