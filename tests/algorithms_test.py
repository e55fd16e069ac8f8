import inspect
import os
import tempfile
import unittest
import warnings

import keras
import numpy as np
from absl.testing import parameterized
from block_helpers import make as make_block
from keras import ops
from switch_helpers import make
from switch_helpers import run
from switch_helpers import tokens

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import algorithms
from keras_switch.layers import dropless
from keras_switch.layers import placement
from keras_switch.layers import routing
from keras_switch.models import SwitchBackbone

X = tokens(2, 12, 6)


@keras.saving.register_keras_serializable("algorithms_test")
def least_likely(scores_GSE, probabilities_GSE, mask_GS, capacity, *, num_selected_experts):
    """The experts that a token likes least."""
    experts_GSK = routing.select(-scores_GSE, num_selected_experts)
    gates_GSK = routing.gates(probabilities_GSE, experts_GSK, renormalise=False)
    plan = placement.plan(experts_GSK, mask_GS, scores_GSE.shape[-1], capacity)
    return placement.Placement(experts_GSK, gates_GSK, plan)


least_likely.is_token_wise = True
least_likely.balances = True


@keras.saving.register_keras_serializable("algorithms_test")
class EveryExpert:
    """Every expert takes the first tokens, with equal gates."""

    def __init__(self, gate):
        self.gate = gate

    def __call__(self, scores_GSE, probabilities_GSE, mask_GS, capacity):
        taken_GSE = ops.broadcast_to(mask_GS[..., None], ops.shape(scores_GSE))
        experts_GSE = ops.zeros_like(scores_GSE, "int32") + ops.arange(scores_GSE.shape[-1])
        gates_GSE = ops.full_like(scores_GSE, self.gate)
        plan = placement.plan_of_experts(taken_GSE, capacity)
        return placement.Placement(experts_GSE, gates_GSE, plan)

    def get_config(self):
        return {"gate": self.gate}


def unregistered(scores_GSE, probabilities_GSE, mask_GS, capacity):
    return least_likely(scores_GSE, probabilities_GSE, mask_GS, capacity, num_selected_experts=1)


def by_hand(layer, x, expert_of):
    """What one expert a token gives, with its probability."""
    p = ops.convert_to_numpy(layer.route(x).probabilities)
    kernels = np.asarray(layer.kernel_in), np.asarray(layer.kernel_out)
    outputs = np.zeros_like(x)
    for at in np.ndindex(x.shape[:-1]):
        expert = expert_of(p[at])
        hidden = np.maximum(x[at] @ kernels[0][expert], 0)
        outputs[at] = p[at][expert] * (hidden @ kernels[1][expert])
    return outputs


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return keras.saving.load_model(path)


