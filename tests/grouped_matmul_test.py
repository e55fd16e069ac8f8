import os
import subprocess
import sys
import unittest

import keras
import numpy as np
from absl.testing import parameterized
from gradients import gradients
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_switch import backend

JACOBIAN = """
import numpy as np
import tensorflow as tf
from keras_switch import backend

rng = np.random.default_rng(0)
rows = tf.constant(rng.normal(size=(3, 8)), tf.float32)
kernels = tf.constant(rng.normal(size=(4, 8, 16)), tf.float32)
with tf.GradientTape() as tape:
    tape.watch(rows)
    y = backend.grouped_matmul(rows, kernels, [1, 0, 2, 0])
jacobian = tape.jacobian(y, rows)
for row, expert in enumerate((0, 2, 2)):
    expected = np.zeros((16, 3, 8))
    expected[:, row] = np.transpose(kernels[expert])
    np.testing.assert_allclose(jacobian[row], expected, atol=1e-5)
"""


def loop(rows, kernels, sizes):
    outputs = np.zeros((len(rows), kernels.shape[-1]), "float64")
    start = 0
    for kernel, size in zip(kernels, sizes):
        outputs[start : start + size] = rows[start : start + size] @ kernel
        start += size
    return outputs


def example(num_rows, num_experts, dim=6, width=5, seed=0, unused=0):
    rng = np.random.default_rng(seed)
    sizes = rng.multinomial(num_rows - unused, rng.dirichlet(np.ones(num_experts)))
    rows = rng.normal(size=(num_rows, dim)).astype("float32")
    kernels = rng.normal(size=(num_experts, dim, width)).astype("float32")
    return rows, kernels, sizes.astype("int32")


