"""Tests of `keras_switch.tpu.layout`."""

import re
import unittest
from unittest import mock

import keras
import numpy as np
from absl.testing import parameterized
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_switch.tpu.layout import DIMENSIONS
from keras_switch.tpu.layout import Layout

JAX = keras.config.backend() == "jax"

# Shape, layout, axes, and the axis of each dimension that is split.
GOOD = [
    ("batch:8", "batch:batch,experts:batch", {"batch": "batch", "experts": "batch"}),
    (
        "outer:2,inner:4",
        "outer_batch:outer,batch:inner,experts:inner",
        {"outer_batch": "outer", "batch": "inner", "experts": "inner"},
    ),
    (
        "batch:4,model:2",
        "batch:batch,experts:batch,expert_hidden:model",
        {"batch": "batch", "experts": "batch", "expert_hidden": "model"},
    ),
    (
        "a:2, b:1; c:4",
        "expert_hidden:c outer_batch:a experts:b batch:b",
        {"outer_batch": "a", "batch": "b", "experts": "b", "expert_hidden": "c"},
    ),
    ("all:4", "batch:all", {"batch": "all"}),
    ("all:1", "expert_hidden:all", {"expert_hidden": "all"}),
    ("x:4", "outer_batch:x,experts:x", {"outer_batch": "x", "experts": "x"}),
]
BAD_SHAPES = ["", " , ", "batch", "batch=8", "batch:", ":8", "batch: 8", "batch:4:2", "batch:eight"]
BAD_SHAPES += ["batch:4.5", "batch:1e3", "batch:0", "batch:4,model:-2", "batch:4,batch:4"]
BAD_SHAPES += ["batch:4,batch:2", "batch:batch", None, 8, b"batch:8", {"batch": 8}, [("batch", 8)]]
BAD_STRINGS = ["", " , ", "batch", "batch=batch", "batch:batch:experts", "batch:batch,batch:batch"]
BAD_STRINGS += ["batch:batch,batch:model", None, 8, {"batch": "batch"}, [("batch", "batch")]]
ONE = "batch:8"
TWO = "batch:4,model:2"
BAD_LAYOUTS = [
    (ONE, "batch:batch,expert:batch", r"no such dimension: use one of.*'experts'.*: 'expert'"),
    (ONE, "batch:batch,:batch", r"no such dimension: use one of .*Received: ''"),
    (ONE, "Batch:batch", r"no such dimension: use one of .*'batch'.*Received: 'Batch'"),
    (ONE, "batch:btach", r"'batch:btach' names an axis .* not have: use one of \['batch'\]"),
    (ONE, "batch:", r"'batch:' names an axis that the mesh does not have"),
    (ONE, "batch:batch,experts:model", r"'experts:model' names an axis"),
    (ONE, "batch:8", r"'batch:8' names an axis that the mesh does not have"),
    (TWO, "batch:batch,experts:batch", r"No rule uses axis 'model'.*add one.*or leave the axis"),
    (TWO, "expert_hidden:model", r"No rule uses axis 'batch' of the mesh"),
    ("batch:8,one:1", "batch:batch", r"No rule uses axis 'one' of the mesh"),
    (ONE, "outer_batch:batch,batch:batch", r"'batch' cannot split both 'outer_batch' and 'batch'"),
    (ONE, "batch:batch,expert_hidden:batch", r"both 'batch' and 'expert_hidden': give one.*other"),
    (
        TWO,
        "batch:model,outer_batch:batch,expert_hidden:batch",
        r"cannot split both 'outer_batch' and 'expert_hidden'",
    ),
    (ONE, "experts:batch,expert_hidden:batch", r"both 'experts' and 'expert_hidden'"),
    (
        ONE,
        "batch:batch,experts:batch,expert_hidden:batch",
        r"Axis 'batch' cannot split both 'experts' and 'expert_hidden'",
    ),
    (ONE, "experts:batch", r"Axis 'batch' splits the experts.*give 'batch' and 'experts' the same"),
    (TWO, "batch:batch,experts:model", r"Axis 'model' splits the experts, so it must split the to"),
    (
        "a:2,b:2,c:2",
        "outer_batch:a,batch:b,experts:c",
        r"Axis 'c' splits the experts.*Received: Layout\('a:2,b:2,c:2', 'outer_batch:a",
    ),
]
# Refused on JAX for these reasons; on TensorFlow because of the dimension itself.
BAD_ON_JAX = [
    (ONE, "batch:batch,heads:batch", "heads", r"cannot split both 'batch' and 'heads'"),
    (ONE, "batch:batch,d_ff:batch", "d_ff", r"cannot split both 'batch' and 'd_ff'"),
    (ONE, "outer_batch:batch,vocab:batch", "vocab", r"split both 'outer_batch' and 'vocab'"),
    (TWO, "batch:batch,experts:model,heads:model", "heads", r"Axis 'model' splits the experts"),
]
BAD_TENSORS = [
    (("experts", None), (6, 16), r"num_experts=6 does not divide over 4 cores of axis 'batch'\. U"),
    (("experts",), (6,), r"Use a multiple of 4, or an axis whose size divides 6\. .*name='w', sha"),
    (("experts", None), (2, 16), r"num_experts=2 .* 4 cores of axis 'batch', which are more"),
    (("experts", "expert_hidden"), (4, 5), r"intermediate_dim=5 does not divide over 2 cores"),
    (("batch", None), (3, 8), r"batch=3 does not divide over 4 cores of axis 'batch'"),
    (("batch", "experts"), (8, 8), r"One axis cannot split two dimensions.*\('batch', 'experts'\)"),
    (("experts", None), (4, 4, 4), r"must have the same length.*shape=\(4, 4, 4\)"),
    (("expert", None), (4, 4), r"no such dimension: use one of .*Received: 'expert'"),
]


