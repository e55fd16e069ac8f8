import copy
import pickle
import unittest

import keras
import numpy as np
import tokenizer_helpers
from absl.testing import parameterized
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTextClassifier
from keras_switch.models import SwitchTokenizer

WAYS = {
    "clone": keras.models.clone_model,
    "recursive_clone": lambda model: keras.models.clone_model(model, recursive=True),
    "config": lambda model: type(model).from_config(model.get_config()),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


def backbone(dtype="float32", **kwargs):
    return SwitchBackbone(50, 1, 2, 16, 32, num_experts=4, dtype=dtype, **kwargs)


def functional():
    inputs = keras.Input((6, 8))
    x = SwitchDense(4, 8, dtype="float32")(inputs)
    return keras.Model(inputs, SwitchTransformerBlock(2, 16, 4, dtype="float32")(x))


MODELS = {
    "lm": lambda: SwitchSeq2SeqLM(backbone()),
    "untied_lm": lambda: SwitchSeq2SeqLM(backbone("mixed_bfloat16", tie_embedding_weights=False)),
    "classifier": lambda: SwitchTextClassifier(backbone(), 2),
    "backbone": backbone,
    "functional": functional,
}


class CloneTest(parameterized.TestCase):
    @parameterized.product(way=list(WAYS), made=list(MODELS))
    def test_copies_compute_what_the_model_computes(self, way, made):
        model = MODELS[made]()
        copied = WAYS[way](model)
        self.assertIsNot(copied, model)
        weights = model.get_weights()
        self.assertEqual(len(copied.get_weights()), len(weights))
        copied.set_weights(weights)
        for variable in model.trainable_variables:  # Whose changes are none of the copy.
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        received = copied(self.inputs(model))
        model.set_weights(weights)
        pairs = zip(
            keras.tree.flatten(received), keras.tree.flatten(model(self.inputs(model))), strict=True
        )
        for x, y in pairs:
            x, y = (keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in (x, y))
            # Around a clone Keras rounds the embedding of the logits to the compute dtype.
            np.testing.assert_allclose(x, y, atol=0.02 if made == "untied_lm" else 0.0)

    def inputs(self, model):
        if len(model.inputs) == 1:
            return tokens(2, 6, 8)
        return {tensor.name: np.ones((2, 5), "int32") for tensor in model.inputs}

    def test_a_clone_trains(self):
        model = MODELS["lm"]()
        clone = keras.models.clone_model(model)
        before = clone.get_weights()
        clone.fit(self.inputs(model), np.ones((2, 5), "int32"), verbose=0)
        changed = [np.any(x != y) for x, y in zip(before, clone.get_weights(), strict=True)]
        self.assertTrue(any(changed))

    def test_a_model_of_a_config_keeps_its_sampler_and_preprocessor(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        model = SwitchSeq2SeqLM(
            SwitchBackbone(tokenizer.vocabulary_size(), 1, 2, 16, 32),
            preprocessor=SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 8),
        )
        model.compile(sampler="greedy")
        for way in ("config", "deepcopy", "pickle"):
            copied = WAYS[way](model)
            self.assertEqual(type(copied.sampler), type(model.sampler))
            if way != "config":  # Which has no vocabulary.
                self.assertEqual(copied.generate("the people"), model.generate("the people"))


if __name__ == "__main__":
    unittest.main()
