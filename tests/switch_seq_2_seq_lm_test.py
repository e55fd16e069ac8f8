import pathlib
import tempfile
import unittest

import keras
import keras_hub
import lm_helpers
import mesh_helpers
import numpy as np
import tokenizer_helpers
from block_helpers import numpy
from lm_helpers import ON_A_MESH
from lm_helpers import QUIET
from mesh_helpers import assert_same
from mesh_helpers import values

from keras_switch.layers import dropless
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer


class ContractTest(unittest.TestCase):
    def test_arguments_are_checked(self):
        with self.assertRaisesRegex(ValueError, "`z_loss_weight` must be.*z_loss_weight=-1"):
            lm_helpers.make(z_loss_weight=-1)
        backbone = lm_helpers.make().backbone
        with self.assertRaisesRegex(ValueError, "`trainable`, `compile`.*Received: z_loss=1"):
            SwitchSeq2SeqLM(backbone, z_loss=1)

    def test_has_no_weights_of_its_own(self):
        model = lm_helpers.make()
        self.assertFalse(model.has_task_weights())
        sizes = [int(np.prod(w.shape)) for w in model.backbone.named_weights().values()]
        self.assertEqual(model.count_params(), sum(sizes))

    def test_logits_are_float32(self):
        x, _, _ = lm_helpers.to_train(2)
        for dtype in ("float32", "mixed_bfloat16", "bfloat16"):
            logits = lm_helpers.make(dtype=dtype)(x)
            self.assertEqual(keras.backend.standardize_dtype(logits.dtype), "float32")
            self.assertEqual(tuple(logits.shape), (2, 6, 30))

    def test_survives_saving(self):
        model = lm_helpers.make(z_loss_weight=0.25)
        x, y, weight = lm_helpers.to_train(4)
        model.compile(keras.optimizers.Adam(1e-2), sampler="beam", jit_compile=False)
        model.fit(x, y, sample_weight=weight, **QUIET)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "model.keras"
            model.save(path)
            loaded = keras.models.load_model(path)
            model.save_to_preset(str(pathlib.Path(directory) / "preset"))
            preset = SwitchSeq2SeqLM.from_preset(
                str(pathlib.Path(directory) / "preset"), dtype="float32"
            )
        for other in (loaded, preset):
            self.assertIsInstance(other, SwitchSeq2SeqLM)
            self.assertEqual(other.z_loss_weight, 0.25)
            np.testing.assert_array_equal(numpy(other(x)), numpy(model(x)))
        self.assertIsInstance(loaded.sampler, keras_hub.samplers.BeamSampler)
        assert_same(values(loaded.optimizer.variables), values(model.optimizer.variables), 0, 0)
        evaluated = [
            other.evaluate(x, y, sample_weight=weight, verbose=0) for other in (loaded, model)
        ]
        np.testing.assert_allclose(*evaluated)

    def test_fits_strings(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        backbone = lm_helpers.make(vocabulary_size=tokenizer.vocabulary_size()).backbone
        model = SwitchSeq2SeqLM(backbone, SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 6))
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        texts = {"encoder_text": ["The <extra_id_0>.", "a"], "decoder_text": ["the people", "of"]}
        history = model.fit(texts, batch_size=2, epochs=3, verbose=0).history
        self.assertLess(history["loss"][-1], history["loss"][0])
        self.assertIn("sparse_categorical_accuracy", history)

    def test_lora_trains_attention_only(self):
        model = lm_helpers.make()
        model.backbone.enable_lora(2)
        names = {weight.path.split("/")[-1] for weight in model.trainable_weights}
        self.assertEqual(names, {"lora_kernel_a", "lora_kernel_b"})
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        x, y, weight = lm_helpers.to_train()
        before = values(model.non_trainable_weights)
        history = model.fit(x, y, sample_weight=weight, epochs=5, **QUIET).history["loss"]
        self.assertLess(history[-1], history[0])
        frozen = [w for w in model.non_trainable_weights if "seed" not in w.path]
        after = values(frozen)
        assert_same(list(after.values()), [before[name] for name in before if name in after])

    def test_a_whole_model_keeps_its_adapters(self):
        self.addCleanup(keras.distribution.set_distribution, None)
        mesh = mesh_helpers.mesh_of("2")
        with mesh.scope():
            split = lm_helpers.make(**ON_A_MESH)
            split.backbone.enable_lora(2)
        for weight in split.trainable_weights:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
        whole = mesh.whole(split)
        names = {weight.path.split("/")[-1] for weight in split.trainable_weights}
        self.assertEqual(names, {"lora_kernel_a", "lora_kernel_b"})
        x, _, _ = lm_helpers.to_train(4)
        with dropless():
            np.testing.assert_allclose(numpy(whole(x)), numpy(split(x)), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    unittest.main()
