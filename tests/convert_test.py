"""Tests of what the conversion does for every format."""

import pathlib
import tempfile
import tracemalloc
import unittest
import unittest.mock

import huggingface_helpers as helpers
import keras
import numpy as np
import t5x_helpers
from absl.testing import parameterized
from foreign_helpers import CASES
from foreign_helpers import SPARSE
from foreign_helpers import random_backbone
from foreign_helpers import values

from keras_switch import models
from keras_switch.weights import source as sources
from keras_switch.weights.convert import abstract_backbone
from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load
from keras_switch.weights.source import Entry
from keras_switch.weights.source import weight_shapes
from keras_switch.weights.t5x import T5X


class EntryTest(parameterized.TestCase):
    @parameterized.parameters(
        (Entry(("a",)), (2, 3), (2, 3)),
        (Entry(("a",), (1, 0)), (2, 3), (3, 2)),
        (Entry(("a", "b"), (1, 0), stacked=True), (2, 3, 4), (4, 3)),
        (Entry(("a",), (1, 2, 0)), (2, 3, 4), (4, 2, 3)),
        (Entry(("a",), shape=(2, 3, 4)), (2, 12), (2, 3, 4)),
        (Entry(("a",), (1, 2, 0), shape=(4, 2, 3)), (2, 12), (4, 2, 3)),
    )
    def test_a_weight_becomes_tensors_and_comes_back(self, entry, shape, expected):
        self.assertEqual(entry.tensor_shape(shape), expected)
        weight = np.arange(np.prod(shape)).reshape(shape)
        for part in weight if entry.stacked else [weight]:
            tensor = entry.to_tensor(part)
            self.assertEqual(tensor.shape, expected)
            self.assertTrue(tensor.flags.c_contiguous)
            np.testing.assert_array_equal(entry.to_weight(tensor, part.shape), part)

    def test_a_tensor_is_permuted(self):
        tensor = np.arange(24).reshape(4, 2, 3)
        weight = Entry(("a",), (1, 2, 0)).to_weight(tensor, (2, 3, 4))
        self.assertEqual(weight[1, 2, 3], tensor[3, 1, 2])


class Fixed(sources.Source):
    """A source of a given table, whose tensors count up from 0."""

    title = "A test"

    def __init__(self, table, shapes, **attributes):
        super().__init__("somewhere")
        self._table, self.names_and_shapes = table, shapes
        vars(self).update(attributes)

    def table(self, shapes):
        return self._table

    def read(self, name):
        raise AssertionError(f"{name} is read before it is checked")


