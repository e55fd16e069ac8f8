import unittest
import unittest.mock

import keras
import model_helpers
import numpy as np
from keras import ops
from model_helpers import values

from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchTextClassifier
from keras_switch.models import to_dense
from keras_switch.models import upcycle

DENSE = {
    **model_helpers.SMALL,
    "num_experts": None,
    "decoder_sparse_layers": None,
    "switch": None,
    "hidden_dim": 32,
}


def backbone(**options):
    return SwitchBackbone(**{**DENSE, **options})


def loss_of(model):
    """The mean cross-entropy of a `SwitchSeq2SeqLM` where no token is dropped."""
    x, y, weight = model_helpers.batches(1, 16)
    with dropless():
        loss = model.compute_loss(x, y, model(x), ops.convert_to_tensor(weight), training=False)
    return float(loss)


def logits(model):
    """Those of real tokens, `(tokens, vocabulary_size)`, where none is dropped."""
    x, *_ = model_helpers.batches(1, 16)
    with dropless():
        logits = model.logits(model(x)["decoder_sequence_output"])
    return ops.convert_to_numpy(logits)[x["decoder_padding_mask"] > 0]


class UpcycleTest(unittest.TestCase):
    def test_every_expert_is_a_copy(self):
        dense = backbone(gated=True)
        sparse = values(dense.upcycle(4, decoder_sparse_layers=[0], seed=5))
        for name, expected in values(dense).items():
            if name.startswith(("encoder/1/feed_forward/", "decoder/0/feed_forward/")):
                block, kernel = name.rsplit("/", 1)
                own = {"input": "kernel_in", "gate": "kernel_gate", "output": "kernel_out"}[kernel]
                scale = 4 if kernel == "output" else 1
                for expert in sparse[f"{block}/{own}"]:
                    np.testing.assert_array_equal(expert, scale * expected)
            else:
                np.testing.assert_array_equal(sparse[name], expected)

    def test_outputs_are_the_dense_models_to_within_one_percent(self):
        dense = backbone()
        expected = logits(dense)
        for num_experts in (2, 8, 64):
            sparse = dense.upcycle(num_experts, decoder_sparse_layers=[0], seed=5)
            error = np.abs(logits(sparse) - expected).max() / np.abs(expected).max()
            self.assertLess(error, 0.01)
            self.assertGreater(error, 1e-5)  # It is no copy of the dense model.

    def test_predict_and_evaluate_are_the_dense_models(self):
        x, y, weight = model_helpers.batches(1, 16)
        dense = SwitchSeq2SeqLM(backbone())
        real = weight > 0
        for switch, tolerance in ((None, 0.01), ({"num_selected_experts": 2}, 1e-4)):
            sparse = dense.upcycle(8, switch=switch, seed=5)
            for layer in sparse._flatten_layers():
                if isinstance(layer, SwitchDense):  # As uneven as a router can be.
                    kernel = np.zeros(layer.router.kernel.shape, "float32")
                    layer.router.kernel.assign(kernel + 1e-6 * np.arange(8))
            expected, received = (model.predict(x, verbose=0)[real] for model in (dense, sparse))
            error = np.abs(received - expected).max() / np.abs(expected).max()
            self.assertLess(error, tolerance)
            losses = [
                model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)["loss"]
                for model in (dense, sparse)
            ]
            self.assertAlmostEqual(losses[1] / losses[0], 1.0, delta=tolerance)

    def test_capacities_are_as_asked(self):
        dense = backbone()
        for switch, expected in (
            (None, (1.25, None)),
            ({"capacity_factor": 2.0, "eval_capacity_factor": 3.0}, (2.0, 3.0)),
        ):
            layer = dense.upcycle(4, switch=switch).encoder_blocks[1].feed_forward
            self.assertEqual((layer.capacity_factor, layer.eval_capacity_factor), expected)

    def test_two_experts_copy_exactly(self):
        dense = backbone()
        sparse = dense.upcycle(8, switch={"num_selected_experts": 2}, seed=5)
        np.testing.assert_allclose(logits(sparse), logits(dense), rtol=1e-5, atol=1e-5)
        kernel = values(sparse)["encoder/1/feed_forward/kernel_out"]
        expected = values(dense)["encoder/1/feed_forward/output"]
        np.testing.assert_array_equal(kernel[3], expected)

    def test_the_loss_is_the_dense_models(self):
        dense = SwitchSeq2SeqLM(backbone())
        expected = loss_of(dense)
        for switch, tolerance in ((None, 2e-3), ({"num_selected_experts": 2}, 1e-6)):
            sparse = dense.upcycle(8, decoder_sparse_layers=[0], switch=switch)
            self.assertIsInstance(sparse, SwitchSeq2SeqLM)
            self.assertLess(abs(loss_of(sparse) / expected - 1), tolerance)

    def test_tokens_spread_over_the_experts(self):
        sparse = backbone().upcycle(8, seed=5)
        x = np.random.default_rng(0).normal(size=(4, 64, 32)).astype("float32")
        routing = sparse.encoder_blocks[1].feed_forward.route(x)
        self.assertGreater(np.bincount(np.ravel(routing.experts), minlength=8).min(), 8)
        gates = ops.convert_to_numpy(routing.gates)
        self.assertLess(np.abs(8 * gates - 1).max(), 0.02)

    def test_the_scale_of_a_norm_does_not_sharpen_the_router(self):
        dense = backbone()
        dense.named_weights()["encoder/1/feed_forward_norm"].assign(np.geomspace(0.1, 50, 32))
        block = dense.upcycle(8, seed=5).encoder_blocks[1]
        x = np.random.default_rng(0).normal(size=(4, 64, 32)).astype("float32")
        gates = ops.convert_to_numpy(block.feed_forward.route(block.feed_forward_norm(x)).gates)
        self.assertLess(np.abs(8 * gates - 1).max(), 0.02)

    def test_a_given_router_is_left_alone(self):
        ones = keras.initializers.Ones()
        sparse = backbone().upcycle(4, switch={"router_initializer": ones})
        router = values(sparse)["encoder/1/feed_forward/router"]
        np.testing.assert_array_equal(router, np.ones((32, 4)))

    def test_what_cannot_be_upcycled_is_explained(self):
        with self.assertRaisesRegex(ValueError, r"has experts.*to_dense.*Received: num_experts=8"):
            upcycle(SwitchBackbone(**model_helpers.SMALL), 4)
        for message, arguments in (
            ("`num_experts` must be a positive integer", {"num_experts": 0}),
            ("`encoder_sparse_layers` must list", {"num_experts": 2, "encoder_sparse_layers": [2]}),
            ("arguments of `SwitchDense`", {"num_experts": 2, "switch": {"gated": True}}),
            ("Received: expert_attention=True", {"num_experts": 2, "expert_attention": True}),
            ("Received: num_layers=1", {"num_experts": 2, "num_layers": 1}),
            ("Received: encoder_sparse_layer=", {"num_experts": 2, "encoder_sparse_layer": [0]}),
        ):
            with self.assertRaisesRegex(ValueError, message):
                upcycle(backbone(), **arguments)

    def test_other_tasks_are_refused_before_anything_is_built(self):
        sparse = SwitchBackbone(**model_helpers.SMALL)
        with unittest.mock.patch.object(SwitchBackbone, "from_config") as build:
            for convert, made in (
                (lambda model: upcycle(model, 2), SwitchTextClassifier(backbone(), 2)),
                (to_dense, SwitchTextClassifier(sparse, 2)),
            ):
                with self.assertRaisesRegex(ValueError, "model.backbone.*SwitchTextClassifier"):
                    convert(made)
            build.assert_not_called()


