import unittest

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from keras_switch.data import span_corruption

FIRST_SENTINEL = 999


def corrupt_naively(tokens, mask):
    """The inputs and the targets, one token at a time."""
    both = ([], [])
    for side, replaced in zip(both, (True, False)):
        sentinel = FIRST_SENTINEL
        for index, token in enumerate(tokens):
            if mask[index] != replaced:
                side.append(token)
            elif index == 0 or mask[index - 1] != replaced:
                side.append(sentinel)
                sentinel -= 1
        side.append(1)
    return both


def restore(inputs, targets):
    """Puts the spans of the targets back in the place of the inputs' sentinels."""
    spans, sentinel = {}, None
    for token in targets[:-1]:
        if token > FIRST_SENTINEL - 100:
            sentinel = token
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    tokens = []
    for token in inputs[:-1]:
        tokens.extend(spans.pop(token) if token in spans else [token])
    return tokens


class SpanCorruptionTest(parameterized.TestCase):
    @parameterized.parameters((512, 568, 114), (1024, 1137, 229))
    def test_lengths_are_those_of_t5(self, inputs_length, raw_length, targets_length):
        self.assertEqual(span_corruption.lengths(inputs_length), (raw_length, targets_length))

    @parameterized.parameters(4, 5, 17, 64, 128, 200)
    def test_inputs_and_targets_have_the_promised_lengths(self, inputs_length):
        raw_length, targets_length = span_corruption.lengths(inputs_length)
        tokens = tf.range(100, 100 + raw_length)
        for seed in range(5):
            mask = span_corruption.noise_mask(raw_length, tf.constant([seed, 7]))
            inputs, targets = span_corruption.corrupt(tokens, mask, FIRST_SENTINEL)
            self.assertLen(inputs, inputs_length)
            self.assertLen(targets, targets_length)

    @parameterized.parameters((0.15, 3.0), (0.3, 2.0), (0.5, 5.0), (0.1, 1.0))
    def test_equals_the_naive_loop_and_can_be_undone(self, density, mean_span):
        tokens = tf.random.stateless_uniform((150,), (1, 2), 2, 500, tf.int32)
        for seed in range(10):
            mask = span_corruption.noise_mask(150, tf.constant([3, seed]), density, mean_span)
            inputs, targets = span_corruption.corrupt(tokens, mask, FIRST_SENTINEL)
            expected = corrupt_naively(tokens.numpy().tolist(), mask.numpy())
            self.assertEqual(inputs.numpy().tolist(), expected[0])
            self.assertEqual(targets.numpy().tolist(), expected[1])
            self.assertEqual(restore(*expected), tokens.numpy().tolist())

    def test_the_number_of_corrupted_tokens_and_spans_is_exact(self):
        num_noise, num_spans = span_corruption.span_counts(568)
        self.assertEqual((num_noise, num_spans), (85, 28))
        for seed in range(10):
            mask = span_corruption.noise_mask(568, tf.constant([0, seed])).numpy()
            self.assertEqual(mask.sum(), num_noise)
            self.assertEqual((np.diff(mask.astype(int)) == 1).sum(), num_spans)
            self.assertFalse(mask[0])
            self.assertTrue(mask[-1])

    def test_sentinels_count_down_in_order(self):
        mask = tf.constant([False, True, True, False, True, False, True])
        inputs, targets = span_corruption.corrupt(tf.range(10, 17), mask, FIRST_SENTINEL)
        self.assertEqual(inputs.numpy().tolist(), [10, 999, 13, 998, 15, 997, 1])
        self.assertEqual(targets.numpy().tolist(), [999, 11, 12, 998, 14, 997, 16, 1])

    def test_the_mask_depends_on_the_seed_alone(self):
        masks = [
            span_corruption.noise_mask(100, tf.constant(seed)).numpy().tolist()
            for seed in ([0, 1], [0, 1], [0, 2], [1, 1])
        ]
        self.assertEqual(masks[0], masks[1])
        self.assertNotEqual(masks[0], masks[2])
        self.assertNotEqual(masks[0], masks[3])

    @parameterized.parameters(
        ((3,), "`inputs_length` must be an integer of at least 4. Received: inputs_length=3"),
        ((64, 0.0), "`noise_density` must be between 0 and 1. Received: noise_density=0.0"),
        ((64, 0.15, 0.5), "`mean_span_length` must be at least 1. Received"),
    )
    def test_bad_arguments_are_explained(self, args, message):
        with self.assertRaisesRegex(ValueError, message):
            span_corruption.lengths(*args)


if __name__ == "__main__":
    unittest.main()
