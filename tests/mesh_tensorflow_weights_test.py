"""Tests of weights from Mesh TensorFlow's checkpoints."""

import pathlib
import tempfile
import unittest

import ml_dtypes
import numpy as np
from foreign_helpers import CASES
from foreign_helpers import SPARSE
from foreign_helpers import check_equal
from foreign_helpers import random_backbone
from foreign_helpers import values
from mesh_checkpoint_helpers import tensors
from mesh_checkpoint_helpers import with_slots
from mesh_checkpoint_helpers import write

from keras_switch.weights.convert import load


class MeshTensorFlowWeightsTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.prefix = self.folder / "model.ckpt-7"

    def load(self, path=None):
        return load(path or self.folder, dtype="float32", verbose=0).backbone

    def test_models(self):
        for case, arguments in CASES.items():
            with self.subTest(case):
                backbone = random_backbone(arguments)
                write(self.prefix, with_slots(tensors(values(backbone), arguments)))
                check_equal(self, self.load(), backbone)

    def test_scopes_of_layers(self):
        arguments = {**SPARSE, "num_layers": 4, "num_decoder_layers": 2}
        backbone = random_backbone(arguments)
        for blocks in (2, 0):
            for norm in ("rms_norm", "layer_norm"):
                with self.subTest(blocks=blocks, norm=norm):
                    named = tensors(values(backbone), arguments, blocks, norm)
                    write(self.prefix, named, shards=2)
                    check_equal(self, self.load(self.prefix), backbone)

    def test_gatings_tell_how_tokens_are_routed(self):
        cases = {
            "top_2_gating": {"num_selected_experts": 2},
            "ntlb_gating": {"overflow": "reroute"},
        }
        for gating, switch in cases.items():
            with self.subTest(gating):
                arguments = {**SPARSE, "switch": switch}
                backbone = random_backbone(arguments)
                write(self.prefix, tensors(values(backbone), arguments, gating=gating))
                check_equal(self, self.load(), backbone)

    def test_bfloat16(self):
        backbone = random_backbone(SPARSE)
        for weight in backbone.named_weights().values():
            weight.assign(weight.numpy().astype(ml_dtypes.bfloat16).astype("float32"))
        named = tensors(values(backbone), SPARSE)
        named = {name: value.astype(ml_dtypes.bfloat16) for name, value in named.items()}
        write(self.prefix, with_slots(named))
        check_equal(self, self.load(), backbone)

    def test_heads_as_an_axis(self):
        backbone = random_backbone(SPARSE)
        named = tensors(values(backbone), SPARSE)
        for name in named:
            if name.endswith(("Attention/q", "Attention/k", "Attention/v")):
                named[name] = named[name].reshape(8, 2, 3)
            elif name.endswith("Attention/o"):
                named[name] = named[name].reshape(2, 3, 8)
        write(self.prefix, named)
        check_equal(self, self.load(), backbone)

    def test_one_head_has_no_axis(self):
        arguments = {**SPARSE, "num_heads": 1}
        backbone = random_backbone(arguments)
        named = tensors(values(backbone), arguments)
        for name in named:
            if name.endswith("relative_attention_bias"):
                named[name] = named[name][0]
        write(self.prefix, named)
        check_equal(self, self.load(), backbone)

    def test_a_bias_that_nothing_uses_is_left_out(self):
        backbone = random_backbone(SPARSE)
        for blocks, scope in ((1, "block_000/"), (0, "")):
            with self.subTest(blocks=blocks):
                unused = f"decoder/{scope}layer_001/EncDecAttention/relative_attention_bias"
                named = tensors(values(backbone), SPARSE, blocks)
                write(self.prefix, with_slots({**named, unused: np.ones((2, 8), "float32")}))
                check_equal(self, self.load(), backbone)
