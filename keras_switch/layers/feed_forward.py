"""T5's dense feed-forward layer."""

import keras


class FeedForward(keras.layers.Layer):
    """`activation(x W_in) W_out`, or `(activation(x W_gate) * (x W_in)) W_out`.

    Args:
        intermediate_dim: int. Hidden width.
        activation: string or callable.
        gated: bool. Whether the hidden layer is gated.
        dropout: float. Dropout rate of the hidden layer.
        kernel_initializer: Initializer. Defaults to T5's, `normal(fan_in ** -0.5)`.
        **kwargs: Base layer keyword arguments.
    """

    def __init__(
        self,
        intermediate_dim,
        activation="relu",
        gated=False,
        dropout=0.0,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.gated = gated
        self.supports_masking = True
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def _dense(self, name, dim, width):
        initializer = self.kernel_initializer
        layer = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=initializer.clone()
            if initializer
            else keras.initializers.RandomNormal(0.0, dim**-0.5),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, dim))
        return layer

    def build(self, inputs_shape):
        dim = inputs_shape[-1]
        self.input_dense = self._dense("input", dim, self.intermediate_dim)
        if self.gated:
            self.gate_dense = self._dense("gate", dim, self.intermediate_dim)
        self.output_dense = self._dense("output", self.intermediate_dim, dim)

    def call(self, inputs, training=None):
        hidden = self.input_dense(inputs)
        if self.gated:
            hidden = self.activation(self.gate_dense(inputs)) * hidden
        else:
            hidden = self.activation(hidden)
        return self.output_dense(self.dropout(hidden, training=training))
