import types
import unittest

import keras
import numpy as np
import tensorflow as tf
import tokenizer_helpers
from absl.testing import parameterized

from keras_switch import data
from keras_switch.data import packing
from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchTokenizer

TOKENIZER = types.SimpleNamespace(end_token_id=1, pad_token_id=0, vocabulary_size=lambda: 100)
LENGTHS = (12, 9)


def pairs(number=40, longest=(7, 5), seed=0):
    """Inputs and targets: ids of varying lengths; some inputs are empty."""
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(2, 16, rng.integers(shortest, most + 1)).tolist() for _ in range(number)]
        for shortest, most in zip((0, 1), longest)
    ]


def make(sides=None, lengths=LENGTHS, batch_size=2, **kwargs):
    inputs, targets = pairs() if sides is None else sides
    return data.PairBatches(inputs, targets, TOKENIZER, *lengths, batch_size, **kwargs)


def collect(batches, *args, **kwargs):
    return [
        ({name: value.numpy() for name, value in x.items()}, y.numpy(), w.numpy())
        for x, y, w in batches.dataset(*args, **kwargs)
    ]


def unpacked(batch):
    """The pairs in a batch, as they were, what the decoder reads of each, and where it is."""
    x, y, weights = batch
    np.testing.assert_array_equal(weights, x["decoder_padding_mask"] > 0)
    for row, numbers in enumerate(x["encoder_padding_mask"]):
        for number in range(1, numbers.max() + 1):
            inputs = x["encoder_token_ids"][row][numbers == number]
            place = row, x["decoder_padding_mask"][row] == number
            decoder = x["decoder_token_ids"][place]
            yield inputs.tolist(), y[place].tolist(), decoder.tolist(), place


def pack_naively(lengths, row_lengths):
    """The first example of each row, one example at a time."""
    firsts, used = [0], np.zeros(2, int)
    for number, sizes in enumerate(lengths):
        if (used + sizes > row_lengths).any():
            firsts.append(number)
            used = np.zeros(2, int)
        used = used + sizes
    return [*firsts, len(lengths)]


