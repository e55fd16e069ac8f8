import types
import unittest
import unittest.mock

import numpy as np
import tensorflow as tf

from keras_switch.data import SpanCorruptionBatches

TOKENIZER = types.SimpleNamespace(
    sentinel_ids=range(99999, 99899, -1),
    end_token_id=1,
    pad_token_id=0,
    vocabulary_size=lambda: 100000,
)


def make(num_chunks=10, batch_size=4, seed=0, inputs_length=32):
    # A chunk for 32 inputs has 34 tokens.
    tokens = np.arange(100, 100 + 34 * num_chunks + 3)
    return SpanCorruptionBatches(tokens, TOKENIZER, inputs_length, batch_size, seed=seed)


def collect(dataset):
    return [
        (x["encoder_token_ids"].numpy(), x["decoder_token_ids"].numpy(), y.numpy(), w.numpy())
        for x, y, w in dataset
    ]


class SpanCorruptionBatchesTest(unittest.TestCase):
    def test_shapes_are_fixed_and_nothing_is_padding(self):
        batches = make()
        ((encoder, decoder, targets, weights),) = collect(batches.dataset(num_batches=1))
        self.assertEqual(encoder.shape, (4, 32))
        self.assertEqual(targets.shape, (4, batches.targets_length))
        self.assertEqual(decoder.shape, targets.shape)
        self.assertTrue((weights == 1).all() and (encoder > 0).all())
        self.assertTrue((encoder[:, -1] == 1).all() and (targets[:, -1] == 1).all())

    def test_decoder_inputs_are_the_targets_behind_a_zero(self):
        ((_, decoder, targets, _),) = collect(make().dataset(num_batches=1))
        self.assertTrue((decoder[:, 0] == 0).all())
        np.testing.assert_array_equal(decoder[:, 1:], targets[:, :-1])

    def test_masks_are_zero_at_padding_only(self):
        inputs, targets = tf.constant([[5, 1, 0]]), tf.constant([[7, 1, 0, 0]])
        x, _, weights = make()._to_fit(inputs, targets)
        self.assertEqual(x["encoder_padding_mask"].numpy().tolist(), [[1, 1, 0]])
        self.assertEqual(x["decoder_token_ids"].numpy().tolist(), [[0, 7, 1, 0]])
        self.assertEqual(x["decoder_padding_mask"].numpy().tolist(), [[1, 1, 1, 0]])
        self.assertEqual(weights.numpy().tolist(), [[1, 1, 0, 0]])

    def test_every_density_fills_the_inputs(self):
        tokens = np.arange(100, 5100)
        for inputs_length in (5, 128):
            for percent in (10, 30, 50, 70, 80, 90):
                with self.subTest(inputs_length=inputs_length, percent=percent):
                    batches = SpanCorruptionBatches(
                        tokens, TOKENIZER, inputs_length, 2, noise_density=percent / 100
                    )
                    ((encoder, _, targets, weights),) = collect(batches.dataset(num_batches=1))
                    self.assertEqual(encoder.shape, (2, inputs_length))
                    self.assertEqual(targets.shape, (2, batches.targets_length))
                    self.assertTrue((weights == 1).all() and (encoder > 0).all())

    def test_ids_are_those_of_the_tokenizer(self):
        tokenizer = types.SimpleNamespace(
            sentinel_ids=[7, 9, 8, 6],
            end_token_id=2,
            pad_token_id=3,
            vocabulary_size=lambda: 500,
        )
        batches = SpanCorruptionBatches(np.arange(100, 500), tokenizer, 16, 4, noise_density=0.4)
        ((encoder, decoder, targets, _),) = collect(batches.dataset(num_batches=1))
        for row in (*encoder, *targets):
            self.assertEqual([i for i in row if i < 100], [*tokenizer.sentinel_ids[:3], 2])
        self.assertTrue((decoder[:, 0] == 3).all())

    def test_an_epoch_visits_each_token_once(self):
        seen = []
        for encoder, _, targets, _ in collect(make(batch_size=5).dataset(num_batches=2)):
            for side in (encoder, targets):
                seen.extend(side[(side >= 100) & (side < 99900)].tolist())
        self.assertEqual(sorted(seen), list(range(100, 440)))

    def test_resumes_at_any_batch(self):
        batches = make()
        whole = collect(batches.dataset(num_batches=9))
        resumed = collect(batches.dataset(first_batch=4, num_batches=5))
        for expected, received in zip(whole[4:], resumed, strict=True):
            for x, y in zip(expected, received, strict=True):
                np.testing.assert_array_equal(x, y)

    def test_a_batch_is_its_examples_one_by_one(self):
        batches = make(num_chunks=7)
        inputs, targets = batches.examples(tf.range(30, dtype=tf.int64))
        self.assertEqual((len(np.unique(inputs, axis=0)), len(inputs)), (30, 30))
        for index in (0, 6, 7, 29):
            one, other = batches.example(index)
            np.testing.assert_array_equal(one, inputs[index])
            np.testing.assert_array_equal(other, targets[index])

    def test_hosts_share_each_batch(self):
        batches = make(batch_size=6)
        whole = collect(batches.dataset(2, 3))
        hosts = [
            collect(batches.dataset(2, 3, shard_index=host, num_shards=3)) for host in range(3)
        ]
        for number, expected in enumerate(whole):
            for place, values in enumerate(expected):
                parts = [host[number][place] for host in hosts]
                self.assertEqual([len(part) for part in parts], [2, 2, 2])
                np.testing.assert_array_equal(np.concatenate(parts), values)

    def test_bad_shares_are_explained(self):
        for shares, message in (
            ({"num_shards": 3}, "`num_shards` must divide the batch size. .* batch_size=4"),
            ({"shard_index": 2, "num_shards": 2}, "`shard_index` must be below `num_shards`"),
            ({"shard_index": -1}, "`shard_index` must be an integer of at least 0"),
            ({"num_shards": 0}, "`num_shards` must be a positive integer"),
            ({"first_batch": -1}, "`first_batch` must be an integer of at least 0"),
            ({"num_batches": 1.5}, "`num_batches` must be an integer of at least 0"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                make().dataset(**shares)

    def test_epochs_and_seeds_differ(self):
        first, second = collect(make(batch_size=10).dataset(num_batches=2))
        other, _ = collect(make(batch_size=10, seed=1).dataset(num_batches=2))
        self.assertFalse(np.array_equal(first[0], second[0]))
        self.assertFalse(np.array_equal(first[0], other[0]))

    def test_without_a_number_of_batches_it_never_ends(self):
        self.assertEqual(len(collect(make().dataset().take(20))), 20)

    def test_the_text_stays_on_the_cpu(self):
        with unittest.mock.patch.object(tf, "device", wraps=tf.device) as device:
            self.assertIn("CPU:0", make().chunks.device)
        device.assert_called_once_with("CPU:0")

    def test_bad_arguments_are_explained(self):
        for seed in (-1, 2**31, 0.5):
            with self.assertRaisesRegex(ValueError, r"`seed` must be an integer from 0 to 2\*\*31"):
                make(seed=seed)
        with self.assertRaisesRegex(ValueError, "`batch_size` must be a positive integer"):
            make(batch_size=0)
        with self.assertRaisesRegex(ValueError, "`tokens` must fill a batch of 11 chunks of 34"):
            make(batch_size=11)
        with self.assertRaisesRegex(ValueError, "`inputs_length` needs 114 sent.* has 100"):
            make(num_chunks=900, inputs_length=2048)


if __name__ == "__main__":
    unittest.main()