class OwnAlgorithmTest(parameterized.TestCase):
    def test_a_function_decides(self):
        layer = make(4, routing=least_likely, eval_capacity_factor=8.0)
        np.testing.assert_allclose(run(layer, X), by_hand(layer, X, np.argmin), atol=1e-5)
        self.assertTrue(ops.convert_to_numpy(layer.route(X).kept).all())

    def test_a_token_wise_one_has_a_limit_that_the_scope_lifts(self):
        layer = make(4, routing=least_likely, eval_capacity_factor=0.5, min_capacity=1)
        kept = ops.convert_to_numpy(layer.route(X).kept)
        self.assertLess(kept.mean(), 0.6)
        with dropless():
            np.testing.assert_allclose(run(layer, X), by_hand(layer, X, np.argmin), atol=1e-5)
        free = make(4, routing=least_likely, overflow="dropless")
        np.testing.assert_allclose(run(free, X), by_hand(free, X, np.argmin), atol=1e-5)

    def test_it_gets_the_options_that_it_names(self):
        record = make(4, routing=least_likely, num_selected_experts=3).route(X)
        self.assertEqual(tuple(record.experts.shape), (2, 12, 3))
        with self.assertRaisesRegex(ValueError, "`priority` means nothing with `routing=<function"):
            make(4, routing=least_likely, priority="probability")
        with self.assertRaisesRegex(ValueError, "`overflow` means nothing.*'drop'"):
            make(4, routing=least_likely, overflow="reroute")
        with self.assertRaisesRegex(ValueError, "`overflow` means nothing.*'drop'"):
            make(4, routing=EveryExpert(0.5), overflow="dropless")

    def test_the_balance_loss_is_for_those_that_say_so(self):
        for algorithm, number in ((least_likely, 1), (EveryExpert(0.5), 0)):
            layer = make(4, routing=algorithm)
            layer(X, training=True)
            self.assertLen(layer.losses, number)

    @parameterized.parameters(least_likely, EveryExpert(0.5))
    def test_a_registered_one_is_saved_and_loaded(self, algorithm):
        model = keras.Sequential([keras.Input((12, 6)), make(4, routing=algorithm)])
        loaded = saved_and_loaded(model)
        self.assertIs(type(loaded.layers[-1].routing), type(algorithm))
        self.assertEqual(getattr(loaded.layers[-1].routing, "gate", 0.5), 0.5)
        np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
        clone = keras.models.clone_model(model)
        self.assertIs(type(clone.layers[-1].routing), type(algorithm))

    def test_in_blocks_and_backbones(self):
        switch = {"routing": least_likely, "num_selected_experts": 2}
        block = make_block(num_experts=4, causal=True, switch=switch)
        again = SwitchTransformerBlock.from_config(block.get_config())
        again.build((2, 5, 8))
        self.assertIs(again.feed_forward.routing, least_likely)
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
        backbone = SwitchBackbone(9, **sizes, num_experts=4, switch=switch, dtype="float32")
        loaded = saved_and_loaded(backbone)
        self.assertIs(loaded.decoder_blocks[1].feed_forward.routing, least_likely)
        self.assertEqual(loaded.get_config(), backbone.get_config())

    @parameterized.parameters(
        (unregistered, "<function unregistered"),
        (lambda *args: unregistered(*args), "<lambda>"),
        (EveryExpert(0.5).__call__, "bound method"),
    )
    def test_an_unregistered_one_is_not_saved(self, algorithm, name):
        layer = make(4, routing=algorithm)
        message = f"must be registered to be saved.*register_keras_serializable.*{name}"
        model = keras.Sequential([keras.Input((12, 6)), layer])
        block = make_block(num_experts=4, switch={"routing": algorithm})
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error")
            for save in (
                layer.get_config,
                block.get_config,
                lambda: model.save(os.path.join(folder, "model.keras")),
            ):
                with self.assertRaisesRegex(ValueError, message):
                    save()

    def test_what_is_not_registered_is_not_loaded(self):
        config = make(4, routing=least_likely).get_config()
        self.assertEqual(config["routing"]["config"], "algorithms_test>least_likely")
        # Keras would import and return it.
        config["routing"] |= {"module": "os", "config": "system", "registered_name": "system"}
        with self.assertRaisesRegex(ValueError, "must be registered before.*routing='system'"):
            SwitchDense(**config)

    def test_a_custom_object_scope_registers(self):
        layer = make(4, routing=unregistered)
        with keras.saving.custom_object_scope({"unregistered": unregistered}):
            again = SwitchDense.from_config(layer.get_config())
        self.assertIs(again.routing, unregistered)

    @parameterized.parameters(
        ("top_k", "must be one of 'token_choice', 'expert_choice', or a function.*'top_k'"),
        (None, "must be one of 'token_choice', 'expert_choice'.*routing=None"),
        (EveryExpert, "must be one of 'token_choice'.*Received: routing=<class"),
        (lambda scores: scores, "takes `\\(scores_GSE.*num_selected_experts.*too many"),
        (lambda a, b, c, d, *, temperature: a, "those that it names.*'temperature'"),
    )
    def test_what_is_no_algorithm(self, algorithm, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8, routing=algorithm)
        with self.assertRaisesRegex(ValueError, message):
            make_block(num_experts=4, switch={"routing": algorithm})

    @parameterized.parameters(
        (lambda s, p, m, c: (s, p, None), "must return a .*Placement.*Received.*lambda"),
        (
            lambda s, p, m, c: placement.Placement(ops.cast(s, "int32"), p[..., :1], None),
            "experts and gates of the shape.*\\(1, 24, 4\\), \\(1, 24, 1\\)",
        ),
        (
            lambda s, p, m, c: placement.Placement(
                routing.select(s, 1), p[..., :1], placement.plan(routing.select(s, 2), m, 4, c)
            ),
            "a plan for as many choices.*choices: \\[1, 1, 2\\]",
        ),
    )
    def test_wrong_results(self, algorithm, message):
        with self.assertRaisesRegex(ValueError, message):
            SwitchDense(4, 8, routing=algorithm)(X)


class TableTest(parameterized.TestCase):
    def test_what_means_nothing_stays_at_the_default_of_the_layer(self):
        defaults = inspect.signature(SwitchDense.__init__).parameters
        self.assertEqual(defaults["routing"].default, algorithms.DEFAULT)
        for facts in ((False, False), (True, False), (False, True)):
            algorithm = algorithms.Algorithm(unregistered, *facts)
            self.assertGreaterEqual(len(algorithm.fixed), 4)
            for name, values in algorithm.fixed.items():
                self.assertEqual(values[0], defaults[name].default)

    @parameterized.parameters(
        ({"routing": "expert_choice"}, "`routing='expert_choice'`: later tokens would decide"),
        ({"routing": unregistered}, "`routing=<function unregistered"),
        ({"priority": "probability"}, "`priority='probability'`: later tokens would decide"),
    )
    def test_causal_blocks_refuse_what_looks_ahead(self, switch, message):
        with self.assertRaisesRegex(ValueError, f"causal block cannot have {message}"):
            make_block(num_experts=4, causal=True, switch=switch)
        make_block(num_experts=4, switch=switch)
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
        advice = "only the encoder has experts, `decoder_sparse_layers=\\[\\]`"
        with self.assertRaisesRegex(ValueError, f"{message}.*{advice}"):
            SwitchBackbone(9, **sizes, num_experts=4, switch=switch)
        SwitchBackbone(9, **sizes, num_experts=4, switch=switch, decoder_sparse_layers=[])


if __name__ == "__main__":
    unittest.main()
