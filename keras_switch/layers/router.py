"""How a token ranks the experts."""

import keras
from keras import ops

from keras_switch.layers import noise

EXPLORATIONS = ("jitter", "sample", "input_dropout", "argmax")


class Router(keras.layers.Layer):
    """The router's kernel, and its seed: `scores` computes with them.

    Args:
        num_experts: int.
        kernel_initializer: Initializer of the kernel.
        seed: int. Seed of the noise.
        **kwargs: Base layer keyword arguments.
    """

    def __init__(self, num_experts, kernel_initializer, seed, **kwargs):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.kernel_initializer = kernel_initializer
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, x_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(x_shape[-1], self.num_experts),
            initializer=self.kernel_initializer,
            autocast=False,
        )

    def quantize(self, mode=None, type_check=True, config=None):
        """Tells `keras.Model.quantize`, which shows it as a warning, what it passes over."""
        raise NotImplementedError(
            f"`quantize` leaves the experts and the router of `{self.path.rpartition('/')[0]}` as "
            f"they are: a `SwitchDense` computes in floating point only. Received: mode={mode!r}"
        )


def scores(x_GSD, kernel_DE, exploration, size, seed, groups_G):
    """Linear scores of the experts, in the dtype of the kernel, with noise.

    Args:
        x_GSD: Tensor of groups of tokens.
        kernel_DE: float32 or float64 tensor.
        exploration: One of `EXPLORATIONS`, as in `SwitchDense`.
        size: float. Size of the jitter, or rate of the input dropout.
        seed: Seed of the noise; unused by `"argmax"`.
        groups_G: int32 tensor. Indices of the groups, which the noise depends on.

    Returns:
        Two tensors `(G, S, E)`: the logits, and the scores whose largest decide,
        which are the logits themselves or a sample of them.
    """
    x_GSD = ops.cast(x_GSD, kernel_DE.dtype)

    def position(x):
        _, row, column = noise.indices(ops.shape(x))
        return seed, groups_G[:, None, None], row, column

    if exploration == "jitter" and size > 0:
        x_GSD = x_GSD * ops.cast(noise.jitter(size, *position(x_GSD)), x_GSD.dtype)
    if exploration == "input_dropout" and size > 0:
        x_GSD = noise.dropout(x_GSD, size, *position(x_GSD))
    logits_GSE = ops.matmul(x_GSD, kernel_DE)
    if exploration == "sample":
        gumbel_GSE = noise.gumbel(*position(logits_GSE))
        return logits_GSE, logits_GSE + ops.cast(gumbel_GSE, logits_GSE.dtype)
    return logits_GSE, logits_GSE
