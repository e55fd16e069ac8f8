import pathlib
import tempfile
import unittest

import keras
import model_helpers
import numpy as np
from keras import ops
from model_helpers import values

from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone

SMALL = {**model_helpers.SMALL, "switch": {}}
# Options, each with how many weights it has more than none.
OPTIONS = {
    "gated": ({"gated": True, "activation": "gelu_approximate"}, 3),
    "untied": ({"tie_embedding_weights": False}, 1),
    "deeper decoder": ({"num_decoder_layers": 3, "decoder_sparse_layers": None}, 2 * 13),
    "no experts in the encoder": ({"encoder_sparse_layers": []}, -1),
    "experts everywhere": ({"encoder_sparse_layers": range(2)}, 1),
    "expert attention": ({"expert_attention": True}, 2 * 3),
    "odd sizes": ({"num_heads": 3, "key_value_dim": 5, "vocabulary_size": 17}, 0),
    "buckets": ({"num_buckets": 8, "max_distance": 16}, 0),
    "dropout": ({"dropout": 0.1, "switch": {"expert_dropout": 0.2}}, 0),
    "top 2": ({"switch": {"num_selected_experts": 2, "overflow": "dropless"}}, 0),
    "initializers": (
        {
            "kernel_initializer": "glorot_normal",
            "switch": {"router_initializer": keras.initializers.RandomNormal(0.0, 0.1)},
        },
        0,
    ),
    "dense": ({"num_experts": None, "decoder_sparse_layers": None, "switch": None}, -2),
}


def backbone(**options):
    return SwitchBackbone(**{**SMALL, **options})


def decoded(model):
    x, *_ = model_helpers.batches(1, 4)
    with dropless():
        outputs = model(x)["decoder_sequence_output"]
    return ops.convert_to_numpy(ops.cast(outputs, "float32"))


