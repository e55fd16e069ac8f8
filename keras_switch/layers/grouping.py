"""Tokens in groups: capacity, losses and noise are per group."""

import math

from keras import ops

from keras_switch import backend


def group(inputs, mask, num_groups=None, group_size=None):
    """Arranges tokens in groups, padded with masked ones where they do not divide.

    Args:
        inputs: Tensor of shape `(batch, ..., dim)`.
        mask: Boolean tensor of shape `(batch, ...)`, or `None`.
        num_groups: int, or `None` for one group.
        group_size: int, `"row"` for one group a batch row, or `None`.

    Returns:
        Tokens `(G, S, D)`, zeros where they are masked, and their boolean mask `(G, S)`.
    """
    shape = ops.shape(inputs)
    dim = inputs.shape[-1]
    num_tokens = math.prod(shape[:-1])
    if mask is None:
        mask = ops.ones(shape[:-1], "bool")
    else:
        mask = ops.cast(mask, "bool")
        # Whatever padding holds, even NaN, must not reach a gradient.
        zero = ops.zeros((), inputs.dtype)
        inputs = ops.where(ops.expand_dims(mask, -1), inputs, zero)
    # No tokens, as a replica may get, make a group of one masked token.
    if group_size == "row":
        num_groups = backend.larger(shape[0], 1)
        size = backend.larger(math.prod(shape[1:-1]), 1)
    elif group_size is not None:
        size = backend.larger(backend.smaller(group_size, num_tokens), 1)
        num_groups = backend.larger(_ceiling(num_tokens, size), 1)
    else:
        num_groups = num_groups or 1
        size = backend.larger(_ceiling(num_tokens, num_groups), 1)
    x_TD, mask_T = ops.reshape(inputs, (-1, dim)), ops.reshape(mask, (-1,))
    missing = num_groups * size - num_tokens
    if not isinstance(missing, int) or missing:
        x_TD = ops.concatenate([x_TD, ops.zeros((missing, dim), x_TD.dtype)])
        mask_T = ops.concatenate([mask_T, ops.zeros((missing,), "bool")])
    return ops.reshape(x_TD, (num_groups, size, dim)), ops.reshape(mask_T, (num_groups, size))


def _ceiling(a, b):
    """`a / b`, rounded up, in positive numbers only: ONNX rounds a negative quotient up too."""
    return (a + b - 1) // b


def ungroup(x_GSD, shape):
    """The inverse of `group`: `(G, S, D)` gives `(*shape, D)`, padding cut off."""
    dim = x_GSD.shape[-1]
    num_tokens = math.prod(shape)
    x_TD = ops.reshape(x_GSD, (-1, dim))
    if x_TD.shape[0] is None or x_TD.shape[0] != num_tokens:
        x_TD = x_TD[:num_tokens]
    return ops.reshape(x_TD, (*shape, dim))
