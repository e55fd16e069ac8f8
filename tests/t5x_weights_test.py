"""Tests of weights from T5X's checkpoints."""

import pathlib
import tempfile
import unittest

import ml_dtypes
from foreign_helpers import CASES
from foreign_helpers import check_equal
from foreign_helpers import random_backbone
from foreign_helpers import values
from t5x_helpers import as_uint16
from t5x_helpers import in_pieces
from t5x_helpers import in_zarr
from t5x_helpers import packed
from t5x_helpers import tensors
from t5x_helpers import write

from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load


class T5XWeightsTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.input = self.folder / "checkpoint_7"
        self.input.mkdir()

    def load(self, path=None):
        return load(path or self.input, dtype="float32", verbose=0).backbone

    def test_arrays_beside_the_index(self):
        for case, arguments in CASES.items():
            with self.subTest(case):
                folder = self.folder / case
                folder.mkdir()
                backbone = random_backbone(arguments)
                named = tensors(values(backbone), backbone.gated)
                leaves = {name: in_zarr(folder, name, array) for name, array in named.items()}
                write(folder, leaves)
                check_equal(self, self.load(folder), backbone)

    def test_layouts(self):
        backbone = random_backbone(CASES["gated"])
        named = tensors(values(backbone), gated=True)
        packs = {
            "packed": packed,
            "in_pieces": lambda array: in_pieces(array, 7),
        }
        for layout in ("t5x", "flax"):
            for pack, function in packs.items():
                with self.subTest(layout=layout, pack=pack):
                    leaves = {name: function(array) for name, array in named.items()}
                    extra = {"flax_mutables": None} if layout == "flax" else {}
                    write(self.input, leaves, layout, **extra)
                    path = self.input / "checkpoint" if pack == "packed" else self.input
                    check_equal(self, self.load(path), backbone)

    def test_arrays_written_elsewhere(self):
        backbone = random_backbone(CASES["sparse"])
        leaves = {}
        for name, array in tensors(values(backbone), gated=False).items():
            leaves[name] = in_zarr(self.input, name, array, driver="gfile")
            path = leaves[name]["kvstore"].pop("path")
            leaves[name] |= {"kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket"}}
            leaves[name]["path"] = f"{path}/"
        write(self.input, leaves)
        check_equal(self, self.load(), backbone)

    def test_orbax_names_arrays_by_placeholders(self):
        backbone = random_backbone(CASES["sparse"])
        leaves = {}
        for name, array in tensors(values(backbone), gated=False).items():
            path = in_zarr(self.input, name, array)["kvstore"]["path"]
            leaves[name] = f"PLACEHOLDER://{path}"
        write(self.input, leaves, "flax")
        check_equal(self, self.load(), backbone)

    def test_bfloat16(self):
        backbone = random_backbone(CASES["sparse"])
        for weight in backbone.named_weights().values():
            weight.assign(weight.numpy().astype(ml_dtypes.bfloat16).astype("float32"))
        named = tensors(values(backbone), gated=False)
        packs = {
            "packed": lambda name, array: packed(array.astype(ml_dtypes.bfloat16)),
            "zarr": lambda name, array: in_zarr(
                self.folder / "zarr", name, array.astype(ml_dtypes.bfloat16)
            ),
            "version_2": lambda name, array: in_zarr(
                self.folder / "version_2", name, as_uint16(array)
            ),
        }
        for pack, function in packs.items():
            with self.subTest(pack):
                folder = self.folder / pack
                folder.mkdir()
                write(folder, {name: function(name, array) for name, array in named.items()})
                check_equal(self, self.load(folder), backbone)

    def test_heads_as_an_axis(self):
        backbone = random_backbone(CASES["dense"])
        leaves = {}
        for name, array in tensors(values(backbone), gated=False).items():
            if "attention/" in name:
                shape = (2, 3, 8) if "/out/" in name else (8, 2, 3)
                array = array.reshape(shape)
            leaves[name] = packed(array)
        write(self.input, leaves)
        check_equal(self, self.load(), backbone)

    def test_output_loads_as_a_preset(self):
        backbone = random_backbone(CASES["sparse"])
        named = tensors(values(backbone), gated=False)
        write(self.input, {name: packed(array) for name, array in named.items()})
        output = self.folder / "output"
        convert(self.input, output, dtype="float32", verbose=0)
        check_equal(self, self.load(output), backbone)


if __name__ == "__main__":
    unittest.main()
