"""TPU chips in numbers, and how a slice of them is wired.

The numbers are per chip, from Google's pages and "How to Scale Your Model", but for the memory,
which is what libtpu grants one core. A *core* is a device of JAX's compile-only client: a chip, or
half of one where a chip has two cores.
"""

import math
import re
import typing

import numpy as np

_GIB = 2**30


class Chip(typing.NamedTuple):
    """A kind of TPU chip.

    Attributes:
        flops: float. bfloat16 operations a second.
        hbm: float. GiB of memory that a program may use on one core.
        bandwidth: float. Bytes a second between the chip and its memory.
        link: float. Bytes a second over one link to a neighbour, one way.
        ring: int. An axis of the slice closes to a ring where its size is a multiple of this.
        cores: int. Cores of a chip.
        largest: tuple. Chips along each axis of the largest slice.
    """

    flops: float
    hbm: float
    bandwidth: float
    link: float
    ring: int
    cores: int
    largest: tuple


CHIPS = {
    "v3": Chip(1.4e14, 15.48, 9.0e11, 1e11, 32, 2, (32, 32)),
    "v4": Chip(2.75e14, 15.25, 1.2e12, 4.5e10, 4, 2, (16, 16, 16)),
    "v5e": Chip(1.97e14, 15.75, 8.1e11, 4.5e10, 16, 1, (16, 16)),
    "v5p": Chip(4.59e14, 95.73, 2.8e12, 9e10, 4, 1, (16, 16, 24)),
    "v6e": Chip(9.2e14, 31.24, 1.6e12, 9e10, 16, 1, (16, 16)),
}


class Topology:
    """A slice of a TPU pod.

    Args:
        name: str. The chip and its number along each axis, such as `"v5e:2x4"`.

    Raises:
        ValueError: if there is no such slice.

    Example:

    >>> slice = Topology("v5p:4x4x8")
    >>> slice.num_cores, slice.rings
    (128, (True, True, True))
    """

    def __init__(self, name):
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name if isinstance(name, str) else "")
        if not match or match[1] not in CHIPS:
            raise ValueError(
                "`topology` must name a chip and its number along each axis, such as 'v5e:2x4'. "
                f"The chips are {list(CHIPS)}. Received: topology={name!r}"
            )
        self.name = name
        self.family = match[1]
        self.chip = CHIPS[self.family]
        shape = [int(size) for size in match[2].split("x")]
        rank = len(self.chip.largest)
        self.shape = tuple(shape + [1] * (rank - len(shape)))
        fits = len(shape) <= rank and all(
            1 <= size <= most for size, most in zip(sorted(self.shape), sorted(self.chip.largest))
        )
        if not fits:
            largest = "x".join(map(str, self.chip.largest))
            raise ValueError(
                f"A slice of {self.family} has at most {rank} axes and {largest} chips. "
                f"Received: topology={name!r}"
            )

    def __repr__(self):
        return f"Topology({self.name!r})"

    @property
    def num_chips(self):
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def num_cores(self):
        """Cores of the slice: the devices that JAX sees."""
        return self.num_chips * self.chip.cores

    @property
    def hbm(self):
        """Bytes of memory of a core."""
        return int(self.chip.hbm * _GIB)

    @property
    def flops(self):
        """bfloat16 operations a second of a core."""
        return self.chip.flops / self.chip.cores

    @property
    def bandwidth(self):
        """Bytes a second between a core and its memory."""
        return self.chip.bandwidth / self.chip.cores

    @property
    def rings(self):
        """Whether each axis closes to a ring."""
        return tuple(size % self.chip.ring == 0 for size in self.shape)

    def larger(self):
        """The next larger slice, its shortest axis doubled; `None` after the largest."""
        shape = list(self.shape)
        axis = max(range(len(shape)), key=lambda i: (-shape[i], i))
        shape[axis] *= 2
        try:
            return Topology(f"{self.family}:" + "x".join(map(str, shape)))
        except ValueError:
            return None

    def seconds(self, kind, num_bytes, coordinates):
        """How long a collective of one group takes when nothing but the links bounds it.

        Groups that lie between each other share the links of the box that holds them.

        Args:
            kind: str. XLA's name, such as `"all-to-all"`.
            num_bytes: int. What a core sends in an all-to-all or a permutation; the whole
                tensor, of all cores of the group, in the others.
            coordinates: int array `(cores, axes)`. The chip of each core of the group.

        Returns:
            float. Seconds, latency left out; 0 where no link is used.
        """
        coordinates = np.asarray(coordinates)[:, : len(self.shape)]
        box = np.ptp(coordinates, axis=0) + 1
        chips = len(np.unique(coordinates, axis=0))
        spanned = [
            (size, closed and size == whole)
            for size, closed, whole in zip(box.tolist(), self.rings, self.shape)
            if size > 1
        ]
        if not spanned:
            return 0.0
        if kind == "collective-permute":
            return num_bytes / self.chip.link
        if "all-to-all" in kind:
            sent = num_bytes * len(coordinates) / chips
            # Half of it crosses the middle of each axis, over one link or, on a ring, two.
            return max(sent * size / (8 if ring else 4) for size, ring in spanned) / self.chip.link
        rings = all(ring for _, ring in spanned)
        moved = num_bytes * (chips - 1) / chips * (math.prod(box.tolist()) / chips)
        one_way = moved / len(spanned) / (2 if rings else 1) / self.chip.link
        return 2 * one_way if kind == "all-reduce" else one_way
