"""Random numbers that depend on a seed and a position, and on nothing else.

A number is a hash of (seed, step, group, row, column). So eight groups on one core
and one group on each of eight cores draw the same numbers, in any order, on every
backend. Keras's generators draw whole tensors and cannot do this. The mixing
constants are those of Chris Wellons's `lowbias32`.
"""

import numpy as np
from keras import ops


def _constant(value):
    return ops.convert_to_tensor(np.uint32(value))


def _fold(x, shift):
    return ops.bitwise_xor(x, ops.right_shift(x, _constant(shift)))


def _mix(x, between=None):
    """A bijection of 32 bits in which every input bit reaches every output bit."""
    x = _fold(x, 16) * _constant(0x7FEB352D)
    if between is not None:
        x = ops.bitwise_xor(x, between)
    return _fold(_fold(x, 15) * _constant(0x846CA68B), 16)


def indices(shape):
    """Index tensors of each axis of `shape`, broadcasting to it."""
    rank = len(shape)
    return tuple(
        ops.reshape(ops.arange(size, dtype="int32"), [-1] + [1] * (rank - 1 - axis))
        for axis, size in enumerate(shape)
    )


def uniform(seed, group, row, column):
    """Draws float32 numbers in `[0, 1)`.

    Args:
        seed: uint32 tensor of shape `(2,)`, as from `SeedGenerator.next()`.
        group: Integer tensor. Index of the group of tokens.
        row: Integer tensor. Index of the token, or slot, in its group.
        column: Integer tensor. Index of the feature. The three must broadcast.

    Returns:
        float32 tensor of the broadcast shape.
    """
    seed = ops.cast(seed, "uint32")
    group, row, column = (ops.cast(x, "uint32") for x in (group, row, column))
    key = _mix(_mix(_mix(seed[0]) + seed[1]) + group)
    first = _mix(key + row * _constant(0x9E3779B9))
    second = _mix(first + _constant(0x85EBCA6B))
    bits = _mix(first + column * _constant(0x9E3779B9), between=second)
    return ops.cast(ops.right_shift(bits, _constant(8)), "float32") * 2.0**-24


def jitter(size, *position):
    """Draws float32 factors in `[1 - size, 1 + size)`. For `position` see `uniform`."""
    return uniform(*position) * (2.0 * size) + (1.0 - size)


def gumbel(*position):
    """Draws float32 numbers of the standard Gumbel distribution, as `uniform` does."""
    # Half a step keeps both logarithms finite.
    return -ops.log(-ops.log(uniform(*position) * (1.0 - 2.0**-24) + 2.0**-25))


def dropout(x, rate, *position):
    """Zeroes each element with probability `rate` and scales up the others.

    Args:
        x: Tensor.
        rate: float in `[0, 1)`.
        *position: The arguments of `uniform`, broadcasting to the shape of `x`.

    Returns:
        Tensor like `x`.
    """
    kept = ops.cast(uniform(*position) >= rate, x.dtype)
    return x * kept * ops.cast(1.0 / (1.0 - rate), x.dtype)
