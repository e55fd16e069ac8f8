"""Random numbers that are functions of what they are for, the same in a batch of any size."""

import numpy as np
import tensorflow as tf

from keras_switch import checks

# Its multiples run through all numbers of 32 bits, far apart.
ODD = np.uint32(0x9E3779B9)
# The first number of the seeds of `tf.random.experimental.index_shuffle`.
_SHUFFLE = 498247692


def check_seed(seed):
    if not checks.is_integer(seed) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be an integer from 0 to 2**31 - 1. Received: seed={seed}")
    return int(seed)


def mix(x):
    """A bijection of 32 bits, Chris Wellons's `lowbias32`: a number to another, as if random."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.uint32)))


def keys(seeds):
    """uint32 tensor of shape `(..., 1)` of an int32 tensor of shape `(..., 2)`."""
    return mix(mix(tf.bitcast(seeds[..., :1], tf.uint32)) + tf.bitcast(seeds[..., 1:], tf.uint32))


def seeds(seed, indices):
    """int32 tensor of shape `(num_indices, 2)`."""
    return tf.stack([tf.fill(tf.shape(indices), seed), tf.cast(indices, tf.int32)], axis=1)


def shuffled(indices, count, seed):
    """Which of `count` things the indices of an endless sequence visit, each once an epoch.

    Args:
        indices: int64 tensor of shape `(num_indices,)`.
        count: int.
        seed: int.
    """
    # The operation refuses no indices at all, which a mixture has of a text that is in no row.
    indices = tf.concat([indices, tf.zeros((1,), tf.int64)], axis=0)
    epochs = tf.cast(indices // count, tf.int32)
    fills = [tf.fill(tf.shape(indices), number) for number in (_SHUFFLE, seed)]
    # `index_shuffle` pads the wrong axis of a seed for each index.
    places = tf.raw_ops.RandomIndexShuffle(
        index=indices % count,
        seed=tf.stack([*fills, epochs * 2 + 1], axis=1),
        max_index=tf.constant(count - 1, tf.int64),
    )
    return places[:-1]


def permutation(count, seed):
    """numpy array of the numbers below `count` in a random order."""
    numbers = seeds(seed, np.arange(count))
    return np.argsort(keys(numbers)[:, 0].numpy())
