"""The encoder and the decoder of a Switch Transformer, as a KerasHub backbone."""

import keras
from keras import ops

from keras_switch import checks
from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import activations
from keras_switch.layers import algorithms
from keras_switch.layers import attention_masks
from keras_switch.layers import quantized
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.dtypes import default_dtype
from keras_switch.layers.dtypes import stream_policy
from keras_switch.layers.initializers import UntiedEmbedding
from keras_switch.layers.initializers import derive
from keras_switch.models import backbone_checks
from keras_switch.models import named_weights
from keras_switch.models.preset_folders import PresetBackbone
from keras_switch.models.upcycle import to_dense
from keras_switch.models.upcycle import upcycle

SIDES = ("encoder", "decoder")


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchBackbone(PresetBackbone):
    """T5's encoder and decoder, with experts in some blocks, or in none.

    Each stack has one relative position bias, which all its blocks share. Encoder and decoder
    share the token embedding. Experts are in every other block unless
    `encoder_sparse_layers` and `decoder_sparse_layers` say otherwise.

    A padding mask is 0 at padding. Where rows are packed with several examples, it numbers
    them 1, 2, ..., and a token attends to its own example only. Position ids are not needed: T5
    knows differences of positions only, and those are the same in a packed row.

    Args:
        vocabulary_size: int. Rows of the token embedding.
        num_layers: int. Blocks of the encoder.
        num_heads: int. Attention heads.
        hidden_dim: int. Width of the model.
        intermediate_dim: int. Hidden width of a feed-forward, and of each expert.
        num_decoder_layers: int. Blocks of the decoder. Defaults to `num_layers`.
        key_value_dim: int. Width of a head. Defaults to `hidden_dim // num_heads`.
        num_experts: int. Experts of a sparse block. `None` makes all blocks dense: T5.
        encoder_sparse_layers: Sequence of ints. Numbers, from 0 on, of the encoder's sparse blocks,
            such as `range(3, 12, 4)`. Defaults to `range(1, num_layers, 2)`.
        decoder_sparse_layers: Sequence of ints. Likewise, of the decoder's.
        activation: string or callable. `"gelu_approximate"` is T5 1.1's.
        gated: bool. Whether feed-forwards and experts are gated. True in T5 1.1.
        tie_embedding_weights: bool. Whether the logits use the token embedding, as in T5 1.0,
            or weights of their own, as in T5 1.1.
        dropout: float. Rate of T5's dropouts. Experts have their own,
            `switch={"expert_dropout": ...}`.
        layer_norm_epsilon: float. Added to the mean square.
        num_buckets: int. Buckets of the relative position biases.
        max_distance: int. Largest distance that they tell apart.
        expert_attention: bool. Whether Switch layers give the queries, keys and values of the
            sparse blocks' self-attention.
        switch: Dictionary of further `SwitchDense` arguments, such as `num_selected_experts`
            or `capacity_factor`. `{"routing": "expert_choice"}` is for encoders, so it takes
            `decoder_sparse_layers=[]`.
        kernel_initializer: Initializer of the feed-forwards' and experts' kernels.
        seed: int. Seed of the initializers, the dropouts and the routers' noise.
        dtype: Dtype or policy. Defaults to mixed bfloat16, or to the global policy if that was set.
        **kwargs: `name` and `trainable`.

    Inputs are a dictionary of int32 tensors `(batch, length)`: `encoder_token_ids`,
    `encoder_padding_mask`, `decoder_token_ids`, `decoder_padding_mask`. Outputs are a dictionary
    of `(batch, length, hidden_dim)`: `encoder_sequence_output`, `decoder_sequence_output`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
    >>> backbone = SwitchBackbone.from_preset("switch_tiny_8", load_weights=False)
    >>> ones = keras.ops.ones((1, 7), "int32")
    >>> backbone({x.name: ones for x in backbone.inputs})["decoder_sequence_output"].shape
    TensorShape([1, 7, 256])

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        *,
        num_decoder_layers=None,
        key_value_dim=None,
        num_experts=None,
        encoder_sparse_layers=None,
        decoder_sparse_layers=None,
        activation="relu",
        gated=False,
        tie_embedding_weights=True,
        dropout=0.0,
        layer_norm_epsilon=1e-6,
        num_buckets=32,
        max_distance=128,
        expert_attention=False,
        switch=None,
        kernel_initializer=None,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        checks.check_keywords(kwargs, ("name", "trainable"))

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        self.key_value_dim = key_value_dim
        self.num_experts = num_experts
        self.encoder_sparse_layers = encoder_sparse_layers
        self.decoder_sparse_layers = decoder_sparse_layers
        self.activation = activations.get(activation)
        self.gated = gated
        self.tie_embedding_weights = tie_embedding_weights
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.expert_attention = expert_attention
        self.switch = dict(switch or {})
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        backbone_checks.check_and_complete(self)

        # === Layers ===
        dtype = default_dtype(dtype)
        embedding_seed = derive(self.seed, "token_embedding")
        if self.tie_embedding_weights:
            embeddings_initializer = keras.initializers.RandomNormal(0.0, 1.0, embedding_seed)
        else:
            embeddings_initializer = UntiedEmbedding(self.hidden_dim, embedding_seed)
        self.token_embedding = keras.layers.ReversibleEmbedding(
            self.vocabulary_size,
            self.hidden_dim,
            tie_weights=self.tie_embedding_weights,
            embeddings_initializer=embeddings_initializer,
            reverse_dtype=at_least_float32(dtype),
            dtype=quantized.part_policy(dtype, "token_embedding"),
            name="token_embedding",
        )
        for side in SIDES:
            self._add_stack(side, dtype)

        # === Functional Model ===
        inputs = {
            f"{side}_{name}": keras.Input((None,), dtype="int32", name=f"{side}_{name}")
            for side in SIDES
            for name in ("token_ids", "padding_mask")
        }
        encoder_mask = inputs["encoder_padding_mask"]
        encoded = self.encode(inputs["encoder_token_ids"], encoder_mask)
        decoded = self._decode(
            inputs["decoder_token_ids"], inputs["decoder_padding_mask"], encoded, encoder_mask
        )
        outputs = {"encoder_sequence_output": encoded, "decoder_sequence_output": decoded}
        super().__init__(inputs, outputs, dtype=dtype, **kwargs)

    def _add_stack(self, side, dtype):
        """Makes T5's stack: dropout, blocks with one position bias, norm, dropout."""
        is_decoder = side == "decoder"

        def seed(role):
            return derive(self.seed, f"{side}_{role}")

        def dropout(name):
            return keras.layers.Dropout(
                self.dropout, seed=seed(name), dtype=dtype, name=f"{side}_{name}"
            )

        depth = self.num_decoder_layers if is_decoder else self.num_layers
        layers = {
            "embedding_dropout": dropout("embedding_dropout"),
            "position_bias": RelativePositionBias(
                self.num_heads,
                self.num_buckets,
                self.max_distance,
                bidirectional=not is_decoder,
                embeddings_initializer=keras.initializers.RandomNormal(
                    0.0, 0.02, seed("position_bias")
                ),
                dtype=at_least_float32(dtype),
                name=f"{side}_position_bias",
            ),
            "blocks": [self._block(side, index, dtype) for index in range(depth)],
            "norm": keras.layers.RMSNormalization(
                epsilon=self.layer_norm_epsilon,
                dtype=stream_policy(dtype),
                name=f"{side}_norm",
            ),
            "dropout": dropout("dropout"),
        }
        for name, layer in layers.items():
            setattr(self, f"{side}_{name}", layer)

    def _block(self, side, index, dtype):
        is_decoder, name = side == "decoder", f"{side}_block_{index}"
        is_sparse = index in getattr(self, f"{side}_sparse_layers")
        return SwitchTransformerBlock(
            self.num_heads,
            self.intermediate_dim,
            self.num_experts if is_sparse else None,
            key_value_dim=self.key_value_dim,
            causal=is_decoder,
            cross_attention=is_decoder,
            dropout=self.dropout,
            activation=self.activation,
            gated=self.gated,
            layer_norm_epsilon=self.layer_norm_epsilon,
            relative_attention=False,
            expert_attention=is_sparse and self.expert_attention,
            kernel_initializer=self.kernel_initializer,
            seed=derive(self.seed, name),
            switch=self.switch if is_sparse else None,
            dtype=dtype,
            name=name,
        )

    def encode(self, token_ids, padding_mask):
        """Returns the encoder's states.

        Args:
            token_ids: int32 tensor `(batch, length)`.
            padding_mask: int32 or boolean tensor `(batch, length)`, as in the inputs.

        Returns:
            Tensor `(batch, length, hidden_dim)`.
        """
        segments = ops.cast(padding_mask, "int32")
        x = self.encoder_embedding_dropout(self.token_embedding(token_ids))
        kwargs = {
            "padding_mask": ops.not_equal(segments, 0),
            "attention_mask": attention_masks.same_example(segments, segments),
            "position_bias": self.encoder_position_bias(x),
        }
        for block in self.encoder_blocks:
            x = block(x, **kwargs)
        return self.encoder_dropout(self.encoder_norm(x))

    def _decode(self, token_ids, padding_mask, encoded, encoder_padding_mask):
        segments = ops.cast(padding_mask, "int32")
        encoder_segments = ops.cast(encoder_padding_mask, "int32")
        x = self.decoder_embedding_dropout(self.token_embedding(token_ids))
        kwargs = {
            "padding_mask": ops.not_equal(segments, 0),
            "attention_mask": attention_masks.same_example(segments, segments),
            "encoder_padding_mask": ops.not_equal(encoder_segments, 0),
            "cross_attention_mask": attention_masks.same_example(segments, encoder_segments),
            "position_bias": self.decoder_position_bias(x),
        }
        for block in self.decoder_blocks:
            x = block(x, encoded, **kwargs)
        return self.decoder_dropout(self.decoder_norm(x))

    def logits(self, hidden_states):
        """Returns the float32 logits `(batch, length, vocabulary_size)` of decoder states."""
        if self.tie_embedding_weights:
            hidden_states = hidden_states * self.hidden_dim**-0.5
        return self.token_embedding(hidden_states, reverse=True)

    def named_weights(self):
        """Returns all weights by names such as `"decoder/3/cross_attention/query"`."""
        return named_weights.of(self)

    upcycle = upcycle
    to_dense = to_dense

    def get_config(self):
        config = super().get_config()
        names = (
            "vocabulary_size num_layers num_heads hidden_dim intermediate_dim num_decoder_layers "
            "key_value_dim num_experts encoder_sparse_layers decoder_sparse_layers gated "
            "tie_embedding_weights dropout layer_norm_epsilon num_buckets max_distance "
            "expert_attention seed"
        )
        config.update({name: getattr(self, name) for name in names.split()})
        config["switch"] = algorithms.serialize_switch(self.switch)
        config["activation"] = keras.activations.serialize(self.activation)
        config["kernel_initializer"] = keras.initializers.serialize(self.kernel_initializer)
        return config
