"""What NumPy's scalars, lists and other values of arguments become."""

import json
import unittest

import keras
import numpy as np
from absl.testing import parameterized
from switch_helpers import tokens

from keras_switch import checks
from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.models import SwitchBackbone

SWITCH = {
    "num_experts": np.int64(4),
    "intermediate_dim": np.int32(8),
    "num_selected_experts": np.int64(2),
    "min_capacity": np.int64(1),
    "capacity_factor": np.float32(1.5),
    "eval_capacity_factor": np.float64(3),
    "jitter": np.float32(0.25),
    "expert_dropout": np.float64(0.5),
    "balance_loss_weight": np.int64(1),
    "z_loss_weight": np.float32(0.5),
    "gated": np.bool_(True),
    "routing_metrics": np.bool_(True),
    "group_size": np.int64(4),
    "expert_capacity": np.int64(2),
    "output_dim": np.int64(8),
    "seed": np.int64(3),
}
BLOCK = {
    "num_heads": np.int64(2),
    "intermediate_dim": np.int64(8),
    "num_experts": np.int64(4),
    "key_value_dim": np.int64(4),
    "num_buckets": np.int64(8),
    "max_distance": np.int64(16),
    "dropout": np.float32(0.25),
    "layer_norm_epsilon": np.float32(0.5),
    "causal": np.bool_(True),
    "gated": np.bool_(True),
    "seed": np.int64(3),
    "switch": {"num_selected_experts": np.int64(2), "jitter": np.float32(0.5)},
}
BIAS = {"num_heads": np.int64(2), "num_buckets": np.int64(8), "max_distance": np.int64(16)}
BACKBONE = {
    "vocabulary_size": np.int64(30),
    "num_layers": np.int64(2),
    "num_heads": np.int64(2),
    "hidden_dim": np.int64(8),
    "intermediate_dim": np.int64(16),
    "num_experts": np.int64(4),
    "encoder_sparse_layers": np.arange(2),
    "decoder_sparse_layers": [np.int64(1)],
    "dropout": np.float32(0.25),
    "tie_embedding_weights": np.bool_(False),
    "seed": np.int64(3),
    "switch": {"num_selected_experts": np.int64(2)},
}


def plain(value):
    if isinstance(value, dict):
        return {name: plain(x) for name, x in value.items()}
    if isinstance(value, list):
        return [plain(x) for x in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


class NumpyScalarsTest(parameterized.TestCase):
    @parameterized.parameters(
        (SwitchDense, SWITCH),
        (SwitchTransformerBlock, BLOCK),
        (RelativePositionBias, BIAS),
        (SwitchBackbone, BACKBONE),
    )
    def test_constructors_store_plain_values(self, cls, kwargs):
        config = cls(**kwargs).get_config()
        json.dumps(config)
        expected = cls(**plain(kwargs)).get_config()
        for name in kwargs:
            self.assertEqual(config[name], expected[name])
            self.assertIs(type(config[name]), type(expected[name]), name)

    def test_layers_compute(self):
        x = tokens(2, 5, 8)
        layers = [SwitchDense(**kwargs) for kwargs in (SWITCH, plain(SWITCH))]
        outputs = [keras.ops.convert_to_numpy(layer(x, training=True)) for layer in layers]
        np.testing.assert_array_equal(*outputs)
        self.assertEqual(SwitchTransformerBlock(**BLOCK)(x, training=True).shape, x.shape)


class SeedTest(parameterized.TestCase):
    @parameterized.parameters("a", 1.0, True)
    def test_another_seed_than_an_integer(self, seed):
        message = f"`seed` must be an integer or `None`. Received: seed={seed!r}"
        for make in (
            lambda: SwitchDense(4, 8, seed=seed),
            lambda: SwitchTransformerBlock(2, 8, seed=seed),
            lambda: SwitchBackbone(50, 1, 2, 8, 16, seed=seed),
        ):
            with self.assertRaisesRegex(ValueError, message):
                make()


class ListTest(unittest.TestCase):
    def test_masks(self):
        x, mask = tokens(2, 8), [True, False]
        layer = SwitchDense(4, 8, dtype="float32")
        expected = layer(x, mask=np.array(mask))
        np.testing.assert_array_equal(layer(x, mask=mask), expected)
        np.testing.assert_array_equal(layer.route(x, mask=mask).kept, [[True], [False]])
        with self.assertRaisesRegex(ValueError, "mask.shape=\\(3,\\)"):
            layer(x, mask=[True, False, True])
        x, mask = tokens(2, 3, 8), [[True, True, False], [True, True, True]]
        block = SwitchTransformerBlock(2, 8, 4, dtype="float32")
        expected = block(x, padding_mask=np.array(mask))
        np.testing.assert_array_equal(block(x, padding_mask=mask), expected)

    def test_route_refuses_what_a_call_refuses(self):
        for inputs in (np.ones((2, 5, 6), "int32"), np.ones((2, 6), int).tolist()):
            with self.assertRaisesRegex(ValueError, "floating point inputs.*int"):
                SwitchDense(4, 8).route(inputs)


class ChecksTest(unittest.TestCase):
    def test_values(self):
        self.assertIs(type(checks.check_positive_integer("x", np.int64(3))), int)
        self.assertIs(type(checks.check_integer("x", np.uint8(3), 3)), int)
        self.assertIs(type(checks.check_number("x", np.float32(3), 0)), float)
        self.assertIs(checks.check_bool("x", np.bool_(True)), True)
        self.assertIsNone(checks.check_seed(None))
        with self.assertRaisesRegex(ValueError, "`x` must be an integer of at least 4. .*x=3"):
            checks.check_integer("x", 3, 4)
        with self.assertRaisesRegex(ValueError, "`x` must be a positive integer"):
            checks.check_positive_integer("x", np.float32(3))
        with self.assertRaisesRegex(ValueError, "`x` must be True or False"):
            checks.check_bool("x", np.int64(1))


if __name__ == "__main__":
    unittest.main()
