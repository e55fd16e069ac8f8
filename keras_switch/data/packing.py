"""Several examples in a row: which ones, and what tells them apart."""

import numpy as np


def pack(lengths, row_lengths):
    """Plans rows of consecutive examples.

    A row takes the next example as long as both sides fit, as seqio's `trim_and_pack_dataset`
    does. That also ends a row after every `max(row_lengths)` examples, and this does not.

    Args:
        lengths: int array of shape `(num_examples, 2)`, ids of each example's inputs and targets.
        row_lengths: Pair of ints, ids of a row's inputs and targets. No example is longer.

    Returns:
        int array, the first example of each row, and at last the number of examples.
    """
    nexts = np.full(len(lengths), len(lengths))
    for side, row_length in enumerate(row_lengths):
        ends = np.concatenate([[0], np.cumsum(lengths[:, side])])
        fits = np.searchsorted(ends, ends[:-1] + row_length, side="right") - 1
        nexts = np.minimum(nexts, fits)
    nexts = nexts.tolist()
    firsts = [0]
    while firsts[-1] < len(lengths):
        firsts.append(nexts[firsts[-1]])
    return np.array(firsts)


def packed_positions(padding_mask):
    """Places of ids in their own examples, seqio's `inputs_positions`.

    Models here need none: T5 knows differences of positions only.

    Args:
        padding_mask: int array of shape `(batch, length)`: 1, 2, ... where ids are of a row's first
            example, its second, ..., and 0 at padding.

    Returns:
        numpy array of that shape, 0 at padding.

    Example:
    >>> packed_positions([[1, 1, 1, 2, 2, 0]])
    array([[0, 1, 2, 0, 1, 0]])
    """
    padding_mask = np.asarray(padding_mask)
    places = np.broadcast_to(np.arange(padding_mask.shape[1]), padding_mask.shape)
    is_first = np.diff(padding_mask, axis=1, prepend=0) != 0
    firsts = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
    return np.where(padding_mask > 0, places - firsts, 0)
