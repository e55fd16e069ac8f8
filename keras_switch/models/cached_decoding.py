"""A `SwitchBackbone` one token after another, with the key/value caches of its blocks.

All of it computes without capacity: a text's continuation depends on no other text, unless the
encoder has `routing="expert_choice"` and groups that are no rows.
"""

import typing

from keras import ops

from keras_switch.layers import dropless


class Memory(typing.NamedTuple):
    """What every step reads and none changes.

    Attributes:
        crosses: List of tensors `(batch, 2, encoder_length, num_heads, key_value_dim)`, the keys
            and values of each block's cross-attention.
        padding_mask: Boolean tensor `(batch, encoder_length)`.
    """

    crosses: list
    padding_mask: typing.Any


def read(backbone, token_ids, padding_mask):
    """Returns the `Memory` of the encoder's `(batch, length)` ids and mask."""
    with dropless():
        encoded = backbone.encode(token_ids, padding_mask)
        crosses = [block.make_cross_attention_cache(encoded) for block in backbone.decoder_blocks]
    return Memory(crosses, ops.not_equal(ops.cast(padding_mask, "int32"), 0))


def empty_caches(backbone, batch, length):
    """Returns a cache for each block, for `length` tokens."""
    shape = (batch, 2, length, backbone.num_heads, backbone.key_value_dim)
    return [ops.zeros(shape, dtype=block.compute_dtype) for block in backbone.decoder_blocks]


def step(backbone, token_ids, index, caches, memory):
    """Reads the decoder's tokens from position `index` on.

    Args:
        backbone: `SwitchBackbone`.
        token_ids: int32 tensor `(rows, length)`; `rows` is a multiple of the batch of the
            memory, each of whose rows serves as many consecutive ones.
        index: int or int32 scalar tensor.
        caches: The caches, of `rows`, of the positions before.
        memory: `Memory`.

    Returns:
        The hidden states `(rows, length, hidden_dim)`, and the updated caches.
    """
    x = backbone.token_embedding(token_ids)
    bias = backbone.decoder_position_bias(x, caches[0][:, 0], offset=index)
    updated = []
    for block, cache, cross in zip(backbone.decoder_blocks, caches, memory.crosses, strict=True):
        x, cache, _ = block(
            x,
            encoder_padding_mask=memory.padding_mask,
            position_bias=bias,
            self_attention_cache=cache,
            cache_update_index=index,
            cross_attention_cache=cross,
            training=False,
        )
        updated.append(cache)
    return backbone.decoder_norm(x), updated


def without_padding(logits):
    """Logits with which every sampler gives id 0, padding, the probability 0."""
    return ops.where(ops.arange(ops.shape(logits)[-1]) == 0, -1e9, logits)