class ToDenseTest(unittest.TestCase):
    def test_all_weights_but_the_experts_are_carried(self):
        sparse = SwitchBackbone(**model_helpers.SMALL)
        dense = sparse.to_dense(seed=9)
        twin = SwitchBackbone(**{**dense.get_config(), "name": "twin"})
        carried, fresh, before = values(dense), values(twin), values(sparse)
        new = {name for name in carried if name not in before}
        blocks, kernels = ("encoder/1", "decoder/0"), ("input", "output")
        self.assertEqual(new, {f"{b}/feed_forward/{k}" for b in blocks for k in kernels})
        for name, value in carried.items():
            np.testing.assert_array_equal(value, fresh[name] if name in new else before[name])
        self.assertIsNone(dense.num_experts)
        self.assertEqual(dense.switch, {})

    def test_there_and_back_again(self):
        dense = backbone()
        again = dense.upcycle(4).to_dense()
        config, expected = again.get_config(), dense.get_config()
        for one in (config, expected):
            del one["name"]
        self.assertEqual(config, expected)

    def test_a_task_keeps_what_it_has(self):
        preprocessor = keras.layers.Identity()
        model = SwitchSeq2SeqLM(SwitchBackbone(**model_helpers.SMALL), preprocessor, 0.5)
        model.compile(sampler="beam")
        dense = model.to_dense()
        again = dense.upcycle(2)
        for made in (dense, again):
            self.assertIsInstance(made, SwitchSeq2SeqLM)
            self.assertIs(made.preprocessor, preprocessor)
            self.assertIs(made.sampler, model.sampler)
            self.assertEqual(made.z_loss_weight, 0.5)
        self.assertEqual([dense.backbone.num_experts, again.backbone.num_experts], [None, 2])

    def test_dtypes_are_kept(self):
        for dtype in ("bfloat16", "mixed_bfloat16", "float32"):
            dense = SwitchBackbone(**{**model_helpers.SMALL, "dtype": dtype}).to_dense()
            sparse = dense.upcycle(2)
            for made in (dense, sparse):
                self.assertEqual(made.dtype_policy.name, dtype)
                block = made.encoder_blocks[1].feed_forward
                self.assertEqual(block.dtype_policy.name, dtype)

    def test_what_has_no_dense_twin_is_explained(self):
        with self.assertRaisesRegex(ValueError, "Received: num_experts=None, expert_attention="):
            to_dense(backbone())
        with self.assertRaisesRegex(ValueError, "Received: hidden_dim=16"):
            SwitchBackbone(**model_helpers.SMALL).to_dense(hidden_dim=16)
        attention = SwitchBackbone(**{**model_helpers.SMALL, "expert_attention": True})
        with self.assertRaisesRegex(ValueError, "num_experts=8, expert_attention=True"):
            attention.to_dense()


if __name__ == "__main__":
    unittest.main()
