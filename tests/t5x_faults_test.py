"""Tests of broken and hostile checkpoints of T5X: an error that says what, and no output."""

import shutil
import sys
from unittest import mock

import msgpack
import numpy as np
from t5x_helpers import PATH
from t5x_helpers import QUERY
from t5x_helpers import CheckpointTest
from t5x_helpers import in_pieces
from t5x_helpers import in_zarr
from t5x_helpers import packed
from t5x_helpers import write

ROUTER = "encoder/layers_1/mlp/router/router_weights/w/kernel"
BIAS = "encoder/relpos_bias/rel_embedding"


def pack_raw(shape, dtype, data):
    """An array as Flax packs it, but with whatever is given."""
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


class T5XFaultsTest(CheckpointTest):
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

    def test_linked_index(self):
        write(self.input, self.leaves)
        shutil.move(self.input / "checkpoint", self.folder / "outside")
        (self.input / "checkpoint").symlink_to(self.folder / "outside")
        self.check_refused("must not be a link out of the folder")

    def test_paths_that_are_none(self):
        for path, message in ((7, "TypeError"), ("a\0b", "null"), ("a" * 999, "too long")):
            self.leaves[QUERY]["kvstore"]["path"] = path
            self.check(f"broken tensor.*{QUERY}.*{message}")

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
        self.check("all blocks of the encoder, from 0 on.*3 blocks, of which the last is 9")

    def test_numbers_of_blocks_that_are_none(self):
        for number in ("2000", "99999999999", "9" * 5000, "01", "٣", "-1"):
            self.leaves = {f"encoder/layers_{number}/pre_mlp_layer_norm/scale": packed(np.ones(8))}
            self.leaves |= self.specs
            self.check("all blocks of the encoder|no place for")

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
