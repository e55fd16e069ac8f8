"""What theory says that a split model holds, exchanges and computes in a step."""

import math
import sys

from keras_switch.tpu.layout import Layout

_BYTES = {"bfloat16": 2, "float32": 4}
_SHORT = {"bfloat16": "bf16", "float32": "f32"}


def check(what, seen, expected):
    """Ends the proof if something is not as expected."""
    if seen != expected:
        sys.exit(f"{what}: not as expected.\nSeen:     {seen}\nExpected: {expected}")


class Theory:
    """The expectations for one program.

    Args:
        facts: Dictionary that `tpu_lower.py` wrote.
    """

    def __init__(self, facts):
        self._facts = facts
        self._layout = Layout(*facts["mesh"])

    def _groups(self, axes):
        groups = self._layout.groups([axis for axis in self._layout.axes if axis in axes])
        return tuple(map(tuple, groups))

    def exchanges(self):
        """All-to-alls: how many of each (dtype, bytes a core, groups)."""
        counts = {}

        def add(dtype, num_bytes, dimension, count):
            axis = self._layout.axis(dimension)
            if axis is not None:
                key = _SHORT[dtype], num_bytes, self._groups([axis])
                counts[key] = counts.get(key, 0) + count

        width = self._layout.size("expert_hidden")
        for layer in self._facts["layers"]:
            dtype = layer["dtype"]
            slots = layer["experts"] * layer["capacity"]
            num_bytes = slots * layer["dim"] * _BYTES[dtype]
            # There and back, forward and backward.
            add(dtype, num_bytes, "experts", 4)
            # Gathered and summed over the cores that share a width, forward and backward.
            add(dtype, num_bytes * width, "expert_hidden", 4)
        return counts

    def sums(self):
        """All-reduces: the bytes of each (dtype, groups)."""
        totals = {}
        for _, shape, axes in self._facts["weights"]:
            others = [axis for axis in self._layout.axes if axis not in axes]
            if others:
                key = "f32", self._groups(others)
                totals[key] = totals.get(key, 0) + 4 * math.prod(self._slice(shape, axes))
        loss = "f32", self._groups(self._layout.axes)
        totals[loss] += 4
        return totals

    def _slice(self, shape, axes):
        return [size // self._layout.axes.get(axis, 1) for size, axis in zip(shape, axes)]

    def slices(self):
        """Shapes of the slices of the split weights."""
        return [self._slice(shape, axes) for _, shape, axes in self._facts["weights"] if any(axes)]

    def held(self, shapes):
        """The shapes, among those of all arguments, at the places of split weights."""
        # The first argument is the core's number.
        places = [i for i, (_, _, axes) in enumerate(self._facts["weights"], 1) if any(axes)]
        return [shapes[place] for place in places]

    def router_products(self, products):
        """Products of the routers' three shapes with their precision, seen and expected.

        No product of float32 may have another precision; in a bfloat16 model of one layer the
        routers' are all of them.
        """
        shapes = []
        for layer in self._facts["layers"]:
            tokens, experts = self._facts["tokens"], layer["experts"]
            shapes += [sorted([tokens, experts]), sorted([layer["dim"], experts])]
        products = [(tuple(shape), how) for kind, shape, how in products if kind == "f32"]
        wrong = [shape for shape, how in products if how != "highest,highest"]
        seen = [tuple(shape) for shape in shapes if (tuple(shape), "highest,highest") in products]
        return (seen, wrong), ([tuple(shape) for shape in shapes], [])

    def flops(self):
        """The products of experts and routers on one core, forward and backward."""
        total = 0
        for layer in self._facts["layers"]:
            # As many slots arrive at a core's experts as its own tokens fill, if all are full.
            slots = layer["experts"] * layer["capacity"] * self._layout.size("expert_hidden")
            width = layer["width"] // self._layout.size("expert_hidden")
            total += 2 * slots * layer["dim"] * width
            total += self._facts["tokens"] * layer["dim"] * layer["experts"]
        return 3 * 2 * total
