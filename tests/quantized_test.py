import gc
import pathlib
import tempfile
import unittest
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchTextClassifier
from keras_switch.weights import convert

ONES = np.ones((2, 5), "int32")
IDS = {
    f"{side}_{name}": ONES
    for side in ("encoder", "decoder")
    for name in ("token_ids", "padding_mask")
}


def backbone(**kwargs):
    sparse = {"num_experts": 2, "encoder_sparse_layers": (0,), "decoder_sparse_layers": ()}
    return SwitchBackbone(50, 1, 2, 16, 32, seed=0, **(sparse | kwargs))


def lm(**kwargs):
    return SwitchSeq2SeqLM(backbone(**kwargs))


def classifier(**kwargs):
    return SwitchTextClassifier(backbone(**kwargs), 2)


def block(**kwargs):
    inputs = keras.Input((6, 8))
    x = SwitchTransformerBlock(2, 16, 4, name="sparse", **kwargs)(inputs)
    return keras.Model(inputs, SwitchTransformerBlock(2, 16, gated=True, name="dense")(x))


def quantize(model, mode="int8", **kwargs):
    """Quantizes; returns what Keras warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize(mode, **kwargs)
    return [str(warning.message) for warning in caught]


def predict(model):
    data = tokens(2, 6, 8) if len(model.inputs) == 1 else IDS
    return model.predict(data, verbose=0)


class QuantizedTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # For each weight that it replaces Keras collects garbage, among all objects of the process.
        gc.collect()
        gc.freeze()
        cls.addClassCleanup(gc.unfreeze)

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    @parameterized.parameters(
        (lm, "int8", {"dtype": "float32"}),
        (lm, "int8", {"tie_embedding_weights": False, "gated": True}),
        (classifier, "int8", {}),
        (block, "int8", {}),
        (block, "int8", {"dtype": "float32"}),
        (classifier, "float8", {}),
        (block, "float8", {}),
    )
    def test_saved_and_loaded_twice_is_the_same(self, make, mode, kwargs):
        model = make(**kwargs)
        quantize(model, mode)
        expected = predict(model)
        path = self.folder / "model.keras"
        for _ in range(2):
            model.save(path)
            model = keras.saving.load_model(path)
            np.testing.assert_array_equal(predict(model), expected)

    @parameterized.parameters(lm, classifier)
    def test_a_preset_folder_is_loaded_in_any_dtype(self, make):
        model = make()
        quantize(model)
        expected = predict(model)
        model.save_to_preset(str(self.folder))
        np.testing.assert_array_equal(predict(type(model).from_preset(str(self.folder))), expected)
        wide = type(model).from_preset(str(self.folder), dtype="float32")
        self.assertEqual(wide.backbone.encoder_blocks[0].compute_dtype, "float32")
        attention = wide.backbone.encoder_blocks[0].self_attention
        self.assertEqual(attention.query.quantization_mode, "int8")
        np.testing.assert_allclose(predict(wide), expected, atol=0.1)

    def test_more_layers_are_quantized_after_loading(self):
        model = block()
        quantize(model, filters="query")
        path = self.folder / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        quantize(loaded, filters="key")
        loaded.save(path)
        np.testing.assert_array_equal(predict(keras.saving.load_model(path)), predict(loaded))

    def test_what_stays_as_it_is_is_said(self):
        expected = "leaves the experts and the router of `encoder_block_0/feed_forward` as they are"
        self.assertEqual(sum(expected in message for message in quantize(lm())), 1)
        said = quantize(keras.Sequential([keras.Input((6,)), SwitchDense(2, 4, name="alone")]))
        self.assertTrue(any("/alone` as they are" in message for message in said))
        said = quantize(classifier())
        self.assertTrue(any("leaves the classifier's layer `logits`" in x for x in said))

    def test_what_cannot_be_saved_is_refused(self):
        own = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
        for mode, kwargs in (("int4", {}), (None, {"config": own})):
            for make in (lm, block):
                model = make()
                quantize(model, mode, **kwargs)
                with self.assertRaisesRegex(ValueError, "can be saved. Received: `.*in int"):
                    model.save(self.folder / "model.keras")

    def test_copies_and_conversions_are_refused(self):
        sparse, dense = lm(), lm(num_experts=None, encoder_sparse_layers=None)
        for model in (sparse, dense):
            quantize(model)
        message = "weights of a quantized model cannot be copied.*before `quantize`.* in int8"
        with self.assertRaisesRegex(ValueError, message):
            sparse.to_dense()
        with self.assertRaisesRegex(ValueError, message):
            dense.upcycle(num_experts=2)
        sparse.save_to_preset(str(self.folder / "keras"))
        with self.assertRaisesRegex(ValueError, message):
            convert(self.folder / "keras", self.folder / "huggingface", to="huggingface", verbose=0)
        self.assertFalse((self.folder / "huggingface").exists())
        convert(self.folder / "keras", self.folder / "again", verbose=0)
        again = SwitchSeq2SeqLM.from_preset(str(self.folder / "again"))
        np.testing.assert_array_equal(predict(again), predict(sparse))


if __name__ == "__main__":
    unittest.main()
