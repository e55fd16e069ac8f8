"""SavedModels of the layers, run in a session. `make prove-exports` runs the other formats, too."""

import pathlib
import tempfile
import unittest

import export_cases
import keras
import numpy as np
from absl.testing import parameterized
from keras import ops

from keras_switch.layers import SwitchDense

BACKEND = keras.backend.backend()
LAYERS = [
    f"`SwitchDense`{suffix}"
    for suffix in ("", ", likelier tokens first", ", dropless", ", a group a row", ", two groups")
]
TOP_K = ["`SwitchDense`, reroute", "`SwitchDense`, top 2"]
MASKED = ["`SwitchDense`, mask", "`SwitchTransformerBlock`, mask"]


class SavedModelTest(parameterized.TestCase):
    @parameterized.parameters(*LAYERS, *TOP_K, *MASKED)
    def test_keras_exports_of_unknown_sizes_equal_the_model(self, name):
        if BACKEND == "jax" and name in TOP_K:
            self.skipTest("TensorFlow 2.21 cannot read the `top_k` of JAX 0.10.")
        if BACKEND == "jax" and name in MASKED:
            self.skipTest("Keras gives the two lengths different names, see below.")
        self.check(name, "tf_saved_model")

    @parameterized.parameters("`SwitchDense`", "`SwitchTransformerBlock`, mask")
    def test_our_exports_of_unknown_sizes_equal_the_dropless_model(self, name):
        if BACKEND != "tensorflow":
            self.skipTest("`export_saved_model` needs the TensorFlow backend.")
        self.check(name, "keras_switch.export")

    def check(self, name, format):
        with tempfile.TemporaryDirectory() as folder:
            args = (export_cases.SAVED_MODELS[format], pathlib.Path(folder))
            error = export_cases.largest_error(name, "unknown", *args)
        self.assertLess(error, export_cases.TOLERANCE)

    def test_the_cases_drop_tokens(self):
        model = export_cases.CASES["`SwitchDense`"]((None, None))
        layer = next(layer for layer in model.layers if isinstance(layer, SwitchDense))
        (x,) = export_cases.inputs_of(model, (3, 7)).values()
        kept = ops.convert_to_numpy(layer.route(x).kept)
        self.assertLess(kept.sum(), kept.size)


@unittest.skipUnless(BACKEND == "jax", "It has symbolic dimensions.")
class SymbolicDimensionsTest(parameterized.TestCase):
    @parameterized.parameters(*LAYERS, *TOP_K)
    def test_equal_known_ones(self, name):
        import jax

        model = export_cases.CASES[name]((None, None))
        shape = jax.export.symbolic_shape(f"batch, length, {export_cases.DIM}")
        function = jax.jit(lambda x: model(x, training=False))
        exported = jax.export.export(function)(jax.ShapeDtypeStruct(shape, np.float32))
        for size in ((3, 7), (1, 1), (2, 5)):
            (x,) = export_cases.inputs_of(model, (size[0], max(size[1], 2))).values()
            x = x[:, : size[1]]
            np.testing.assert_allclose(exported.call(x), model(x), atol=1e-6)

    def test_a_mask_of_the_same_length_is_exported(self):
        model = export_cases.CASES["`SwitchDense`, mask"]((None, None))
        shapes = {"x": f"(batch, length, {export_cases.DIM})", "mask": "(batch, length)"}
        arrays = export_cases.inputs_of(model, (2, 5))
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder, verbose=False, jax2tf_kwargs={"polymorphic_shapes": [shapes]})
            (outputs,) = export_cases.run_session(folder, arrays)
        np.testing.assert_allclose(outputs, model(arrays), atol=1e-6)

    def test_a_mask_of_another_length_is_explained(self):
        model = export_cases.CASES["`SwitchDense`, mask"]((None, None))
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(ValueError, "`mask` must have the shape of the inputs"):
                model.export(folder, verbose=False)


if __name__ == "__main__":
    unittest.main()