class CheckTest(unittest.TestCase):
    shapes = {"one": (2, 3), "stack": (2, 4, 5)}
    entries = {
        "one": Entry(("a",), (1, 0)),
        "stack": Entry(("b", "c"), (1, 0), stacked=True),
    }
    tensors = {"a": (3, 2), "b": (5, 4), "c": (5, 4)}

    def check(self, entries=(), tensors=(), **attributes):
        table = {**self.entries, **dict(entries)}
        table = {name: entry for name, entry in table.items() if entry is not None}
        source = Fixed(table, {**self.tensors, **dict(tensors)}, **attributes)
        return sources.check(source, self.shapes)

    def refuse(self, message, *args, **kwargs):
        with self.assertRaisesRegex(ValueError, f"^A test {message}"):
            self.check(*args, **kwargs)

    def test_what_fits(self):
        self.assertEqual(self.check(), self.entries)
        attributes = {"ignored": frozenset("d"), "duplicates": {"e": "a"}}
        self.assertEqual(self.check((), {"d": (1,), "e": (3, 2)}, **attributes), self.entries)

    def test_a_weight_without_a_tensor(self):
        self.refuse("has nothing for these weights.*input='somewhere', one", {"one": None})

    def test_a_tensor_without_a_weight(self):
        self.refuse("has tensors that the model has no place for.*, d$", (), {"d": (1,)})

    def test_a_missing_tensor(self):
        self.refuse("lacks these tensors.*, d$", {"one": Entry(("d",))})

    def test_a_tensor_for_two_weights(self):
        stack = Entry(("b", "b"), (1, 0), stacked=True)
        self.refuse("would give these tensors to two.*, b", {"stack": stack}, ignored={"c"})

    def test_other_shapes(self):
        self.refuse(r"has tensors of shapes.*a: \(2, 3\) \(expected \(3, 2\)\)", (), {"a": (2, 3)})
        stack = Entry(("b",), (1, 0), stacked=True)
        self.refuse(
            r"has tensors of shapes.*stack: 1 experts \(expected 2\)",
            {"stack": stack},
            ignored={"c"},
        )

    def test_a_long_list_is_cut(self):
        self.refuse(".*, d0, d1, .*d7 and 2 more$", (), {f"d{i}": () for i in range(10)})


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.output = self.folder / "output"

    def write(self):
        arrays = helpers.tensors(helpers.SWITCH)
        helpers.write(self.folder / "input", helpers.SWITCH, arrays)
        return arrays

    def test_the_output_is_a_preset(self):
        arrays = self.write()
        path = convert(str(self.folder / "input"), str(self.output), verbose=0)
        self.assertEqual(path, self.output)
        model = models.SwitchSeq2SeqLM.from_preset(str(self.output))
        weights = model.backbone.named_weights()
        self.assertEqual(model.backbone.dtype_policy.name, "mixed_bfloat16")
        embedding = keras.ops.convert_to_numpy(weights["token_embedding"])
        np.testing.assert_array_equal(embedding, arrays["shared.weight"])
        self.assertEqual(sorted(x.name for x in self.folder.iterdir()), ["input", "output"])

    def test_keras_to_keras_changes_the_dtype(self):
        backbone = random_backbone(SPARSE)
        models.SwitchSeq2SeqLM(backbone).save_to_preset(self.folder / "input")
        convert(self.folder / "input", self.output, dtype="float16")
        weights = load(self.output, dtype="float16").backbone.named_weights()
        self.assertEqual(weights["token_embedding"].dtype, "float16")
        expected = values(backbone)["token_embedding"].astype("float16")
        actual = keras.ops.convert_to_numpy(weights["token_embedding"])
        np.testing.assert_array_equal(actual, expected)

    def test_numbers_beyond_the_dtype_are_refused(self):
        arrays = helpers.tensors(helpers.SWITCH)
        name = "encoder.block.1.layer.1.mlp.experts.expert_3.wi.weight"
        arrays[name][2, 1] = np.inf
        helpers.write(self.folder / "infinite", helpers.SWITCH, arrays)
        weights = values(load(self.folder / "infinite", "float16", verbose=0).backbone)
        self.assertEqual(weights["encoder/1/feed_forward/kernel_in"][3, 1, 2], np.inf)
        arrays[name][2, 1] = 1e6
        helpers.write(self.folder / "large", helpers.SWITCH, arrays)
        with self.assertRaisesRegex(
            ValueError, "too large for the dtype: .*encoder/1/feed_forward/kernel_in, .*=float16"
        ):
            load(self.folder / "large", "float16", verbose=0)
        load(self.folder / "large", "bfloat16", verbose=0)

    def test_a_step_a_tensor(self):
        arrays = self.write()
        with unittest.mock.patch("keras.utils.Progbar") as bar:
            load(self.folder / "input", verbose=1)
        bar.assert_called_once_with(len(arrays), verbose=1, unit_name="tensor")
        self.assertEqual(bar.return_value.add.call_args_list, [unittest.mock.call(1)] * len(arrays))

    def test_an_output_that_exists_stays(self):
        self.write()
        self.output.symlink_to("nowhere")
        for _ in range(2):
            with self.assertRaisesRegex(ValueError, "`output` must not exist: name another"):
                convert(self.folder / "input", self.output)
            self.output.unlink(missing_ok=True)
            self.output.write_text("mine")
        self.assertEqual(self.output.read_text(), "mine")

    def test_an_output_that_cannot_be_written_is_seen_first(self):
        self.output.write_text("a file")
        with self.assertRaises(NotADirectoryError):
            convert(self.folder / "nowhere", self.output / "inner")

    def test_what_the_output_cannot_hold_is_seen_before_weights_are_read(self):
        backbone = random_backbone(CASES["gated"])
        named = t5x_helpers.tensors(values(backbone), gated=True)
        leaves = {name: t5x_helpers.packed(array) for name, array in named.items()}
        t5x_helpers.write(self.folder / "input", leaves)
        with unittest.mock.patch.object(T5X, "read") as read:
            with self.assertRaisesRegex(ValueError, "have no such model.*gated=True"):
                convert(self.folder / "input", self.output, "huggingface", verbose=0)
        read.assert_not_called()
        self.assertEqual([x.name for x in self.folder.iterdir()], ["input"])

    def test_a_failed_write_leaves_nothing(self):
        self.write()
        save = unittest.mock.patch.object(
            models.SwitchSeq2SeqLM, "save_to_preset", side_effect=OSError("full")
        )
        with save, self.assertRaisesRegex(OSError, "full"):
            convert(self.folder / "input", self.output, verbose=0)
        self.assertEqual([x.name for x in self.folder.iterdir()], ["input"])

    def test_unknown_formats_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`to` must be one of keras, huggingface.*'t5x'"):
            convert(self.folder / "input", self.output, to="t5x")
        with self.assertRaisesRegex(FileNotFoundError, "`input` does not exist.*nowhere"):
            load(self.folder / "nowhere")
        with self.assertRaisesRegex(ValueError, "`input` must be a folder of .*Hugging Face .*T5X"):
            load(self.folder)

    def test_shapes_without_weights(self):
        for case, arguments in CASES.items():
            weights = values(random_backbone(arguments))
            expected = {name: value.shape for name, value in weights.items()}
            self.assertEqual(weight_shapes(abstract_backbone(arguments)), expected, case)

    def test_one_stack_of_experts_is_in_memory_besides_the_model(self):
        config = {**helpers.SWITCH, "d_model": 64, "d_ff": 512, "num_experts": 64}
        helpers.write(self.folder / "input", config, helpers.tensors(config))
        load(self.folder / "input", verbose=0)  # What the first time imports and traces.
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        # Variables may keep the memory of what they are assigned: these keep nothing.
        with unittest.mock.patch.object(keras.Variable, "assign", lambda variable, value: None):
            load(self.folder / "input", verbose=0)
        stack = 4 * 64 * 64 * 512
        self.assertLess(tracemalloc.get_traced_memory()[1], 2 * stack)


if __name__ == "__main__":
    unittest.main()
