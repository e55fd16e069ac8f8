"""Tests of what names and shapes tell about a model."""

import contextlib
import io
import pathlib
import tempfile
import unittest

from foreign_helpers import SPARSE
from foreign_helpers import random_backbone
from foreign_helpers import values
from mesh_checkpoint_helpers import tensors as mesh_tensors
from mesh_checkpoint_helpers import write as write_mesh
from t5x_helpers import packed
from t5x_helpers import tensors as t5x_tensors
from t5x_helpers import write as write_t5x
from tokenizer_helpers import spiece_model

from keras_switch import models
from keras_switch.weights import source as sources
from keras_switch.weights.convert import abstract_backbone
from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load
from keras_switch.weights.source import weight_shapes
from keras_switch.weights.source_without_config import SourceWithoutConfig


def describe(shapes, switch=None):
    """A source that has these shapes under our own names."""
    source = SourceWithoutConfig(pathlib.Path("nowhere"))
    turned = [name for name in shapes if name.endswith("position_bias")]
    source.names_and_shapes = {**shapes, **{name: shapes[name][::-1] for name in turned}}
    source.describe(source.path, {name: name for name in shapes}, switch)
    sources.check(source, shapes)
    return source


def preset_shapes(preset):
    """Shapes of the weights of a preset, by our names."""
    return weight_shapes(abstract_backbone(preset))


class SourceWithoutConfigTest(unittest.TestCase):
    def test_presets_follow_from_their_shapes(self):
        top_2 = {"num_selected_experts": 2}
        cases = ["switch_base_8", "switch_xxl_128", "switch_c_2048", "t5_tiny", "moe_base_8"]
        for name in cases:
            with self.subTest(name):
                preset = models.PRESETS[name]
                arguments = describe(
                    preset_shapes(preset), top_2 if name.startswith("moe") else None
                ).arguments
                expected = {"num_decoder_layers": preset["num_layers"], **preset}
                for side in ("encoder", "decoder"):
                    sparse = f"{side}_sparse_layers"
                    every_other = range(1, preset["num_layers"], 2) if "switch" in preset else ()
                    expected[sparse] = list(preset.get(sparse, every_other))
                self.assertEqual({key: arguments[key] for key in expected}, expected)

    def test_other_sizes_have_no_dropout(self):
        preset = {**models.PRESETS["switch_tiny_8"], "intermediate_dim": 512}
        arguments = describe(preset_shapes(preset)).arguments
        self.assertEqual(arguments["switch"], {})
        self.assertNotIn("dropout", arguments)

    def test_what_is_assumed_is_told(self):
        told = {"num_selected_experts": 2}
        for preset, switch, expected in (
            ("t5_tiny", {}, "activation='relu', max_distance=128, .*dropout=0.1\\. `from_preset"),
            ("switch_tiny_8", None, r"switch={'num_selected_experts': 1, 'expert_dropout': 0.1}\."),
            ("switch_tiny_8", {}, r"switch={'expert_dropout': 0.1}\."),
            ("moe_base_8", told, r"switch={'expert_dropout': 0.1, 'capacity_factor': 2.0}\."),
            ("switch_xxl_128", None, "activation='gelu_approximate', .*'min_capacity': 2"),
        ):
            with self.subTest(preset, switch=switch):
                source = describe(preset_shapes(models.PRESETS[preset]), switch)
                self.assertRegex(source.assumed, f"does not tell, so this is assumed: .*{expected}")

    def test_what_is_assumed_is_printed_at_the_end(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            named = t5x_tensors(values(random_backbone(SPARSE)), gated=False)
            write_t5x(folder / "in", {name: packed(array) for name, array in named.items()})
            for verbose in (0, 1):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    convert(folder / "in", folder / f"out{verbose}", verbose=verbose)
                last = printed.getvalue().splitlines()[-1:]
                self.assertEqual(["so this is assumed" in line for line in last], [True] * verbose)

    def test_what_was_assumed_can_be_replaced(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            named = t5x_tensors(values(random_backbone(SPARSE)), gated=False)
            write_t5x(folder / "in", {name: packed(array) for name, array in named.items()})
            convert(folder / "in", folder / "out", verbose=0)
            switch = {"num_selected_experts": 2, "capacity_factor": 2.0}
            backbone = models.SwitchBackbone.from_preset(
                str(folder / "out"), switch=switch, dropout=0.1
            )
            self.assertEqual(backbone.encoder_blocks[1].feed_forward.num_selected_experts, 2)
            self.assertEqual(backbone.encoder_blocks[1].feed_forward.capacity_factor, 2.0)
            self.assertEqual(backbone.dropout, 0.1)

    def test_tokenizer_beside_the_checkpoint(self):
        arguments = {**SPARSE, "vocabulary_size": 160}
        weights = values(random_backbone(arguments))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            named = t5x_tensors(weights, gated=False)
            write_t5x(folder / "t5x", {name: packed(array) for name, array in named.items()})
            write_mesh(folder / "mesh" / "model.ckpt-7", mesh_tensors(weights, arguments))
            for name in ("t5x", "mesh"):
                with self.subTest(name):
                    self.assertIsNone(load(folder / name, verbose=0).preprocessor)
                    (folder / name / "spiece.model").write_bytes(spiece_model())
                    tokenizer = load(folder / name, verbose=0).preprocessor.tokenizer
                    self.assertEqual(tokenizer.spiece_model(), spiece_model())
                    (folder / name / "spiece.model").unlink()
                    (folder / name / "spiece.model").symlink_to("nothing")
                    with self.assertRaisesRegex(FileNotFoundError, "is missing.*spiece.model"):
                        load(folder / name, verbose=0)


if __name__ == "__main__":
    unittest.main()
