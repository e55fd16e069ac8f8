import itertools
import unittest

import keras
import numpy as np
from absl.testing import parameterized
from block_helpers import make
from block_helpers import numpy
from block_helpers import run
from block_helpers import tokens
from block_helpers import weights_by_name
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers.attention import Attention
from keras_switch.layers.feed_forward import FeedForward
from keras_switch.models import SwitchBackbone


class SeedTest(parameterized.TestCase):
    def assert_all_differ(self, blocks):
        """No two kernels are multiples of each other, and no two streams of noise are one."""
        kernels, states = [], []
        for block in blocks:
            block.build((None, None, 8))
            weights = weights_by_name(block).items()
            kernels += [(block.seed, path, numpy(w)) for path, w in weights if "norm" not in path]
            states += [tuple(ops.convert_to_numpy(v)) for v in block.variables if "seed" in v.path]
        for first, second in itertools.combinations(kernels, 2):
            a, b = (x[2].ravel() / x[2].std() for x in (first, second))
            if a.size == b.size:
                self.assertGreater(np.abs(a - b).max(), 0.1, (first[:2], second[:2]))
        self.assertGreaterEqual(len(states), 2)
        self.assertEqual(len(states), len(set(states)))

    @parameterized.parameters(0, None)
    def test_all_parts_differ(self, seed):
        # Kernels of one size, so that equal seeds would give equal values.
        keras.utils.set_random_seed(0)
        kwargs = {"cross_attention": True, "gated": True, "dropout": 0.1, "seed": seed}
        self.assert_all_differ([SwitchTransformerBlock(2, 8, 8, expert_attention=True, **kwargs)])
        self.assert_all_differ([SwitchTransformerBlock(2, 8, **kwargs)])

    def test_blocks_of_consecutive_seeds_differ(self):
        kwargs = {"cross_attention": True, "gated": True, "dropout": 0.1}
        self.assert_all_differ([SwitchTransformerBlock(2, 8, **kwargs, seed=i) for i in range(4)])
        kwargs |= {"num_experts": 8, "expert_attention": True}
        self.assert_all_differ([SwitchTransformerBlock(2, 8, **kwargs, seed=i) for i in range(3)])

    def test_layers_of_neighbouring_seeds_differ(self):
        kernels = {}
        for seed in range(30):
            dense = SwitchDense(8, 8, gated=True, seed=seed)
            feed_forward = FeedForward(8, gated=True, seed=seed)
            attention = Attention(2, 4, seed=seed)
            switch = {"num_experts": 8, "intermediate_dim": 8}
            experts = Attention(2, 4, switch=switch, seed=30 + seed)
            for name, layer in enumerate((dense, feed_forward, attention, experts)):
                layer.build((None, None, 8))
                for path, weight in weights_by_name(layer).items():
                    value = numpy(weight).ravel()[:64]
                    kernels[name, seed, path] = value / np.abs(value).max()
        rows = np.stack(list(kernels.values()))
        self.assertEqual(len(np.unique(rows.round(4), axis=0)), len(rows))

    def test_models_of_neighbouring_seeds_differ(self):
        values = []
        for seed in range(3):
            model = SwitchBackbone(
                64, 2, 2, 8, 16, num_experts=2, tie_embedding_weights=False, seed=seed
            )
            for name, weight in model.named_weights().items():
                if "norm" not in name:
                    value = numpy(weight).ravel()[:16]
                    values.append(value / np.abs(value).max())
        self.assertEqual(len(np.unique(np.round(values, 4), axis=0)), len(values))

    def test_seeds_may_be_of_any_size(self):
        for seed in (-1, 2**40, np.int64(7)):
            first, second = (SwitchDense(2, 4, seed=seed) for _ in range(2))
            first.build((None, 8))
            second.build((None, 8))
            np.testing.assert_array_equal(first.kernel_in, second.kernel_in)

    def test_a_seed_repeats_the_block(self):
        blocks = [make(expert_attention=True, dropout=0.1, seed=3) for _ in range(2)]
        x = tokens(2, 5, 8)
        first, second = (run(block, x, training=True) for block in blocks)
        np.testing.assert_array_equal(first, second)
        self.assertGreater(np.abs(run(make(seed=4), x) - run(make(seed=3), x)).max(), 0.01)

    @parameterized.parameters("kernel_initializer", "router_initializer")
    def test_a_given_initializer_is_cloned(self, name):
        initializer = keras.initializers.RandomNormal()
        kwargs = {name: initializer}
        kwargs = {"switch": kwargs} if name == "router_initializer" else kwargs
        block = make(8, expert_attention=True, **kwargs)
        block.build((None, None, 8))
        weight = "router/kernel" if name == "router_initializer" else "kernel_in"
        found = [numpy(w) for path, w in weights_by_name(block).items() if path.endswith(weight)]
        self.assertEqual(len(found), 3)
        for a, b in itertools.combinations(found, 2):
            self.assertFalse(np.array_equal(a, b))

    def test_dense_block_takes_a_plain_callable(self):
        def ones(shape, dtype=None):
            return ops.ones(shape, dtype=dtype)

        block = make(None, kernel_initializer=ones)
        block.build((None, None, 8))
        np.testing.assert_array_equal(block.feed_forward.output_dense.kernel, np.ones((16, 8)))


if __name__ == "__main__":
    unittest.main()
