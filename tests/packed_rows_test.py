"""Several examples in a row give what each gives alone, and padding changes nothing."""

import functools
import unittest

import keras
import model_helpers
import numpy as np
from gradients import gradients
from keras import ops

from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone

# Lengths of the examples' two sides; the row has padding after them.
EXAMPLES = ((3, 2), (1, 4), (4, 1))
ROW = {"encoder": 10, "decoder": 9}
VARIANTS = {
    "sparse": {},
    "gated, untied logits": {"gated": True, "tie_embedding_weights": False},
    "two experts": {"switch": {"num_selected_experts": 2}},
    "expert attention": {"expert_attention": True},
    "dense": {"num_experts": None, "decoder_sparse_layers": None, "switch": None},
}


def examples():
    """The token ids of each example's two sides."""
    rng = np.random.default_rng(0)
    return [
        {side: rng.integers(1, 16, n).astype("int32") for side, n in zip(ROW, lengths)}
        for lengths in EXAMPLES
    ]


def packed(rows, lengths=None):
    """Inputs of rows of examples, padded to the lengths of `ROW` or to the given ones."""
    inputs = {}
    for side, length in (lengths or ROW).items():
        ids, numbers = np.zeros((2, len(rows), length), "int32")
        for row, parts in enumerate(rows):
            joined = np.concatenate([part[side] for part in parts])
            ids[row, : len(joined)] = joined
            counts = [len(part[side]) for part in parts]
            numbers[row, : len(joined)] = np.repeat(1 + np.arange(len(parts)), counts)
        inputs[f"{side}_token_ids"], inputs[f"{side}_padding_mask"] = ids, numbers
    return inputs


def unpacked(outputs, rows):
    """Each example's part of the outputs of the decoder."""
    parts = []
    for output, row in zip(outputs, rows):
        ends = np.cumsum([len(part["decoder"]) for part in row])
        parts += np.split(output, ends)[:-1]
    return parts


@functools.cache
def backbone(name):
    options = {"switch": {}, **VARIANTS[name]}
    return SwitchBackbone(**{**model_helpers.SMALL, **options})


def decoded(model, inputs, key="decoder_sequence_output"):
    with dropless():
        return ops.convert_to_numpy(model(inputs)[key])


class PackedRowsTest(unittest.TestCase):
    def assert_close(self, ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_packed_equals_alone(self):
        parts = examples()
        rows = [parts, parts[::-1]]
        for name in VARIANTS:
            with self.subTest(name):
                model = backbone(name)
                got = unpacked(decoded(model, packed(rows)), rows)
                alone = [[part] for part in (*parts, *parts[::-1])]
                expected = unpacked(decoded(model, packed(alone)), alone)
                for one, other in zip(got, expected, strict=True):
                    self.assert_close(one, other)

    def test_encoder_packed_equals_alone(self):
        parts, model = examples(), backbone("sparse")
        got = decoded(model, packed([parts]), "encoder_sequence_output")[0]
        start = 0
        for part in parts:
            alone = decoded(model, packed([[part]]), "encoder_sequence_output")[0]
            length = len(part["encoder"])
            self.assert_close(got[start : start + length], alone[:length])
            start += length

    def test_a_large_capacity_packs_as_well(self):
        parts = examples()
        switch = {"eval_capacity_factor": 8.0}
        model = SwitchBackbone(**{**model_helpers.SMALL, "switch": switch})
        outputs = model(packed([parts]))["decoder_sequence_output"]
        got = unpacked(ops.convert_to_numpy(outputs), [parts])
        for part, one in zip(parts, got, strict=True):
            self.assert_close(one, unpacked(decoded(model, packed([[part]])), [[part]])[0])

    def test_padding_changes_nothing(self):
        parts = examples()
        longer = {side: length + 7 for side, length in ROW.items()}
        for name in VARIANTS:
            with self.subTest(name):
                model = backbone(name)
                got = unpacked(decoded(model, packed([parts], longer)), [parts])
                expected = unpacked(decoded(model, packed([parts])), [parts])
                for one, other in zip(got, expected, strict=True):
                    self.assert_close(one, other)

    def test_what_padding_holds_changes_nothing(self):
        parts, model = examples(), backbone("sparse")
        inputs = packed([parts])
        expected = unpacked(decoded(model, inputs), [parts])
        for side in ROW:
            padding = inputs[f"{side}_padding_mask"] == 0
            inputs[f"{side}_token_ids"] = np.where(padding, 7, inputs[f"{side}_token_ids"])
        for one, other in zip(unpacked(decoded(model, inputs), [parts]), expected, strict=True):
            self.assert_close(one, other)

    def test_another_example_changes_nothing_but_another_token_does(self):
        parts, model = examples(), backbone("sparse")
        expected = unpacked(decoded(model, packed([parts])), [parts])
        for side in ROW:
            with self.subTest(side):
                changed = [dict(part) for part in parts]
                changed[1][side] = (changed[1][side] % 15 + 1).astype("int32")
                got = unpacked(decoded(model, packed([changed])), [changed])
                for number, (one, other) in enumerate(zip(got, expected, strict=True)):
                    if number != 1:
                        self.assert_close(one, other)
                self.assertGreater(np.abs(got[1] - expected[1]).max(), 1e-3)

    def test_gradients_stay_in_the_example(self):
        parts, model = examples(), backbone("sparse")
        parts[1] = {side: np.full_like(ids, 15) for side, ids in parts[1].items()}
        for side in ROW:
            for part in (parts[0], parts[2]):
                part[side] %= 15  # Id 15 is of the second example only.
        inputs = packed([parts])
        second = inputs["decoder_padding_mask"] == 2

        def gradient(of_second):
            """How far each id's embedding moves the outputs of some examples."""
            real = inputs["decoder_padding_mask"] > 0
            chosen = second if of_second else real & ~second
            weights_BL1 = ops.convert_to_tensor(chosen[..., None].astype("float32"))
            table = model.token_embedding.embeddings

            def loss(value):
                with keras.StatelessScope(state_mapping=[(table, value)]), dropless():
                    outputs = model(inputs)["decoder_sequence_output"]
                return ops.sum(ops.square(outputs - 1.0) * weights_BL1)

            _, (gradient,) = gradients(loss, [ops.convert_to_numpy(table)])
            return np.abs(gradient).sum(axis=-1)

        others, own = gradient(False), gradient(True)
        self.assertEqual(others[15], 0)
        self.assertGreater(own[15], 0)
        self.assertEqual(own[:15].max(), 0)
        self.assertGreater(others[:15].max(), 0)


if __name__ == "__main__":
    unittest.main()
