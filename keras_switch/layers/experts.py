"""The experts' arithmetic."""

import typing

import keras
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
        """`activation(x W_in) W_out` of each expert, gated if so asked; float32 for float16.

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
        # A product that adds to T5's stream passes the largest float16.
        dtype = "float32" if self.is_float16 else hidden.dtype
        return matmul(ops.cast(drop(hidden), dtype), ops.cast(self.kernel_out, dtype))

    @property
    def is_float16(self):
        return keras.backend.standardize_dtype(self.kernel_out.dtype) == "float16"

    def columns(self, parallelism):
        """Indices, over all cores, of the hidden units: `(F,)`."""
        size = self.kernel_in.shape[-1]
        return ops.arange(size, dtype="int32") + parallelism.first("expert_hidden", size)
