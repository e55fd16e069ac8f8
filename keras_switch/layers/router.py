"""How a token ranks the experts."""

import keras
from keras import ops

from keras_switch.layers import noise

EXPLORATIONS = ("jitter", "sample", "input_dropout", "argmax")


class Router(keras.layers.Layer):
    """Linear scores of the experts, in float32, with noise in training.

    Args:
        num_experts: int.
        exploration: One of `EXPLORATIONS`, as in `SwitchDense`.
        jitter: float. Size of the jitter.
        input_dropout: float. Rate of the input dropout.
        kernel_initializer: Initializer of the kernel.
        seed: int. Seed of the noise.
        **kwargs: Base layer keyword arguments.

    Call arguments:
        x_GSD: Tensor of groups of tokens.
        training: bool. Enables the noise.

    Returns:
        Two float32 tensors `(G, S, E)`: the logits, and the scores whose largest decide,
        which are the logits themselves or a sample of them.
    """

    def __init__(
        self, num_experts, exploration, jitter, input_dropout, kernel_initializer, seed, **kwargs
    ):
        super().__init__(dtype="float32", **kwargs)
        self.num_experts = num_experts
        self.exploration = exploration
        self.jitter = jitter
        self.input_dropout = input_dropout
        self.kernel_initializer = kernel_initializer
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, x_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(x_shape[-1], self.num_experts),
            initializer=self.kernel_initializer,
        )

    def call(self, x_GSD, training=None):
        exploration = self.exploration if training else "argmax"
        if exploration == "jitter" and self.jitter > 0:
            x_GSD = x_GSD * noise.jitter(self.jitter, *self._position(x_GSD))
        if exploration == "input_dropout" and self.input_dropout > 0:
            x_GSD = noise.dropout(x_GSD, self.input_dropout, *self._position(x_GSD))
        logits_GSE = ops.matmul(x_GSD, self.kernel)
        if exploration == "sample":
            return logits_GSE, logits_GSE + noise.gumbel(*self._position(logits_GSE))
        return logits_GSE, logits_GSE

    def _position(self, x):
        return self.seed_generator.next(), *noise.indices(ops.shape(x))
