"""Operations for the TensorFlow backend."""

import tensorflow as tf

from keras_switch.backend.block_size import block_size
from keras_switch.private.tensorflow import GraphOrParentsInXlaContext
from keras_switch.private.tensorflow import xla

# Outside XLA one graph node a matrix is fastest; a loop over chunks bounds the graph.
CHUNK = 64


def first_largest(x):
    """int32 index of the largest along the last axis, of the first one if several are.

    `keras.ops.argmax` looks into the bits of its input, which few exports can do.
    """
    return tf.argmax(x, axis=-1, output_type=tf.int32)


def larger(a, b):
    """The larger of two dimensions: ints, or scalar tensors where they are unknown."""
    return tf.maximum(a, b) if tf.is_tensor(a) or tf.is_tensor(b) else max(a, b)


def smaller(a, b):
    """The smaller of two dimensions: ints, or scalar tensors where they are unknown."""
    return tf.minimum(a, b) if tf.is_tensor(a) or tf.is_tensor(b) else min(a, b)


def gather_rows(x, indices):
    """Gathers `x[g, indices[g, m]]`: `(G, N, D)` and `(G, M)` give `(G, M, D)`."""
    if x.shape[0] == 1:
        # OpenVINO's CPU kernel for a batch of one crashes where the rows are narrow.
        return tf.gather(x[0], indices[0])[None]
    return tf.gather(x, indices, axis=1, batch_dims=1)


def grouped_matmul(rows, kernels, group_sizes):
    """Multiplies rows sorted by expert with that expert's matrix.

    The cost follows the number of rows, and hardly the number of experts. Under XLA
    all shapes are static; outside it each expert's rows are multiplied in one piece.

    Args:
        rows: Tensor of shape `(N, D)`, the rows of expert 0 first, then those of
            expert 1, and so on.
        kernels: Tensor of shape `(E, D, F)`, with the dtype of `rows`.
        group_sizes: Integer tensor of shape `(E,)`: how many rows each expert has.
            Their sum is at most `N`.

    Returns:
        Tensor of shape `(N, F)`. Rows past the sum of `group_sizes` give zeros.
    """
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        multiply, outer = _blocked_matmul, _blocked_outer
    else:
        multiply, outer = _split_matmul, _split_outer
    sizes = tf.cast(group_sizes, tf.int32)
    rows, kernels = tf.convert_to_tensor(rows), tf.convert_to_tensor(kernels)

    @tf.custom_gradient
    def function(rows, kernels):
        def gradient(upstream):
            d_rows = multiply(upstream, kernels, sizes, transpose=True)
            return d_rows, outer(rows, upstream, sizes)

        return multiply(rows, kernels, sizes, transpose=False), gradient

    return function(rows, kernels)


def _chunked(function, num_experts, sizes, shape, dtype):
    """Lists `function(first expert, count, first row)` over chunks of experts, to be joined."""
    num_chunks = num_experts // CHUNK
    if num_experts <= CHUNK:
        return function(0, num_experts, 0)
    starts = tf.cumsum(sizes, exclusive=True)
    pieces = tf.TensorArray(dtype, num_chunks, infer_shape=False, element_shape=shape)

    def body(chunk, pieces):
        first = chunk * CHUNK
        joined = tf.concat(function(first, CHUNK, starts[first]), 0)
        return chunk + 1, pieces.write(chunk, joined)

    _, pieces = tf.while_loop(lambda chunk, _: chunk < num_chunks, body, (0, pieces))
    last = num_chunks * CHUNK
    if last == num_experts:
        return [pieces.concat()]
    return [pieces.concat(), *function(last, num_experts - last, starts[last])]


def _shaped(x, shape):
    """Makes a shape known that follows from how `x` was made. It adds no operation."""
    x.set_shape(shape)
    return x


def _split(rows, sizes, start):
    """Splits the rows from `start` on into one piece for each of `sizes`."""
    return tf.split(rows[start : start + tf.reduce_sum(sizes)], sizes)


def _split_matmul(rows, kernels, sizes, transpose):
    """One matmul an expert, each over all of its rows."""

    def chunk(first, count, start):
        pieces = _split(rows, _shaped(sizes[first : first + count], (count,)), start)
        kernels_chunk = _shaped(kernels[first : first + count], (count, None, None))
        pairs = zip(pieces, tf.unstack(kernels_chunk))
        if transpose:
            # A plain matmul would first write each transposed kernel anew, and of one that
            # broadcasts `tape.jacobian` makes a product that oneDNN cannot do.
            return [tf.raw_ops.BatchMatMul(x=x[None], y=w[None], adj_y=True)[0] for x, w in pairs]
        return [tf.matmul(x, w) for x, w in pairs]

    width = kernels.shape[1 if transpose else 2]
    products = _chunked(chunk, kernels.shape[0], sizes, (None, width), rows.dtype)
    missing = tf.zeros((tf.shape(rows)[0] - tf.reduce_sum(sizes), width), rows.dtype)
    return _shaped(tf.concat([*products, missing], 0), (rows.shape[0], width))


