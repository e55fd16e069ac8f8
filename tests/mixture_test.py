import types
import unittest

import numpy as np
import tensorflow as tf

from keras_switch.data import Mixture
from keras_switch.data import PairBatches
from keras_switch.data import PrefixLM
from keras_switch.data import SpanCorruptionBatches
from keras_switch.data import TaskBatches
from keras_switch.data import mixture
from keras_switch.data import mixture_rates

TOKENIZER = types.SimpleNamespace(
    sentinel_ids=range(9999, 9899, -1),
    end_token_id=1,
    pad_token_id=0,
    vocabulary_size=lambda: 10000,
)


def part(first, num_chunks, batch_size=8, inputs_length=32, seed=0):
    tokens = np.arange(first, first + 34 * num_chunks)
    return SpanCorruptionBatches(tokens, TOKENIZER, inputs_length, batch_size, seed=seed)


class Numbers:
    """Examples that say their own number."""

    batch_size, inputs_length, targets_length, pad_id, examples_per_epoch = 4, 1, 1, 0, 100
    is_numbered = False

    def __init__(self, name):
        self.name = name

    def examples(self, indices):
        return tf.cast(indices[:, None], tf.int32), tf.fill((tf.shape(indices)[0], 1), self.name)


def collect(dataset):
    return [[x.numpy() for x in tf.nest.flatten(batch)] for batch in dataset]


