import json
import pathlib
import resource
import shutil
import tempfile
import unittest

import keras
import keras_hub
import numpy as np
import tokenizer_helpers

from keras_switch.layers import quantized
from keras_switch.models import PRESETS
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTextClassifier
from keras_switch.models import SwitchTextClassifierPreprocessor
from keras_switch.models import SwitchTokenizer

SIZES = {
    "vocabulary_size": 160,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_experts": 2,
    "encoder_sparse_layers": [0],
    "decoder_sparse_layers": [0],
}
TEXTS = {"encoder_text": ["The <extra_id_0> walks.", "a"], "decoder_text": ["the people", ""]}
TEXT_FILES = {"assets", "preprocessor.json", "tokenizer.json"}
FILES = {"config.json", "metadata.json", "model.weights.h5", "task.json"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class PresetFoldersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        cls.preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 6)
        cls.backbone = SwitchBackbone(**SIZES, seed=1, dtype="float32")
        cls.model = SwitchSeq2SeqLM(cls.backbone, cls.preprocessor, z_loss_weight=0.5)
        cls.inputs = cls.preprocessor(TEXTS)[0]
        cls.logits = np.asarray(cls.model(cls.inputs))
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folders = pathlib.Path(folder.name)
        cls.model.save_to_preset(str(cls.folders / "full"))
        bare = SwitchSeq2SeqLM(cls.backbone)
        bare.save_to_preset(str(cls.folders / "bare"))
        cls.backbone.save_to_preset(str(cls.folders / "backbone"))

    def load(self, cls, folder="full", **kwargs):
        return cls.from_preset(str(self.folders / folder), **kwargs)

    def copy(self, folder):
        copy = self.folders / self.id()
        shutil.copytree(self.folders / folder, copy)
        self.addCleanup(shutil.rmtree, copy)
        return copy

    def check(self, model):
        """Requires the model that was saved, in float32."""
        self.assertIsInstance(model, SwitchSeq2SeqLM)
        self.assertEqual(model.z_loss_weight, 0.5)
        self.assertEqual(model.preprocessor.get_config(), self.preprocessor.get_config())
        for name, texts in TEXTS.items():
            self.assertEqual(
                model.preprocessor.tokenizer(texts), self.preprocessor.tokenizer(texts)
            )
        np.testing.assert_array_equal(np.asarray(model(self.inputs)), self.logits)

    def test_a_full_disk_is_noticed_before_a_weight_is_written(self):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        for model, folder in ((self.model, "no_room"), (self.backbone, "no_room_either")):
            with self.assertRaises(OSError) as raised:
                model.save_to_preset(str(self.folders / folder))
            path = self.folders / folder / "model.weights.h5"
            self.assertEqual(raised.exception.filename, str(path))
            self.assertFalse(path.exists())

    def test_folders_are_those_of_kerashub(self):
        self.assertEqual(names(self.folders / "full"), FILES | TEXT_FILES)
        self.assertEqual(names(self.folders / "full/assets/tokenizer"), {"vocabulary.spm"})
        self.assertEqual(names(self.folders / "bare"), FILES)
        self.assertEqual(names(self.folders / "backbone"), FILES - {"task.json"})
        metadata = json.loads((self.folders / "full/metadata.json").read_text())
        self.assertIn("Seq2SeqLM", metadata["tasks"])
        self.assertEqual(metadata["parameter_count"], self.backbone.count_params())

    def test_a_folder_gives_the_model_back(self):
        for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM):
            self.check(self.load(cls, dtype="float32"))

    def test_a_folder_gives_its_parts(self):
        for cls in (SwitchBackbone, keras_hub.models.Backbone):
            backbone = self.load(cls, dtype="float32")
            self.assertIsInstance(backbone, SwitchBackbone)
            self.assertEqual(
                backbone.get_config() | {"name": ""}, self.backbone.get_config() | {"name": ""}
            )
            for one, other in zip(backbone.weights, self.backbone.weights, strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        for cls in (SwitchTokenizer, keras_hub.models.Tokenizer):
            tokenizer = self.load(cls)
            self.assertIsInstance(tokenizer, SwitchTokenizer)
            self.assertEqual(tokenizer.proto, self.preprocessor.tokenizer.proto)
        for cls in (SwitchSeq2SeqLMPreprocessor, keras_hub.models.Seq2SeqLMPreprocessor):
            preprocessor = self.load(cls)
            self.assertIsInstance(preprocessor, SwitchSeq2SeqLMPreprocessor)
            self.assertEqual(preprocessor.get_config(), self.preprocessor.get_config())
            self.assertEqual(self.load(cls, decoder_sequence_length=3).decoder_sequence_length, 3)

    def test_random_weights_on_demand(self):
        model = self.load(SwitchSeq2SeqLM, load_weights=False, dtype="float32")
        self.model.backbone.decoder_norm.weights[0].assign(np.full(16, 2.0))
        self.addCleanup(self.model.backbone.decoder_norm.weights[0].assign, np.ones(16))
        self.assertEqual(float(np.max(model.backbone.decoder_norm.weights[0])), 1.0)
        self.assertEqual(model.backbone.get_config()["num_experts"], 2)

    def test_arguments_of_the_backbone_replace_the_folders(self):
        switch = {"capacity_factor": 3.0}
        for folder in ("full", "bare", "backbone"):
            model = self.load(
                SwitchSeq2SeqLM,
                folder,
                dropout=0.25,
                switch=switch,
                z_loss_weight=0.125,
                dtype="float32",
                compile=False,
            )
            self.assertEqual([model.backbone.dropout, model.backbone.switch], [0.25, switch])
            self.assertEqual(model.z_loss_weight, 0.125)
            self.assertFalse(model.compiled)
            self.assertEqual(model.preprocessor is not None, folder == "full")
            for one, other in zip(model.weights, self.backbone.weights, strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        self.assertEqual(
            self.load(SwitchSeq2SeqLM, dropout=0.25).dtype_policy.name, "mixed_bfloat16"
        )
        for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM):
            with self.assertRaisesRegex(ValueError, "Mind the spelling. Received: drop_out=0.25"):
                self.load(cls, drop_out=0.25)

    def test_no_dtype_means_that_of_the_library(self):
        for folder in ("full", "bare"):
            for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM):
                for kwargs in ({}, {"dtype": None}):
                    model = self.load(cls, folder, **kwargs)
                    self.assertEqual(model.dtype_policy.name, "mixed_bfloat16")
                    self.assertEqual(model.backbone.encoder_blocks[0].compute_dtype, "bfloat16")
        for cls in (SwitchBackbone, keras_hub.models.Backbone):
            self.assertEqual(self.load(cls).dtype_policy.name, "mixed_bfloat16")

    def test_a_given_dtype_or_policy_wins(self):
        for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM, SwitchBackbone):
            for dtype in ("float32", "bfloat16", keras.DTypePolicy("mixed_float16")):
                policy = self.load(cls, dtype=dtype).dtype_policy
                self.assertEqual(policy.name, getattr(dtype, "name", dtype))
        self.addCleanup(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy("mixed_float16")
        for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM, SwitchBackbone):
            self.assertEqual(self.load(cls).dtype_policy.name, "mixed_float16")

    def test_the_policies_of_quantised_layers_are_kept(self):
        folder = self.copy("bare")
        model = SwitchSeq2SeqLM(SwitchBackbone(**SIZES, dtype="float32"))
        model.quantize("int8")
        policies = quantized.policy_of(model.backbone)
        self.assertGreater(len(policies), 4)
        model.save_to_preset(str(folder))
        for backbone in (
            SwitchSeq2SeqLM.from_preset(str(folder)).backbone,
            SwitchSeq2SeqLM.from_preset(str(folder), dropout=0.25).backbone,
            SwitchBackbone.from_preset(str(folder)),
        ):
            policy = quantized.policy_of(backbone)
            self.assertEqual(policy.get_config(), policies.get_config())

    def test_without_a_tokenizer_there_is_no_preprocessor(self):
        for folder in ("bare", "backbone"):
            model = self.load(SwitchSeq2SeqLM, folder, dtype="float32")
            self.assertIsNone(model.preprocessor)
            np.testing.assert_array_equal(np.asarray(model(self.inputs)), self.logits)
        self.assertIsNone(self.load(keras_hub.models.Seq2SeqLM, "bare").preprocessor)
        self.assertIsNone(self.load(SwitchSeq2SeqLM, preprocessor=None).preprocessor)

    def test_a_given_preprocessor_stays_as_it_is(self):
        preprocessor = SwitchSeq2SeqLMPreprocessor(
            SwitchTokenizer(tokenizer_helpers.spiece_model(), num_sentinels=9), 4, 4
        )
        for folder in ("full", "bare", "backbone"):
            model = self.load(SwitchSeq2SeqLM, folder, preprocessor=preprocessor)
            self.assertIs(model.preprocessor, preprocessor)
            self.assertEqual(model.preprocessor.tokenizer.num_sentinels, 9)

    def test_a_tokenizer_beside_a_backbone_is_enough(self):
        folder = self.copy("backbone")
        self.preprocessor.tokenizer.save_to_preset(str(folder))
        for cls in (SwitchSeq2SeqLM, keras_hub.models.Seq2SeqLM):
            tokenizer = cls.from_preset(str(folder)).preprocessor.tokenizer
            self.assertEqual(tokenizer.proto, self.preprocessor.tokenizer.proto)

    def test_a_lost_file_is_an_error(self):
        for lost in ("model.weights.h5", "config.json", "assets/tokenizer/vocabulary.spm"):
            with self.subTest(lost):
                folder = self.copy("full")
                (folder / lost).unlink()
                with self.assertRaisesRegex((ValueError, FileNotFoundError, RuntimeError), "pre"):
                    SwitchSeq2SeqLM.from_preset(str(folder))
                self.doCleanups()
        folder = self.copy("full")
        for name in ("tokenizer.json", "preprocessor.json", "assets/tokenizer/vocabulary.spm"):
            (folder / name).unlink()
        with self.assertRaisesRegex(FileNotFoundError, "vocabulary.spm"):
            SwitchSeq2SeqLM.from_preset(str(folder))

    def test_another_models_folder_is_an_error(self):
        folder = self.copy("bare")
        edit(folder / "config.json", lambda x: x.update(registered_name="keras_switch>Other"))
        with self.assertRaisesRegex(ValueError, "no class registered with Keras"):
            SwitchSeq2SeqLM.from_preset(str(folder))
        with self.assertRaisesRegex(ValueError, "There is no such preset"):
            SwitchSeq2SeqLM.from_preset("switch_base_7", load_weights=False)

    def test_the_weights_of_others_are_to_be_converted(self):
        folders = {
            "hugging_face": {"config.json": '{"model_type": "switch_transformers"}'},
            "hugging_face_t5": {"config.json": '{"model_type": "t5"}', "tokenizer.json": "{}"},
            "t5x": {"checkpoint": "", "target.encoder/.zarray": "{}"},
            "mesh_tensorflow": {"model.ckpt-1.index": "", "operative_config.gin": ""},
            "damaged": {"config.json": "[" * 10**5},
        }
        classes = (SwitchSeq2SeqLM, SwitchBackbone, SwitchTextClassifier, SwitchTokenizer)
        classes += (SwitchSeq2SeqLMPreprocessor, SwitchTextClassifierPreprocessor)
        for name, files in folders.items():
            for file, text in files.items():
                path = self.folders / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            for cls in classes:
                message = f"`keras-switch convert --input=.*/{name} --output=FOLDER`.*{name}'"
                with self.assertRaisesRegex(ValueError, message):
                    self.load(cls, name)
        for cls in classes:
            with self.assertRaisesRegex(ValueError, "no such preset.*'/no'.*`keras-switch convert"):
                cls.from_preset("/no")

    def test_names_have_no_tokenizer(self):
        for cls in (SwitchTokenizer, SwitchSeq2SeqLMPreprocessor, SwitchTextClassifierPreprocessor):
            with self.assertRaisesRegex(ValueError, "No tokenizer comes with.*'switch_base_8'"):
                cls.from_preset("switch_base_8")

    def test_names_give_models_without_weights(self):
        for cls in (SwitchSeq2SeqLM, SwitchBackbone):
            with self.assertRaisesRegex(
                ValueError, "No weights come with the name 'switch_tiny_8'"
            ):
                cls.from_preset("switch_tiny_8")
        sizes = {"num_layers": 1, "hidden_dim": 32, "intermediate_dim": 64, "dtype": "float32"}
        model = SwitchSeq2SeqLM.from_preset(
            "switch_tiny_8", load_weights=False, preprocessor=self.preprocessor, **sizes
        )
        config = model.backbone.get_config()
        self.assertEqual(config["vocabulary_size"], PRESETS["switch_tiny_8"]["vocabulary_size"])
        self.assertEqual(config["num_layers"], 1)
        self.assertIs(model.preprocessor, self.preprocessor)
        self.assertEqual(model.dtype_policy.name, "float32")

    def test_a_keras_file_gives_the_model_back(self):
        path = self.folders / "model.keras"
        SwitchSeq2SeqLM(self.backbone, self.preprocessor, z_loss_weight=0.5, compile=False).save(
            path
        )
        self.check(keras.saving.load_model(path))

    def test_fits_and_generates_from_texts(self):
        model = self.load(SwitchSeq2SeqLM, dtype="float32")
        keras.utils.set_random_seed(1)
        model.compile(sampler="greedy", jit_compile=keras.backend.backend() == "jax")
        loss = model.fit(TEXTS, batch_size=2, verbose=0).history["loss"]
        self.assertTrue(np.isfinite(loss).all())
        texts = model.generate(TEXTS["encoder_text"])
        self.assertEqual([type(text) for text in texts], [str, str])
        prompted = model.generate(TEXTS | {"decoder_text": ["the people", "a house"]})
        self.assertTrue(prompted[0].startswith("the people"), prompted)
        self.assertTrue(prompted[1].startswith("a house"), prompted)


if __name__ == "__main__":
    unittest.main()
