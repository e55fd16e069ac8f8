import unittest

import numpy as np
from keras import ops
from switch_helpers import make
from switch_helpers import run
from switch_helpers import tokens

from keras_switch.layers import parallelism


class Rolled(parallelism.Parallelism):
    """A pretended exchange: the groups change places on the way to the experts."""

    def __init__(self):
        self.calls = []

    def group(self, x):
        self.calls.append("group")
        return ops.roll(x, 1, axis=0)

    def to_experts(self, x):
        self.calls.append(("to_experts", tuple(x.shape)))
        return ops.roll(x, 1, axis=0)

    def to_tokens(self, x):
        self.calls.append(("to_tokens", tuple(x.shape)))
        return ops.roll(x, -1, axis=0)


class ParallelismTest(unittest.TestCase):
    def test_a_layer_uses_what_was_active_when_it_was_built(self):
        exchange = Rolled()
        x = tokens(2, 8, 6)
        layer, alone = make(4, group_size="row"), make(4, group_size="row")
        with parallelism.use(exchange):
            layer.build(x.shape)
        alone.build(x.shape)
        expected = np.roll(run(alone, x), 1, axis=0)
        np.testing.assert_allclose(run(layer, x), expected, atol=1e-6)
        exchanges = [("to_experts", (2, 4, 4, 6)), ("to_tokens", (2, 4, 4, 6))]
        self.assertEqual(exchange.calls, ["group", "group", *exchanges])


if __name__ == "__main__":
    unittest.main()