class SwitchBackboneTest(unittest.TestCase):
    def test_shapes_and_dtypes(self):
        model = backbone()
        x, *_ = model_helpers.batches(1, 4)
        outputs = model(x)
        self.assertEqual(
            {name: tuple(x.shape) for name, x in outputs.items()},
            {"encoder_sequence_output": (4, 6, 8), "decoder_sequence_output": (4, 5, 8)},
        )
        encoded = model.encode(x["encoder_token_ids"], x["encoder_padding_mask"])
        np.testing.assert_allclose(
            ops.convert_to_numpy(encoded),
            ops.convert_to_numpy(outputs["encoder_sequence_output"]),
            rtol=1e-5,
            atol=1e-6,
        )
        logits = model.logits(outputs["decoder_sequence_output"])
        self.assertEqual(tuple(logits.shape), (4, 5, 16))
        self.assertEqual({shape.shape for shape in model.inputs}, {(None, None)})

    def test_tied_logits_are_rescaled_and_others_are_not(self):
        states = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
        tied, untied = backbone(), backbone(tie_embedding_weights=False)
        table, kernel = values(tied)["token_embedding"], values(untied)["logits"]
        for model, expected in ((tied, states @ table.T * 8**-0.5), (untied, states @ kernel)):
            got = ops.convert_to_numpy(model.logits(states))
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

    def test_every_weight_has_one_name(self):
        plain = len(backbone().named_weights())
        for name, (options, more) in {"none": ({}, 0), **OPTIONS}.items():
            with self.subTest(name):
                model = backbone(**options)
                named = list(model.named_weights().values())
                self.assertEqual(len(named), plain + more)
                self.assertEqual({id(w) for w in named}, {id(w) for w in model.weights})
                self.assertEqual(len(named), len(model.weights))

    def test_weights_have_the_shapes_of_their_names(self):
        model = backbone(gated=True, num_heads=3, key_value_dim=5, expert_attention=True)
        shapes = {name: tuple(weight.shape) for name, weight in model.named_weights().items()}
        expected = {
            "token_embedding": (16, 8),
            "encoder/position_bias": (32, 3),
            "encoder/0/self_attention/query": (8, 15),
            "encoder/0/self_attention/output": (15, 8),
            "encoder/0/feed_forward/gate": (8, 16),
            "encoder/1/self_attention/key_value/router": (8, 8),
            "encoder/1/self_attention/query/kernel_out": (8, 16, 15),
            "decoder/0/cross_attention/value": (8, 15),
            "decoder/0/feed_forward/kernel_gate": (8, 8, 16),
            "decoder/0/feed_forward/kernel_out": (8, 16, 8),
            "decoder/0/cross_attention_norm": (8,),
            "decoder/norm": (8,),
        }
        self.assertEqual({name: shapes[name] for name in expected}, expected)

    def test_a_config_makes_an_equal_model(self):
        for name, (options, _) in OPTIONS.items():
            with self.subTest(name):
                model = backbone(**options)
                again = keras.saving.deserialize_keras_object(
                    keras.saving.serialize_keras_object(model)
                )
                self.assertIs(type(again), SwitchBackbone)
                self.assertEqual(again.get_config(), model.get_config())
                if name != "initializers":  # Its initializers have no seed.
                    np.testing.assert_array_equal(decoded(again), decoded(model))

    def test_a_file_holds_the_model(self):
        for name in ("gated", "untied", "expert attention", "initializers"):
            with self.subTest(name), tempfile.TemporaryDirectory() as directory:
                model = backbone(**OPTIONS[name][0])
                path = str(pathlib.Path(directory) / "model.keras")
                model.save(path)
                again = keras.saving.load_model(path)
                self.assertIs(type(again), SwitchBackbone)
                np.testing.assert_array_equal(decoded(again), decoded(model))

    def test_sparse_blocks_are_where_they_should_be(self):
        model = backbone(num_layers=4, num_decoder_layers=3, decoder_sparse_layers=(2, 0, 2))
        self.assertEqual(model.encoder_sparse_layers, [1, 3])
        self.assertEqual(model.decoder_sparse_layers, [0, 2])
        for blocks, sparse in ((model.encoder_blocks, [1, 3]), (model.decoder_blocks, [0, 2])):
            for number, block in enumerate(blocks):
                is_sparse = isinstance(block.feed_forward, SwitchDense)
                self.assertEqual(is_sparse, number in sparse)

    def test_dtypes(self):
        for dtype, computes, keeps in (
            ("float32", "float32", "float32"),
            ("mixed_bfloat16", "bfloat16", "float32"),
            ("bfloat16", "bfloat16", "bfloat16"),
        ):
            with self.subTest(dtype):
                model = backbone(dtype=dtype)
                x, *_ = model_helpers.batches(1, 4)
                states = model(x)["decoder_sequence_output"]
                self.assertEqual(keras.backend.standardize_dtype(states.dtype), computes)
                logits = model.logits(states)
                self.assertEqual(keras.backend.standardize_dtype(logits.dtype), "float32")
                weights = model.named_weights()
                self.assertEqual(weights["encoder/1/feed_forward/kernel_in"].dtype, keeps)
                self.assertEqual(weights["encoder/1/feed_forward/router"].dtype, "float32")
                self.assertEqual(model.get_config()["dtype"]["config"]["name"], dtype)

    def test_the_default_dtype_is_mixed(self):
        self.assertEqual(backbone(dtype=None).dtype_policy.name, "mixed_bfloat16")

    def test_bfloat16_is_close_to_float32(self):
        exact, mixed = decoded(backbone()), decoded(backbone(dtype="mixed_bfloat16"))
        x, *_ = model_helpers.batches(1, 4)
        close = np.abs(exact - mixed).max(axis=-1) < 0.1
        real = x["decoder_padding_mask"] > 0
        self.assertGreater(close[real].mean(), 0.8)  # Rounding sends some token elsewhere.

    def test_a_seed_decides_every_weight(self):
        one, same, other = (values(backbone(seed=seed)) for seed in (1, 1, 2))
        for name, value in one.items():
            np.testing.assert_array_equal(value, same[name])
            if not name.endswith("norm"):
                self.assertGreater(np.abs(value - other[name]).max(), 0, name)

    def test_no_two_kernels_are_equal(self):
        kernels = {}
        for name, value in values(backbone(num_layers=4)).items():
            if not name.endswith("norm"):
                self.assertNotIn(value.tobytes(), kernels, name)
                kernels[value.tobytes()] = name
        self.assertGreater(len(kernels), 30)

    def test_untied_logits_start_small(self):
        states = np.random.default_rng(0).normal(size=(4, 16, 64)).astype("float32")
        for vocabulary_size, seed in ((300, 1), (300, None), (30, 1)):
            model = backbone(
                tie_embedding_weights=False,
                hidden_dim=64,
                vocabulary_size=vocabulary_size,
                seed=seed,
            )
            table, kernel = (values(model)[name] for name in ("token_embedding", "logits"))
            self.assertAlmostEqual(table.std(), 1.0, delta=0.05)
            self.assertAlmostEqual(kernel.std() * 8, 1.0, delta=0.05)
            self.assertAlmostEqual(np.std(model.logits(states)), 1.0, delta=0.05)
            self.assertLess(abs(np.corrcoef(table.ravel(), kernel.ravel())[0, 1]), 0.1)
            again = type(model.token_embedding).from_config(model.token_embedding.get_config())
            again.build()
            if seed is not None:
                np.testing.assert_array_equal(again.reverse_embeddings, kernel)

    def test_wrong_arguments_are_explained(self):
        for message, options in (
            ("`vocabulary_size` must be a positive integer. Received", {"vocabulary_size": 0}),
            ("`num_decoder_layers` must be a positive integer", {"num_decoder_layers": 1.5}),
            ("`tie_embedding_weights` must be", {"tie_embedding_weights": 1}),
            ("`num_heads` must divide `hidden_dim`.*num_heads=3, hidden_dim=8", {"num_heads": 3}),
            ("`encoder_sparse_layers` must list.*0 to 1.*=\\[2\\]", {"encoder_sparse_layers": [2]}),
            ("`encoder_sparse_layers` must list.*=1", {"encoder_sparse_layers": 1}),
            ("`decoder_sparse_layers` must list.*True", {"decoder_sparse_layers": [True]}),
            ("`decoder_sparse_layers` needs `num_experts`", {"num_experts": None}),
            (
                "`switch` and `expert_attention` need `num_experts`",
                {"num_experts": None, "decoder_sparse_layers": None, "expert_attention": True},
            ),
            ("`num_experts` must be a positive integer", {"num_experts": 0}),
            ("`switch` takes these arguments.*Received: .'experts'", {"switch": {"experts": 2}}),
            ("causal block cannot have", {"switch": {"priority": "probability"}}),
            ("`dropout` must be", {"dropout": 2}),
            ("`gated` must be", {"gated": None}),
            ("only be `name`, `trainable`.*spelling. Received: num_expert=4", {"num_expert": 4}),
        ):
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                backbone(**options)


if __name__ == "__main__":
    unittest.main()
