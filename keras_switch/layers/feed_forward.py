"""T5's dense feed-forward layer."""

import keras

from keras_switch.layers import activations
from keras_switch.layers import quantized
from keras_switch.layers.dtypes import stream_policy
from keras_switch.layers.initializers import derive
from keras_switch.layers.initializers import fresh


class FeedForward(keras.layers.Layer):
    """`activation(x W_in) W_out`, or `(activation(x W_gate) * (x W_in)) W_out`.

    The output is in the dtype of the stream that it adds to; see `dtypes.stream_policy`.

    Args:
        intermediate_dim: int. Hidden width.
        activation: string or callable.
        gated: bool. Whether the hidden layer is gated.
        dropout: float. Dropout rate of the hidden layer.
        kernel_initializer: Initializer. Defaults to T5's, `normal(fan_in ** -0.5)`.
        seed: int. Seed of the default initializers and of the dropout.
        **kwargs: Base layer keyword arguments.
    """

    def __init__(
        self,
        intermediate_dim,
        activation="relu",
        gated=False,
        dropout=0.0,
        kernel_initializer=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activations.get(activation)
        self.gated = gated
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(
            dropout,
            seed=derive(seed, "feed_forward/dropout"),
            dtype=self.dtype_policy,
            name="dropout",
        )

    def _dense(self, name, dim, width, is_stream=False):
        dtype = quantized.part_policy(self.dtype_policy, f"{self.path}/{name}")
        seed = derive(self.seed, f"feed_forward/{name}")
        default = keras.initializers.RandomNormal(0.0, dim**-0.5, seed=seed)
        layer = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=fresh(self.kernel_initializer) or default,
            dtype=stream_policy(dtype) if is_stream else dtype,
            name=name,
        )
        layer.build((None, dim))
        return layer

    def build(self, inputs_shape):
        dim, hidden_dim = inputs_shape[-1], self.intermediate_dim
        self.input_dense = self._dense("input", dim, hidden_dim)
        if self.gated:
            self.gate_dense = self._dense("gate", dim, hidden_dim)
        self.output_dense = self._dense("output", hidden_dim, dim, is_stream=True)

    def call(self, inputs, training=None):
        hidden = self.input_dense(inputs)
        if self.gated:
            hidden = self.activation(self.gate_dense(inputs)) * hidden
        else:
            hidden = self.activation(hidden)
        return self.output_dense(self.dropout_layer(hidden, training=training))
