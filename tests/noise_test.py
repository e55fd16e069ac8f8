import unittest

import numpy as np
from keras import ops

from keras_switch.layers import noise


def draw(groups=4, rows=64, columns=128, seed=(3, 5)):
    group = ops.reshape(ops.arange(groups), (-1, 1, 1))
    row = ops.reshape(ops.arange(rows), (1, -1, 1))
    seed = ops.convert_to_tensor(np.array(seed, "uint32"))
    return ops.convert_to_numpy(noise.uniform(seed, group, row, ops.arange(columns)))


class NoiseTest(unittest.TestCase):
    def test_is_uniform(self):
        x = draw()
        self.assertTrue(((x >= 0) & (x < 1)).all())
        counts, _ = np.histogram(x, 64, (0, 1))
        expected = x.size / 64
        # 63 degrees of freedom: the statistic passes 110 once in five thousand draws.
        self.assertLess(((counts - expected) ** 2 / expected).sum(), 110)

    def test_neighbours_do_not_correlate(self):
        x = draw() - 0.5
        others = [x[:, :, 1:], x[:, 1:], x[1:], draw(seed=(3, 6)) - 0.5, draw(seed=(4, 5)) - 0.5]
        for other in others:
            part = x[: other.shape[0], : other.shape[1], : other.shape[2]]
            self.assertLess(abs(np.mean(part * other) * 12), 5 / np.sqrt(other.size))

    def test_depends_on_the_group_and_not_on_how_many_there_are(self):
        np.testing.assert_array_equal(draw(groups=8)[:4], draw(groups=4))
        np.testing.assert_array_equal(draw(rows=128)[:, :64], draw(rows=64))
        self.assertEqual(len(np.unique(draw(groups=8, rows=1, columns=1))), 8)

    def test_known_numbers_on_every_backend(self):
        # Computed by this hash in Python integers: a change of it breaks old curves.
        def mix(x, between=0):
            x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32 ^ between
            x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
            return x ^ x >> 16

        key = mix((mix((mix(3) + 5) % 2**32) + 2) % 2**32)
        first = mix((key + 7 * 0x9E3779B9) % 2**32)
        second = mix((first + 0x85EBCA6B) % 2**32)
        bits = mix((first + 9 * 0x9E3779B9) % 2**32, second)
        self.assertEqual(draw()[2, 7, 9], (bits >> 8) / 2**24)

    def test_dropout_keeps_the_mean(self):
        positions = (ops.zeros((2,), "uint32"), 0, ops.arange(500)[:, None], ops.arange(200))
        x = ops.convert_to_numpy(noise.dropout(ops.ones((500, 200)), 0.3, *positions))
        self.assertAlmostEqual((x == 0).mean(), 0.3, delta=0.01)
        self.assertAlmostEqual(x.mean(), 1.0, delta=0.01)

    def test_gumbel_is_finite_and_has_its_mean(self):
        positions = (ops.zeros((2,), "uint32"), 0, ops.arange(500)[:, None], ops.arange(200))
        x = ops.convert_to_numpy(noise.gumbel(*positions))
        self.assertTrue(np.isfinite(x).all())
        self.assertAlmostEqual(x.mean(), 0.5772, delta=0.02)


if __name__ == "__main__":
    unittest.main()
