import types
import unittest

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from keras_switch import data
from keras_switch.data import randomness
from keras_switch.data import span_corruption

TOKENIZER = types.SimpleNamespace(
    sentinel_ids=range(9999, 9899, -1),
    end_token_id=1,
    pad_token_id=0,
    vocabulary_size=lambda: 10000,
)


def texts(number=60, most=40):
    """Texts of varying lengths: each token is in one of them only."""
    lengths = np.random.default_rng(0).integers(0, most, number)
    ends = 100 + np.cumsum(lengths)
    return [list(range(end - length, end)) for end, length in zip(ends, lengths)]


def make(rows=None, inputs_length=64, batch_size=2, **kwargs):
    rows = texts() if rows is None else rows
    return data.TextCorruptionBatches(rows, TOKENIZER, inputs_length, batch_size, **kwargs)


def collect(batches, *args, **kwargs):
    return [
        ({name: value.numpy() for name, value in x.items()}, y.numpy(), w.numpy())
        for x, y, w in batches.dataset(*args, **kwargs)
    ]


def restored(batch):
    """The texts in a batch, put together of their inputs and targets."""
    x, y, _ = batch
    for row, numbers in enumerate(x["encoder_padding_mask"]):
        for number in range(1, numbers.max() + 1):
            inputs = x["encoder_token_ids"][row][numbers == number].tolist()
            targets = y[row][x["decoder_padding_mask"][row] == number].tolist()
            assert inputs.pop() == targets.pop() == 1
            spans = []
            for token in targets:
                if token > 9899:
                    assert token == 9999 - len(spans)
                    spans.append([])
                else:
                    spans[-1].append(token)
            text = []
            for token in inputs:
                text += spans.pop(0) if token > 9899 else [token]
            assert not spans
            yield text


class TextCorruptionBatchesTest(parameterized.TestCase):
    @parameterized.parameters({}, {"noise_density": 0.5}, {"noise_density": 0.9})
    def test_an_epoch_has_each_text_once(self, **kwargs):
        batches = make(batch_size=1, **kwargs)
        epoch = collect(batches, 0, batches.batches_per_epoch)
        got = sorted(text for batch in epoch for text in restored(batch))
        self.assertEqual(got, sorted(text for text in texts() if len(text) > 1))
        self.assertLess(len(epoch), 50)

    def test_a_long_text_is_cut(self):
        batches = make([list(range(100, 300))], batch_size=1)
        epoch = collect(batches, 0, batches.batches_per_epoch)
        got = sorted(token for batch in epoch for text in restored(batch) for token in text)
        self.assertEqual(got, list(range(100, 300)))
        self.assertLen(epoch, 3)

    @parameterized.parameters((0.15, 3.0), (0.5, 2.0), (0.9, 3.0))
    def test_numbers_of_tokens_and_spans_are_those_of_each_plan(self, density, mean):
        batches = make(noise_density=density, mean_span_length=mean)
        for x, y, _ in collect(batches, 0, 5):
            for row, numbers in enumerate(x["encoder_padding_mask"]):
                for number in range(1, numbers.max() + 1):
                    inputs = x["encoder_token_ids"][row][numbers == number]
                    targets = y[row][x["decoder_padding_mask"][row] == number]
                    spans = (inputs > 9899).sum()
                    plan = span_corruption.for_length(
                        len(inputs) + len(targets) - 2 * spans - 2, density, mean
                    )
                    got = len(inputs), len(targets), spans
                    self.assertEqual(got, (plan.inputs_length, plan.targets_length, plan.num_spans))

    def test_all_masks_are_equally_likely(self):
        # Three spans of 6 corrupted and of 6 kept tokens: 10 ways to cut each.
        number = 20000
        plans = span_corruption.Plan(*(tf.fill((number,), n) for n in (12, 6, 3)))
        keys = randomness.keys(randomness.seeds(4, np.arange(number)))
        tokens = tf.tile(tf.range(12), [number])
        inputs, _ = span_corruption.corrupt_texts(tokens, plans, keys, range(99, 89, -1), 1)
        _, counts = np.unique(inputs.to_tensor(), axis=0, return_counts=True)
        self.assertLen(counts, 100)
        # Chi-squared with 99 degrees of freedom is above 149 once in a thousand.
        self.assertLess(((counts - 200) ** 2 / 200).sum(), 149)

    def test_resumes_at_any_batch_and_shares_it_over_hosts(self):
        whole = collect(make(), 0, 25)
        hosts = [collect(make(), 14, 11, shard_index=host, num_shards=2) for host in range(2)]
        for expected, *halves in zip(whole[14:], *hosts, strict=True):
            parts = [tf.nest.flatten(half) for half in halves]
            for values, *both in zip(tf.nest.flatten(expected), *parts, strict=True):
                np.testing.assert_array_equal(np.concatenate(both), values)

    def test_no_rows_are_no_rows(self):
        columns = make().examples(tf.zeros((0,), tf.int64))
        self.assertEqual([side.shape for side in columns], [(0, 64), (0, 14)] * 2)

    def test_epochs_have_other_masks(self):
        batches = make([list(range(100, 160))], batch_size=1)
        one, other = collect(batches, 0, 2)
        self.assertEqual(list(restored(one)), list(restored(other)))
        self.assertNotEqual(one[1].tolist(), other[1].tolist())

    @parameterized.parameters(
        ({"rows": []}, "`texts` must be a list of texts, or of sequences of ids"),
        (
            {"rows": [[5], []]},
            "`texts` must hold a text of at least 2 tokens.* of 1 tokens",
        ),
        ({"rows": [[5, 10000]]}, "`texts` must be ids of the .* Received: 10000"),
        ({"batch_size": 50}, "`texts` must fill a batch of 50 rows. .* pieces of texts in"),
        ({"targets_length": 9}, "`targets_length` must be an integer of at least 14. .*=9"),
        ({"inputs_length": 3}, "`inputs_length` must be an integer of at least 4"),
        ({"inputs_length": 2048}, "`inputs_length` needs 114 sentinels"),
        ({"seed": 1.5}, "`seed` must be an integer from 0"),
    )
    def test_bad_arguments_are_explained(self, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            make(**kwargs)


if __name__ == "__main__":
    unittest.main()
