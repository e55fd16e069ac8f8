import importlib
import unittest
import unittest.mock

import jax
import keras
import model_helpers

from keras_switch.layers import SwitchDense
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models.losses import TargetCrossEntropy
from keras_switch.tpu.layout import Layout
from keras_switch.tpu.rehearsal import chips
from keras_switch.tpu.rehearsal import compiler
from keras_switch.tpu.rehearsal import hlo
from keras_switch.tpu.rehearsal import search
from keras_switch.tpu.rehearsal import train_step

JAX = keras.config.backend() == "jax"
SPLIT = ("batch:8", "batch:batch,experts:batch")


def program(layer, input_shape=(32, 16), optimizer="sgd", loss="mse", length=None):
    config = keras.saving.serialize_keras_object(layer)
    compiled = {"optimizer": optimizer, "loss": loss}
    return train_step.Program(config, input_shape, compiled, 16, length)


@unittest.skipUnless(JAX, "The step is the one of the JAX backend.")
class StepTest(unittest.TestCase):
    def step(self, *args, mesh=SPLIT, **kwargs):
        return train_step.on_devices(program(*args, **kwargs), Layout(*mesh), jax.devices())

    def test_nothing_has_a_value(self):
        step = self.step(SwitchDense(8, 64), optimizer="adam")
        self.assertEqual([v.path for v in step.model.variables if v._value is not None], [])
        slots = [v for v in step.model.optimizer.variables if v.shape == (8, 16, 64)]
        self.assertEqual([v._value for v in slots], [None, None])
        self.assertIsNone(keras.distribution.distribution())

    def test_weights_and_slots_are_split(self):
        # Kernels and both moments, the router's whole, and two float32 batches.
        whole = 2 * 8 * 16 * 64 * 4 * 3
        step = self.step(SwitchDense(8, 64), optimizer="adam")
        batch = 2 * 16 * 32 * 16 * 4
        small = step.argument_bytes - whole // 8 - batch // 8
        self.assertGreaterEqual(small, 16 * 8 * 4 * 3)
        self.assertLess(small, 16 * 8 * 4 * 3 + 200)

    def test_the_step_exchanges_what_the_layout_says(self):
        compiled = self.step(SwitchDense(8, 64)).lower().compile()
        exchanges = [x for x in hlo.collectives(compiled.as_text(), 8) if x.kind == "all-to-all"]
        # There and back, and the gradient of the way back: inputs have no gradient.
        self.assertEqual(sum(x.count for x in exchanges), 3)
        self.assertEqual({x.group_size for x in exchanges}, {8})

    def test_a_layout_that_does_not_divide_is_refused(self):
        with self.assertRaisesRegex(ValueError, "num_experts=6 does not divide"):
            self.step(SwitchDense(6, 64))

    def test_open_axes_and_targets_are_filled_in(self):
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("a", "b")}
        embed = keras.layers.Embedding(16, 8)
        model = keras.Model(inputs, embed(inputs["b"]) + keras.ops.sum(embed(inputs["a"])))
        loss = {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}}
        loss = keras.saving.serialize_keras_object(keras.losses.deserialize(loss))
        step = self.step(model, input_shape=None, loss=loss, length={"a": 6, "b": 5})
        x, y = step.data
        self.assertEqual({name: x[name].shape for name in x}, {"a": (16, 6), "b": (16, 5)})
        self.assertEqual((y.shape, y.dtype), ((16, 5), "int32"))
        shard = x["a"].sharding.shard_shape((16, 6))
        self.assertEqual(shard, (2, 6))

    def test_a_task_of_kerashub_has_its_own_loss_and_no_values(self):
        def build():
            return SwitchSeq2SeqLM(SwitchBackbone(**model_helpers.SMALL), compile=False)

        # The module, which the function of the same name hides.
        serialize = importlib.import_module("keras_switch.tpu.rehearsal.rehearse")._serialized
        request = serialize(build, None, "adam", TargetCrossEntropy())
        length = {
            f"{side}_{name}": length
            for side, length in model_helpers.LENGTHS.items()
            for name in ("token_ids", "padding_mask")
        }
        task = train_step.Program(request["model"], None, request["compile"], 16, length)
        step = train_step.on_devices(task, Layout(*SPLIT), jax.devices())
        self.assertIsInstance(step.model, SwitchSeq2SeqLM)
        self.assertEqual([v.path for v in step.model.variables if v._value is not None], [])
        x, y = step.data
        self.assertEqual({name: x[name].shape for name in x}, {n: (16, length[n]) for n in length})
        self.assertEqual((y.shape, y.dtype), ((16, 5), "int32"))
        kernel = step.model.backbone.named_weights()["encoder/1/feed_forward/kernel_in"]
        self.assertEqual(kernel._layout.axes, ("batch", None, None))
        self.assertGreater(step.matmul_flops()[0], 0)
        self.assertEqual([v.path for v in step.model.variables if v._value is not None], [])

    def test_matrix_products_are_counted(self):
        for dtype, passes in (("float32", 6), ("bfloat16", 1)):
            layer = keras.layers.Dense(64, use_bias=False, dtype=dtype)
            step = train_step.on_one_core(program(layer), 8)
            # The product and the gradient of its kernel, 16 x 32 tokens.
            flops = 2 * 2 * 16 * 32 * 16 * 64
            self.assertEqual(step.matmul_flops(), (flops, passes * flops))

    def test_products_in_loops_branches_and_groups_are_counted(self):
        x, kernels = jax.numpy.ones((8, 4)), jax.numpy.ones((2, 4, 4))
        one = 2 * 8 * 4 * 4

        def loop(x):
            return jax.lax.scan(lambda carry, _: (carry @ kernels[0], None), x, length=5)

        def branch(x):
            return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernels[0] @ kernels[0], lambda: x)

        def groups(x):
            return jax.lax.ragged_dot(x, kernels, jax.numpy.array([3, 5]))

        def convolve(x):
            return jax.lax.conv(x[None, None], jax.numpy.ones((6, 1, 3, 2)), (1, 1), "SAME")

        for function, flops in (
            (loop, 5 * one),
            (branch, 2 * one),
            (groups, one),
            (convolve, 2 * 6 * 8 * 4 * 3 * 2),
        ):
            jaxpr = jax.make_jaxpr(function)(x).jaxpr
            self.assertEqual(train_step.matmul_flops(jaxpr), (flops, 6 * flops))

    def test_lengths_of_other_inputs_are_explained(self):
        ids, fixed = keras.Input((None,), name="ids"), keras.Input((4,), name="fixed")
        dense = keras.layers.Dense(1)(fixed)
        model = keras.Model([ids, fixed], keras.ops.mean(ids, axis=-1, keepdims=True) + dense)
        for lengths, missing, unknown in (
            ({"idz": 8}, r"\['ids'\]", r"\['idz'\]"),
            ({}, r"\['ids'\]", r"\[\]"),
            ({"ids": 8, "x": 2}, r"\[\]", r"\['x'\]"),
        ):
            message = f"Missing: {missing}; no inputs: {unknown}. The inputs are .'ids', 'fixed'.*"
            with self.assertRaisesRegex(ValueError, message + "Received: sequence_length={"):
                self.step(model, None, length=lengths)
        x, _ = self.step(model, None, length={"ids": 8}).data
        self.assertEqual([tuple(array.shape) for array in x], [(16, 8), (16, 4)])

    def test_a_model_that_knows_no_inputs_is_explained(self):
        model = keras.Sequential([keras.layers.Dense(2)])
        with self.assertRaisesRegex(ValueError, "must know its inputs.*Sequential"):
            self.step(model, input_shape=None)

    def test_one_core_makes_the_groups_of_all(self):
        step = train_step.on_one_core(program(SwitchDense(8, 64, exploration="argmax")), 8)
        # Capacity int(64 * 1.25 / 8) in 8 groups: two kernels forward, and gradients of both
        # and of the hidden units; the router forward and backward.
        slots, tokens = 8 * 8 * 10, 16 * 32
        experts = 5 * 2 * slots * 16 * 64
        router = 2 * 2 * tokens * 16 * 8
        self.assertEqual(step.matmul_flops(), (experts + router, experts + 6 * router))


