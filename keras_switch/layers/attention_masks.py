"""Masks of attention. True is seen."""

import functools

from keras import ops

from keras_switch import backend


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
    return ops.equal(ops.expand_dims(queries, 2), ops.expand_dims(keys, 1))


def combine(padding_mask, *attention_masks):
    """One mask of all that are not `None`, or `None`.

    Args:
        padding_mask: Boolean tensor `(batch, key)`, or `None`.
        *attention_masks: Boolean tensors that broadcast to `(batch, query, key)`, or `None`.

    Returns:
        Boolean tensor that broadcasts to `(batch, heads, query, key)`, or `None`.
    """
    masks = [] if padding_mask is None else [ops.expand_dims(padding_mask, 1)]
    masks += [mask for mask in attention_masks if mask is not None]
    masks = [ops.cast(mask, "bool") for mask in masks]
    return ops.expand_dims(functools.reduce(ops.logical_and, masks), 1) if masks else None


def of_shared_keys(padding_mask, attention_mask, queries_shape, num_rows):
    """`combine`, where each of `num_rows` rows of keys serves as many consecutive ones of queries.

    Args:
        padding_mask: Boolean tensor `(rows, key)`, or `None`. Its rows, too, may serve several.
        attention_mask: Boolean tensor that broadcasts to `(rows, query, key)`, likewise.
        queries_shape: `(batch, query, ...)`.
        num_rows: int or int32 scalar tensor. It divides the batch.

    Returns:
        Boolean tensor `(num_rows, 1, batch / num_rows * query, key)`, or `None`.
    """
    batch, length = queries_shape[:2]
    masks = (None if x is None else _repeat(x, batch) for x in (padding_mask, attention_mask))
    mask = combine(*masks)
    if mask is None:
        return None
    keys = ops.shape(mask)[-1]
    mask = ops.broadcast_to(mask, (batch, 1, length, keys))
    share = batch // backend.larger(num_rows, 1)  # There may be no rows.
    return ops.reshape(mask, (num_rows, 1, share * length, keys))


def _repeat(mask, batch):
    """Each row as often as makes `batch` of them."""
    shape = ops.shape(mask)
    share = batch // backend.larger(shape[0], 1)
    copies = ops.broadcast_to(mask[:, None], (shape[0], share, *shape[1:]))
    return ops.reshape(copies, (batch, *shape[1:]))


def of_inputs(padding_mask, index, length):
    """The part of a cache's mask that belongs to the inputs, from `index` on."""
    if padding_mask is None:
        return None
    start = (0, ops.cast(index, "int32"))
    return ops.slice(padding_mask, start, (ops.shape(padding_mask)[0], length))
