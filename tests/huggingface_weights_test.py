"""Tests of weights from Hugging Face's folders."""

import pathlib
import tempfile
import unittest

import huggingface_helpers as helpers
import ml_dtypes
import numpy as np
import tokenizer_helpers
from absl.testing import parameterized
from foreign_helpers import check_equal
from foreign_helpers import values

from keras_switch import models
from keras_switch.layers import activations
from keras_switch.weights import huggingface_config
from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load


class ReadTest(helpers.FolderTest):
    def test_switch_transformer(self):
        arrays = self.write(helpers.SWITCH)
        weights = values(self.load().backbone)
        experts = "decoder.block.1.layer.2.mlp.experts.expert_{}.{}.weight"
        expected = {
            "token_embedding": arrays["shared.weight"],
            "encoder/norm": arrays["encoder.final_layer_norm.weight"],
            "decoder/1/cross_attention_norm": arrays["decoder.block.1.layer.1.layer_norm.weight"],
            "decoder/1/feed_forward_norm": arrays["decoder.block.1.layer.2.layer_norm.weight"],
        }
        for ours, theirs in (
            ("encoder/2/self_attention/query", "encoder.block.2.layer.0.SelfAttention.q"),
            ("encoder/2/self_attention/output", "encoder.block.2.layer.0.SelfAttention.o"),
            ("decoder/0/cross_attention/value", "decoder.block.0.layer.1.EncDecAttention.v"),
            ("encoder/0/feed_forward/input", "encoder.block.0.layer.1.mlp.wi"),
            ("encoder/1/feed_forward/router", "encoder.block.1.layer.1.mlp.router.classifier"),
            ("decoder/0/feed_forward/output", "decoder.block.0.layer.2.mlp.wo"),
        ):
            expected[ours] = arrays[f"{theirs}.weight"].T
        for ours, theirs in (("kernel_in", "wi"), ("kernel_out", "wo")):
            stack = [arrays[experts.format(expert, theirs)].T for expert in range(4)]
            expected[f"decoder/1/feed_forward/{ours}"] = np.stack(stack)
        bias = arrays["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        self.check_weights(weights, {**expected, "decoder/position_bias": bias})
        self.assertEqual(sum(x.size for x in weights.values()), sum(map(np.size, arrays.values())))

    def test_t5_of_both_releases(self):
        for config in (helpers.T5, helpers.T5_1_1):
            with self.subTest(config), tempfile.TemporaryDirectory() as folder:
                arrays = helpers.tensors(config)
                helpers.write(pathlib.Path(folder) / "t5", config, arrays)
                backbone = load(f"{folder}/t5", dtype="float32", verbose=0).backbone
                weights, layer = values(backbone), "encoder.block.0.layer.1.DenseReluDense"
                if config is helpers.T5:
                    self.assertTrue(backbone.tie_embedding_weights)
                    names = {"input": "wi", "output": "wo"}
                else:
                    self.assertIs(backbone.activation, activations.gelu_approximate)
                    np.testing.assert_array_equal(weights["logits"], arrays["lm_head.weight"].T)
                    names = {"gate": "wi_0", "input": "wi_1", "output": "wo"}
                expected = {
                    f"encoder/0/feed_forward/{ours}": arrays[f"{layer}.{theirs}.weight"].T
                    for ours, theirs in names.items()
                }
                self.check_weights(weights, expected)
                self.assertIsNone(backbone.num_experts)

    def test_configuration(self):
        config = {
            **helpers.SWITCH,
            "dense_act_fn": "gelu_new",
            "dropout_rate": 0.2,
            "layer_norm_epsilon": 1e-5,
            "expert_capacity": 3,
            "router_jitter_noise": 0.05,
            "router_z_loss_coef": 0.002,
            "router_aux_loss_coef": 0.03,
        }
        expected = {
            "vocabulary_size": 150,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 2,
            "hidden_dim": 8,
            "intermediate_dim": 12,
            "key_value_dim": 3,
            "num_experts": 4,
            "encoder_sparse_layers": [1],
            "decoder_sparse_layers": [1],
            "activation": "gelu_approximate",
            "tie_embedding_weights": True,
            "dropout": 0.2,
            "layer_norm_epsilon": 1e-5,
            "num_buckets": 6,
            "max_distance": 20,
            "switch": {
                "group_size": "row",
                "expert_capacity": 3,
                "jitter": 0.05,
                "z_loss_weight": 0.002,
                "balance_loss_weight": 0.03,
                "expert_dropout": 0.2,
            },
        }
        self.assertEqual(huggingface_config.to_arguments(config), expected)

    def test_defaults_are_those_of_transformers(self):
        arguments = huggingface_config.to_arguments({"model_type": "switch_transformers"})
        sizes = (
            "hidden_dim",
            "intermediate_dim",
            "num_layers",
            "num_decoder_layers",
            "num_experts",
        )
        self.assertEqual([arguments[name] for name in sizes], [768, 2048, 12, 12, 8])
        self.assertEqual(arguments["encoder_sparse_layers"], [1, 5, 9])
        self.assertEqual(arguments["switch"]["expert_capacity"], 64)
        arguments = huggingface_config.to_arguments({"model_type": "t5"})
        self.assertEqual([arguments[name] for name in sizes[:-1]], [512, 2048, 6, 6])

    def test_no_jitter_and_no_capacity(self):
        limit = huggingface_config.NO_CAPACITY
        config = {"model_type": "switch_transformers", "expert_capacity": limit}
        switch = huggingface_config.to_arguments({**config, "router_jitter_noise": 0})["switch"]
        self.assertEqual((switch["overflow"], switch["exploration"]), ("dropless", "argmax"))
        self.assertNotIn("expert_capacity", switch)

    @parameterized.parameters(
        (12, 6, [1, 3, 5, 7, 9, 11]),
        (12, 3, [1, 5, 9]),
        (12, 12, list(range(12))),
        (12, 7, list(range(12))),
        (12, 0, [1]),
        (5, 2, [1, 3]),
        (1, 0, [0]),
        (3, 4, []),
    )
    def test_sparse_blocks(self, num_layers, num_sparse, expected):
        self.assertEqual(huggingface_config.sparse_layers(num_layers, num_sparse), expected)

    def test_several_files(self):
        arrays = helpers.tensors(helpers.SWITCH)
        helpers.write_shards(self.folder / "theirs", helpers.SWITCH, arrays)
        helpers.write(self.folder / "one", helpers.SWITCH, arrays)
        check_equal(self, self.load().backbone, self.load("one").backbone)

    def test_files_of_half_precision(self):
        for dtype in ("float16", ml_dtypes.bfloat16):
            with self.subTest(dtype), tempfile.TemporaryDirectory() as folder:
                arrays = helpers.tensors(helpers.SWITCH)
                arrays = {name: x.astype(dtype) for name, x in arrays.items()}
                helpers.write(pathlib.Path(folder) / "half", helpers.SWITCH, arrays)
                weights = values(load(f"{folder}/half", "float32", verbose=0).backbone)
                expected = arrays["encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight"]
                actual = weights["encoder/1/feed_forward/kernel_in"][2]
                np.testing.assert_array_equal(actual, expected.T.astype("float32"))

    def test_an_embedding_has_several_names(self):
        arrays = helpers.tensors(helpers.SWITCH)
        embedding = arrays.pop("shared.weight")
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        self.write(
            helpers.SWITCH,
            arrays
            | {f"{side}.embed_tokens.weight": embedding for side in ("encoder", "decoder")}
            | {"lm_head.weight": embedding, unused: np.ones((6, 2), "float32")},
        )
        self.check_weights(values(self.load().backbone), {"token_embedding": embedding})

    def test_t5_whose_logits_share_the_embedding_without_rescaling(self):
        arrays = helpers.tensors(helpers.T5)
        self.write({**helpers.T5, "scale_decoder_outputs": False}, arrays)
        weights = values(self.load().backbone)
        np.testing.assert_array_equal(weights["logits"], weights["token_embedding"].T)

    def test_the_cache_of_hugging_face_is_made_of_links(self):
        arrays = self.write(helpers.SWITCH)
        snapshot = self.folder / "models--a--b" / "snapshots" / "0123"
        blobs = self.folder / "models--a--b" / "blobs"
        snapshot.mkdir(parents=True)
        (self.folder / "theirs").rename(blobs)
        for name in ("config.json", "model.safetensors"):
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        weights = values(load(snapshot, "float32", verbose=0).backbone)
        self.check_weights(weights, {"token_embedding": arrays["shared.weight"]})


class TokenizerTest(helpers.FolderTest):
    def test_there_and_back(self):
        self.write(helpers.SWITCH)
        spiece = tokenizer_helpers.spiece_model()
        (self.folder / "theirs" / "spiece.model").write_bytes(spiece)
        convert(self.folder / "theirs", self.folder / "ours", verbose=0)
        model = models.SwitchSeq2SeqLM.from_preset(str(self.folder / "ours"))
        tokenizer = model.preprocessor.tokenizer
        self.assertEqual(tokenizer.token_to_id("<extra_id_0>"), 142)
        self.convert(model)
        written = (self.folder / "written" / "spiece.model").read_bytes()
        self.assertEqual(written, spiece)

    def test_without_one_there_is_no_preprocessor(self):
        self.write(helpers.SWITCH)
        convert(self.folder / "theirs", self.folder / "ours", verbose=0)
        model = models.SwitchSeq2SeqLM.from_preset(str(self.folder / "ours"))
        self.assertIsNone(model.preprocessor)

    def test_more_pieces_than_the_model_knows_are_refused(self):
        config = {**helpers.SWITCH, "vocab_size": 142}
        self.write(config)
        spiece = self.folder / "theirs" / "spiece.model"
        for data, message in (
            (tokenizer_helpers.spiece_model(), "143 pieces, vocabulary_size=142"),
            (b"nothing", "`proto` must be a SentencePiece model"),
        ):
            spiece.write_bytes(data)
            with self.assertRaisesRegex(ValueError, message):
                self.load()


if __name__ == "__main__":
    unittest.main()
