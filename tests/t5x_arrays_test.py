"""Tests of zarr arrays in T5X's checkpoints that are broken or hostile."""

import json
import shutil
import unittest

import numpy as np
from t5x_helpers import PATH
from t5x_helpers import QUERY
from t5x_helpers import CheckpointTest
from t5x_helpers import in_zarr
from t5x_helpers import write

from keras_switch.weights.convert import load


class T5XArraysTest(CheckpointTest):
    def test_linked_file(self):
        shutil.move(self.input / PATH / "0.0", self.folder / "outside")
        (self.input / PATH / "0.0").symlink_to(self.folder / "outside")
        self.check("its files must be plain files")

    def test_missing_array(self):
        shutil.rmtree(self.input / PATH)
        self.check(f"lacks an array.*{PATH}", FileNotFoundError)

    def test_missing_part_of_an_array(self):
        (self.input / PATH / "0.1").unlink()
        self.check("3 of its 4 files are there")

    def test_file_in_the_place_of_a_missing_part(self):
        (self.input / PATH / "0.1").rename(self.input / PATH / "0.1.part")
        self.check(r"its shape needs other files than there are: \['0.1', '0.1.part'\]")

    def test_file_of_no_array(self):
        (self.input / PATH / "2.0").touch()
        self.check(r"its shape needs other files than there are: \['2.0'\]")

    def test_descriptions_besides_an_array_are_no_parts(self):
        for name in (".zattrs", ".zgroup"):
            (self.input / PATH / name).write_text("{}")
        write(self.input, self.leaves)
        load(self.input, verbose=0)
        (self.input / PATH / "0.0").unlink()
        self.check("3 of its 4 files are there")

    def test_truncated_part_of_an_array(self):
        part = self.input / PATH / "0.1"
        part.write_bytes(part.read_bytes()[:-12])
        self.check(f"has a tensor that cannot be read.*{QUERY}")

    def test_shape_that_the_array_does_not_have(self):
        self.leaves[QUERY]["metadata"]["shape"] = [8, 7]
        self.check(r"the msgpack file says.*\(8, 7\).*the array is.*\(8, 6\)")

    def test_dtype_that_the_array_does_not_have(self):
        self.leaves[QUERY]["dtype"] = "bfloat16"
        self.check("the msgpack file says.*bfloat16.*the array is.*float32")

    def test_absurd_shape(self):
        description = json.loads((self.input / PATH / ".zarray").read_text())
        del self.leaves[QUERY]["metadata"]["shape"]
        for change, message in (
            ({"shape": [2**50, 6]}, "4 of its .* files are there"),
            ({"shape": [2**50, 6], "fill_value": 0}, "4 of its .* files are there"),
            ({"shape": [2**50, 6], "chunks": [2**50, 6]}, "needs other files than there are"),
            ({"chunks": [2**50, 3]}, "4 of its|needs other files"),
            ({"shape": [2**40, 0]}, "is empty"),
            ({"shape": [-8, 6]}, "Error parsing"),
            ({"shape": "8"}, "Error parsing"),
            ({"dimension_separator": "/"}, "must have names such as 0.1"),
            ({"dtype": "<i4"}, "the msgpack file says"),
        ):
            text = json.dumps({**description, **change})
            (self.input / PATH / ".zarray").write_text(text)
            self.check(message)

    def test_broken_description_of_an_array(self):
        (self.input / PATH / ".zarray").write_text("{")
        self.check("Invalid JSON")

    def test_linked_array(self):
        shutil.move(self.input / PATH, self.folder / "outside")
        (self.input / PATH).symlink_to(self.folder / "outside")
        self.check("is not in the checkpoint's folder")

    def test_absurd_chunks(self):
        description = json.loads((self.input / PATH / ".zarray").read_text())
        for path in (self.input / PATH).glob("?.?"):
            path.unlink()
        for name in ("0.0", "0.1"):
            (self.input / PATH / name).write_bytes(bytes(2**16))
        text = json.dumps({**description, "chunks": [2**40, 3]})
        (self.input / PATH / ".zarray").write_text(text)
        self.check("is too small for what it says.* bytes of arrays in files of 1")

    def test_bomb(self):
        for arrays in (1, 20):
            zeros = np.zeros((2**23 // arrays, 1), "float32")
            bomb = {
                f"extra_{i}": in_zarr(self.input, f"{arrays}.{i}", zeros) for i in range(arrays)
            }
            self.leaves = {**self.specs, **bomb}
            self.check("is too small for what it says.* bytes of arrays in files of")

    def test_many_names_of_one_array(self):
        zeros = np.zeros((2**17, 1), "float32")
        leaf = in_zarr(self.input, "zeros", zeros)
        self.leaves |= {f"extra_{index}": leaf for index in range(40)}
        self.check("is too small for what it says")

    def test_what_compresses_well_but_is_small(self):
        for name, value in (
            ("encoder/encoder_norm/scale", 1),
            ("encoder/relpos_bias/rel_embedding", 0),
        ):
            array = np.full(self.specs[name]["metadata"]["shape"], value, "float32")
            self.leaves[name] = in_zarr(self.input, f"same.{name}", array)
        write(self.input, self.leaves)
        weights = load(self.input, verbose=0).backbone.named_weights()
        self.assertEqual(np.unique(weights["encoder/norm"]).tolist(), [1.0])


if __name__ == "__main__":
    unittest.main()
