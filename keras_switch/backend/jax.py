"""Operations for the JAX backend."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax

from keras_switch.backend.block_size import block_size


def first_largest(x):
    """int32 index of the largest along the last axis, of the first one if several are."""
    return jnp.argmax(x, axis=-1).astype("int32")


def larger(a, b):
    """The larger of two dimensions: ints, or symbolic ones where they are unknown."""
    return jax.core.max_dim(a, b)


def smaller(a, b):
    """The smaller of two dimensions: ints, or symbolic ones where they are unknown."""
    return jax.core.min_dim(a, b)


def gather_rows(x, indices):
    """Gathers `x[g, indices[g, m]]`: `(G, N, D)` and `(G, M)` give `(G, M, D)`."""
    return jax.vmap(lambda rows, at: jnp.take(rows, at, axis=0, mode="clip"))(x, indices)


def grouped_matmul(rows, kernels, group_sizes):
    """Multiplies rows sorted by expert with that expert's matrix.

    On a TPU it is `jax.lax.ragged_dot`, which is native there. Elsewhere that multiplies every
    row by every expert, and a loop over blocks of rows of one expert takes its place, whose cost
    follows the rows. The arguments, result and meaning are those of
    `keras_switch.backend.tensorflow.grouped_matmul`.
    """
    return _products(rows, kernels, group_sizes.astype("int32"), False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _products(rows, kernels, sizes, transpose):
    """Rows of each expert times its kernel, `(E, D, F)`, or its transpose."""
    return lax.platform_dependent(
        rows,
        kernels,
        sizes,
        tpu=functools.partial(_native_products, transpose=transpose),
        default=functools.partial(_looped_products, transpose=transpose),
    )


def _products_forward(rows, kernels, sizes, transpose):
    return _products(rows, kernels, sizes, transpose), (rows, kernels, sizes)


def _products_backward(transpose, saved, upstream):
    rows, kernels, sizes = saved
    d_rows = _products(upstream, kernels, sizes, not transpose)
    pair = (upstream, rows) if transpose else (rows, upstream)
    return d_rows, _outer(*pair, sizes), _no_gradient(sizes)


_products.defvjp(_products_forward, _products_backward)


@jax.custom_vjp
def _outer(rows, upstream, sizes):
    """Of each expert, its rows, transposed, times their upstream: `(E, D, F)`."""
    return lax.platform_dependent(rows, upstream, sizes, tpu=_native_outer, default=_looped_outer)


def _outer_forward(rows, upstream, sizes):
    return _outer(rows, upstream, sizes), (rows, upstream, sizes)


def _outer_backward(saved, d_kernels):
    rows, upstream, sizes = saved
    d_rows = _products(upstream, d_kernels, sizes, True)
    return d_rows, _products(rows, d_kernels, sizes, False), _no_gradient(sizes)


_outer.defvjp(_outer_forward, _outer_backward)


def _no_gradient(integers):
    return np.zeros(integers.shape, jax.dtypes.float0)


def _native_products(rows, kernels, sizes, transpose):
    if transpose:
        kernels = jnp.swapaxes(kernels, 1, 2)
    return lax.ragged_dot(rows, kernels, sizes)


def _native_outer(rows, upstream, sizes):
    dimensions = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    return lax.ragged_dot_general(rows, upstream, sizes, dimensions)


def _blocks(num_rows, sizes, size):
    """Cuts each expert's rows into blocks of `size`: `(count, expert, start, end)` of them.

    A block may run past its expert's last row, `end`. The next block starts there.
    """
    ends = jnp.cumsum(sizes)
    last_blocks = jnp.cumsum(-(-sizes // size))
    block = jnp.arange(-(-num_rows // size) + sizes.shape[0], dtype="int32")
    expert = jnp.searchsorted(last_blocks, block, side="right")
    expert = jnp.minimum(expert, sizes.shape[0] - 1).astype("int32")
    left = last_blocks[expert] - block
    end = ends[expert]
    start = end - sizes[expert] + (-(-sizes[expert] // size) - left) * size
    return last_blocks[-1], expert, start, end


@functools.partial(jax.jit, static_argnames="transpose")
def _looped_products(rows, kernels, sizes, transpose):
    """A loop over blocks of rows; what a block writes past its expert is overwritten."""
    num_rows, width = rows.shape[0], kernels.shape[1 if transpose else 2]
    size = block_size(num_rows, sizes.shape[0])
    count, expert, start, _ = _blocks(num_rows, sizes, size)
    padded = jnp.pad(rows, ((0, size), (0, 0)))
    contracted = (((1,), (1 if transpose else 0,)), ((), ()))

    def body(block, products):
        kernel = lax.dynamic_index_in_dim(kernels, expert[block], keepdims=False)
        piece = lax.dynamic_slice_in_dim(padded, start[block], size)
        product = lax.dot_general(piece, kernel, contracted)
        return lax.dynamic_update_slice_in_dim(products, product, start[block], 0)

    products = _zeros((num_rows + size, width), rows.dtype, like=(rows, kernels, sizes))
    products = lax.fori_loop(0, count, body, products)
    # The last block of all may have run past the last row.
    nothing = jnp.zeros((size, width), rows.dtype)
    return lax.dynamic_update_slice_in_dim(products, nothing, jnp.sum(sizes), 0)[:num_rows]


@jax.jit
def _looped_outer(rows, upstream, sizes):
    """The same loop, summed over the blocks of an expert in float32."""
    size = block_size(rows.shape[0], sizes.shape[0])
    count, expert, start, end = _blocks(rows.shape[0], sizes, size)
    padded, padded_upstream = (jnp.pad(x, ((0, size), (0, 0))) for x in (rows, upstream))

    def body(block, kernels):
        real = start[block] + jnp.arange(size)[:, None] < end[block]
        piece = lax.dynamic_slice_in_dim(padded, start[block], size)
        other = lax.dynamic_slice_in_dim(padded_upstream, start[block], size)
        # The rows of the next expert, which may be infinite.
        piece, other = (jnp.where(real, x, jnp.zeros((), x.dtype)) for x in (piece, other))
        product = lax.dot_general(
            piece, other, (((0,), (0,)), ((), ())), preferred_element_type=kernels.dtype
        )
        product = product + lax.dynamic_index_in_dim(kernels, expert[block], keepdims=False)
        return lax.dynamic_update_index_in_dim(kernels, product, expert[block], 0)

    shape = (sizes.shape[0], rows.shape[1], upstream.shape[1])
    dtype = jnp.promote_types(upstream.dtype, "float32")
    kernels = _zeros(shape, dtype, like=(rows, upstream, sizes))
    return lax.fori_loop(0, count, body, kernels).astype(upstream.dtype)


def _zeros(shape, dtype, like):
    """Zeros that vary over the axes of a mesh over which one of some arrays does."""
    nothing = sum(jnp.sum(x[:0]).astype(dtype) for x in like)
    return jnp.zeros(shape, dtype) + nothing


def compiled(function, variables):
    """Compiles a function that reads variables, whose values at each call count.

    The arguments and result are those of `keras_switch.backend.tensorflow.compiled`.
    """

    @jax.jit
    def run(values, *args):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(*args)

    return lambda *args: run([variable.value for variable in variables], *args)
