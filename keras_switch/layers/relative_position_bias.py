"""T5's relative position bias."""

import math

import keras
from keras import ops

from keras_switch import checks
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.dtypes import default_dtype


def relative_position_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """Maps `key position - query position` to a bucket.

    Half of the buckets are exact, the others grow logarithmically up to
    `max_distance`. A bidirectional bias has its own half for keys after the query; a
    causal one puts all of those into bucket 0.

    Args:
        relative_position: int32 tensor.
        bidirectional: bool.
        num_buckets: int.
        max_distance: int.

    Returns:
        int32 tensor like `relative_position`, in `[0, num_buckets)`.
    """
    bucket = ops.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        bucket = num_buckets * ops.cast(relative_position > 0, "int32")
        distance = ops.abs(relative_position)
    else:
        distance = ops.maximum(-relative_position, 0)
    exact = num_buckets // 2
    ratio = ops.cast(ops.maximum(distance, 1), "float32") / exact
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    far = exact + ops.cast(ops.log(ratio) * scale, "int32")
    far = ops.minimum(far, num_buckets - 1)
    return bucket + ops.where(distance < exact, distance, far)


@keras.saving.register_keras_serializable(package="keras_switch")
class RelativePositionBias(keras.layers.Layer):
    """Learned bias of attention logits by the distance of query and key.

    Args:
        num_heads: int. Number of attention heads.
        num_buckets: int. Number of distances that have a bias of their own.
        max_distance: int. Distances from here on share the last bucket.
        bidirectional: bool. Whether keys after the query count; a causal stack sets
            False.
        embeddings_initializer: Initializer of the biases. Defaults to `normal(0.02)`.
        **kwargs: Base layer keyword arguments. The bias is float32 by default,
            or float64 where that was chosen globally.

    Call arguments:
        queries: Tensor of shape `(batch, query_length, ...)`; only its length matters.
        keys: Tensor of shape `(batch, key_length, ...)`. Defaults to `queries`.
        offset: int or int32 scalar tensor. Position of the first query.

    Output shape:
        `(1, num_heads, query_length, key_length)`

    Reference:
    - [Raffel et al., 2020](https://arxiv.org/abs/1910.10683), section 2.1
    """

    def __init__(
        self,
        num_heads,
        num_buckets=32,
        max_distance=128,
        bidirectional=True,
        embeddings_initializer=None,
        dtype=None,
        **kwargs,
    ):
        policy = default_dtype(dtype)
        super().__init__(dtype=at_least_float32(policy) if dtype is None else policy, **kwargs)
        self.num_heads = checks.check_positive_integer("num_heads", num_heads)
        self.num_buckets = checks.check_positive_integer("num_buckets", num_buckets)
        self.max_distance = checks.check_positive_integer("max_distance", max_distance)
        self.bidirectional = checks.check_bool("bidirectional", bidirectional)
        smallest = 4 if bidirectional else 2
        if num_buckets < smallest or max_distance <= num_buckets // 2:
            raise ValueError(
                f"`num_buckets` must be at least {smallest}, and `max_distance` more than half of "
                f"it. Received: num_buckets={num_buckets}, max_distance={max_distance}"
            )
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer or keras.initializers.RandomNormal(0.0, 0.02)
        )
        self.supports_masking = True

    def build(self, queries_shape, keys_shape=None):
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.embeddings_initializer,
        )

    def call(self, queries, keys=None, offset=0):
        keys = queries if keys is None else keys
        query = ops.arange(ops.shape(queries)[1], dtype="int32")
        key = ops.arange(ops.shape(keys)[1], dtype="int32")
        query = query + ops.cast(offset, "int32")
        buckets = relative_position_bucket(
            key[None] - query[:, None], self.bidirectional, self.num_buckets, self.max_distance
        )
        bias = ops.take(ops.convert_to_tensor(self.embedding), buckets, axis=0)
        return ops.transpose(bias, (2, 0, 1))[None]

    def compute_output_spec(self, queries, keys=None, offset=0):
        keys = queries if keys is None else keys
        shape = (1, self.num_heads, queries.shape[1], keys.shape[1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, queries, previous_mask=None):
        return None

    def get_config(self):
        config = super().get_config()
        for name in ("num_heads", "num_buckets", "max_distance", "bidirectional"):
            config[name] = getattr(self, name)
        config["embeddings_initializer"] = keras.initializers.serialize(self.embeddings_initializer)
        return config
