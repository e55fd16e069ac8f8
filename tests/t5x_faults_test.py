"""Tests of broken and hostile checkpoints of T5X: an error that says what, and no output."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest
from unittest import mock

import msgpack
import numpy as np
from foreign_helpers import SPARSE
from foreign_helpers import random_backbone
from foreign_helpers import values
from t5x_helpers import in_pieces
from t5x_helpers import in_zarr
from t5x_helpers import packed
from t5x_helpers import tensors
from t5x_helpers import write

from keras_switch.export.convert import convert

QUERY = "encoder/layers_0/attention/query/kernel"
PATH = "target.encoder.layers_0.attention.query.kernel"
ROUTER = "encoder/layers_1/mlp/router/router_weights/w/kernel"
BIAS = "encoder/relpos_bias/rel_embedding"


def pack_raw(shape, dtype, data):
    """An array as Flax packs it, but with whatever is given."""
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


class T5XFaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.template = pathlib.Path(temporary.name) / "template"
        cls.template.mkdir()
        named = tensors(values(random_backbone(SPARSE)), gated=False)
        cls.specs = {name: in_zarr(cls.template, name, array) for name, array in named.items()}

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.input = self.folder / "checkpoint_7"
        shutil.copytree(self.template, self.input)
        self.leaves = json.loads(json.dumps(self.specs))

    def check(self, message, error=ValueError, **layout):
        """Writes the index and asserts that the checkpoint is refused."""
        write(self.input, self.leaves, **layout)
        self.check_refused(message, error)

    def check_refused(self, message, error=ValueError):
        output = self.folder / "output"
        with self.assertRaisesRegex(error, message):
            convert(self.input, output, dtype="float32", verbose=0)
        left = {path.name for path in self.folder.iterdir()}
        self.assertEqual(left - {"checkpoint_7", "outside"}, set())

    def check_contents(self, contents, message):
        content = msgpack.packb(contents) if not isinstance(contents, bytes) else contents
        (self.input / "checkpoint").write_bytes(content)
        self.check_refused(message)

    def test_truncated_index(self):
        write(self.input, self.leaves)
        index = self.input / "checkpoint"
        index.write_bytes(index.read_bytes()[:-20])
        self.check_refused("broken msgpack file.*incomplete input")

    def test_bytes_after_the_index(self):
        write(self.input, self.leaves)
        index = self.input / "checkpoint"
        index.write_bytes(index.read_bytes() + b"x")
        self.check_refused("broken msgpack file.*ExtraData")

    def test_index_that_promises_too_much(self):
        self.check_contents(b"\xdf\xff\xff\xff\xff", "broken msgpack file")

    def test_deep_index(self):
        self.check_contents(b"\x81\xa1a" * 5000, "broken msgpack file.*StackError")

    def test_unknown_type(self):
        self.leaves[QUERY] = msgpack.ExtType(77, b"x")
        self.check("msgpack type 77 is unknown")

    def test_keys_that_are_no_names(self):
        self.check_contents({3: 1}, "broken msgpack file.*int is not allowed")

    def test_version(self):
        for version in (1, 4, [2], "3"):
            self.check_contents({"version": version, "optimizer": {}}, "version 2 or 3.*version=")

    def test_no_target(self):
        for contents in ({}, {"target": 3}, {"version": 3, "optimizer": []}):
            self.check_contents(contents, "must have the model in `target`")

    def test_other_state(self):
        self.check(
            "nothing besides `target` and `state`.*flax_mutables", flax_mutables={"a": packed(1.0)}
        )

    def test_index_that_is_no_dictionary(self):
        (self.input / "checkpoint").write_bytes(msgpack.packb([1, 2]))
        self.check_refused("in one of these formats.*T5X")

    def test_path_out_of_the_folder(self):
        shutil.copytree(self.input / PATH, self.folder / "outside")
        for path in ("../outside", str(self.folder / "outside"), "a/../../outside", ".", ""):
            self.leaves[QUERY]["kvstore"]["path"] = path
            self.check("is not in the checkpoint's folder")

    def test_placeholder_out_of_the_folder(self):
        shutil.copytree(self.input / PATH, self.folder / "outside")
        self.leaves[QUERY] = "PLACEHOLDER://../outside"
        self.check("is not in the checkpoint's folder")

    def test_linked_array(self):
        shutil.move(self.input / PATH, self.folder / "outside")
        (self.input / PATH).symlink_to(self.folder / "outside")
        self.check("is not in the checkpoint's folder")

    def test_linked_file(self):
        shutil.move(self.input / PATH / "0.0", self.folder / "outside")
        (self.input / PATH / "0.0").symlink_to(self.folder / "outside")
        self.check("its files must be plain files")

    def test_linked_index(self):
        write(self.input, self.leaves)
        shutil.move(self.input / "checkpoint", self.folder / "outside")
        (self.input / "checkpoint").symlink_to(self.folder / "outside")
        self.check_refused("must not be a link out of the folder")

    def test_paths_that_are_none(self):
        for path, message in ((7, "TypeError"), ("a\0b", "null"), ("a" * 999, "too long")):
            self.leaves[QUERY]["kvstore"]["path"] = path
            self.check(f"broken tensor.*{QUERY}.*{message}")

    def test_missing_array(self):
        shutil.rmtree(self.input / PATH)
        self.check(f"lacks an array.*{PATH}", FileNotFoundError)

    def test_missing_part_of_an_array(self):
        (self.input / PATH / "0.1").unlink()
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
            ({"shape": [2**50, 6], "chunks": [2**50, 6]}, "too few for"),
            ({"shape": [2**50, 6], "fill_value": 0}, "too few for"),
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

    def test_other_stores(self):
        spec = self.leaves[QUERY]
        for other in (
            {**spec, "driver": "n5"},
            {**spec, "kvstore": {"driver": "http", "base_url": "http://127.0.0.1", "path": "a"}},
        ):
            self.leaves[QUERY] = other
            self.check("is not zarr of files")

    def test_stores_that_are_none(self):
        spec = self.leaves[QUERY]
        for other in ({"kvstore": "file://a"}, {"metadata": 3}, {"kvstore": {"driver": "file"}}):
            self.leaves[QUERY] = {**spec, **other}
            self.check(f"broken tensor.*{QUERY}")

    def test_packed_arrays_that_are_none(self):
        data = np.zeros(6, "float32").tobytes()
        for shape, dtype, content, message in (
            ((8, 6), "float32", data, "cannot reshape"),
            ((-1, 6), "float32", data, "is no shape"),
            ((2**62, 6), "float32", data, "cannot reshape|too large"),
            ((1, 6), "int32", data, "dtype must be one of.*int32"),
            ((1, 6), "object", data, "dtype must be one of.*object"),
            ((1, 6), "float32", data[1:], "buffer size"),
            (6, "float32", data, "TypeError"),
            ((1, 6), "float32", 3, "TypeError"),
        ):
            self.leaves[QUERY] = pack_raw(shape, dtype, content)
            self.check(f"{QUERY}.*({message})")
        self.leaves[QUERY] = msgpack.ExtType(1, b"\x93")
        self.check(f"broken tensor.*{QUERY}.*max_array_len")

    def test_pieces_that_do_not_fit(self):
        array = np.ones((8, 6), "float32")
        for change, message in (
            ({"shape": {"0": 9, "1": 6}}, "its pieces do not make the shape"),
            ({"chunks": {"1": packed(array)}}, "KeyError"),
            ({"chunks": {"0": 3}}, "AttributeError"),
        ):
            self.leaves[QUERY] = {**in_pieces(array, 7), **change}
            self.check(f"{QUERY}.*{message}")

    def test_leaf_that_is_no_array(self):
        for leaf in (3, None, [1.0], "gs://bucket"):
            self.leaves[QUERY] = leaf
            self.check(f"{QUERY}: not an array, but of type {type(leaf).__name__}")

    def test_integers(self):
        for leaf in (
            in_zarr(self.input, "integers", np.ones((8, 6), "int32")),
            packed(np.ones((8, 6), "uint16")),
        ):
            self.leaves[QUERY] = leaf
            self.check(f"{QUERY}.*dtype must be one of")

    def test_name_with_a_slash(self):
        contents = {"target": {"encoder/layers_0": packed(1.0)}, "state": {}}
        self.check_contents(msgpack.packb(contents), "has a name that is none")

    def test_unknown_tensor(self):
        self.leaves["encoder/layers_0/mlp/wi/bias"] = packed(np.ones(12, "float32"))
        self.check("no place for.*encoder/layers_0/mlp/wi/bias")

    def test_extra_block(self):
        self.leaves["encoder/layers_9/pre_mlp_layer_norm/scale"] = packed(np.ones(8, "float32"))
        self.check("nothing for these weights of the model.*encoder/2/")

    def test_missing_tensors(self):
        for name, weight in {
            "decoder/layers_1/pre_cross_attention_layer_norm/scale": "decoder/1/cross_attention_n",
            "decoder/decoder_norm/scale": "decoder/norm",
        }.items():
            leaf = self.leaves.pop(name)
            self.check(f"has nothing for these weights of the model.*{weight}")
            self.leaves[name] = leaf

    def test_missing_tensors_that_tell_the_sizes(self):
        for name, weight in {
            "token_embedder/embedding": "token_embedding",
            BIAS: "encoder/position_bias",
            QUERY: "encoder/0/self_attention/query",
            "encoder/layers_0/mlp/wi/kernel": "encoder/0/feed_forward/input",
        }.items():
            leaf = self.leaves.pop(name)
            self.check(f"lacks the tensor of a weight.*{weight}")
            self.leaves[name] = leaf

    def test_router_without_experts(self):
        self.leaves.pop("encoder/layers_1/mlp/expert/wi/kernel")
        self.check("nothing for these weights of the model.*encoder/1/feed_forward/kernel_in")

    def test_experts_without_router(self):
        self.leaves.pop(ROUTER)
        self.check("nothing for these weights of the model.*encoder/1/feed_forward/input")

    def test_shapes_that_disagree(self):
        self.leaves[ROUTER] = packed(np.ones((8, 5), "float32"))
        self.check("of shapes that the model does not expect.*mlp/expert/wi")

    def test_ranks_and_empty_tensors(self):
        for shape in ((8,), (0, 8)):
            self.leaves["token_embedder/embedding"] = packed(np.ones(shape, "float32"))
            self.check("another shape than 2 positive sizes.*token_embedding")

    def test_heads_that_do_not_divide(self):
        self.leaves[BIAS] = packed(np.ones((4, 8), "float32"))
        self.check("no multiple of the number of heads.*6 and 4")

    def test_scanned_layers(self):
        query = packed(np.ones((8, 2, 6), "float32"))
        self.leaves["encoder/encoder/attention/query/kernel"] = query
        self.check("scanned layers.*scan_layers=False")

    def test_missing_library(self):
        write(self.input, self.leaves)
        for name in ("msgpack", "tensorstore"):
            with mock.patch.dict(sys.modules, {name: None}):
                self.check_refused(r"pip install 'keras-switch\[t5x\]'", ImportError)
