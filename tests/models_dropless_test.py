"""Without capacity a token's answer depends on nothing but its own example."""

import unittest

import lm_helpers
import numpy as np
from keras import ops

from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM

VOCABULARY, LENGTH = 50, 18
# Tokens of three examples, whose sums are below LENGTH.
LENGTHS = {"encoder": (7, 4, 6), "decoder": (5, 6, 3)}
VARIANTS = {
    "switch": {},
    "everything": {
        "activation": "gelu_approximate",
        "gated": True,
        "tie_embedding_weights": False,
        "expert_attention": True,
        "encoder_sparse_layers": (0, 1),
        "switch": {"num_selected_experts": 2},
    },
}


def build(**kwargs):
    sizes = {"num_layers": 2, "num_heads": 2, "key_value_dim": 6, "hidden_dim": 16}
    sizes.update(intermediate_dim=24, num_experts=4, dtype="float32")
    backbone = SwitchBackbone(VOCABULARY, **{**sizes, **kwargs})
    # Of sizes that make it matter what is attended to and who goes where.
    random = np.random.default_rng(0)
    for name, weight in backbone.named_weights().items():
        if len(weight.shape) > 1:
            scale = 0.2 if name == "token_embedding" else 1.5 * weight.shape[-2] ** -0.5
            weight.assign(random.normal(0, scale, weight.shape))
    return SwitchSeq2SeqLM(backbone)


def random_ids(seed):
    return np.random.default_rng(seed).integers(2, VOCABULARY, (3, LENGTH)).astype("int32")


def make_inputs():
    """Three examples, a row each, padded to LENGTH."""
    inputs = {}
    for seed, (side, lengths) in enumerate(LENGTHS.items()):
        mask = (np.arange(LENGTH) < np.array(lengths)[:, None]).astype("int32")
        inputs |= {f"{side}_token_ids": random_ids(seed) * mask, f"{side}_padding_mask": mask}
    return inputs


def make_packed(inputs):
    """The three examples one after another in each row."""
    packed = {}
    for side, lengths in LENGTHS.items():
        for name, rows in inputs.items():
            if name.startswith(side):
                parts = [row[:length] for row, length in zip(rows, lengths)]
                if name.endswith("mask"):
                    parts = [part * number for number, part in enumerate(parts, 1)]
                row = np.concatenate(parts)
                packed[name] = np.tile(np.pad(row, (0, LENGTH - len(row))), (3, 1))
    return packed


def states(model, inputs):
    """The encoder's and the decoder's states, by the name of the side."""
    with dropless():
        outputs = model.backbone.predict(inputs, verbose=0)
    return {side: outputs[f"{side}_sequence_output"] for side in LENGTHS}


def write(model, encoder_ids, inputs):
    """What greedy search writes after the encoder's ids."""
    start = np.zeros((3, LENGTH), "int32")
    prompts = {"decoder_token_ids": start, "decoder_padding_mask": start + np.eye(1, LENGTH)}
    prompts["encoder_token_ids"] = encoder_ids
    outputs = model.generate(inputs | prompts, stop_token_ids=None)
    return ops.convert_to_numpy(outputs["decoder_token_ids"])


class DroplessTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = {name: build(**kwargs) for name, kwargs in VARIANTS.items()}
        cls.inputs = make_inputs()
        cls.states = {name: states(model, cls.inputs) for name, model in cls.models.items()}
        for model in cls.models.values():
            model.compile(sampler="greedy")

    def assert_examples_close(self, found, expected):
        for side, lengths in LENGTHS.items():
            for row, length in enumerate(lengths):
                one, two = found[side][row, :length], expected[side][row, :length]
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)

    def test_packed_rows_equal_their_examples(self):
        packed = make_packed(self.inputs)
        for name, model in self.models.items():
            found, unpacked = states(model, packed), {}
            for side, lengths in LENGTHS.items():
                ends = np.cumsum(lengths)
                unpacked[side] = np.zeros_like(found[side])
                for row, (end, length) in enumerate(zip(ends, lengths)):
                    unpacked[side][row, :length] = found[side][row, end - length : end]
            self.assert_examples_close(unpacked, self.states[name])

    def test_a_row_of_one_example_is_read_whole(self):
        packed = make_packed(self.inputs)
        whole = {k: np.minimum(x, 1) if k.endswith("mask") else x for k, x in packed.items()}
        for model in self.models.values():
            found, other = states(model, whole), states(model, packed)
            for side, lengths in LENGTHS.items():
                difference = np.abs(found[side] - other[side])[:, : sum(lengths)]
                self.assertTrue((difference.max(-1) > 1e-3).any(), side)

    def test_padding_changes_nothing(self):
        short = {name: x[:, : max(LENGTHS[name.split("_")[0]])] for name, x in self.inputs.items()}
        for name, model in self.models.items():
            self.assert_examples_close(states(model, short), self.states[name])

    def test_what_padding_holds_changes_nothing(self):
        other = {
            name: np.where(x == 0, 9, x) if name.endswith("ids") else x
            for name, x in self.inputs.items()
        }
        for name, model in self.models.items():
            self.assert_examples_close(states(model, other), self.states[name])

    def check_generation(self, model):
        """Token by token with a cache, as by all tokens at once."""
        written = write(model, self.inputs["encoder_token_ids"], self.inputs)
        self.assertGreater(len(np.unique(written)), 5)
        read = {"decoder_token_ids": written, "decoder_padding_mask": np.ones_like(written)}
        states_BLD = states(model, self.inputs | read)["decoder"]
        logits = lm_helpers.without_padding(model.backbone.logits(states_BLD))
        logits = ops.convert_to_numpy(logits)
        np.testing.assert_array_equal(written[:, 1:], logits[:, :-1].argmax(-1))

    def test_generation_is_greedy_by_the_whole_model(self):
        for model in self.models.values():
            self.check_generation(model)

    def test_an_encoder_whose_experts_choose_is_independent_in_groups_of_a_row(self):
        for group_size in ("row", None):
            switch = {"routing": "expert_choice", "group_size": group_size, "min_capacity": 1}
            model = build(switch=switch, decoder_sparse_layers=[])
            model.compile(sampler="greedy")
            self.check_generation(model)
            together = states(model, self.inputs)["encoder"]
            rows = ({name: x[i : i + 1] for name, x in self.inputs.items()} for i in range(3))
            alone = np.concatenate([states(model, row)["encoder"] for row in rows])
            real = self.inputs["encoder_padding_mask"] == 1
            difference = np.abs(together - alone)[real].max()
            if group_size == "row":
                self.assertLess(difference, 1e-4)
            else:
                self.assertGreater(difference, 1e-2)

    def test_a_continuation_does_not_depend_on_its_batch(self):
        ids = self.inputs["encoder_token_ids"]
        other_ids = np.concatenate([ids[:1], random_ids(9)[1:]])
        for model in self.models.values():
            written, other = write(model, ids, self.inputs), write(model, other_ids, self.inputs)
            np.testing.assert_array_equal(written[0], other[0])
            self.assertFalse(np.array_equal(written[1:], other[1:]))


if __name__ == "__main__":
    unittest.main()
