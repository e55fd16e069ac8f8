"""Masks of attention. True is seen."""

import functools

from keras import ops


def causal_mask(query_length, key_length, offset):
    """`(1, query, key)`: a query at `offset` and on sees no key after itself."""
    query = ops.arange(query_length, dtype="int32")[:, None] + offset
    key = ops.arange(key_length, dtype="int32")
    return (key <= query)[None]


def same_example(queries, keys):
    """Whether two tokens of packed rows are of one example.

    Args:
        queries: int32 tensor `(batch, query)`, the numbers of the tokens' examples.
        keys: int32 tensor `(batch, key)`, likewise.

    Returns:
        Boolean tensor `(batch, query, key)`.
    """
    return ops.equal(queries[:, :, None], keys[:, None, :])


def combine(padding_mask, *attention_masks):
    """One mask of all that are not `None`, or `None`.

    Args:
        padding_mask: Boolean tensor `(batch, key)`, or `None`.
        *attention_masks: Boolean tensors that broadcast to `(batch, query, key)`, or `None`.

    Returns:
        Boolean tensor that broadcasts to `(batch, heads, query, key)`, or `None`.
    """
    masks = [] if padding_mask is None else [padding_mask[:, None]]
    masks += [mask for mask in attention_masks if mask is not None]
    masks = [ops.cast(mask, "bool") for mask in masks]
    return functools.reduce(ops.logical_and, masks)[:, None] if masks else None


def of_inputs(padding_mask, index, length):
    """The part of a cache's mask that belongs to the inputs, from `index` on."""
    if padding_mask is None:
        return None
    start = (0, ops.cast(index, "int32"))
    return ops.slice(padding_mask, start, (ops.shape(padding_mask)[0], length))
