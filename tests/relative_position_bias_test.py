import math
import unittest

import numpy as np
from absl.testing import parameterized
from block_helpers import compiled
from block_helpers import numpy
from block_helpers import tokens
from keras import ops
from keras.src.testing import TestCase as KerasTestCase

from keras_switch.layers import RelativePositionBias
from keras_switch.layers.relative_position_bias import relative_position_bucket


def expected_bucket(position, bidirectional, num_buckets=32, max_distance=128):
    """T5's rule for one distance, in exact steps of a logarithm."""
    bucket = 0
    if bidirectional:
        num_buckets //= 2
        bucket = num_buckets if position > 0 else 0
    distance = abs(position) if bidirectional else max(-position, 0)
    exact = num_buckets // 2
    if distance < exact:
        return bucket + distance
    steps = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    return bucket + min(exact + math.floor(steps + 1e-9), num_buckets - 1)


class BucketTest(parameterized.TestCase):
    def buckets(self, positions, bidirectional):
        positions = ops.array(positions, "int32")
        return list(
            ops.convert_to_numpy(relative_position_bucket(positions, bidirectional, 32, 128))
        )

    def test_bidirectional_buckets(self):
        positions = [0, -1, 1, -8, 8, -16, -64, -127, 128]
        self.assertEqual(self.buckets(positions, True), [0, 1, 17, 8, 24, 10, 14, 15, 31])

    def test_causal_buckets(self):
        positions = [5, -15, -16, -20, -32, -64, -128]
        self.assertEqual(self.buckets(positions, False), [0, 15, 16, 17, 21, 26, 31])

    @parameterized.product(
        bidirectional=[False, True], jit=[False, True], sizes=[(32, 128), (8, 20), (64, 256)]
    )
    def test_every_distance(self, bidirectional, jit, sizes):
        positions = np.arange(-300, 301, dtype="int32")

        def function(x):
            return relative_position_bucket(x, bidirectional, *sizes)

        buckets = (compiled(function) if jit else function)(ops.array(positions))
        expected = [expected_bucket(position, bidirectional, *sizes) for position in positions]
        np.testing.assert_array_equal(ops.convert_to_numpy(buckets), expected)


class RelativePositionBiasTest(KerasTestCase):
    def test_looks_up_the_bucket_of_each_pair(self):
        layer = RelativePositionBias(3, bidirectional=False)
        bias = numpy(layer(tokens(1, 40, 4), tokens(1, 30, 4), offset=5))
        table = numpy(layer.embedding)
        for query, key in ((0, 0), (3, 8), (0, 20), (39, 2), (17, 17)):
            bucket = expected_bucket(key - (query + 5), bidirectional=False)
            np.testing.assert_array_equal(bias[0, :, query, key], table[bucket])

    def test_offset_is_a_later_row(self):
        layer = RelativePositionBias(2, bidirectional=False)
        whole = layer(tokens(1, 9, 4))
        for offset in (6, np.int64(6), ops.array(6, "int32"), ops.array(6, "int64")):
            row = layer(tokens(1, 1, 4), tokens(1, 9, 4), offset=offset)
            self.assertAllClose(row[:, :, 0], whole[:, :, 6])

    def test_initializer(self):
        layer = RelativePositionBias(2, embeddings_initializer="ones")
        np.testing.assert_array_equal(layer(tokens(1, 2, 4)), np.ones((1, 2, 2, 2)))
        table = RelativePositionBias(64, num_buckets=64, max_distance=256)
        table.build((None, None, 4))
        self.assertLess(abs(numpy(table.embedding).std() - 0.02), 0.002)

    def test_layer(self):
        self.run_layer_test(
            RelativePositionBias,
            init_kwargs={"num_heads": 2},
            input_shape=(1, 5, 6),
            expected_output_shape=(1, 2, 5, 5),
            expected_num_trainable_weights=1,
            expected_num_non_trainable_weights=0,
            expected_num_seed_generators=0,
            expected_num_losses=0,
        )

    def test_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "`num_heads` must be a positive integer"):
            RelativePositionBias(0)
        with self.assertRaisesRegex(ValueError, "`num_buckets` must be at least 4"):
            RelativePositionBias(2, num_buckets=2)
        with self.assertRaisesRegex(ValueError, "max_distance=16"):
            RelativePositionBias(2, num_buckets=32, max_distance=16)


if __name__ == "__main__":
    unittest.main()
