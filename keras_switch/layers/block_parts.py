"""The layers that a Switch Transformer block is made of."""

import keras

from keras_switch.layers.attention import Attention
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.dtypes import stream_policy
from keras_switch.layers.feed_forward import FeedForward
from keras_switch.layers.initializers import derive
from keras_switch.layers.relative_position_bias import RelativePositionBias
from keras_switch.layers.switch_dense import SwitchDense


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
    seed = derive(block.seed, "position_bias")
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
        seed=derive(block.seed, name),
        dtype=block.dtype_policy,
        name=name,
    )
    layer.build((None, None, dim))
    return layer


def norm(block, name, dim):
    layer = keras.layers.RMSNormalization(
        epsilon=block.layer_norm_epsilon, dtype=stream_policy(block.dtype_policy), name=name
    )
    layer.supports_masking = True
    layer.build((None, None, dim))
    return layer


def feed_forward(block, dim):
    name = "feed_forward"
    common = {"seed": derive(block.seed, name), "dtype": block.dtype_policy, "name": name}
    if block.num_experts is not None:
        layer = SwitchDense(**_switch_arguments(block), **common)
        layer.outputs_dtype = block.stream_dtype
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
    seed = derive(block.seed, "dropout")
    policy = stream_policy(block.dtype_policy)
    return keras.layers.Dropout(block.dropout, seed=seed, dtype=policy, name="dropout")
