"""A Switch Transformer as a plain Keras functional model."""

import keras
from keras import ops

from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers.dtypes import default_dtype


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

    The token embedding is shared by encoder, decoder and logits, which are rescaled by
    `hidden_dim ** -0.5` and computed in float32. Id 0 is padding.

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
    encoder_ids = keras.Input((None,), dtype="int32", name="encoder_token_ids")
    decoder_ids = keras.Input((None,), dtype="int32", name="decoder_token_ids")
    dtype = default_dtype(dtype)
    embedding = keras.layers.ReversibleEmbedding(
        vocabulary_size,
        hidden_dim,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed),
        reverse_dtype="float32",
        dtype=dtype,
        name="token_embedding",
    )

    def block(side, number, **kwargs):
        return SwitchTransformerBlock(
            num_heads,
            intermediate_dim,
            num_experts if number % 2 else None,
            dropout=dropout,
            seed=None if seed is None else seed + 1000 * number + kwargs.get("causal", 500),
            dtype=dtype,
            name=f"{side}_block_{number}",
            **kwargs,
        )

    def norm(side):
        return keras.layers.RMSNormalization(epsilon=1e-6, dtype=dtype, name=f"{side}_norm")

    mask = ops.not_equal(encoder_ids, 0)
    encoded = embedding(encoder_ids)
    for number in range(num_layers):
        encoded = block("encoder", number)(encoded, padding_mask=mask)
    encoded = norm("encoder")(encoded)
    decoded = embedding(decoder_ids)
    for number in range(num_layers):
        layer = block("decoder", number, causal=True, cross_attention=True)
        decoded = layer(decoded, encoded, encoder_padding_mask=mask)
    decoded = norm("decoder")(decoded)
    logits = embedding(decoded * hidden_dim**-0.5, reverse=True)
    inputs = {"encoder_token_ids": encoder_ids, "decoder_token_ids": decoder_ids}
    return keras.Model(inputs, logits, name="switch_transformer")
