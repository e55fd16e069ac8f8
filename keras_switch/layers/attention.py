"""T5's multi-head attention."""

import keras
from keras import ops

from keras_switch.layers import quantized
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.initializers import derive
from keras_switch.layers.switch_dense import SwitchDense


class Attention(keras.layers.Layer):
    """Multi-head attention without biases and without `1 / sqrt(d)`.

    The scale is in the initializer of the queries. The softmax is computed in float32.
    With expert attention one Switch layer gives the queries, and another one vectors
    that serve as keys and as values.

    Args:
        num_heads: int. Number of heads.
        key_value_dim: int. Width of a head.
        dropout: float. Dropout rate of the attention probabilities.
        switch: Optional dictionary of `SwitchDense` arguments: turns on expert attention.
        seed: int. Seed of the kernels, the dropout and the Switch layers' noise.
        **kwargs: Base layer keyword arguments.

    Call arguments:
        queries: Tensor of shape `(batch, query_length, dim)`.
        keys: Tensor of shape `(batch, key_length, dim)`, or `None` to use only the cache.
        bias: Optional float32 tensor that broadcasts to
            `(batch, num_heads, query_length, key_length)`.
        attention_mask: Optional boolean tensor that broadcasts like `bias`. False is not
            seen. See `attention_masks.of_shared_keys` for a cache of fewer rows.
        query_mask: Optional boolean tensor `(batch, query_length)`: padding takes no
            slot of an expert.
        key_mask: Likewise, `(batch, key_length)`.
        cache: Optional tensor `(batch, 2, max_length, num_heads, key_value_dim)`. Without `keys`
            it may have fewer rows: each then serves as many consecutive rows of queries.
        cache_update_index: Position at which the keys and values enter the cache.
        training: bool.

    Returns:
        The outputs `(batch, query_length, dim)`, and the updated cache, or `None`.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), appendix A
    """

    def __init__(self, num_heads, key_value_dim, dropout=0.0, switch=None, seed=None, **kwargs):
        super().__init__(autocast=False, **kwargs)  # A bias stays float32.
        self.num_heads = num_heads
        self.key_value_dim = key_value_dim
        self.dropout = dropout
        self.switch = switch
        self.seed = seed
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=derive(seed, "attention/dropout"), dtype=self.dtype_policy, name="dropout"
        )

    def build(self, queries_shape, keys_shape=None):
        dim, inner_dim = queries_shape[-1], self.num_heads * self.key_value_dim
        self.output_dense = self._dense("output", inner_dim, dim, inner_dim**-0.5)
        if self.switch is None:
            stddev = (dim * self.key_value_dim) ** -0.5
            self.query = self._dense("query", dim, inner_dim, stddev)
            self.key = self._dense("key", dim, inner_dim, dim**-0.5)
            self.value = self._dense("value", dim, inner_dim, dim**-0.5)
        else:
            self.query = self._switch_dense("query", dim, inner_dim)
            self.key_value = self._switch_dense("key_value", dim, inner_dim)

    def _dense(self, name, dim, width, stddev):
        seed = derive(self.seed, f"attention/{name}")
        layer = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(0.0, stddev, seed=seed),
            dtype=quantized.part_policy(self.dtype_policy, f"{self.path}/{name}"),
            name=name,
        )
        layer.build((None, None, dim))
        return layer

    def _switch_dense(self, name, dim, width):
        layer = SwitchDense(
            **self.switch,
            output_dim=width,
            seed=derive(self.seed, f"attention/{name}"),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, dim))
        return layer

    def _heads(self, x, inputs):
        """Splits what a projection makes of `inputs` into heads."""
        # The sizes are read off the inputs: the converter to ONNX takes those of a projection
        # for those of the matrix that it multiplied.
        shape = ops.shape(inputs)
        return ops.reshape(x, (shape[0], shape[1], self.num_heads, self.key_value_dim))

    def _project(self, queries, keys, query_mask, key_mask, training):
        """Queries, keys and values of all heads, `(B, L, H, K)`; no keys, no values."""
        if self.switch is None:
            q = self.query(queries)
            k, v = (None, None) if keys is None else (self.key(keys), self.value(keys))
        else:
            q = self.query(queries, mask=query_mask, training=training)
            k = v = None
            if keys is not None:
                k = v = self.key_value(keys, mask=key_mask, training=training)
        k, v = (None if x is None else self._heads(x, keys) for x in (k, v))
        return self._heads(q, queries), k, v

    def make_cache(self, keys):
        """Returns the cache of the keys and values of a sequence `(batch, length, dim)`."""
        projections = (self.key(keys), self.value(keys))
        return ops.stack([self._heads(x, keys) for x in projections], axis=1)

    def call(
        self,
        queries,
        keys=None,
        bias=None,
        attention_mask=None,
        query_mask=None,
        key_mask=None,
        cache=None,
        cache_update_index=None,
        training=None,
    ):
        q, k, v = self._project(queries, keys, query_mask, key_mask, training)
        if cache is not None:
            if k is not None:
                update = ops.cast(ops.stack([k, v], axis=1), cache.dtype)
                cache = ops.slice_update(cache, (0, 0, cache_update_index, 0, 0), update)
            elif cache.shape[0] is None or cache.shape[0] != q.shape[0]:
                q = ops.reshape(q, (ops.shape(cache)[0], -1, self.num_heads, self.key_value_dim))
            k, v = (ops.cast(x, q.dtype) for x in ops.unstack(cache, axis=1))
        logits = _logits(q, k)
        if bias is not None:
            logits = logits + ops.cast(bias, logits.dtype)
        if attention_mask is not None:
            logits = ops.where(attention_mask, logits, -1e9)
        weights = ops.cast(_softmax(logits), v.dtype)
        weights = self.dropout_layer(weights, training=training)
        outputs = _average(weights, v)
        shape = ops.shape(queries)
        outputs = ops.reshape(outputs, (*shape[:2], self.num_heads * self.key_value_dim))
        return self.output_dense(outputs), cache


def _softmax(logits):
    # Of a single key Keras warns, as if it were a mistake. Ones, with a gradient of zeros:
    if logits.shape[-1] == 1:
        return logits - logits + 1.0
    return ops.softmax(logits, axis=-1)


# A single query, as in decoding, multiplies and sums: XLA makes one pass of it, where for a matrix
# product it would first transpose all keys and values.
def _logits(q, k):
    """Products of queries and keys: `(B, Q, H, K)` and `(B, T, H, K)` give `(B, H, Q, T)`."""
    dtype = at_least_float32(q.dtype)
    if q.shape[1] != 1:
        return ops.cast(ops.einsum("bqhk,bthk->bhqt", q, k), dtype)
    q, k = (ops.cast(x, dtype) for x in (q, k))
    return ops.transpose(ops.sum(q * k, axis=-1, keepdims=True), (0, 2, 3, 1))


def _average(weights, v):
    """Weighted sums of values: `(B, H, Q, T)` and `(B, T, H, K)` give `(B, Q, H, K)`."""
    if weights.shape[2] != 1:
        return ops.einsum("bhqt,bthk->bqhk", weights, v)
    weights = ops.transpose(weights, (0, 3, 1, 2))
    weights, values = (ops.cast(x, at_least_float32(v.dtype)) for x in (weights, v))
    return ops.cast(ops.sum(weights * values, axis=1, keepdims=True), v.dtype)
