"""Operations on texts and on ids of pieces, for Python values and TensorFlow graphs alike.

Texts are TensorFlow's or Python's whatever Keras's backend is.
"""

import re

import numpy as np
import tensorflow as tf


def is_freed(tokenizer):
    """Whether a graph is being made and TensorFlow has freed this tokenizer of its Text library."""
    if tf.executing_eagerly():
        return False
    with outside_graphs():
        try:
            tokenizer.tokenize("")
        except tf.errors.NotFoundError:
            return True
    return False


def outside_graphs():
    """A context that runs TensorFlow operations at once, even while a graph is being made."""
    return tf.init_scope()


def substitute(pattern, replacement, texts):
    """Replaces a regular expression in a string, a list or an array of strings, or a tensor."""
    if tf.is_tensor(texts):
        return tf.strings.regex_replace(texts, pattern, replacement)
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    if isinstance(texts, (list, tuple)):
        return [substitute(pattern, replacement, text) for text in texts]
    if isinstance(texts, bytes):
        texts = texts.decode("utf-8")
    return re.sub(pattern, replacement, texts) if isinstance(texts, str) else texts


def drop_before(ids, piece, is_follower):
    """Drops an id wherever certain ids follow it.

    Args:
        ids: Ids of a text, an array, a list or a tensor, or of several texts, a list of lists or
            a ragged tensor. No text ends with `piece`.
        piece: int. The id to drop.
        is_follower: Boolean array of the vocabulary's size: the ids before which it is dropped.

    Returns:
        The ids that are left, of the same type.
    """
    if tf.is_tensor(ids):
        ragged = isinstance(ids, tf.RaggedTensor)
        flat = ids.flat_values if ragged else ids
        following = tf.concat([flat[1:], tf.zeros_like(flat[:1])], axis=0)
        keep = ~((flat == piece) & tf.gather(is_follower, following))
        if ragged:
            return tf.ragged.boolean_mask(ids, ids.with_flat_values(keep))
        return tf.boolean_mask(ids, keep)
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        return [drop_before(row, piece, is_follower) for row in ids]
    row = np.asarray(ids, "int32")
    row = row[~((row == piece) & is_follower[np.append(row[1:], 0)[: len(row)]])]
    return row.tolist() if isinstance(ids, list) else row


def replace_unknown(ids, size, value):
    """Puts `value` in the place of ids below 0 or from `size` on."""
    if tf.is_tensor(ids):

        def replace(flat):
            known = (flat >= 0) & (flat < size)
            return tf.where(known, flat, tf.constant(value, flat.dtype))

        return tf.ragged.map_flat_values(replace, ids)
    if isinstance(ids, (list, tuple)):
        return [replace_unknown(row, size, value) for row in ids]
    if isinstance(ids, (int, np.integer)):
        return int(ids) if 0 <= ids < size else value
    ids = np.asarray(ids)
    return np.where((ids >= 0) & (ids < size), ids, value)