class MixtureRatesTest(unittest.TestCase):
    def test_rates_are_those_of_the_papers(self):
        sizes = {"en": 2733e9, "sw": 1e9, "yo": 5e7}
        rates = mixture_rates(sizes)
        weights = {name: size**0.3 for name, size in sizes.items()}
        for name in sizes:
            self.assertAlmostEqual(rates[name], weights[name] / sum(weights.values()))
        # T5's examples-proportional mixing with an artificial limit K.
        rates = mixture_rates([2**21, 2**18, 2**18], alpha=1, cap=2**19)
        self.assertEqual(rates, [0.5, 0.25, 0.25])
        self.assertEqual(mixture_rates([5, 10**12], alpha=0), [0.5, 0.5])
        self.assertEqual(mixture_rates([10**12, 1], alpha=100), [1.0, 0.0])

    def test_bad_arguments_are_explained(self):
        for arguments, message in (
            (({"en": 5, "sw": 0},), r"`sizes\['sw'\]` must be a finite positive number. Received"),
            (([5, -1],), r"`sizes\[1\]` must be a finite positive number"),
            (([],), "`sizes` must not be empty"),
            (([1], -0.1), "`alpha` must be a finite number, at least 0"),
            (([1], 1, 0), "`cap` must be a finite positive number"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                mixture_rates(*arguments)


class MixtureTest(unittest.TestCase):
    def test_each_text_is_read_in_order_without_gaps(self):
        rates = [0.61, 0.3, 0.09]
        mixed = Mixture([Numbers(name) for name in range(3)], rates, seed=5)
        indices, names = mixed.examples(tf.range(2 * mixture.PERIOD + 999, dtype=tf.int64))
        for name, rate in enumerate(rates):
            own = indices.numpy()[names.numpy() == name]
            np.testing.assert_array_equal(own, np.arange(len(own)))
            # Spread evenly: at every moment as many as the rate says, give or take two.
            seen = np.cumsum(names.numpy() == name)
            self.assertLess(np.abs(seen - rate * np.arange(1, len(seen) + 1)).max(), 2)

    def test_rates_are_exact_shares_of_a_period(self):
        for rates in ([1, 1, 1], [0.5, 0.25, 0.25], [1e-9, 1, 1e-9], [1e300, 1e-300], [7]):
            counts = mixture._counts(rates)
            self.assertEqual(counts.sum(), mixture.PERIOD)
            self.assertTrue((counts >= 1).all())
            shares = np.maximum(np.array(rates) / sum(rates), 1 / mixture.PERIOD)
            np.testing.assert_allclose(counts / mixture.PERIOD, shares, atol=2.1 / mixture.PERIOD)

    def test_a_batch_may_lack_a_text(self):
        rare = Mixture([part(100, 50, batch_size=1), part(5000, 20, batch_size=1)], [1, 1])
        firsts = [int(x["encoder_token_ids"][0, 0]) for x, *_ in rare.dataset(num_batches=6)]
        self.assertEqual(sorted(first >= 5000 for first in firsts), [False] * 3 + [True] * 3)

    def test_packed_rows_are_mixed(self):
        sides = [[[number] * 5 for number in numbers] for numbers in (range(2, 9), range(50, 99))]
        parts = [PairBatches(side, side, TOKENIZER, 12, 12, 2, packed=True) for side in sides]
        mixed = Mixture(parts, [1, 3])
        for x, targets, _ in mixed.dataset(num_batches=3):
            np.testing.assert_array_equal(x["encoder_token_ids"], targets)
            self.assertEqual(x["decoder_padding_mask"].numpy().max(), 2)
        pairs = PairBatches(sides[0], sides[0], TOKENIZER, 12, 11, 2)
        chunks = TaskBatches(np.full(99, 5), TOKENIZER, PrefixLM(12), 2)
        with self.assertRaisesRegex(ValueError, "`batches` must have the same is_numbered"):
            Mixture([pairs, chunks], [1, 1])

    def test_batches_resume_and_are_shared(self):
        parts = {"a": part(100, 50), "b": part(5000, 20, seed=1)}
        mixed = Mixture(parts, mixture_rates({"a": 50, "b": 20}, 1.0), seed=2)
        dataset = mixed.dataset(num_batches=6)
        self.assertEqual(dataset.element_spec, parts["a"].dataset().element_spec)
        second_half = collect(mixed.dataset(4, 2, shard_index=1, num_shards=2))
        for expected, received in zip(collect(dataset)[4:], second_half, strict=True):
            for values, half in zip(expected, received, strict=True):
                np.testing.assert_array_equal(half, values[4:])
        self.assertEqual(mixed.batches_per_epoch, 70 // 8)
        self.assertEqual(mixed.tokens_per_batch, parts["a"].tokens_per_batch)

    def test_examples_are_those_of_the_texts(self):
        parts = [part(100, 50), part(5000, 20)]
        inputs, targets = Mixture(parts, [1, 1]).examples(tf.range(40, dtype=tf.int64))
        for one in parts:
            own_inputs, own_targets = one.examples(tf.range(20, dtype=tf.int64))
            is_own = [row in own_inputs.numpy().tolist() for row in inputs.numpy().tolist()]
            np.testing.assert_array_equal(inputs.numpy()[is_own], own_inputs)
            np.testing.assert_array_equal(targets.numpy()[is_own], own_targets)

    def test_mixtures_can_be_mixed(self):
        inner = Mixture([Numbers(0), Numbers(1)], [1, 3])
        outer = Mixture([inner, Numbers(2)], [1, 1])
        _, names = outer.examples(tf.range(800, dtype=tf.int64))
        self.assertEqual(np.bincount(names.numpy()[:, 0]).tolist(), [100, 300, 400])

    def test_seeds_change_the_order_alone(self):
        first, other = (Mixture([Numbers(0), Numbers(1)], [1, 2], seed=seed) for seed in (0, 1))
        self.assertEqual(first.counts.tolist(), other.counts.tolist())
        indices = tf.range(99, dtype=tf.int64)
        self.assertFalse(np.array_equal(first.examples(indices)[1], other.examples(indices)[1]))

    def test_bad_arguments_are_explained(self):
        a, b = part(100, 50), part(5000, 20)
        for batches, rates, message in (
            ([], [], "`batches` must not be empty"),
            ([a, b], [1], "must have the same names, or be lists .* batches of 2, rates of 1"),
            ({"a": a}, [1], r"must have the same names.* batches of \['a'\], rates of 1"),
            ({"a": a, "b": b}, {"a": 1, "c": 1}, r"the same names.*rates of \['a', 'c'\]"),
            ([a, b], [1, 0], r"`rates\[1\]` must be a finite positive number. Received: .*=0"),
            ({"a": a}, {"a": float("nan")}, r"`rates\['a'\]` must be a finite positive number"),
            (
                [a, part(5000, 20, 4)],
                [1, 1],
                r"`batches` must have the same batch_size. .*\[8, 4\]",
            ),
            ([a, part(100, 50, inputs_length=31)], [1, 1], "must have the same inputs_length"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                Mixture(batches, rates)
        with self.assertRaisesRegex(ValueError, "`seed` must be an integer from 0"):
            Mixture([a], [1], seed=-1)


if __name__ == "__main__":
    unittest.main()
