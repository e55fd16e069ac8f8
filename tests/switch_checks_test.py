import unittest

import keras
from absl.testing import parameterized
from keras import ops
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import placement

BAD_ARGUMENTS = [
    ({"num_experts": 0}, "`num_experts` must be a positive integer. Received: num_experts=0"),
    ({"num_experts": -2}, "`num_experts` must be a positive integer"),
    ({"num_experts": 2.5}, "`num_experts` must be a positive integer"),
    ({"num_experts": True}, "`num_experts` must be a positive integer"),
    ({"num_experts": None}, "`num_experts` must be a positive integer"),
    ({"intermediate_dim": 0}, "`intermediate_dim` must be a positive integer"),
    ({"intermediate_dim": "8"}, "`intermediate_dim` must be a positive integer"),
    ({"num_selected_experts": 0}, "`num_selected_experts` must be a positive integer"),
    ({"num_selected_experts": 5}, "at most `num_experts`.*num_selected_experts=5, num_experts=4"),
    ({"min_capacity": 0}, "`min_capacity` must be a positive integer"),
    ({"capacity_factor": 0.0}, "`capacity_factor` must be a finite positive number"),
    ({"capacity_factor": float("nan")}, "`capacity_factor` must be a finite positive number"),
    ({"eval_capacity_factor": -1}, "`eval_capacity_factor` must be a finite positive number"),
    ({"eval_capacity_factor": float("inf")}, "`eval_capacity_factor` must be a finite positive"),
    ({"capacity_factor": "big"}, "`capacity_factor` must be a finite positive number"),
    ({"overflow": "spill"}, "`overflow` must be one of 'drop', 'reroute', 'dropless'.*'spill'"),
    ({"priority": "random"}, "`priority` must be one of 'position', 'probability'"),
    ({"exploration": None}, "`exploration` must be one of 'jitter', 'sample'"),
    ({"jitter": 1.0}, "`jitter` must be a finite number, at least 0 and below 1"),
    ({"jitter": -0.1}, "`jitter` must be a finite number"),
    ({"input_dropout": 1.5}, "`input_dropout` must be a finite number"),
    ({"expert_dropout": 1.0}, "`expert_dropout` must be a finite number"),
    ({"expert_dropout": float("nan")}, "`expert_dropout` must be a finite number"),
    ({"balance_loss_weight": -1.0}, "`balance_loss_weight` must be a finite number, at least 0"),
    ({"z_loss_weight": float("inf")}, "`z_loss_weight` must be a finite number"),
    ({"num_groups": 0}, "`num_groups` must be a positive integer"),
    ({"group_size": 0}, "`group_size` must be a positive integer"),
    ({"group_size": "column"}, "`group_size` must be a positive integer"),
    ({"group_size": 8, "num_groups": 2}, "cannot both be given"),
    ({"expert_capacity": -4}, "`expert_capacity` must be a positive integer"),
    ({"output_dim": 0}, "`output_dim` must be a positive integer"),
    ({"overflow": "reroute", "num_selected_experts": 2}, "needs `num_selected_experts=1`"),
    ({"gated": "yes"}, "`gated` must be True or False"),
    ({"routing_metrics": 1}, "`routing_metrics` must be True or False"),
    ({"activation": "rellu"}, "rellu"),
]


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(*BAD_ARGUMENTS)
    def test_arguments(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(**{"num_experts": 4, "intermediate_dim": 8} | kwargs)

    @parameterized.parameters(
        ((6,), "rank 2 or more.*inputs.shape=\\(6,\\)"),
        ((), "rank 2 or more"),
        ((2, None), "last dimension is known"),
    )
    def test_input_shapes(self, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8).build(shape)

    @parameterized.parameters(
        ((2, 4), "mask.shape=\\(2, 4\\)"),
        ((3, 5), "mask.shape=\\(3, 5\\)"),
        ((2,), "mask.shape=\\(2,\\)"),
        ((2, 5, 6), "mask.shape=\\(2, 5, 6\\)"),
    )
    def test_mask_shapes(self, shape, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8)(tokens(2, 5, 6), mask=ops.ones(shape, "bool"))

    def test_integer_inputs(self):
        with self.assertRaisesRegex(ValueError, "floating point inputs.*int32"):
            SwitchDense(4, 8)(ops.ones((2, 5, 6), "int32"))
        with self.assertRaisesRegex(ValueError, "floating point inputs.*int32"):
            SwitchDense(4, 8)(keras.Input((5, 6), dtype="int32"))

    @parameterized.parameters(1, 4)
    def test_another_width(self, width):
        layer = SwitchDense(4, 8)
        layer(tokens(2, 5, 6))
        message = f"as wide as those that the layer was built for, 6.*5, {width}\\)"
        for call in (
            lambda: layer(tokens(2, 5, width)),
            lambda: layer(keras.Input((5, width))),
            lambda: layer.route(tokens(2, 5, width)),
        ):
            with self.assertRaisesRegex(ValueError, message):
                call()

    def test_rows_need_a_length(self):
        with self.assertRaisesRegex(ValueError, "rank 3 or more"):
            SwitchDense(4, 8, group_size="row")(tokens(5, 6))

    def test_routing_metrics_switched_off(self):
        layer = SwitchDense(4, 8, routing_metrics=False)
        layer(tokens(5, 6))
        for ask in (
            layer.get_routing_metrics,
            layer.reset_routing_metrics,
            lambda: layer.routing_totals,
        ):
            with self.assertRaisesRegex(ValueError, "Received: routing_metrics=False, built=True"):
                ask()
        with self.assertRaisesRegex(ValueError, "Received: routing_metrics=True, built=False"):
            SwitchDense(4, 8).get_routing_metrics()

    def test_groups_too_large_for_integers(self):
        experts = keras.KerasTensor((1, 2**20), dtype="int32")
        with self.assertRaisesRegex(ValueError, "`group_size`. Received: 1048576 choices"):
            placement.sort_by_expert(experts, 2048)


if __name__ == "__main__":
    unittest.main()
