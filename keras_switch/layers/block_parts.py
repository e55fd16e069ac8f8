"""The layers that a Switch Transformer block is made of."""

import zlib

import keras

from keras_switch.layers.attention import Attention
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.feed_forward import FeedForward
from keras_switch.layers.relative_position_bias import RelativePositionBias
from keras_switch.layers.switch_dense import SwitchDense


def _seed(block, name):
    """A seed for a part, far from the part's in a block of the next seed."""
    if block.seed is None:
        return None
    return zlib.crc32(f"{block.seed} {name}".encode()) >> 1


def _switch_arguments(block):
    return {
        "num_experts": block.num_experts,
        "intermediate_dim": block.intermediate_dim,
        "activation": block.activation,
        "gated": block.gated,
        "kernel_initializer": block.kernel_initializer,
        **block.switch,
    }


def position_bias(block, dim):
    seed = _seed(block, "position_bias")
    layer = RelativePositionBias(
        block.num_heads,
        block.num_buckets,
        block.max_distance,
        bidirectional=not block.causal,
        embeddings_initializer=keras.initializers.RandomNormal(0.0, 0.02, seed=seed),
        dtype=at_least_float32(block.dtype_policy),
        name="position_bias",
    )
    layer.build((None, None, dim))
    return layer


def attention(block, name, dim):
    has_experts = block.expert_attention and name == "self_attention"
    layer = Attention(
        block.num_heads,
        block.key_value_dim or dim // block.num_heads,
        dropout=block.dropout,
        switch=_switch_arguments(block) if has_experts else None,
        seed=_seed(block, name),
        dtype=block.dtype_policy,
        name=name,
    )
    layer.build((None, None, dim))
    return layer


def norm(block, name, dim):
    layer = keras.layers.RMSNormalization(
        epsilon=block.layer_norm_epsilon, dtype=block.dtype_policy, name=name
    )
    layer.supports_masking = True
    layer.build((None, None, dim))
    return layer


def feed_forward(block, dim):
    name = "feed_forward"
    common = {"seed": _seed(block, name), "dtype": block.dtype_policy, "name": name}
    if block.num_experts is not None:
        layer = SwitchDense(**_switch_arguments(block), **common)
    else:
        layer = FeedForward(
            block.intermediate_dim,
            activation=block.activation,
            gated=block.gated,
            dropout=block.dropout,
            kernel_initializer=block.kernel_initializer,
            **common,
        )
    layer.build((None, None, dim))
    return layer


def dropout(block):
    """The dropout of what each part adds to the stream."""
    seed = _seed(block, "dropout")
    return keras.layers.Dropout(block.dropout, seed=seed, dtype=block.dtype_policy, name="dropout")
