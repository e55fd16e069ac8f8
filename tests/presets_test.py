import os
import subprocess
import sys
import unittest
import unittest.mock

import keras

from keras_switch.commands.models import TABLE
from keras_switch.layers import scopes
from keras_switch.models import PRESETS
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import presets
from keras_switch.models import sizes

# Without norms and position biases, as they are published.
PUBLISHED = {
    "t5_base": 222_855_168,
    "switch_base_8": 619_290_624,
    "switch_base_128": 7_415_169_024,
}
# Table 9's, in billions.
ROUNDED = {
    "t5_base": "0.2",
    "t5_large": "0.7",
    "t5_xxl": "11",
    "switch_base_128": "7",
    "switch_large_128": "26",
    "switch_xxl_128": "395",
    "switch_c_2048": "1571",
}
# Table 7's sizes of teachers.
TEACHERS = {16: 1.1e9, 32: 2.0e9, 64: 3.8e9, 128: 7.4e9, 256: 14.7e9}
# Table 9.
FLOPS = {
    "t5_base": 124e9,
    "t5_large": 425e9,
    "t5_xxl": 6.3e12,
    "switch_base_128": 124e9,
    "switch_large_128": 425e9,
    "switch_xxl_128": 6.3e12,
    "switch_c_2048": 890e9,
}
TOUCHES_NO_DEVICE = """
from keras_switch.models import sizes
sizes.num_parameters("switch_c_2048")
from tensorflow.python.eager import context
print(context.context()._initialized)
"""
SMALL = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 4,
    "intermediate_dim": 8,
}


def norms_and_biases(name):
    """The weights that publications leave out."""
    config = PRESETS[name]
    layers = config["num_layers"]
    norms = (2 * layers + 1 + 3 * layers + 1) * config["hidden_dim"]
    return norms + 2 * 32 * config["num_heads"]


class PresetsTest(unittest.TestCase):
    def test_parameters_are_the_published_ones(self):
        for name, expected in PUBLISHED.items():
            counted = sizes.num_parameters(name) - norms_and_biases(name)
            self.assertEqual(counted, expected, name)

    def test_parameters_round_to_the_published_ones(self):
        for name, expected in ROUNDED.items():
            _, _, decimals = expected.partition(".")
            counted = f"{sizes.num_parameters(name) / 1e9:.{len(decimals)}f}"
            self.assertEqual(counted, expected, name)
        for experts, expected in TEACHERS.items():
            counted = sizes.num_parameters(f"switch_base_{experts}")
            self.assertLess(abs(counted / expected - 1), 0.03)

    def test_parameters_are_those_of_the_built_model(self):
        backbone = SwitchBackbone.from_preset("switch_tiny_8", load_weights=False)
        self.assertEqual(sizes.num_parameters("switch_tiny_8"), backbone.count_params())
        self.assertEqual(sizes.num_parameters(backbone), backbone.count_params())

    def test_operations_are_those_of_table_9(self):
        for name, expected in FLOPS.items():
            self.assertLess(abs(sizes.flops_per_sequence(name) / expected - 1), 0.05, name)

    def test_operations_by_hand(self):
        # Attention 4 x 4 x 4, feed-forward 2 x 4 x 8, cross-attention like attention.
        encoder, decoder = 2 * (64 + 64), 2 * (64 + 64 + 64)
        flops = sizes.flops_per_sequence(SMALL, 3, 2)
        self.assertEqual(flops, 2 * (3 * encoder + 2 * decoder + 2 * 10 * 4))
        # A router of 4 x 6 and a second expert, in one of two blocks.
        top_2 = {**SMALL, "num_experts": 6, "switch": {"num_selected_experts": 2}}
        more = sizes.flops_per_sequence(top_2, 3, 2) - flops
        self.assertEqual(more, 2 * (3 + 2) * (24 + 64))

    def test_a_gate_is_a_third_kernel_and_logits_count_once(self):
        flops = sizes.flops_per_sequence(SMALL, 1, 1)
        gated = sizes.flops_per_sequence({**SMALL, "gated": True}, 1, 1)
        self.assertEqual(gated - flops, 2 * 4 * 32)
        untied = sizes.flops_per_sequence({**SMALL, "tie_embedding_weights": False}, 1, 1)
        self.assertEqual(untied, flops)

    def test_counting_touches_no_device(self):
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        command = [sys.executable, "-c", TOUCHES_NO_DEVICE]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        self.assertEqual(done.stdout, "False\n")

    def test_nothing_waits_to_be_allocated(self):
        with scopes.without_values():
            weights = SwitchBackbone(**SMALL).weights
        with keras.StatelessScope():
            pass
        self.assertEqual({weight._value for weight in weights}, {None})
        sizes.num_parameters({**SMALL, "vocabulary_size": 10**15})
        with keras.StatelessScope():
            pass  # A petabyte would be said to be too much.

    def test_the_table(self):
        names = ("switch_xxl_128", "t5_base", "moe_base_16")
        some = {name: PRESETS[name] for name in names}
        with unittest.mock.patch.object(presets, "PRESETS", some):
            header, rule, *rows = (line.strip("|").split("|") for line in sizes.table())
        self.assertEqual([len(cell) for cell in header], [len(cell) for cell in rule])
        self.assertEqual([cell.strip() for cell in header], list(sizes.HEADER))
        rows = [[cell.strip() for cell in row] for row in rows]
        self.assertEqual([row[0] for row in rows], list(names))
        self.assertEqual(
            rows[0][1:],
            ["394,675,073,024", "6,202.5B", "4096", "10240", "64", "24 + 24", "128", "12 + 12"],
        )
        self.assertEqual(rows[1][-2:], ["-", "-"])

    def test_the_table_that_the_command_prints(self):
        command = (
            "python -c 'from keras_switch.models import sizes; print(*sizes.table(), sep=\"\\n\")' "
            "> keras_switch/models/presets.md"
        )
        self.assertEqual(TABLE.read_text().splitlines(), list(sizes.table()), command)

    def test_dense_twins_need_as_many_operations(self):
        for name in ("base_128", "large_128", "xxl_128"):
            twin = f"t5_{name.split('_')[0]}"
            ratio = sizes.flops_per_sequence(f"switch_{name}") / sizes.flops_per_sequence(twin)
            self.assertLess(abs(ratio - 1), 0.01)

    def test_unknown_presets_are_explained(self):
        with self.assertRaisesRegex(
            ValueError, "no such preset.* Received: preset='base_8'; .* switch_tiny_8"
        ):
            presets.preset("base_8")
        for name in ("switch_base_9", "a/folder/that/is/not"):
            for made in (SwitchBackbone, SwitchSeq2SeqLM):
                message = f"no such preset.* Received: preset='{name}'; there"
                with self.assertRaisesRegex(ValueError, message):
                    made.from_preset(name)

    def test_names_come_without_weights(self):
        with self.assertRaisesRegex(ValueError, "No weights come with the name 't5_tiny'"):
            SwitchBackbone.from_preset("t5_tiny")

    def test_a_preset_is_a_copy(self):
        presets.preset("switch_base_8")["switch"]["expert_dropout"] = 0.5
        self.assertEqual(PRESETS["switch_base_8"]["switch"]["expert_dropout"], 0.1)

    def test_arguments_replace_a_presets(self):
        backbone = SwitchBackbone.from_preset("t5_tiny", load_weights=False, num_layers=1)
        self.assertEqual([backbone.num_layers, backbone.num_heads], [1, 4])
        self.assertEqual(PRESETS["t5_tiny"]["num_layers"], 4)


if __name__ == "__main__":
    unittest.main()
