"""One block of a Switch Transformer."""

import contextlib

import keras
from keras import ops

from keras_switch import checks
from keras_switch.layers import activations
from keras_switch.layers import algorithms
from keras_switch.layers import attention_masks
from keras_switch.layers import block_checks
from keras_switch.layers import block_parts
from keras_switch.layers import parallelism
from keras_switch.layers import quantized
from keras_switch.layers import rematerialized
from keras_switch.layers.dtypes import default_dtype
from keras_switch.layers.dtypes import stream_policy
from keras_switch.layers.scopes import dropless


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchTransformerBlock(rematerialized.Rematerialized, keras.layers.Layer):
    """T5's encoder or decoder block, with a Switch layer as its feed-forward.

    Self-attention, cross-attention to an encoder if asked for, and the feed-forward
    each see a normalized copy of the stream (RMS, no bias) and add to it. Padding is
    not attended to and not routed.

    With a cache the block decodes step by step, and its experts have no capacity: the
    outputs equal those of an uncached call inside `keras_switch.layers.dropless()`.

    T5's own code drops a feature at all positions of a row at once. Here, as in Hugging
    Face's T5 and KerasHub's, each position has its own dropout.

    Computing in float16, the block keeps the stream, and so its outputs, in float32: in T5's
    released models it passes 65,504, the largest float16.

    In a causal block, `overflow="reroute"` and `num_selected_experts=2` let later tokens
    decide whether an earlier one finds room, in training and evaluation;
    `priority="probability"` and `routing="expert_choice"` would make them the rule, and
    are refused.

    Args:
        num_heads: int. Number of attention heads.
        intermediate_dim: int. Hidden width of the feed-forward, or of each expert.
        num_experts: int. Number of experts. `None` makes the feed-forward dense.
        key_value_dim: int. Width of a head. Defaults to `dim // num_heads`.
        causal: bool. Whether a token sees only itself and what is before it.
        cross_attention: bool. Whether the block attends to an encoder's sequence.
        dropout: float. Rate of T5's dropouts.
        activation: string or callable. Activation of the feed-forward.
        gated: bool. Whether the feed-forward is gated. T5 1.1 has `gated=True` and
            `activation="gelu_approximate"`, the tanh approximation; `"gelu"` is exact.
        layer_norm_epsilon: float. Added to the mean square.
        relative_attention: bool. Whether the block has a relative position bias of its
            own. Set False to pass a shared one as `position_bias`, or none.
        num_buckets: int. Buckets of the relative position bias.
        max_distance: int. Largest distance that the bias tells apart.
        expert_attention: bool. Whether Switch layers give the queries, and the shared
            keys and values, of self-attention.
        kernel_initializer: Initializer of the feed-forward's kernels.
        seed: int. Seed of the kernels, the dropout and the Switch layers' noise. Each part
            derives seeds of its own from it, so blocks can have consecutive seeds.
        switch: Dictionary of further `SwitchDense` arguments.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, dim)`.
        encoder_sequence: Tensor of shape `(batch, encoder_length, dim)`.
        padding_mask: Boolean tensor `(batch, length)`, False at padding. Defaults to the
            Keras mask of `inputs`. With `self_attention_cache` it covers the cache,
            `(batch, max_length)`, and has no default.
        attention_mask: Boolean tensor that broadcasts to `(batch, length, key_length)`,
            for packed rows.
        encoder_padding_mask: Boolean tensor `(batch, encoder_length)`. Defaults to the
            Keras mask of `encoder_sequence`; give it again with a filled cache.
        cross_attention_mask: Boolean tensor that broadcasts to
            `(batch, length, encoder_length)`.
        position_bias: Tensor that broadcasts to `(batch, num_heads, length, key_length)`.
            It needs `relative_attention=False`.
        self_attention_cache: Tensor `(batch, 2, max_length, num_heads, key_value_dim)`.
        cache_update_index: int or int32 scalar tensor. Position of the first input.
        cross_attention_cache: Like `self_attention_cache`, `encoder_length` long. It is
            filled from `encoder_sequence` if that is given, and used as it is otherwise.
            Then it may have fewer rows than the inputs, and with it `encoder_padding_mask` and
            `cross_attention_mask`: each row serves as many consecutive ones, such as the beams
            of one text.
        mask: The Keras mask of `inputs`, which Keras fills in if they are the only tensor.
        inputs_mask: The Keras mask of `inputs`, which Keras fills in otherwise.
        encoder_sequence_mask: The Keras mask of `encoder_sequence`, likewise.
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
        self.activation = activations.get(activation)
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
        self.parallelism = parallelism.active()

    @property
    def stream_dtype(self):
        """The dtype of the outputs: the compute dtype, or float32 where that is float16."""
        return keras.dtype_policies.get(stream_policy(self.dtype_policy)).compute_dtype

    def build(self, inputs_shape, encoder_sequence_shape=None):
        block_checks.check_inputs_shape(self, inputs_shape)
        with parallelism.use(self.parallelism), rematerialized.without_remat():
            self._build_parts(inputs_shape[-1])

    def _build_parts(self, dim):
        if self.relative_attention:
            self.position_bias_layer = block_parts.position_bias(self, dim)
        self.self_attention = block_parts.attention(self, "self_attention", dim)
        self.self_attention_norm = block_parts.norm(self, "self_attention_norm", dim)
        if self.cross_attention:
            self.encoder_attention = block_parts.attention(self, "cross_attention", dim)
            self.encoder_attention_norm = block_parts.norm(self, "cross_attention_norm", dim)
        self.feed_forward = block_parts.feed_forward(self, dim)
        self.feed_forward_norm = block_parts.norm(self, "feed_forward_norm", dim)
        self.residual_dropout = block_parts.dropout(self)

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
        mask=None,
        inputs_mask=None,
        encoder_sequence_mask=None,
        training=None,
    ):
        cache, index, crossed = self_attention_cache, cache_update_index, cross_attention_cache
        if padding_mask is None and cache is None:
            padding_mask = mask if inputs_mask is None else inputs_mask
        if encoder_padding_mask is None:
            encoder_padding_mask = encoder_sequence_mask
        masks = (padding_mask, attention_mask, encoder_padding_mask, cross_attention_mask)
        padding_mask, *_ = masks = tuple(checks.as_array(x) for x in masks)
        caches = (cache, index, crossed)
        block_checks.check_call(self, inputs, encoder_sequence, position_bias, caches, masks)
        if cache is not None:
            padding_mask = attention_masks.of_inputs(padding_mask, index, ops.shape(inputs)[1])
        x = ops.cast(inputs, self.stream_dtype)
        with contextlib.nullcontext() if cache is None else dropless():
            x, cache = self._attend_to_self(x, padding_mask, masks, position_bias, caches, training)
            if self.cross_attention:
                x, crossed = self._attend_to_encoder(x, encoder_sequence, masks, crossed, training)
            x = self._feed_forward(x, padding_mask, training)
        if cache is None:
            return x
        return (x, cache, crossed) if self.cross_attention else (x, cache)

    def _attend_to_self(self, x, token_mask, masks, bias, caches, training):
        cache, index, _ = caches
        index = 0 if cache is None else ops.cast(index, "int32")
        keys = x if cache is None else cache[:, 0]
        if self.relative_attention:
            bias = self.position_bias_layer(x, keys, offset=index)
        causal_mask = None
        if self.causal:
            causal_mask = attention_masks.causal_mask(ops.shape(x)[1], ops.shape(keys)[1], index)
        normed = self.self_attention_norm(x)
        outputs, cache = self.self_attention(
            normed,
            normed,
            bias=bias,
            attention_mask=attention_masks.combine(*masks[:2], causal_mask),
            query_mask=token_mask,
            key_mask=token_mask,
            cache=cache,
            cache_update_index=index,
            training=training,
        )
        return x + self.residual_dropout(outputs, training=training), cache

    def _attend_to_encoder(self, x, encoder_sequence, masks, cache, training):
        if encoder_sequence is not None or cache.shape[0] == x.shape[0] is not None:
            mask = attention_masks.combine(*masks[2:])
        else:
            shape, num_rows = ops.shape(x), ops.shape(cache)[0]
            mask = attention_masks.of_shared_keys(*masks[2:], shape, num_rows)
        outputs, cache = self.encoder_attention(
            self.encoder_attention_norm(x),
            encoder_sequence,
            attention_mask=mask,
            cache=cache,
            cache_update_index=0,
            training=training,
        )
        return x + self.residual_dropout(outputs, training=training), cache

    def _feed_forward(self, x, token_mask, training):
        normed = self.feed_forward_norm(x)
        if self.num_experts is None:
            outputs = self.feed_forward(normed, training=training)
        else:
            outputs = self.feed_forward(normed, mask=token_mask, training=training)
        return x + self.residual_dropout(outputs, training=training)

    def make_cross_attention_cache(self, encoder_sequence):
        """Returns the filled cache of a sequence `(batch, encoder_length, dim)`."""
        return self.encoder_attention.make_cache(encoder_sequence)

    def compute_output_shape(self, inputs_shape, encoder_sequence_shape=None):
        return tuple(inputs_shape)

    def compute_output_spec(self, inputs, encoder_sequence=None, **kwargs):
        caches = tuple(kwargs.get(name) for name in block_checks.CACHES)
        masks = tuple(checks.as_array(kwargs.get(name)) for name in block_checks.MASKS)
        bias = kwargs.get("position_bias")
        block_checks.check_call(self, inputs, encoder_sequence, bias, caches, masks)
        outputs = keras.KerasTensor(inputs.shape, dtype=self.stream_dtype)
        cache, _, crossed = caches
        if cache is None:
            return outputs
        caches = (cache, crossed) if self.cross_attention else (cache,)
        return (outputs, *(keras.KerasTensor(c.shape, dtype=c.dtype) for c in caches))

    def get_config(self):
        config = super().get_config()
        config["dtype"] = keras.dtype_policies.serialize(quantized.policy_of(self))
        names = (
            "num_heads intermediate_dim num_experts key_value_dim causal cross_attention "
            "dropout gated layer_norm_epsilon relative_attention num_buckets max_distance "
            "expert_attention seed"
        )
        config.update({name: getattr(self, name) for name in names.split()})
        config["switch"] = algorithms.serialize_switch(self.switch)
        config["activation"] = keras.activations.serialize(self.activation)
        config["kernel_initializer"] = keras.initializers.serialize(self.kernel_initializer)
        return config