class SearchTest(unittest.TestCase):
    def test_layouts_of_the_slice_come_before_larger_slices(self):
        found = list(search.candidates(chips.Topology("v5e:2x4"), Layout(*SPLIT)))
        self.assertEqual([slice.name for slice, _ in found[:3]], ["v5e:2x4"] * 2 + ["v5e:4x4"])
        self.assertEqual(
            [mesh for _, (mesh, _) in found[:2]], ["batch:4,model:2", "batch:2,model:4"]
        )
        self.assertEqual(found[2][1], ("batch:16", SPLIT[1]))
        self.assertEqual(found[-1][0].name, "v5e:16x16")
        self.assertEqual(len(found), len(set((slice.name, pair) for slice, pair in found)))

    def test_another_axis_keeps_its_size_on_a_larger_slice(self):
        layout = Layout("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
        found = list(search.candidates(chips.Topology("v5e:2x4"), layout))
        larger = next(pair for slice, pair in found if slice.name == "v5e:4x4")
        self.assertEqual(larger, ("batch:8,model:2", layout.strings[1]))

    def test_a_layout_that_divides_no_batch_grows_into_others(self):
        layout = Layout("model:8", "expert_hidden:model")
        found = list(search.candidates(chips.Topology("v5e:2x4"), layout))
        self.assertEqual(found[0][1], ("batch:8", "batch:batch,experts:batch"))

    def search(self, argument_bytes, totals):
        """What `nearest` says, and how many programs it compiles."""
        steps = unittest.mock.Mock()
        steps.side_effect = [
            x if isinstance(x, Exception) else unittest.mock.Mock(argument_bytes=x)
            for x in argument_bytes
        ]
        compile_step = unittest.mock.Mock()
        compile_step.side_effect = [compiler.Outcome(None, {"total": total}) for total in totals]
        with (
            unittest.mock.patch.object(train_step, "on_devices", steps),
            unittest.mock.patch.object(compiler, "compile_step", compile_step),
            unittest.mock.patch.object(compiler, "devices"),
            unittest.mock.patch.object(search, "Layout"),
        ):
            say = unittest.mock.Mock()
            found = search.nearest(None, chips.Topology("v5e:2x4"), Layout(*SPLIT), say)
        self.assertEqual(say.call_count, compile_step.call_count)
        return found, compile_step.call_count

    def test_the_first_that_fits_is_proposed(self):
        gib = 2**30
        found, compiled = self.search([ValueError(), 16 * gib, gib, gib], [20 * gib, 9 * gib])
        self.assertEqual(found["topology"], "v5e:4x4")
        self.assertEqual(found["mesh"], "batch:8,model:2")
        self.assertEqual(found["total"], 9 * gib)
        self.assertEqual(compiled, 2)

    def test_it_gives_up_after_some_trials(self):
        many = search.TRIALS
        self.assertEqual(self.search([1] * many, [2**40] * many), (None, many))


if __name__ == "__main__":
    unittest.main()
