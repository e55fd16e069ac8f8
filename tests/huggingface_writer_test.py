"""Tests of weights to Hugging Face's folders, and back."""

import json
import unittest
import unittest.mock

import huggingface_helpers as helpers
import ml_dtypes
import numpy as np
import safetensors.numpy
from absl.testing import parameterized
from foreign_helpers import CASES
from foreign_helpers import SPARSE
from foreign_helpers import check_equal
from foreign_helpers import random_backbone
from foreign_helpers import values

from keras_switch import models
from keras_switch.weights import huggingface_config
from keras_switch.weights import huggingface_writer
from keras_switch.weights.convert import convert

UNTIED = {**helpers.SWITCH, "tie_word_embeddings": False}
DROPLESS = {
    "overflow": "dropless",
    "jitter": 0.02,
    "z_loss_weight": 0.001,
    "balance_loss_weight": 0.02,
    "expert_dropout": 0.0,
}


class WriteTest(helpers.FolderTest):
    @parameterized.named_parameters(
        ("switch", helpers.SWITCH, helpers.SPARSE),
        ("untied", UNTIED, helpers.SPARSE),
        (
            "one_side",
            {**helpers.SWITCH, "num_sparse_encoder_layers": 4},
            {"encoder": [], "decoder": [1]},
        ),
        ("t5", helpers.T5, helpers.SPARSE),
        ("t5_1_1", helpers.T5_1_1, helpers.SPARSE),
    )
    def test_back_come_the_same_tensors_and_settings(self, config, sparse):
        arrays = self.write(config, helpers.tensors(config, sparse))
        written_config, written = self.convert(self.load())
        if config is UNTIED:
            for side in ("encoder", "decoder"):
                embedding = written.pop(f"{side}.embed_tokens.weight")
                np.testing.assert_array_equal(embedding, arrays["shared.weight"])
        self.assertEqual(written.keys(), arrays.keys())
        self.check_weights(written, arrays)
        known = {name: written_config[name] for name in config}
        self.assertEqual(known, config)
        arguments = [huggingface_config.to_arguments(x) for x in (config, written_config)]
        self.assertEqual(*arguments)

    @parameterized.parameters("sparse", "all_sparse", "dense", "dense_gated")
    def test_keras_to_hugging_face_to_keras_is_bit_for_bit(self, case):
        arguments = dict(CASES[case])
        if arguments["num_experts"]:
            arguments["switch"] = DROPLESS
        backbone = random_backbone(arguments)
        self.convert(models.SwitchSeq2SeqLM(backbone))
        check_equal(self, self.load("written").backbone, backbone)

    def test_several_files_when_large(self):
        model = models.SwitchSeq2SeqLM(random_backbone({**SPARSE, "switch": DROPLESS}))
        model.save_to_preset(self.folder / "keras")
        path = self.folder / "written"
        with unittest.mock.patch.object(huggingface_writer, "SHARD_BYTES", 4000):
            convert(self.folder / "keras", path, "huggingface", "float32", verbose=0)
        files = sorted(x.name for x in path.glob("*.safetensors"))
        self.assertGreater(len(files), 2)
        number = len(files)
        names = [f"model-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)]
        self.assertEqual(files, names)
        index = json.loads((path / "model.safetensors.index.json").read_text())
        arrays = {name: safetensors.numpy.load_file(path / name) for name in files}
        places = {tensor: name for name, part in arrays.items() for tensor in part}
        self.assertEqual(index["weight_map"], places)
        sizes = {name: sum(x.nbytes for x in part.values()) for name, part in arrays.items()}
        self.assertEqual(index["metadata"]["total_size"], sum(sizes.values()))
        self.assertLessEqual(max(sizes.values()), 4000)
        check_equal(self, self.load("written").backbone, model.backbone)

    def test_bfloat16_stays_bfloat16(self):
        backbone = random_backbone(SPARSE)
        models.SwitchSeq2SeqLM(backbone).save_to_preset(self.folder / "keras")
        convert(self.folder / "keras", self.folder / "half", "huggingface", "bfloat16", verbose=0)
        with safetensors.safe_open(self.folder / "half" / "model.safetensors", "np") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})
            router = file.get_tensor("encoder.block.1.layer.1.mlp.router.classifier.weight")
            embedding = file.get_tensor("shared.weight")
        self.assertEqual((embedding.dtype, router.dtype), (ml_dtypes.bfloat16, np.float32))
        expected = values(backbone)["token_embedding"].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(embedding, expected)

    def test_a_capacity_factor_becomes_no_capacity(self):
        config, _ = self.convert(models.SwitchSeq2SeqLM(random_backbone(SPARSE)))
        self.assertEqual(config["expert_capacity"], huggingface_config.NO_CAPACITY)
        self.assertEqual(config["router_jitter_noise"], 0.01)

    @parameterized.named_parameters(
        ("gated", {"gated": True}, "gated=True"),
        ("expert_attention", {"expert_attention": True}, "expert_attention=True"),
        ("two_experts", {"switch": {"num_selected_experts": 2}}, "num_selected_experts=2"),
        (
            "expert_choice",
            {"switch": {"routing": "expert_choice"}, "decoder_sparse_layers": []},
            "routing=expert_choice",
        ),
        ("pattern", {"encoder_sparse_layers": [0]}, r"encoder_sparse_layers=\[0\]"),
        ("activation", {"activation": "tanh"}, "activation=<function tanh"),
        ("group", {"switch": {"expert_capacity": 4}}, "group_size=None.*expert_capacity=4"),
        (
            "exact_gated_gelu",
            {**CASES["dense_gated"], "activation": "gelu"},
            "activation=<function gelu .*gated=True",
        ),
    )
    def test_what_transformers_cannot_hold_is_refused(self, changes, message):
        backbone = models.SwitchBackbone(**{**SPARSE, **changes})
        with self.assertRaisesRegex(ValueError, f"have no such model.*Received: .*{message}"):
            huggingface_config.to_config(backbone)

    def test_a_refused_model_leaves_nothing_behind(self):
        with self.assertRaisesRegex(ValueError, "have no such model"):
            self.convert(models.SwitchSeq2SeqLM(random_backbone({**SPARSE, "gated": True})))
        self.assertEqual([x.name for x in self.folder.iterdir()], ["keras"])


if __name__ == "__main__":
    unittest.main()
