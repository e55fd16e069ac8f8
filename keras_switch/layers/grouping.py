"""Tokens in groups: capacity, losses and noise are per group."""

import math

from keras import ops


def group(inputs, mask, num_groups=None, group_size=None):
    """Arranges tokens in groups, padded with masked ones where they do not divide.

    Args:
        inputs: Tensor of shape `(batch, ..., dim)`.
        mask: Boolean tensor of shape `(batch, ...)`, or `None`.
        num_groups: int, or `None` for one group.
        group_size: int, `"row"` for one group a batch row, or `None`.

    Returns:
        Tokens `(G, S, D)` and their boolean mask `(G, S)`.
    """
    shape = ops.shape(inputs)
    dim = inputs.shape[-1]
    num_tokens = math.prod(shape[:-1])
    if mask is None:
        mask = ops.ones(shape[:-1], "bool")
    mask = ops.cast(mask, "bool")
    is_known = not ops.is_tensor(num_tokens)
    # No tokens, as a replica may get, make a group of one masked token.
    if group_size == "row":
        num_groups, size = _at_least_one(shape[0]), _at_least_one(math.prod(shape[1:-1]))
    elif group_size is not None:
        smaller = min if is_known else ops.minimum
        size = _at_least_one(smaller(group_size, num_tokens))
        num_groups = _at_least_one(-(-num_tokens // size))
    else:
        num_groups = num_groups or 1
        size = _at_least_one(-(-num_tokens // num_groups))
    x_TD, mask_T = ops.reshape(inputs, (-1, dim)), ops.reshape(mask, (-1,))
    missing = num_groups * size - num_tokens
    if not is_known or missing:
        x_TD = ops.concatenate([x_TD, ops.zeros((missing, dim), x_TD.dtype)])
        mask_T = ops.concatenate([mask_T, ops.zeros((missing,), "bool")])
    return ops.reshape(x_TD, (num_groups, size, dim)), ops.reshape(mask_T, (num_groups, size))


def _at_least_one(size):
    return ops.maximum(size, 1) if ops.is_tensor(size) else max(size, 1)


def ungroup(x_GSD, shape):
    """The inverse of `group`: `(G, S, D)` gives `(*shape, D)`, padding cut off."""
    dim = x_GSD.shape[-1]
    num_tokens = math.prod(shape)
    x_TD = ops.reshape(x_GSD, (-1, dim))
    if x_TD.shape[0] is None or x_TD.shape[0] != num_tokens:
        x_TD = x_TD[:num_tokens]
    return ops.reshape(x_TD, (*shape, dim))
