import unittest

import numpy as np
from keras import ops
from switch_helpers import make
from switch_helpers import run
from switch_helpers import tokens

from keras_switch.layers import parallelism


class Rolled(parallelism.Parallelism):
    """A pretended exchange: the groups change places on the way to the experts and back."""

    def __init__(self):
        self.calls = []

    def to_experts(self, x_GECD):
        self.calls.append(("to_experts", tuple(x_GECD.shape)))
        return ops.roll(x_GECD, 1, axis=0)

    def to_tokens(self, y_GECD):
        self.calls.append(("to_tokens", tuple(y_GECD.shape)))
        return y_GECD

    def gather(self, x_G):
        self.calls.append(("gather", tuple(x_G.shape)))
        return ops.roll(x_G, 1, axis=0)

    def scatter_sum(self, y_G):
        self.calls.append(("scatter_sum", tuple(y_G.shape)))
        return ops.roll(y_G, -1, axis=0)


class ParallelismTest(unittest.TestCase):
    def test_a_layer_uses_what_was_active_when_it_was_made(self):
        exchange = Rolled()
        x = tokens(2, 8, 6)
        alone = make(4, group_size="row")
        with parallelism.use(exchange):
            layer = make(4, group_size="row")
        run(alone, x)
        self.assertFalse(exchange.calls)
        self.assertGreater(np.abs(run(layer, x) - run(alone, x)).max(), 1e-3)
        exchanges = [("to_experts", (2, 4, 4, 6)), ("to_tokens", (2, 4, 4, 6))]
        self.assertEqual(exchange.calls, exchanges)

    def test_dropless_tokens_are_gathered_and_their_outputs_scattered(self):
        exchange = Rolled()
        x = tokens(2, 8, 6)
        alone = make(4, group_size="row", overflow="dropless")
        with parallelism.use(exchange):
            layer = make(4, group_size="row", overflow="dropless")
        np.testing.assert_allclose(run(layer, x), run(alone, x), atol=1e-6)
        gathered = [("gather", (2, 8, 6)), ("gather", (2, 8, 1)), ("gather", (2, 8, 1))]
        self.assertEqual(exchange.calls, [*gathered, ("scatter_sum", (2, 8, 6))])


if __name__ == "__main__":
    unittest.main()
