"""What a rehearsal found out."""

import dataclasses
import json

from keras_switch.tpu.rehearsal.chips import Topology

_PARTS = ("arguments", "temporaries", "outputs", "generated_code", "total")
_BOUNDS = ("compute", "memory", "links")


@dataclasses.dataclass
class Rehearsal:
    """What a train step takes of each core of a TPU slice. Printed, it is a table.

    Attributes:
        model: string. The model's name, its size, its batch and its optimizer, in one line.
        topology: string. The slice, such as `"v5e:2x4"`.
        mesh: string. The mesh's shape, such as `"batch:8"`.
        layout: string. The layout rules.
        program: string. What was compiled.
        memory: Dict of bytes of a core: `arguments`, `temporaries`, `outputs`,
            `generated_code`, their `total`, and what is `available`.
        collectives: List of dicts with `kind`, `dtype`, `bytes` (what a core sends in an
            all-to-all, else the whole tensor), `group_size`, `count` and `seconds` (of all).
        flops: Dict of operations of a core: `compiled`; `ideal`, the matrix products of the
            step as it is written, over the cores; and `ratio`.
        seconds: Dict of times of a step if nothing but `compute`, `memory` or `links` bound it.
        proposal: Dict of `topology`, `mesh`, `layout` and `total` bytes of the nearest of them
            that holds the step; `None` if it fits, or none was found.
    """

    model: str
    topology: str
    mesh: str
    layout: str
    program: str
    memory: dict
    collectives: list = dataclasses.field(default_factory=list)
    flops: dict = dataclasses.field(default_factory=dict)
    seconds: dict = dataclasses.field(default_factory=dict)
    proposal: dict | None = None

    @property
    def fits(self):
        """Whether the step fits into the memory of a core."""
        return self.memory["total"] <= self.memory["available"]

    @property
    def bound(self):
        """What takes longest: `"compute"`, `"memory"` or `"links"`; `None` if it does not fit."""
        return max(_BOUNDS, key=self.seconds.get) if self.seconds else None

    def to_dict(self):
        """Returns everything as a dict of plain values."""
        return {**dataclasses.asdict(self), "fits": self.fits, "bound": self.bound}

    def to_json(self):
        """Returns everything as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values):
        """Returns the rehearsal of which `to_dict` gave the values."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

    def __str__(self):
        slice = Topology(self.topology)
        lines = [
            f"{self.model}",
            f'on {self.topology} ({slice.num_cores} cores), Mesh("{self.mesh}", "{self.layout}")',
            f"{self.program}",
            *self._memory_lines(),
            *self._collective_lines(),
            *self._time_lines(),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _memory_lines(self):
        rows = [[part.replace("_", " "), _gib(self.memory[part])] for part in _PARTS]
        rows[-1][1] += f" of {_gib(self.memory['available'])}: "
        rows[-1][1] += "fits" if self.fits else "DOES NOT FIT"
        lines = _table(["memory of a core", "GiB"], rows)
        if self.proposal:
            lines.append(
                'This fits: {topology}, Mesh("{mesh}", "{layout}"), '.format(**self.proposal)
                + f"with {_gib(self.proposal['total'])} GiB a core."
            )
        elif not self.fits:
            lines.append(
                "No layout or slice that fits was found: try a smaller batch, `keras.remat`, or "
                "an optimizer that keeps less."
            )
        return lines

    def _collective_lines(self):
        if not self.seconds:
            return []
        rows = [
            [
                row["kind"],
                row["dtype"],
                f"{row['bytes'] / 2**20:.3f}",
                f"{row['group_size']}",
                f"{row['count']}",
                f"{1e3 * row['seconds']:.3f}",
            ]
            for row in self.collectives
        ]
        return _table(["collective", "dtype", "MiB", "cores", "times", "ms"], rows)

    def _time_lines(self):
        if not self.seconds:
            return []
        tera = {name: self.flops[name] / 1e12 for name in ("compiled", "ideal")}
        longest, total = max(self.seconds.values()), sum(self.seconds.values())
        return [
            *_table(
                ["time of a step at peak rates", "ms"],
                [[name, f"{1e3 * self.seconds[name]:.3f}"] for name in _BOUNDS],
            ),
            f"Bound by {self.bound}: {1e3 * longest:.3f} ms if all three overlap, "
            f"{1e3 * total:.3f} ms if none do.",
            f"A core computes {tera['compiled']:.3f} TFLOP, {self.flops['ratio']:.3f} times the "
            f"{tera['ideal']:.3f} of the step's matrix products.",
        ]


def _gib(num_bytes):
    return f"{num_bytes / 2**30:.2f}"


def _table(header, rows):
    """Aligned columns, the first one to the left, after an empty line."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    widths[-1] = 0 if len(header) == 2 else widths[-1]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.ljust(width) if len(header) == 2 else cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:])
        ]
        lines.append("  ".join(cells).rstrip())
    return ["", *lines]
