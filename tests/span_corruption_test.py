import unittest

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from keras_switch.data import span_corruption

FIRST_SENTINEL = 999
SENTINELS = range(FIRST_SENTINEL, FIRST_SENTINEL - 100, -1)


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
        plan = span_corruption.plan(inputs_length)
        self.assertEqual((plan.length, plan.targets_length), (raw_length, targets_length))
        self.assertEqual(plan.inputs_length, inputs_length)

    # What T5's `random_spans_helper` gives. Half of the tokens: both sides as long, where possible.
    @parameterized.parameters(
        (512, 0.5, 3.0, 766, 512),
        (128, 0.5, 3.0, 190, 128),
        (5, 0.51, 1.0, 4, 5),
        (7, 0.87, 5.0, 20, 21),
        (64, 0.3, 2.0, 74, 34),
    )
    def test_other_densities_have_the_lengths_of_t5(self, inputs_length, density, mean, *lengths):
        plan = span_corruption.plan(inputs_length, density, mean)
        self.assertEqual((plan.length, plan.targets_length), lengths)
        self.assertEqual(plan.inputs_length, inputs_length)

    @parameterized.parameters(4, 5, 17, 64, 127, 128)
    def test_inputs_and_targets_have_the_promised_lengths(self, inputs_length):
        for percent in (1, 15, 30, 50, 67, 80, 90):
            for mean_span in (1, 3.0, 50):
                plan = span_corruption.plan(inputs_length, percent / 100, mean_span)
                tokens = tf.range(100, 100 + plan.length)
                mask = span_corruption.noise_mask(plan, tf.constant([percent, 7]))
                both = span_corruption.corrupt(tokens, mask, range(10**6, 0, -1), 1)
                self.assertEqual(plan.inputs_length, inputs_length)
                self.assertEqual([len(x) for x in both], [inputs_length, plan.targets_length])
                if inputs_length >= 64:
                    share = plan.num_noise / plan.length
                    self.assertAlmostEqual(share, percent / 100, delta=0.01)

    @parameterized.parameters((0.15, 3.0), (0.3, 2.0), (0.5, 5.0), (0.1, 1.0), (0.8, 3.0))
    def test_equals_the_naive_loop_and_can_be_undone(self, density, mean_span):
        plan = span_corruption.plan(96, density, mean_span)
        tokens = tf.random.stateless_uniform((plan.length,), (1, 2), 2, 500, tf.int32)
        for seed in range(10):
            mask = span_corruption.noise_mask(plan, tf.constant([3, seed]))
            inputs, targets = span_corruption.corrupt(tokens, mask, SENTINELS, 1)
            expected = corrupt_naively(tokens.numpy().tolist(), mask.numpy())
            self.assertEqual(inputs.numpy().tolist(), expected[0])
            self.assertEqual(targets.numpy().tolist(), expected[1])
            self.assertEqual(restore(*expected), tokens.numpy().tolist())

    def test_the_number_of_corrupted_tokens_and_spans_is_exact(self):
        plan = span_corruption.plan(512)
        self.assertEqual((plan.num_noise, plan.num_spans), (85, 28))
        for seed in range(10):
            mask = span_corruption.noise_mask(plan, tf.constant([0, seed])).numpy()
            self.assertEqual(mask.sum(), plan.num_noise)
            self.assertEqual((np.diff(mask.astype(int)) == 1).sum(), plan.num_spans)
            self.assertFalse(mask[0])
            self.assertTrue(mask[-1])

    def test_sentinels_count_down_in_order(self):
        mask = tf.constant([False, True, True, False, True, False, True])
        inputs, targets = span_corruption.corrupt(tf.range(10, 17), mask, SENTINELS, 1)
        self.assertEqual(inputs.numpy().tolist(), [10, 999, 13, 998, 15, 997, 1])
        self.assertEqual(targets.numpy().tolist(), [999, 11, 12, 998, 14, 997, 16, 1])

    def test_the_mask_depends_on_the_seed_alone(self):
        masks = [
            span_corruption.noise_mask(span_corruption.plan(90), tf.constant(seed)).numpy().tolist()
            for seed in ([0, 1], [0, 1], [0, 2], [1, 1])
        ]
        self.assertEqual(masks[0], masks[1])
        self.assertNotEqual(masks[0], masks[2])
        self.assertNotEqual(masks[0], masks[3])

    def test_rows_have_the_masks_of_their_seeds(self):
        plan = span_corruption.plan(64)
        seeds = tf.constant([[5, 1], [5, 2], [6, -1]])
        masks = span_corruption.noise_mask(plan, seeds)
        tokens = tf.random.stateless_uniform(masks.shape, (1, 2), 2, 500, tf.int32)
        inputs, targets = span_corruption.corrupt(tokens, masks, SENTINELS, 1)
        self.assertEqual((inputs.shape, targets.shape), ((3, 64), (3, plan.targets_length)))
        for row in range(3):
            mask = span_corruption.noise_mask(plan, seeds[row])
            np.testing.assert_array_equal(mask, masks[row])
            one, other = span_corruption.corrupt(tokens[row], mask, SENTINELS, 1)
            np.testing.assert_array_equal(one, inputs[row])
            np.testing.assert_array_equal(other, targets[row])

    def test_no_rows_have_no_masks(self):
        plan = span_corruption.plan(64)
        masks = span_corruption.noise_mask(plan, tf.zeros((0, 2), tf.int32))
        self.assertEqual(masks.shape, (0, plan.length))

    def test_all_masks_are_equally_likely(self):
        # Three spans of 6 corrupted and of 6 kept tokens: 10 ways to cut each.
        plan = span_corruption.Plan(12, 6, 3)
        seeds = tf.stack([tf.fill((20000,), 8), tf.range(20000)], axis=1)
        _, counts = np.unique(span_corruption.noise_mask(plan, seeds), axis=0, return_counts=True)
        self.assertLen(counts, 100)
        # Chi-squared with 99 degrees of freedom is above 149 once in a thousand.
        self.assertLess(((counts - 200) ** 2 / 200).sum(), 149)

    @parameterized.parameters(
        ((3,), "`inputs_length` must be an integer of at least 4. Received: inputs_length=3"),
        ((64, 0.0), "`noise_density` must be above 0 and at most 0.9. Received: noise_d.*=0.0"),
        (
            (64, 0.91),
            "`noise_density` must be above 0 and at most 0.9. Received: noise_d.*=0.91",
        ),
        ((64, float("nan")), "`noise_density` must be above 0 and at most 0.9. Received"),
        ((64, 0.15, 0.5), "`mean_span_length` must be at least 1. Received"),
    )
    def test_bad_arguments_are_explained(self, args, message):
        with self.assertRaisesRegex(ValueError, message):
            span_corruption.plan(*args)


if __name__ == "__main__":
    unittest.main()
