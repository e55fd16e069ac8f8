"""What theory says that a split model holds, exchanges and computes in a step."""

import collections
import math
import sys

from keras_switch.tpu.layout import Layout

_BYTES = {"bfloat16": 2, "float32": 4}


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
        counts = collections.Counter()

        def add(dtype, num_bytes, dimension, count):
            axis = self._layout.axis(dimension)
            if axis is not None:
                counts[dtype, num_bytes, self._groups([axis])] += count

        width = self._layout.size("expert_hidden")
        for layer in self._facts["layers"]:
            dtype = layer["dtype"]
            num_bytes = layer["experts"] * layer["capacity"] * layer["dim"] * _BYTES[dtype]
            # There and back, forward and backward.
            add(dtype, num_bytes, "experts", 4)
            # Gathered and summed over the cores that share a width, forward and backward.
            add(dtype, num_bytes * width, "expert_hidden", 4)
        return counts

    def gradient_sums(self):
        """Sums of gradients: how many of each (dtype, shape, groups)."""
        counts = collections.Counter()
        for _, shape, axes in self._facts["weights"]:
            others = set(self._layout.axes) - set(axes)
            if others:
                counts["float32", self._slice(shape, axes), self._groups(others)] += 1
        return counts

    def optimizer_sums(self, optimizer):
        """Sums that complete norms and means over what is split, likewise.

        Args:
            optimizer: The name of one of `tpu_cases.OPTIMIZERS`, or `None`.
        """
        counts = collections.Counter()

        def add(shape, axes, times=1):
            axes = {axis for axis in axes if axis}
            if axes:
                counts["float32", tuple(shape), self._groups(axes)] += times

        for _, shape, axes in self._facts["weights"]:
            if optimizer == "adafactor" and any(axes):
                # The root mean squares of the weight and of the update, of each expert.
                experts, rows, columns = self._slice(shape, axes)
                add((experts, 1, 1), axes[1:], times=2)
                # The means of squared gradients over columns, over rows, and of the former.
                add((experts, rows, 1), axes[2:])
                add((experts, 1, columns), axes[1:2])
                add((experts, 1, 1), axes[1:2])
            if optimizer in ("adam", "adafactor", "lamb"):  # clipped
                add((), axes)
            if optimizer == "lamb":  # the norms of the weight and of its update
                add((), axes, times=2)
        if optimizer == "scaled":  # on how many cores every gradient is finite
            add((), self._layout.axes)
        return counts

    def bytes_summed(self):
        """All-reduces of a step: the bytes of each (dtype, groups)."""
        totals = collections.Counter()
        totals["float32", self._groups(self._layout.axes)] = 4  # the loss
        sums = self.gradient_sums() + self.optimizer_sums(self._facts["optimizer"])
        for (dtype, shape, groups), count in sums.items():
            totals[dtype, groups] += count * math.prod(shape) * _BYTES[dtype]
        return totals

    def _slice(self, shape, axes):
        return tuple(size // self._layout.axes.get(axis, 1) for size, axis in zip(shape, axes))

    def slices(self):
        """Shapes of the slices of the split weights."""
        return [self._slice(shape, axes) for _, shape, axes in self._facts["weights"] if any(axes)]

    def split_bytes(self):
        """Bytes of the split weights: on one core, and of all of them."""
        split = [(shape, axes) for _, shape, axes in self._facts["weights"] if any(axes)]
        part = sum(4 * math.prod(self._slice(shape, axes)) for shape, axes in split)
        return part, sum(4 * math.prod(shape) for shape, _ in split)

    def held(self, shapes):
        """The shapes, among those of all arguments, at the places of split weights."""
        # The first argument is the core's number.
        places = [i for i, (_, _, axes) in enumerate(self._facts["weights"], 1) if any(axes)]
        return [tuple(shapes[place]) for place in places]

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
