import unittest

import keras
import lm_helpers
import numpy as np
from absl.testing import parameterized
from block_helpers import numpy
from gradients import layer_gradients
from keras import ops
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock


def scale(weight, factor):
    weight.assign(numpy(weight) * factor)


class SwitchDenseTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {"gated": True, "activation": "gelu"},
        {"num_selected_experts": 2, "num_experts": 3},
        {"overflow": "reroute"},
    )
    def test_an_expert_without_tokens_has_no_gradient(self, num_experts=2, **kwargs):
        # The router's ties go to the first experts. In the last one every token overflows.
        kwargs |= {"router_initializer": "zeros", "exploration": "argmax", "min_capacity": 16}
        layer = SwitchDense(num_experts, 8, dtype="mixed_float16", **kwargs)
        x = np.abs(tokens(1, 16, 4))
        layer.build(x.shape)
        kernel = numpy(layer.kernel_in)
        kernel[-1] = 3e4
        layer.kernel_in.assign(kernel)

        def total(x):
            return ops.sum(ops.cast(layer(x, training=True), "float32"))

        value, gradients = layer_gradients(layer, total, x)
        self.assertTrue(np.isfinite(value))
        for gradient in gradients:
            self.assertTrue(np.isfinite(gradient.astype("float32")).all())
        for weight, gradient in zip(layer.trainable_variables, gradients[1:]):
            if "kernel" in weight.name and weight.name != "kernel":
                self.assertEqual(np.abs(gradient[-1].astype("float32")).max(), 0)
                self.assertGreater(np.abs(gradient[0].astype("float32")).max(), 0)

    def test_outputs_are_float16_and_near_those_of_float32(self):
        x = tokens(2, 5, 6)
        half, single = (SwitchDense(4, 8, dtype=d, seed=0) for d in ("mixed_float16", "float32"))
        outputs = half(x)
        self.assertEqual(keras.backend.standardize_dtype(outputs.dtype), "float16")
        self.assertEqual(half(keras.Input((5, 6))).dtype, "float16")
        np.testing.assert_allclose(numpy(outputs), numpy(single(x)), atol=2e-3)


class StreamTest(parameterized.TestCase):
    """As in T5's released models, what the feed-forward adds passes 65,504."""

    @parameterized.product(
        kwargs=[
            {},
            {"gated": True},
            {"num_experts": 4},
            {"num_experts": 4, "switch": {"overflow": "dropless"}},
        ],
        causal=[False, True],
    )
    def test_blocks(self, kwargs, causal):
        x = tokens(2, 5, 16)
        results = {}
        for dtype in ("mixed_float16", "float32"):
            blocks = [
                SwitchTransformerBlock(
                    2, 64, dtype=dtype, seed=i, causal=causal, cross_attention=causal, **kwargs
                )
                for i in range(2)
            ]
            args = (x,) if causal else ()
            blocks[0](x, *args)
            part = blocks[0].feed_forward
            if "num_experts" in kwargs:
                kernels = part.kernel_in, part.kernel_out
            else:
                kernels = part.input_dense.kernel, part.output_dense.kernel
            scale(kernels[0], 1e3)
            scale(kernels[1], 3e4)
            stream = blocks[0](x, *args)
            self.assertGreater(np.abs(numpy(stream)).max(), 65504)
            self.assertEqual(keras.backend.standardize_dtype(stream.dtype), "float32")
            results[dtype] = numpy(stream), numpy(blocks[1](stream, *args)) - numpy(stream)
            symbolic = blocks[1](keras.Input((5, 16)), *(keras.Input((5, 16)) for _ in args))
            self.assertEqual(symbolic.dtype, stream.dtype)
        stream, added = results["mixed_float16"]
        self.assertTrue(np.isfinite(added).all())
        expected = results["float32"][0]
        np.testing.assert_allclose(stream, expected, atol=0.01 * np.abs(expected).max())

    @parameterized.parameters(None, 4)
    def test_models_train(self, num_experts):
        model = lm_helpers.make(dtype="mixed_float16", num_experts=num_experts)
        reference = lm_helpers.make(dtype="float32", num_experts=num_experts)
        for one in (model, reference):
            for name, weight in one.backbone.named_weights().items():
                if "/0/feed_forward/" in name and name.endswith(("output", "kernel_out")):
                    scale(weight, 3e4)
        x, y, weight = lm_helpers.to_train(2)
        logits, expected = numpy(model(x)), numpy(reference(x))
        real = weight > 0
        np.testing.assert_allclose(logits[real], expected[real], atol=0.3)
        model.compile("sgd", jit_compile=False)
        for _ in range(2):
            loss = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)["loss"]
        self.assertTrue(np.isfinite(float(loss)))
        self.assertTrue(all(np.isfinite(value).all() for value in model.get_weights()))


if __name__ == "__main__":
    unittest.main()
