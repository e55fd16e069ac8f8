"""The experts' arithmetic."""

import typing

from keras import ops


class Experts(typing.NamedTuple):
    """Kernels and activation of the experts that a core holds.

    Attributes:
        kernel_in: Tensor `(E, D, F)`.
        kernel_gate: Tensor `(E, D, F)`, or `None` where the experts are not gated.
        kernel_out: Tensor `(E, F, D)`.
        activation: Callable.
    """

    kernel_in: typing.Any
    kernel_gate: typing.Any
    kernel_out: typing.Any
    activation: typing.Callable

    def compute(self, x, matmul, drop):
        """`activation(x W_in) W_out` of each expert, gated if so asked.

        Args:
            x: Tensor that `matmul` understands.
            matmul: Callable of a tensor and kernels.
            drop: Callable. Dropout of the hidden activation.
        """
        hidden = matmul(x, self.kernel_in)
        if self.kernel_gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(matmul(x, self.kernel_gate)) * hidden
        return matmul(drop(hidden), self.kernel_out)

    def columns(self, parallelism):
        """Indices, over all cores, of the hidden units: `(F,)`."""
        size = self.kernel_in.shape[-1]
        return ops.arange(size, dtype="int32") + parallelism.first("expert_hidden", size)
