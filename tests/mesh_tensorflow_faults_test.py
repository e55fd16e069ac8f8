"""Tests of broken and hostile checkpoints of Mesh TensorFlow: errors that say what, no output."""

import pathlib
import tempfile
import unittest

import numpy as np
import tensorflow as tf
from foreign_helpers import SPARSE
from foreign_helpers import Refused
from foreign_helpers import random_backbone
from foreign_helpers import values
from mesh_checkpoint_helpers import tensors
from mesh_checkpoint_helpers import with_slots
from mesh_checkpoint_helpers import write

ATTENTION = "encoder/block_000/layer_000/SelfAttention"
DENSE = "encoder/block_000/layer_001/DenseReluDense"
EXPERTS = "encoder/block_001/layer_001/MoE1D"


class MeshTensorFlowFaultsTest(Refused, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.named = with_slots(tensors(values(random_backbone(SPARSE)), SPARSE))

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.input = self.folder / "run"
        self.prefix = self.input / "model.ckpt-7"
        self.data = self.input / "model.ckpt-7.data-00000-of-00001"
        self.index = self.input / "model.ckpt-7.index"

    def check(self, message, named=None, error=ValueError, state=None):
        write(self.prefix, self.named if named is None else named, state=state)
        self.check_refused(message, error)

    def renamed(self, old, new):
        return {name.replace(old, new): value for name, value in self.named.items()}

    def test_missing_data(self):
        write(self.prefix, self.named)
        self.data.unlink()
        self.check_refused("is incomplete.*0 of")

    def test_truncated_data(self):
        write(self.prefix, self.named)
        self.data.write_bytes(self.data.read_bytes()[:-20])
        self.check_refused("is incomplete")

    def test_damaged_data(self):
        write(self.prefix, self.named)
        content = self.data.read_bytes()
        self.data.write_bytes(bytes(len(content)))
        self.check_refused("has a tensor that cannot be read.*Checksum")

    def test_damaged_index(self):
        write(self.prefix, self.named)
        content = self.index.read_bytes()
        for damaged in (content[:-20], b"", content[:50] + b"xxx" + content[53:]):
            self.index.write_bytes(damaged)
            self.check_refused("Mesh TensorFlow .* cannot be read")

    def test_missing_index(self):
        write(self.prefix, self.named)
        self.index.unlink()
        self.check_refused(r"lacks a file.*model.ckpt-7.index", FileNotFoundError)

    def test_checkpoint_elsewhere(self):
        write(self.folder / "outside" / "model.ckpt-7", self.named)
        for state in ("../outside/model.ckpt-7", f"{self.folder}/outside/model.ckpt-7"):
            self.check("names a checkpoint outside its folder.*outside", state=state)

    def test_links_out_of_the_folder(self):
        for name in ("data", "index"):
            with self.subTest(name):
                write(self.prefix, self.named)
                path = getattr(self, name)
                path.rename(self.folder / "outside")
                path.symlink_to(self.folder / "outside")
                self.check_refused("has a file that is a link out of its folder")
                path.unlink()

    def test_linked_state(self):
        write(self.prefix, self.named)
        (self.input / "checkpoint").rename(self.folder / "outside")
        (self.input / "checkpoint").symlink_to(self.folder / "outside")
        self.check_refused("must not be a link out of the folder")

    def test_broken_state(self):
        write(self.prefix, self.named)
        (self.input / "checkpoint").write_text("model_checkpoint_path is lost")
        self.check_refused("has a broken file `checkpoint`")

    def test_objects_of_tensorflow_2(self):
        tf.train.Checkpoint(x=tf.Variable(1.0)).save(self.prefix)
        self.check_refused("must have tensors of float64.*_CHECKPOINTABLE_OBJECT_GRAPH")

    def test_integers(self):
        self.check(
            f"must have tensors of float64.*{ATTENTION}/q: int32",
            {**self.named, f"{ATTENTION}/q": np.ones((8, 6), "int32")},
        )

    def test_unknown_tensors(self):
        for name in (
            "encoder/embedding",
            "encoder/rms_norm/bias",
            "encoder/final_layer_norm/scale",
            "other_slot_v",
            f"{DENSE}/wi/bias",
            "encoder/block_000/layer_000/layer_norm/scale",
            "encoder/block_001/layer_000/SelfAttention/relative_attention_bias",
        ):
            with self.subTest(name):
                named = {**self.named, name: np.ones(3, "float32")}
                self.check("has tensors that the model has no place for", named)

    def test_missing_tensors(self):
        for name, message in {
            "shared/embedding": "lacks the tensor of a weight.*token_embedding",
            f"{ATTENTION}/relative_attention_bias": "lacks the tensor of.*position_bias",
            "decoder/rms_norm/scale": "nothing for these weights of the model.*decoder/norm",
            f"{EXPERTS}/wo/kernel": "nothing for these weights.*encoder/1/feed_forward/kernel_out",
        }.items():
            with self.subTest(name):
                self.check(message, {k: v for k, v in self.named.items() if name not in k})

    def test_shapes_that_disagree(self):
        named = {**self.named, f"{EXPERTS}/wi/kernel": np.ones((3, 8, 9), "float32")}
        self.check(rf"of shapes that the model does not expect.*{EXPERTS}/wi/kernel", named)

    def test_layers_in_another_order(self):
        swapped = {"layer_000": "layer_001", "layer_001": "layer_000"}
        named = {}
        for name, value in self.named.items():
            scope = name.split("/")[2] if name.startswith("encoder/block_000") else ""
            named[name.replace(scope, swapped.get(scope, scope))] = value
        self.check("must have SelfAttention as layer 0 of the encoder.*DenseReluDense", named)

    def test_missing_layer(self):
        named = {k: v for k, v in self.named.items() if "decoder/block_000/layer_001" not in k}
        self.check("must have EncDecAttention as layer 1 of the decoder", named)

    def test_other_layers(self):
        named = self.renamed(ATTENTION, ATTENTION.replace("Self", "ExpertsSelf"))
        self.check("must have SelfAttention as layer 0.*ExpertsSelfAttention", named)

    def test_gatings(self):
        message = "must have one gating for all experts"
        self.check(f"{message}.*switch_max", self.renamed("switch_gating", "switch_max_gating"))
        one = self.renamed(f"{EXPERTS}/switch_gating", f"{EXPERTS}/top_2_gating")
        self.check(f"{message}.*top_2", one)
