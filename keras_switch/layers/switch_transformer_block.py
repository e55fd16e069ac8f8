"""One block of a Switch Transformer."""

import contextlib

import keras
from keras import ops
from keras.src.backend.common.masking import get_keras_mask

from keras_switch.layers import block_checks
from keras_switch.layers.attention import Attention
from keras_switch.layers.dtypes import default_dtype
from keras_switch.layers.feed_forward import FeedForward
from keras_switch.layers.relative_position_bias import RelativePositionBias
from keras_switch.layers.scopes import dropless
from keras_switch.layers.switch_dense import SwitchDense


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchTransformerBlock(keras.layers.Layer):
    """T5's encoder or decoder block, with a Switch layer as its feed-forward.

    Self-attention, cross-attention to an encoder if asked for, and the feed-forward
    each see a normalized copy of the stream (RMS, no bias) and add to it. Padding is
    not attended to and not routed.

    With a cache the block decodes step by step, and its experts have no capacity: the
    outputs equal those of an uncached call inside `keras_switch.layers.dropless()`.

    In a causal block, `overflow="reroute"` and `num_selected_experts=2` let later tokens
    decide whether an earlier one finds room, in training and evaluation;
    `priority="probability"` would make them the rule, and is refused.

    Args:
        num_heads: int. Number of attention heads.
        intermediate_dim: int. Hidden width of the feed-forward, or of each expert.
        num_experts: int. Number of experts. `None` makes the feed-forward dense.
        key_value_dim: int. Width of a head. Defaults to `dim // num_heads`.
        causal: bool. Whether a token sees only itself and what is before it.
        cross_attention: bool. Whether the block attends to an encoder's sequence.
        dropout: float. Rate of T5's dropouts.
        activation: string or callable. Activation of the feed-forward.
        gated: bool. Whether the feed-forward is gated.
        layer_norm_epsilon: float. Added to the mean square.
        relative_attention: bool. Whether the block has a relative position bias of its
            own. Set False to pass a shared one as `position_bias`, or none.
        num_buckets: int. Buckets of the relative position bias.
        max_distance: int. Largest distance that the bias tells apart.
        expert_attention: bool. Whether Switch layers give the queries, and the shared
            keys and values, of self-attention.
        kernel_initializer: Initializer of the feed-forward's kernels.
        seed: int. Seed of the Switch layers' noise.
        switch: Dictionary of further `SwitchDense` arguments.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, dim)`.
        encoder_sequence: Tensor of shape `(batch, encoder_length, dim)`.
        padding_mask: Boolean tensor `(batch, length)`, False at padding. Defaults to the
            Keras mask of `inputs`.
        attention_mask: Boolean tensor `(batch, length, key_length)`, for packed rows.
        encoder_padding_mask: Boolean tensor `(batch, encoder_length)`. Defaults to the
            Keras mask of `encoder_sequence`.
        cross_attention_mask: Boolean tensor `(batch, length, encoder_length)`.
        position_bias: Tensor that broadcasts to `(batch, num_heads, length, key_length)`.
        self_attention_cache: Tensor `(batch, 2, max_length, num_heads, key_value_dim)`.
        cache_update_index: int or int32 scalar tensor. Position of the first input.
        cross_attention_cache: Like `self_attention_cache`, `encoder_length` long. It is
            filled from `encoder_sequence` if that is given, and used as it is otherwise.
        training: bool.

    Returns:
        The outputs, with the shape of `inputs`. With `self_attention_cache`, a tuple of
        the outputs, the updated cache and, if the block has cross-attention, its cache.

    Raises:
        ValueError: If an argument or a tensor is not as described.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 2
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        num_experts=None,
        *,
        key_value_dim=None,
        causal=False,
        cross_attention=False,
        dropout=0.0,
        activation="relu",
        gated=False,
        layer_norm_epsilon=1e-6,
        relative_attention=True,
        num_buckets=32,
        max_distance=128,
        expert_attention=False,
        kernel_initializer=None,
        seed=None,
        switch=None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=default_dtype(dtype), **kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_experts = num_experts
        self.key_value_dim = key_value_dim
        self.causal = causal
        self.cross_attention = cross_attention
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.gated = gated
        self.layer_norm_epsilon = layer_norm_epsilon
        self.relative_attention = relative_attention
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.expert_attention = expert_attention
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.switch = dict(switch or {})
        block_checks.check_arguments(self)
        self.supports_masking = True
        self.autocast = False  # A position bias stays float32.

    def _switch_arguments(self):
        return {
            "num_experts": self.num_experts,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "gated": self.gated,
            "kernel_initializer": self.kernel_initializer,
            "seed": self.seed,
            **self.switch,
        }

    def build(self, inputs_shape, encoder_sequence_shape=None):
        if len(inputs_shape) != 3 or inputs_shape[-1] is None:
            raise ValueError(
                "`SwitchTransformerBlock` needs inputs `(batch, length, dim)` whose last "
                f"dimension is known. Received: inputs.shape={tuple(inputs_shape)}"
            )
        dim = inputs_shape[-1]
        if self.key_value_dim is None and dim % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the width of the inputs, or `key_value_dim` must be "
                f"given. Received: num_heads={self.num_heads}, inputs.shape={tuple(inputs_shape)}"
            )
        shape = (None, None, dim)
        if self.relative_attention:
            self.position_bias = RelativePositionBias(
                self.num_heads,
                self.num_buckets,
                self.max_distance,
                bidirectional=not self.causal,
                name="position_bias",
            )
            self.position_bias.build(shape)
        switch = self._switch_arguments() if self.expert_attention else None
        self.self_attention = self._add_attention("self_attention", dim, switch)
        self.self_attention_norm = self._add_norm("self_attention_norm", shape)
        if self.cross_attention:
            self.encoder_attention = self._add_attention("cross_attention", dim, None)
            self.encoder_attention_norm = self._add_norm("cross_attention_norm", shape)
        self.feed_forward = self._make_feed_forward()
        self.feed_forward.build(shape)
        self.feed_forward_norm = self._add_norm("feed_forward_norm", shape)
        self.residual_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )

    def _add_attention(self, name, dim, switch):
        layer = Attention(
            self.num_heads,
            self.key_value_dim or dim // self.num_heads,
            dropout=self.dropout,
            switch=switch,
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, dim))
        return layer

    def _add_norm(self, name, shape):
        layer = keras.layers.RMSNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        layer.supports_masking = True
        layer.build(shape)
        return layer

    def _make_feed_forward(self):
        if self.num_experts is not None:
            return SwitchDense(
                **self._switch_arguments(), dtype=self.dtype_policy, name="feed_forward"
            )
        return FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            gated=self.gated,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="feed_forward",
        )

    def call(
        self,
        inputs,
        encoder_sequence=None,
        *,
        padding_mask=None,
        attention_mask=None,
        encoder_padding_mask=None,
        cross_attention_mask=None,
        position_bias=None,
        self_attention_cache=None,
        cache_update_index=None,
        cross_attention_cache=None,
        training=None,
    ):
        cache, index = self_attention_cache, cache_update_index
        block_checks.check_sequences(self, inputs, encoder_sequence, cross_attention_cache)
        block_checks.check_caches(self, cache, index, cross_attention_cache)
        if padding_mask is None:
            padding_mask = get_keras_mask(inputs)
        if encoder_padding_mask is None:
            encoder_padding_mask = get_keras_mask(encoder_sequence)
        masks = {
            "padding_mask": padding_mask,
            "attention_mask": attention_mask,
            "encoder_padding_mask": encoder_padding_mask,
            "cross_attention_mask": cross_attention_mask,
        }
        caches = (cache, cross_attention_cache)
        block_checks.check_masks(inputs, encoder_sequence, *caches, masks)
        inputs = ops.cast(inputs, self.compute_dtype)
        with contextlib.nullcontext() if cache is None else dropless():
            x, cache = self._attend_to_self(
                inputs, padding_mask, attention_mask, position_bias, cache, index, training
            )
            if self.cross_attention:
                x, cross_attention_cache = self._attend_to_encoder(
                    x,
                    encoder_sequence,
                    _combine(encoder_padding_mask, cross_attention_mask),
                    cross_attention_cache,
                    training,
                )
            x = self._feed_forward(x, padding_mask, training)
        if cache is None:
            return x
        return (x, cache, cross_attention_cache) if self.cross_attention else (x, cache)

    def _attend_to_self(self, x, padding_mask, attention_mask, bias, cache, index, training):
        keys = x if cache is None else cache[:, 0]
        start = 0 if cache is None else index
        if self.relative_attention:
            bias = self.position_bias(x, keys, offset=start)
        mask = _combine(padding_mask if cache is None else None, attention_mask)
        if self.causal:
            query = ops.arange(ops.shape(x)[1], dtype="int32")[:, None] + start
            visible = ops.arange(ops.shape(keys)[1], dtype="int32")[None] <= query
            mask = visible[None, None] if mask is None else mask & visible
        normed = self.self_attention_norm(x)
        outputs, cache = self.self_attention(
            normed,
            normed,
            bias=bias,
            attention_mask=mask,
            query_mask=padding_mask,
            key_mask=padding_mask,
            cache=cache,
            cache_update_index=index,
            training=training,
        )
        return x + self.residual_dropout(outputs, training=training), cache

    def _attend_to_encoder(self, x, encoder_sequence, mask, cache, training):
        outputs, cache = self.encoder_attention(
            self.encoder_attention_norm(x),
            encoder_sequence,
            attention_mask=mask,
            cache=cache,
            cache_update_index=0,
            training=training,
        )
        return x + self.residual_dropout(outputs, training=training), cache

    def _feed_forward(self, x, padding_mask, training):
        normed = self.feed_forward_norm(x)
        if self.num_experts is None:
            outputs = self.feed_forward(normed, training=training)
        else:
            outputs = self.feed_forward(normed, mask=padding_mask, training=training)
        return x + self.residual_dropout(outputs, training=training)

    def compute_output_shape(self, inputs_shape, encoder_sequence_shape=None):
        return tuple(inputs_shape)

    def compute_output_spec(
        self,
        inputs,
        encoder_sequence=None,
        *,
        self_attention_cache=None,
        cache_update_index=None,
        cross_attention_cache=None,
        training=None,
        position_bias=None,
        **masks,
    ):
        cache, cross_cache = self_attention_cache, cross_attention_cache
        block_checks.check_sequences(self, inputs, encoder_sequence, cross_cache)
        block_checks.check_caches(self, cache, cache_update_index, cross_cache)
        block_checks.check_masks(inputs, encoder_sequence, cache, cross_cache, masks)
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if cache is None:
            return outputs
        caches = (cache, cross_cache) if self.cross_attention else (cache,)
        return (outputs, *(keras.KerasTensor(c.shape, dtype=c.dtype) for c in caches))

    def get_config(self):
        config = super().get_config()
        names = (
            "num_heads intermediate_dim num_experts key_value_dim causal cross_attention "
            "dropout gated layer_norm_epsilon relative_attention num_buckets max_distance "
            "expert_attention seed"
        )
        config.update({name: getattr(self, name) for name in names.split()})
        config["switch"] = keras.saving.serialize_keras_object(dict(self.switch))
        config["activation"] = keras.activations.serialize(self.activation)
        config["kernel_initializer"] = keras.initializers.serialize(self.kernel_initializer)
        return config


def _combine(padding_mask, attention_mask):
    """One mask `(batch, 1, query, key)` of a key mask and a query-key mask, or `None`."""
    masks = []
    if padding_mask is not None:
        masks.append(ops.cast(padding_mask, "bool")[:, None, None, :])
    if attention_mask is not None:
        masks.append(ops.cast(attention_mask, "bool")[:, None])
    if len(masks) == 2:
        return masks[0] & masks[1]
    return masks[0] if masks else None
