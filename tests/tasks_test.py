import types
import unittest

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from keras_switch import data
from keras_switch.data import tasks

TOKENIZER = types.SimpleNamespace(
    sentinel_ids=range(999, 899, -1),
    end_token_id=1,
    pad_token_id=0,
    vocabulary_size=lambda: 1000,
)
TOKENS = np.arange(100, 400)


def make(task, tokens=TOKENS, batch_size=4, **kwargs):
    return data.TaskBatches(tokens, TOKENIZER, task, batch_size, **kwargs)


def collect(batches, *args, **kwargs):
    return [
        (*(x[f"{side}_token_ids"].numpy() for side in ("encoder", "decoder")), y.numpy(), w.numpy())
        for x, y, w in batches.dataset(*args, **kwargs)
    ]


class TaskBatchesTest(parameterized.TestCase):
    def test_prefix_lm_splits_each_chunk(self):
        batches = make(data.PrefixLM(11))
        for inputs, decoder, targets, weights in collect(batches, num_batches=20):
            self.assertEqual((inputs.shape, targets.shape), ((4, 11), (4, 10)))
            for row in range(4):
                prefix = inputs[row][inputs[row] > 1]
                rest = targets[row][targets[row] > 1]
                self.assertTrue(len(prefix) and len(rest))
                chunk = np.concatenate([prefix, rest])
                self.assertEqual((chunk[0] - 100) % 10, 0)
                self.assertEqual(chunk.tolist(), list(range(chunk[0], chunk[0] + 10)))
                self.assertEqual(inputs[row].tolist(), [*prefix, 1] + [0] * (10 - len(prefix)))
                self.assertEqual(targets[row].tolist(), [*rest, 1] + [0] * (9 - len(rest)))
                self.assertEqual(weights[row].tolist(), (targets[row] > 0).tolist())
                self.assertEqual(decoder[row].tolist(), [0, *targets[row][:-1]])

    def test_every_prefix_is_equally_likely(self):
        inputs, _ = make(data.PrefixLM(11)).examples(tf.range(9000, dtype=tf.int64))
        counts = np.bincount((inputs.numpy() > 1).sum(axis=1), minlength=11)
        self.assertEqual(counts[[0, 10]].tolist(), [0, 0])
        # Chi-squared with 8 degrees of freedom is above 26.1 once in a thousand.
        self.assertLess(((counts[1:10] - 1000) ** 2 / 1000).sum(), 26.1)

    def test_the_shortest_chunk_has_a_token_on_each_side(self):
        inputs, targets = make(data.PrefixLM(3)).example(0)
        self.assertEqual((inputs.numpy()[1:].tolist(), targets.numpy()[1:].tolist()), ([1, 0], [1]))

    def test_causal_lm_reads_the_end_only(self):
        for inputs, decoder, targets, weights in collect(make(data.CausalLM(11)), num_batches=7):
            self.assertEqual(inputs.tolist(), [[1]] * 4)
            self.assertTrue((weights == 1).all() and (targets[:, -1] == 1).all())
            np.testing.assert_array_equal(np.diff(targets[:, :-1]), 1)
            np.testing.assert_array_equal(decoder[:, 1:], targets[:, :-1])
            self.assertTrue((decoder[:, 0] == 0).all())

    @parameterized.parameters(data.PrefixLM(11), data.CausalLM(11), data.SpanCorruption(12))
    def test_an_epoch_visits_each_token_once(self, task):
        batches = make(task, batch_size=1)
        epoch = collect(batches, 0, batches.num_chunks)
        seen = np.concatenate([side[0] for x, _, y, _ in epoch for side in (x, y)])
        seen = np.sort(seen[(seen >= 100) & (seen < 900)])
        used = TOKENS[: batches.num_chunks * task.chunk_length]
        self.assertEqual(seen.tolist(), used.tolist())

    @parameterized.parameters(data.PrefixLM(11), data.CausalLM(11), data.SpanCorruption(12))
    def test_resumes_at_any_batch_and_shares_it_over_hosts(self, task):
        batches = make(task)
        whole = collect(batches, 0, 20)
        hosts = [collect(batches, 9, 11, shard_index=host, num_shards=2) for host in range(2)]
        for expected, *parts in zip(whole[9:], *hosts, strict=True):
            for values, *halves in zip(expected, *parts, strict=True):
                np.testing.assert_array_equal(np.concatenate(halves), values)

    @parameterized.parameters(data.PrefixLM(11), data.CausalLM(11), data.SpanCorruption(12))
    def test_no_chunks_are_no_rows(self, task):
        shapes = [side.shape for side in make(task).examples(tf.zeros((0,), tf.int64))]
        self.assertEqual(shapes, [(0, task.inputs_length), (0, task.targets_length)])

    def test_ids_are_those_of_the_tokenizer(self):
        ids = tasks.SpecialIds([9], end=2, pad=3)
        tokens = tf.constant([[10, 11, 12]])
        for size, *expected in ((1, [10, 2, 3, 3], [11, 12, 2]), (2, [10, 11, 2, 3], [12, 2, 3])):
            sides = data.PrefixLM(4).split_at(tokens, tf.constant([[size]]), ids)
            self.assertEqual([side.numpy()[0].tolist() for side in sides], expected)
        sides = data.CausalLM(4).split(tokens, None, ids)
        self.assertEqual([x.numpy().tolist() for x in sides], [[[2]], [[10, 11, 12, 2]]])

    @parameterized.parameters(
        (data.PrefixLM, 2, "`inputs_length` must be an integer of at least 3. Received"),
        (data.PrefixLM, 7.5, "`inputs_length` must be an integer of at least 3. Received"),
        (data.CausalLM, 1, "`targets_length` must be an integer of at least 2. Received"),
        (data.SpanCorruption, 3, "`inputs_length` must be an integer of at least 4. Received"),
    )
    def test_bad_lengths_are_explained(self, task, length, message):
        with self.assertRaisesRegex(ValueError, message):
            task(length)

    @parameterized.parameters(
        ({"tokens": TOKENS[:39]}, "`tokens` must fill a batch of 4 chunks of 10 .* 39 tokens"),
        ({"tokens": []}, "`tokens` must fill a batch of 4 chunks of 10 .* 0 tokens"),
        ({"tokens": TOKENS + 700}, "`tokens` must be ids of the .* of 1000, .* Received: 1000"),
        ({"tokens": TOKENS - 101}, "`tokens` must be ids of .* Received: -1"),
        ({"tokens": TOKENS - 100}, "without the one that pads, 0. Received: 0"),
        ({"tokens": TOKENS * 1.0}, r"`tokens` must be integers in a row. .*dtype=float64"),
        ({"tokens": TOKENS[:, None]}, r"`tokens` must be integers .*shape=\(300, 1\)"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
    )
    def test_bad_arguments_are_explained(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            make(data.PrefixLM(11), **kwargs)

    def test_sentinels_that_run_out_are_refused_when_the_batches_are_made(self):
        with self.assertRaisesRegex(ValueError, "`inputs_length` needs 114 sentinels.* has 100"):
            make(data.SpanCorruption(2048), np.full(9200, 5))


if __name__ == "__main__":
    unittest.main()
