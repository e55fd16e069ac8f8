"""Writes T5X's checkpoints with msgpack and TensorStore."""

import json
import pathlib
import shutil
import tempfile
import unittest

import ml_dtypes
import msgpack
import numpy as np
import tensorstore
from foreign_helpers import SPARSE
from foreign_helpers import Refused
from foreign_helpers import random_backbone
from foreign_helpers import values

QUERY = "encoder/layers_0/attention/query/kernel"
PATH = "target.encoder.layers_0.attention.query.kernel"

ATTENTIONS = {
    ("encoder", "self_attention"): ("attention", "pre_attention_layer_norm"),
    ("decoder", "self_attention"): ("self_attention", "pre_self_attention_layer_norm"),
    ("decoder", "cross_attention"): (
        "encoder_decoder_attention",
        "pre_cross_attention_layer_norm",
    ),
}
FEED_FORWARD = {
    "output": "mlp/wo/kernel",
    "gate": "mlp/wi_0/kernel",
    "router": "mlp/router/router_weights/w/kernel",
    "kernel_gate": "mlp/expert/wi_0/kernel",
    "kernel_out": "mlp/expert/wo/kernel",
}


def t5x_name(name, gated):
    """T5X's name of one of our weights, below `target`."""
    wi = "wi_1" if gated else "wi"
    feed_forward = {
        **FEED_FORWARD,
        "input": f"mlp/{wi}/kernel",
        "kernel_in": f"mlp/expert/{wi}/kernel",
    }
    if name == "token_embedding":
        return "token_embedder/embedding"
    if name == "logits":
        return "decoder/logits_dense/kernel"
    side, *parts = name.split("/")
    if parts == ["position_bias"]:
        return f"{side}/relpos_bias/rel_embedding"
    if parts == ["norm"]:
        return f"{side}/{side}_norm/scale"
    block, layer = f"{side}/layers_{parts[0]}", parts[1]
    if layer == "feed_forward_norm":
        return f"{block}/pre_mlp_layer_norm/scale"
    if layer == "feed_forward":
        return f"{block}/{feed_forward[parts[2]]}"
    theirs, norm = ATTENTIONS[side, layer.removesuffix("_norm")]
    if layer.endswith("_norm"):
        return f"{block}/{norm}/scale"
    part = {"output": "out"}.get(parts[2], parts[2])
    return f"{block}/{theirs}/{part}/kernel"


def tensors(weights, gated):
    """T5X's tensors, by name, of our weights."""
    named = {t5x_name(name, gated): value for name, value in weights.items()}
    return {k: v.T if k.endswith("rel_embedding") else v for k, v in named.items()}


def packed(array):
    """An array as Flax packs it."""
    array = np.asarray(array)
    content = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))


def in_pieces(array, size):
    """A large array as Flax packs it."""
    flat = array.reshape(-1)
    pieces = [packed(flat[start : start + size]) for start in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): size for i, size in enumerate(array.shape)},
        "chunks": {str(i): piece for i, piece in enumerate(pieces)},
    }


def in_zarr(folder, name, array, dtype=None, chunks=None, driver="file"):
    """Writes a zarr array and returns what T5X's index has for it."""
    path = f"target.{name.replace('/', '.')}"
    metadata = {
        "chunks": chunks or [-(-size // 2) for size in array.shape],
        "compressor": {"id": "gzip"},
        "shape": list(array.shape),
    }
    spec = {"driver": "zarr", "dtype": dtype or array.dtype.name, "metadata": metadata}
    place = {"driver": "file", "path": f"{folder / path}/"}
    context = tensorstore.Context({"file_io_sync": False})
    opened = tensorstore.open(
        {**spec, "kvstore": place}, create=True, open=True, context=context
    ).result()
    opened.write(array).result()
    return {**spec, "kvstore": {"driver": driver, "path": path}}


def nested(named):
    """Nested dictionaries of names with slashes."""
    tree = {}
    for name, value in named.items():
        *parents, last = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def write(folder, leaves, layout="t5x", **extra):
    """Writes the index of a checkpoint: T5X's, or Flax's without version and `optimizer`."""
    folder.mkdir(exist_ok=True)
    step = packed(np.int32(7))
    slots = {"token_embedder": {"embedding": {"v": packed(np.zeros(3, "float32"))}}}
    contents = {"target": nested(leaves), "state": {"step": step, "param_states": slots}, **extra}
    if layout == "t5x":
        contents = {"version": 3, "optimizer": contents}
    (folder / "checkpoint").write_bytes(msgpack.packb(contents, strict_types=True))


def as_uint16(array):
    """bfloat16 as T5X's version 2 wrote it."""
    return array.astype(ml_dtypes.bfloat16).view(np.uint16)


class CheckpointTest(Refused, unittest.TestCase):
    """Tests with a checkpoint, in zarr arrays, that something is wrong with."""

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