class PackingTest(parameterized.TestCase):
    def test_plan_equals_the_naive_loop(self):
        rng = np.random.default_rng(1)
        for number in (1, 2, 300):
            lengths = rng.integers(1, 10, (number, 2))
            plan = packing.pack(lengths, (20, 15))
            self.assertEqual(plan.tolist(), pack_naively(lengths, (20, 15)))

    def test_positions_start_anew_in_each_example(self):
        masks = [[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
        places = [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3], [0] * 6, [0] * 6]
        self.assertEqual(data.packed_positions(masks).tolist(), places)


class PairBatchesTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_an_epoch_has_each_pair_once(self, packed):
        sides = pairs()
        batches = make(sides, batch_size=1, packed=packed)
        epoch = collect(batches, 0, batches.batches_per_epoch)
        got = [one[:3] for batch in epoch for one in unpacked(batch)]
        expected = [([*x, 1], [*y, 1], [0, *y]) for x, y in zip(*sides)]
        self.assertEqual(sorted(got), sorted(expected))
        self.assertLess(len(epoch), 30 if packed else 41)

    def test_shapes_are_fixed_and_padding_is_nothing(self):
        for packed in (False, True):
            for x, y, weights in collect(make(packed=packed), num_batches=5):
                self.assertEqual((x["encoder_token_ids"].shape, y.shape), ((2, 12), (2, 9)))
                self.assertTrue((x["encoder_token_ids"][x["encoder_padding_mask"] == 0] == 0).all())
                padding = x["decoder_padding_mask"] == 0
                for side in (y, weights, x["decoder_token_ids"]):
                    self.assertTrue((side[padding] == 0).all())
        self.assertEqual(make().tokens_per_batch, 2 * 21)

    def test_the_end_stays_where_a_text_is_cut(self):
        batches = make(([range(2, 40)], [range(50, 90)]), batch_size=1, packed=True)
        inputs, targets, *_ = batches.example(0)
        self.assertEqual(inputs.numpy().tolist(), [*range(2, 13), 1])
        self.assertEqual(targets.numpy().tolist(), [*range(50, 58), 1])

    @parameterized.parameters(False, True)
    def test_resumes_at_any_batch_and_shares_it_over_hosts(self, packed):
        whole = collect(make(packed=packed), 0, 30)
        hosts = [
            collect(make(packed=packed), 17, 13, shard_index=host, num_shards=2)
            for host in range(2)
        ]
        for expected, *halves in zip(whole[17:], *hosts, strict=True):
            parts = [tf.nest.flatten(half) for half in halves]
            for values, *both in zip(tf.nest.flatten(expected), *parts, strict=True):
                np.testing.assert_array_equal(np.concatenate(both), values)

    def test_epochs_and_seeds_differ(self):
        batches = make(packed=True, batch_size=1)
        number = batches.batches_per_epoch
        rows = [batch[1].tolist() for batch in collect(batches, 0, 2 * number)]
        self.assertNotEqual(rows[:number], rows[number:])
        self.assertEqual(sorted(rows[:number]), sorted(rows[number:]))
        others = [
            batch[1].tolist() for batch in collect(make(packed=True, batch_size=1, seed=1), 0, 9)
        ]
        self.assertNotEqual(rows[:9], others)

    def test_ids_may_be_a_ragged_tensor(self):
        inputs, targets = pairs()
        expected = collect(make((inputs, targets)), num_batches=3)
        got = collect(
            make((tf.ragged.constant(inputs), tf.ragged.constant(targets))), num_batches=3
        )
        for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(got), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_texts_are_tokenized(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        texts = ["The people walk.", "", "The house"]
        ids = [tokenizer(text).tolist() for text in texts]
        ((x, y, _),) = collect(
            data.PairBatches(texts, ["The house"] * 3, tokenizer, 8, 6, 3), num_batches=1
        )
        rows = [[*row, 1] + [0] * (7 - len(row)) for row in ids]
        self.assertEqual(sorted(x["encoder_token_ids"].tolist()), sorted(rows))
        self.assertEqual(y.tolist(), [[*ids[2], 1] + [0] * (5 - len(ids[2]))] * 3)

    def test_a_model_gives_each_packed_pair_what_it_gives_it_alone(self):
        sides = pairs(12, seed=3)
        model = SwitchSeq2SeqLM(
            SwitchBackbone(
                vocabulary_size=16,
                num_layers=2,
                num_heads=2,
                hidden_dim=8,
                intermediate_dim=16,
                num_experts=4,
                dtype="float32",
                seed=1,
            )
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

        def outputs(packed):
            """Logits and losses of each pair."""
            number = make(sides, batch_size=1, packed=packed).batches_per_epoch
            ((x, y, weights),) = collect(make(sides, batch_size=number, packed=packed), 0, 1)
            with dropless():
                logits = model(x).numpy()
            losses = loss(y, logits).numpy()
            return {
                str(pair): (logits[place], losses[place])
                for *pair, _, place in unpacked((x, y, weights))
            }

        alone, together = outputs(False), outputs(True)
        self.assertEqual(alone.keys(), together.keys())
        for pair, expected in alone.items():
            for value, other in zip(expected, together[pair], strict=True):
                np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)

    @parameterized.parameters(
        ({"sides": ([[5]], [[6], [7]])}, "`targets` must be as many as `inputs`.* 1 inputs and 2"),
        ({"sides": ([[5], [5]], [[6], []])}, "`targets` must not be empty.* number 1"),
        ({"sides": ([], [])}, "`inputs` must be a list of texts, or of sequences of ids. Rec"),
        ({"sides": ([[5]], "text")}, "`targets` must be a list of texts, or of seq.*='text'"),
        ({"sides": ([[5]], [[100]])}, "`targets` must be ids of .* vocabulary of 100, .* 100"),
        ({"sides": ([[-1]], [[5]])}, "`inputs` must be ids of .* Received: -1"),
        ({"sides": ([[5, 0]], [[5]])}, "`inputs` must be .* without the one that pads, 0"),
        ({"sides": ([[5.5]], [[5]])}, "`inputs` must be integers in a row. .* dtype=float64"),
        ({"lengths": (1, 9)}, "`inputs_length` must be an integer of at least 2"),
        ({"lengths": (12, 1)}, "`targets_length` must be an integer of at least 2"),
        ({"batch_size": 41}, "`inputs` must fill a batch of 41 rows. .* 40 pairs in 40 rows"),
        ({"batch_size": 40, "packed": True}, "`inputs` must fill a batch of 40 rows. .* 40 pairs"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"packed": "yes"}, "`packed` must be True or False"),
        ({"seed": 2**31}, "`seed` must be an integer from 0"),
    )
    def test_bad_arguments_are_explained(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            make(**kwargs)


if __name__ == "__main__":
    unittest.main()