@st.composite
def layouts(draw):
    """A legal mesh of one to three axes, the axes in any order, and the size of each dimension."""
    groups = draw(
        st.lists(
            st.sampled_from([("outer_batch",), ("batch", "experts"), ("expert_hidden",)]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    sizes = draw(st.lists(st.integers(1, 5), min_size=len(groups), max_size=len(groups)))
    shape = ",".join(f"x{index}:{size}" for index, size in enumerate(sizes))
    rules = [f"{name}:x{index}" for index, names in enumerate(groups) for name in names]
    layout = ",".join(draw(st.permutations(rules)))
    parts = {name: size for names, size in zip(groups, sizes) for name in names}
    return Layout(shape, layout), parts


class GoodLayoutTest(parameterized.TestCase):
    @parameterized.parameters(*GOOD)
    def test_every_dimension_has_its_axis(self, shape, layout, axes):
        layout = Layout(shape, layout)
        pairs = re.findall(r"(\w+):(\d+)", shape)
        self.assertEqual(list(layout.axes.items()), [(name, int(size)) for name, size in pairs])
        self.assertEqual(layout.num_cores, np.prod([int(size) for _, size in pairs]))
        for dimension in DIMENSIONS:
            axis = axes.get(dimension)
            self.assertEqual(layout.axis(dimension), axis)
            self.assertEqual(layout.size(dimension), 1 if axis is None else layout.axes[axis])

    def test_experts_replicated(self):
        layout = Layout("outer:2,inner:4", "outer_batch:outer,batch:inner,experts:inner")
        self.assertEqual(layout.groups(["inner"]), [[0, 1, 2, 3], [4, 5, 6, 7]])
        self.assertEqual(layout.groups(["outer"]), [[0, 4], [1, 5], [2, 6], [3, 7]])
        self.assertEqual(layout.coordinates("outer").tolist(), [0, 0, 0, 0, 1, 1, 1, 1])
        self.assertEqual(layout.coordinates("inner").tolist(), [0, 1, 2, 3, 0, 1, 2, 3])

    def test_expert_hidden_split(self):
        layout = Layout("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
        kernel_in = "kernel_in", ("experts", None, "expert_hidden"), (8, 6, 64)
        kernel_out = "kernel_out", ("experts", "expert_hidden", None), (8, 64, 6)
        self.assertEqual(layout.split(*kernel_in), ("batch", None, "model"))
        self.assertEqual(layout.slice_shape(*kernel_in), (2, 6, 32))
        self.assertEqual(layout.slice_shape(*kernel_out), (2, 32, 6))
        self.assertEqual(layout.groups(["model"]), [[0, 1], [2, 3], [4, 5], [6, 7]])
        self.assertEqual(layout.groups(["batch"]), [[0, 2, 4, 6], [1, 3, 5, 7]])

    def test_whole_tensors(self):
        layout = Layout("batch:4", "batch:batch,experts:batch")
        self.assertEqual(layout.split("bias", (None, None), (5, 5)), (None, None))
        self.assertEqual(layout.slice_shape("w", (None, "heads", "d_ff"), (5, 5, 7)), (5, 5, 7))
        self.assertEqual(layout.split("scalar", (), ()), ())
        self.assertEqual(layout.slice_shape("numpy", ("experts",), np.array([8])), (2,))

    def test_repr_makes_it_again(self):
        layout = Layout("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
        self.assertEqual(repr(eval(repr(layout))), repr(layout))
        self.assertIn("'batch:4,model:2', 'batch:batch,experts:batch", repr(layout))

    @unittest.skipUnless(JAX, "Only JAX splits these dimensions.")
    def test_dimensions_of_the_dense_layers(self):
        rules = "expert_hidden:model,heads:model,d_ff:model,vocab:model"
        layout = Layout("batch:4,model:2", f"batch:batch,experts:batch,{rules}")
        for dimension in ("expert_hidden", "heads", "d_ff", "vocab"):
            self.assertEqual(layout.axis(dimension), "model")
            with self.assertRaisesRegex(ValueError, r"=3 does not divide over 2 cores"):
                layout.split("w", [dimension], [3])
        self.assertEqual(layout.slice_shape("query", (None, "heads", None), (6, 4, 8)), (6, 2, 8))


class AnyMeshTest(unittest.TestCase):
    @settings(deadline=None)
    @given(layouts())
    def test_coordinates_are_row_major(self, drawn):
        layout, _ = drawn
        sizes = tuple(layout.axes.values())
        expected = np.unravel_index(np.arange(layout.num_cores), sizes)
        for axis, coordinates in zip(layout.axes, expected):
            np.testing.assert_array_equal(layout.coordinates(axis), coordinates)

    @settings(deadline=None)
    @given(layouts(), st.data())
    def test_groups_partition_the_cores(self, drawn, data):
        layout, _ = drawn
        axes = data.draw(st.lists(st.sampled_from(list(layout.axes)), unique=True))
        others = [layout.coordinates(axis) for axis in layout.axes if axis not in axes]
        expected = {}
        for core in range(layout.num_cores):
            expected.setdefault(tuple(int(x[core]) for x in others), []).append(core)
        groups = layout.groups(axes)
        self.assertEqual(groups, list(expected.values()))
        self.assertEqual(
            {len(group) for group in groups}, {np.prod([layout.axes[x] for x in axes])}
        )

    @settings(deadline=None)
    @given(layouts(), st.tuples(*[st.integers(0, 3)] * 3), st.permutations(range(3)))
    def test_slices_make_up_the_whole(self, drawn, multiples, order):
        layout, parts = drawn
        parts = np.array([parts.get("experts", 1), parts.get("expert_hidden", 1), 1])[order]
        dimensions = [("experts", "expert_hidden", None)[i] for i in order]
        shape = parts * multiples
        pieces = layout.slice_shape("w", dimensions, shape)
        self.assertEqual(pieces, tuple(multiples))
        for dimension, axis in zip(dimensions, layout.split("w", dimensions, shape)):
            self.assertEqual(axis, dimension and layout.axis(dimension))

    @settings(deadline=None)
    @given(layouts(), st.integers(1, 40))
    def test_a_size_divides_or_is_refused(self, drawn, size):
        layout, parts = drawn
        for dimension, cores in parts.items():
            self.assertEqual(layout.size(dimension), cores)
            if size % cores:
                with self.assertRaisesRegex(ValueError, f"={size} does not divide over {cores} "):
                    layout.slice_shape("w", [dimension], [size])
            else:
                self.assertEqual(layout.slice_shape("w", [dimension], [size]), (size // cores,))


class BadLayoutTest(parameterized.TestCase):
    @parameterized.parameters(*[[shape] for shape in BAD_SHAPES])
    def test_shapes(self, shape):
        with self.assertRaisesRegex(
            ValueError,
            r"`shape` must be a string that names each axis of the mesh once.*: such as "
            f"'batch:4,model:2'. Received: shape={re.escape(repr(shape))}$",
        ):
            Layout(shape, "batch:batch,experts:batch")

    @parameterized.parameters(*[[layout] for layout in BAD_STRINGS])
    def test_strings(self, layout):
        with self.assertRaisesRegex(
            ValueError,
            r"`layout` must be a string with one rule 'dimension:axis' for each.*: such as "
            f"'batch:batch,experts:batch'. Received: layout={re.escape(repr(layout))}$",
        ):
            Layout("batch:4,model:2", layout)

    @parameterized.parameters(*BAD_LAYOUTS)
    def test_layouts(self, shape, layout, message):
        with self.assertRaisesRegex(ValueError, message):
            Layout(shape, layout)

    @parameterized.parameters(*BAD_ON_JAX)
    def test_layouts_of_the_dense_layers(self, shape, layout, dimension, message):
        refused = rf"Dimension '{dimension}' is split on jax only: set KERAS_BACKEND, or leave rule"
        with self.assertRaisesRegex(ValueError, message if JAX else refused):
            Layout(shape, layout)

    @unittest.skipIf(JAX, "JAX splits these dimensions.")
    def test_dimensions_of_the_dense_layers_are_refused(self):
        for dimension in ("heads", "d_ff", "vocab"):
            with self.assertRaisesRegex(
                ValueError,
                f"'{dimension}' is split on jax only.*leave rule '{dimension}:m' out.*backend"
                r"\(\)='tensorflow'",
            ):
                Layout("batch:2,m:2", f"batch:batch,{dimension}:m")

    def test_other_backends_are_refused(self):
        with mock.patch.object(keras.config, "backend", return_value="torch"):
            with self.assertRaisesRegex(ValueError, "'batch' is split on tensorflow and jax only"):
                Layout("batch:8", "batch:batch")

    @parameterized.parameters(*BAD_TENSORS)
    def test_tensors(self, dimensions, shape, message):
        layout = Layout("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
        for method in (layout.split, layout.slice_shape):
            with self.assertRaisesRegex(ValueError, message):
                method("w", dimensions, shape)

    def test_axes_and_dimensions(self):
        layout = Layout("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")
        for axes in (["experts"], [None], ["batch", "modle"]):
            with self.assertRaisesRegex(ValueError, r"no such axis: use one of \['batch', 'model'"):
                layout.groups(axes)
        with self.assertRaisesRegex(ValueError, "no such axis.*Received: 'experts'"):
            layout.coordinates("experts")
        for method in (layout.axis, layout.size):
            with self.assertRaisesRegex(ValueError, "no such dimension.*Received: 'model'"):
                method("model")


if __name__ == "__main__":
    unittest.main()