class GroupedMatmulTest(parameterized.TestCase):
    def check(self, rows, kernels, sizes, jit):
        weights = np.cos(np.arange(len(rows) * kernels.shape[-1])).astype("float32")
        weights = weights.reshape(len(rows), -1)

        def function(rows, kernels):
            return ops.sum(backend.grouped_matmul(rows, kernels, ops.array(sizes)) * weights)

        def forward(rows, kernels):
            return backend.grouped_matmul(rows, kernels, ops.array(sizes))

        if jit and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            function = tf.function(function, jit_compile=True, autograph=False)
            forward = tf.function(forward, jit_compile=True, autograph=False)
        outputs = np.asarray(forward(ops.array(rows), ops.array(kernels)))
        np.testing.assert_allclose(outputs, loop(rows, kernels, sizes), atol=1e-4)
        _, (d_rows, d_kernels) = gradients(function, [rows, kernels])
        real = np.arange(len(rows))[:, None] < sizes.sum()
        expected = loop(weights * real, kernels.transpose(0, 2, 1), sizes)
        np.testing.assert_allclose(d_rows, expected, atol=1e-4)
        ends = np.cumsum(sizes)
        for expert, end in enumerate(ends):
            part = slice(end - sizes[expert], end)
            expected = rows[part].T @ weights[part]
            np.testing.assert_allclose(d_kernels[expert], expected, atol=1e-4)

    @parameterized.product(
        shape=[(1, 1), (1, 5), (40, 3), (700, 2), (90, 64), (90, 65), (300, 150)],
        jit=[False, True],
    )
    def test_equals_a_loop(self, shape, jit):
        self.check(*example(*shape), jit)
        self.check(*example(*shape, unused=shape[0] // 3), jit)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 10**6), st.data())
    def test_equals_a_loop_on_random_shapes(self, num_rows, num_experts, seed, data):
        unused = data.draw(st.integers(0, num_rows))
        self.check(*example(num_rows, num_experts, seed=seed, unused=unused), jit=False)

    @parameterized.parameters(False, True)
    def test_what_is_infinite_stays_with_its_expert(self, jit):
        rows, kernels, sizes = np.ones((12, 3)), np.ones((3, 3, 4)), np.array([5, 3, 4], "int32")
        scale = np.ones((12, 1))
        scale[5:8] = np.inf  # The second expert's.
        rows, kernels, scale = (x.astype("float32") for x in (rows, kernels, scale))

        def function(rows, kernels):
            return ops.sum(backend.grouped_matmul(rows, kernels, ops.array(sizes)) * scale)

        if jit and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            function = tf.function(function, jit_compile=True, autograph=False)
        _, (_, d_kernels) = gradients(function, [rows, kernels])
        np.testing.assert_array_equal(d_kernels[0], 5.0)
        np.testing.assert_array_equal(d_kernels[2], 4.0)

    def test_bfloat16(self):
        rows, kernels, sizes = example(64, 4)
        outputs = backend.grouped_matmul(
            ops.cast(rows, "bfloat16"), ops.cast(kernels, "bfloat16"), ops.array(sizes)
        )
        self.assertEqual(keras.backend.standardize_dtype(outputs.dtype), "bfloat16")
        outputs = ops.convert_to_numpy(ops.cast(outputs, "float32"))
        np.testing.assert_allclose(outputs, loop(rows, kernels, sizes), atol=0.15)


@unittest.skipIf(keras.backend.backend() != "tensorflow", "TensorFlow builds graphs.")
class GraphTest(unittest.TestCase):
    def test_graph_is_bounded_at_2048_experts(self):
        import tensorflow as tf

        def nodes(num_experts):
            graph = tf.function(backend.grouped_matmul).get_concrete_function(
                tf.TensorSpec((None, 4)),
                tf.TensorSpec((num_experts, 4, 4)),
                tf.TensorSpec((num_experts,), tf.int32),
            )
            graph = graph.graph.as_graph_def()
            inner = sum(len(function.node_def) for function in graph.library.function)
            return len(graph.node) + inner

        self.assertLess(nodes(2048), 2 * nodes(128))

    def test_jacobian(self):
        # oneDNN's kernels for these processors end the process in a product of rank 4 that
        # broadcasts.
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
        subprocess.run([sys.executable, "-c", JACOBIAN], env=environment, check=True)

    def test_unknown_number_of_rows_under_xla(self):
        import tensorflow as tf

        rows, kernels, sizes = example(50, 3)
        spec = (tf.TensorSpec((None, 6)), tf.TensorSpec((3, 6, 5)), tf.TensorSpec((3,), tf.int32))
        function = tf.function(backend.grouped_matmul, spec, jit_compile=True, autograph=False)
        for count in (50, 20):
            part = np.array([count, 0, 0], "int32")
            outputs = function(rows[:count], kernels, part)
            np.testing.assert_allclose(outputs, loop(rows[:count], kernels, part), atol=1e-4)


@unittest.skipIf(keras.backend.backend() != "jax", "JAX lowers for any platform.")
class CostTest(parameterized.TestCase):
    """The cost follows the rows, and not rows times experts."""

    def loss(self, rows, kernels, sizes):
        return ops.sum(ops.sin(backend.grouped_matmul(rows, kernels, sizes)))

    def lowered(self, function, num_experts, platform=None):
        import jax

        shapes = ((1024, 32), (num_experts, 32, 64), (num_experts,))
        dtypes = ("float32", "float32", "int32")
        arguments = [jax.ShapeDtypeStruct(*pair) for pair in zip(shapes, dtypes)]
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=None if platform is None else (platform,))

    @parameterized.product(num_experts=[8, 64], backward=[False, True])
    def test_operations_on_a_cpu(self, num_experts, backward):
        import jax

        function = jax.grad(self.loss, (0, 1)) if backward else self.loss
        compiled = self.lowered(function, num_experts).compile()
        # A loop's body is counted once: here it multiplies a block of an even share of the rows.
        rows = max(1024 // num_experts // 4, 32)
        product = 2 * rows * 32 * 64
        products = 3 if backward else 1
        # The rest are operations on single elements: the sine, and sums of an expert's blocks.
        rest = 1024 * (32 + 64) * 10 + num_experts * 100
        self.assertLess(compiled.cost_analysis()["flops"], 1.2 * products * product + rest)

    @parameterized.product(platform=["cpu", "cuda", "tpu"], backward=[False, True])
    def test_only_a_tpu_gets_the_ragged_product(self, platform, backward):
        import jax

        function = jax.grad(self.loss, (0, 1)) if backward else self.loss
        text = self.lowered(function, 8, platform).as_text()
        self.assertEqual("ragged_dot" in text, platform == "tpu")
        self.assertEqual("stablehlo.while" in text, platform != "tpu")

    def test_gradients_have_gradients(self):
        import jax

        rows, kernels, sizes = example(12, 3, unused=2)

        def plain(rows, kernels):
            expert = np.repeat(np.arange(4), [*sizes, 2])
            kernels = jax.numpy.concatenate([kernels, jax.numpy.zeros_like(kernels[:1])])
            return jax.numpy.sum(
                jax.numpy.sin(jax.numpy.einsum("nd,ndf->nf", rows, kernels[expert]))
            )

        def square(function):
            gradient = jax.grad(function, (0, 1))
            return lambda *args: sum(jax.numpy.sum(x**2) for x in gradient(*args))

        ours = jax.grad(square(lambda r, k: self.loss(r, k, sizes)), (0, 1))(rows, kernels)
        for found, expected in zip(ours, jax.grad(square(plain), (0, 1))(rows, kernels)):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    unittest.main()
