"""Operations for the JAX backend."""

import jax
import jax.numpy as jnp


def gather_rows(x, indices):
    """Gathers `x[g, indices[g, m]]`: `(G, N, D)` and `(G, M)` give `(G, M, D)`."""
    return jax.vmap(lambda rows, at: jnp.take(rows, at, axis=0, mode="clip"))(x, indices)


def grouped_matmul(rows, kernels, group_sizes):
    """Multiplies rows sorted by expert with that expert's matrix.

    `jax.lax.ragged_dot`; the arguments, result and meaning are those of
    `keras_switch.backend.tensorflow.grouped_matmul`.
    """
    return jax.lax.ragged_dot(rows, kernels, group_sizes.astype("int32"))