def _split_outer(rows, upstream, sizes):
    """The gradient of the kernels: each expert's rows, transposed, times its upstream."""

    def chunk(first, count, start):
        sizes_chunk = _shaped(sizes[first : first + count], (count,))
        pairs = zip(_split(rows, sizes_chunk, start), _split(upstream, sizes_chunk, start))
        return [tf.matmul(x, dy, transpose_a=True)[None] for x, dy in pairs]

    shape = (None, rows.shape[1], upstream.shape[1])
    return tf.concat(_chunked(chunk, sizes.shape[0], sizes, shape, rows.dtype), 0)


def _num_rows(rows):
    return tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]


def _blocks(num_rows, sizes, size):
    """Cuts each expert's rows into blocks of `size`: `(count, expert, start, end)` of them.

    A block may run past its expert's last row, `end`. The next block starts there.
    """
    ends = tf.cumsum(sizes)
    last_blocks = tf.cumsum(-(-sizes // size))
    block = tf.range(-(-num_rows // size) + sizes.shape[0])
    expert = tf.searchsorted(last_blocks, block, side="right")
    expert = tf.minimum(expert, sizes.shape[0] - 1)
    left = tf.gather(last_blocks, expert) - block
    end = tf.gather(ends, expert)
    blocks_of_expert = -(-tf.gather(sizes, expert) // size)
    start = end - tf.gather(sizes, expert) + (blocks_of_expert - left) * size
    return last_blocks[-1], expert, start, end


# `tf.slice` would make XLA compile anew for each value of `start`.
def _read(x, start, size):
    """`x[start : start + size]` for a static size."""
    rest = [0] * (x.shape.rank - 1)
    return xla.dynamic_slice(x, tf.stack([start, *rest]), [size, *x.shape[1:]])


def _write(x, value, start):
    """`x` with `value` at `x[start : start + len(value)]`."""
    return xla.dynamic_update_slice(x, value, tf.stack([start, *[0] * (x.shape.rank - 1)]))


def _blocked_matmul(rows, kernels, sizes, transpose):
    """A loop over blocks of rows; what a block writes past its expert is overwritten."""
    num_rows, width = _num_rows(rows), kernels.shape[1 if transpose else 2]
    size = block_size(rows.shape[0], sizes.shape[0])
    count, expert, start, _ = _blocks(num_rows, sizes, size)
    padded = tf.pad(rows, [[0, size], [0, 0]])

    def body(block, products):
        first = tf.gather(start, block)
        kernel = _read(kernels, tf.gather(expert, block), 1)[0]
        product = tf.matmul(_read(padded, first, size), kernel, transpose_b=transpose)
        return block + 1, _write(products, product, first)

    products = tf.zeros((num_rows + size, width), rows.dtype)
    _, products = tf.while_loop(lambda block, _: block < count, body, (0, products))
    # The last block of all may have run past the last row.
    products = _write(products, tf.zeros((size, width), rows.dtype), tf.reduce_sum(sizes))
    return products[:num_rows]


def _blocked_outer(rows, upstream, sizes):
    """The gradient of the kernels, summed over blocks in float32 at least."""
    size = block_size(rows.shape[0], sizes.shape[0])
    count, expert, start, end = _blocks(_num_rows(rows), sizes, size)
    rows, upstream = (tf.pad(x, [[0, size], [0, 0]]) for x in (rows, upstream))

    def body(block, kernels):
        first, at = tf.gather(start, block), tf.gather(expert, block)
        real = first + tf.range(size)[:, None] < tf.gather(end, block)
        # Not the rows of the next expert, which may be infinite.
        piece, other = (
            tf.where(real, _read(x, first, size), tf.zeros((), x.dtype)) for x in (rows, upstream)
        )
        product = tf.matmul(piece, other, transpose_a=True)
        product = tf.cast(product, dtype) + _read(kernels, at, 1)[0]
        return block + 1, _write(kernels, product[None], at)

    dtype = tf.float64 if rows.dtype == tf.float64 else tf.float32
    kernels = tf.zeros((sizes.shape[0], rows.shape[1], upstream.shape[1]), dtype)
    _, kernels = tf.while_loop(lambda block, _: block < count, body, (0, kernels))
    return tf.cast(kernels, upstream.dtype)


def compiled(function, variables):
    """Compiles a function that reads variables, whose values at each call count.

    Args:
        function: Callable of structures of tensors, which assigns no variable.
        variables: List of all variables that it reads.

    Returns:
        Callable of the same tensors. It is traced once for each of their shapes.
    """
    del variables  # TensorFlow knows which they are.
    return tf.function(function, autograph=False)
