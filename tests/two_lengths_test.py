import unittest

import numpy as np

from keras_switch.data import SpanCorruptionBatches
from keras_switch.data.two_lengths import TwoLengths


class Tokenizer:
    sentinel_ids = tuple(range(99, 79, -1))
    end_token_id, pad_token_id = 1, 0

    def vocabulary_size(self):
        return 100


def batches(length, batch_size):
    tokens = np.random.default_rng(length).integers(3, 80, 2000)
    return SpanCorruptionBatches(tokens, Tokenizer(), length, batch_size)


class TwoLengthsTest(unittest.TestCase):
    def test_half_of_the_rows_are_long_and_half_hold_several_short_texts(self):
        long, short = batches(34, 2), batches(16, 4)
        both = TwoLengths(long, short)
        self.assertEqual((both.inputs_length, both.targets_length), (34, 2 * short.targets_length))
        [(x, y, w)] = both.dataset(3, 1).as_numpy_iterator()
        [(long_x, long_y, _)] = long.dataset(3, 1).as_numpy_iterator()
        [(short_x, short_y, _)] = short.dataset(3, 1).as_numpy_iterator()
        self.assertEqual(both.tokens_per_batch, x["encoder_token_ids"].size + y.size)
        np.testing.assert_array_equal(x["encoder_token_ids"][:2], long_x["encoder_token_ids"])
        np.testing.assert_array_equal(y[:2, : long.targets_length], long_y)
        self.assertFalse(w[:2, long.targets_length :].any())
        for name, length in (("encoder", 16), ("decoder", short.targets_length)):
            ids, mask = x[f"{name}_token_ids"][2:], x[f"{name}_padding_mask"][2:]
            for text in range(4):
                columns = slice(text % 2 * length, (text % 2 + 1) * length)
                expected = short_x[f"{name}_token_ids"][text]
                np.testing.assert_array_equal(ids[text // 2, columns], expected)
                np.testing.assert_array_equal(mask[text // 2, columns], text % 2 + 1)
            self.assertFalse(mask[:, 2 * length :].any())
        np.testing.assert_array_equal(y[2:].reshape(4, -1), short_y)
        np.testing.assert_array_equal(w[2:], 1)

    def test_batches_that_do_not_match_are_refused(self):
        with self.assertRaisesRegex(ValueError, "`short` must have 4 texts.*Received: 3"):
            TwoLengths(batches(34, 2), batches(16, 3))


if __name__ == "__main__":
    unittest.main()
