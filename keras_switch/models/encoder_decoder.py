"""A Switch Transformer as a plain Keras functional model."""

import keras
from keras import ops

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers.dtypes import default_dtype
from keras_switch.layers.initializers import offset


def build(
    *,
    vocabulary_size,
    hidden_dim,
    intermediate_dim,
    num_heads,
    num_layers,
    num_experts,
    dropout=0.0,
    dtype=None,
    seed=None,
):
    """Builds T5's encoder and decoder, with experts in every other block.

    Each stack has one relative position bias, which all its blocks share. The token
    embedding is shared by encoder, decoder and logits, which are rescaled by
    `hidden_dim ** -0.5` and computed in float32. Id 0 is padding, but at the first
    position of the decoder, where it is the start.

    Args:
        vocabulary_size: int.
        hidden_dim: int. Width of the model.
        intermediate_dim: int. Hidden width of a feed-forward layer, and of each expert.
        num_heads: int.
        num_layers: int. Blocks of the encoder, and of the decoder.
        num_experts: int. Experts of each sparse block.
        dropout: float.
        dtype: The layers' dtype or policy. Defaults to mixed bfloat16.
        seed: int.

    Returns:
        `keras.Model` of a dictionary of `encoder_token_ids` and `decoder_token_ids`.
    """
    dtype = default_dtype(dtype)
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("encoder_token_ids", "decoder_token_ids")
    }
    embedding = _embedding(vocabulary_size, hidden_dim, dtype, seed)

    def stack(side, mask, **kwargs):
        x = embedding(inputs[f"{side}_token_ids"])
        blocks = [
            SwitchTransformerBlock(
                num_heads,
                intermediate_dim,
                num_experts if number % 2 else None,
                causal=side == "decoder",
                cross_attention=side == "decoder",
                relative_attention=False,
                dropout=dropout,
                seed=None if seed is None else seed + 2 * number + (side == "decoder"),
                dtype=dtype,
                name=f"{side}_block_{number}",
            )
            for number in range(num_layers)
        ]
        return _stack(side, x, blocks, padding_mask=mask, **kwargs)

    mask = ops.not_equal(inputs["encoder_token_ids"], 0)
    encoded = stack("encoder", mask)
    decoded = stack(
        "decoder",
        decoder_mask(inputs["decoder_token_ids"]),
        encoder_sequence=encoded,
        encoder_padding_mask=mask,
    )
    logits = embedding(decoded * hidden_dim**-0.5, reverse=True)
    return keras.Model(inputs, logits, name="switch_transformer")


def decoder_mask(ids):
    """True at tokens, and at the 0 that starts the decoder."""
    return ops.not_equal(ops.concatenate([ops.ones_like(ids[:, :1]), ids[:, 1:]], axis=1), 0)


def _embedding(vocabulary_size, hidden_dim, dtype, seed):
    return keras.layers.ReversibleEmbedding(
        vocabulary_size,
        hidden_dim,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed),
        reverse_dtype="float32",
        dtype=dtype,
        name="token_embedding",
    )


def _stack(side, x, blocks, **kwargs):
    """T5's stack: dropout, blocks with one position bias, norm, dropout."""
    first = blocks[0]

    def dropout(name, by):
        return keras.layers.Dropout(
            first.dropout,
            seed=offset(first.seed, by),
            dtype=first.dtype_policy,
            name=f"{side}_{name}",
        )

    x = dropout("embedding_dropout", 2)(x)
    bias = RelativePositionBias(
        first.num_heads,
        bidirectional=not first.causal,
        embeddings_initializer=keras.initializers.RandomNormal(0.0, 0.02, offset(first.seed, 4)),
        name=f"{side}_position_bias",
    )(x)
    for block in blocks:
        x = block(x, position_bias=bias, **kwargs)
    norm = keras.layers.RMSNormalization(
        epsilon=first.layer_norm_epsilon, dtype=first.dtype_policy, name=f"{side}_norm"
    )
    return dropout("dropout", 6)(norm(x))
