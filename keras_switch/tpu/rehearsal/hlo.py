"""What a compiled XLA program sends between cores, read from its text."""

import collections
import math
import re
import typing

import numpy as np

# Types whose name does not tell their bits.
_BYTES = {"pred": 1, "token": 0, "opaque": 0}
_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(\w+)=(?:%([\w.\-]+)|\{(%[^}]*)\})")
_CALLS = (
    "body",
    "condition",
    "calls",
    "to_apply",
    "branch_computations",
    "called_computations",
    "true_computation",
    "false_computation",
)
_TENSOR = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FUSED_SCATTER = "all-reduce-scatter"


class Collective(typing.NamedTuple):
    """Equal collectives of a program.

    Attributes:
        kind: str. XLA's name, such as `"all-to-all"`.
        dtype: str. XLA's name; several joined by `+` where one collective moves several tensors.
        bytes: int. What a core sends in an all-to-all or a permutation; the whole tensor, of all
            cores of the group, in the others.
        groups: tuple of tuples of ints. The cores that exchange; the pairs of a permutation.
        count: int. How often it runs in a step.
    """

    kind: str
    dtype: str
    bytes: int
    groups: tuple
    count: int

    @property
    def group_size(self):
        """Cores of a group."""
        return max(map(len, self.groups))


def collectives(text, num_cores):
    """Lists the collectives of a compiled program.

    A collective that is split into a start and a done, or that is spread over several fusions,
    counts once; one in a loop counts once for each time around, if the compiler knows the number.

    Args:
        text: str. `jax.stages.Compiled.as_text()`.
        num_cores: int. Cores of the program.

    Returns:
        List of `Collective`, the largest first.
    """
    computations = split_computations(text)
    runs = count_runs(computations)
    found, seen = collections.Counter(), set()
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            chain = re.search(r'chain_id="(\d+)"', line)
            if chain:
                piece = (chain[1], match[2], re.search(r"channel_id=(\d+)", line)[1])
                if piece in seen:
                    continue
                seen.add(piece)
            found[_collective(name, line, match, num_cores)] += runs[name]
    result = [Collective(*key, count) for key, count in found.items()]
    return sorted(result, key=lambda x: (-x.bytes * x.count, x.kind, x.dtype))


def replica_groups(text, num_cores):
    """Reads the groups of a collective in any of XLA's ways of writing them.

    Args:
        text: str. What follows `replica_groups=`: lists, such as `{{0,1},{2,3}}` (`{}` is one group
            of all), a transposed iota, such as `[2,2]<=[2,2]T(1,0)`, or axes of a mesh, such as
            `mesh['a'=2,'b'=2] {'b'}`.
        num_cores: int. Cores of the program.

    Returns:
        Tuple of tuples of ints.

    Raises:
        ValueError: if the text is none of these.

    Example:

    >>> replica_groups("[2,2]<=[2,2]T(1,0)", 4)
    ((0, 2), (1, 3))
    """
    lists = re.match(r"\{((?:\{[\d,]*\},?)*)\}", text)
    if lists:
        groups = [group.split(",") for group in re.findall(r"\{([\d,]+)\}", lists[1])]
        return tuple(tuple(map(int, group)) for group in groups) or (tuple(range(num_cores)),)
    iota = re.match(r"(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", text)
    if iota:
        return _tuples(_iota(iota[1]))
    mesh = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text)
    if not mesh:
        raise ValueError(f"These replica groups cannot be read. Received: {text[:80]!r}")
    axes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh[1])}
    ids = np.arange(math.prod(axes.values()))
    if mesh[2]:
        ids = _device_ids(mesh[2])
    return _mesh_groups(ids, axes, re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", mesh[3]))


def _mesh_groups(ids, axes, grouped):
    """Groups along axes, of which `(name, m, k)` is the part of size `k` after `m`."""
    shape, inner = [], {}
    for axis, size in axes.items():
        parts = [(int(m), int(k)) for name, m, k in grouped if name == axis and k]
        if any(name == axis and not k for name, _, k in grouped):
            parts = [(1, size)]
        before = 1
        for start, part in sorted(parts):
            shape += [start // before, part]
            inner[axis, start] = len(shape) - 1
            before = start * part
        shape.append(size // before)
    order = [inner[name, int(m or 1)] for name, m, _ in grouped]
    ids = np.moveaxis(ids.reshape(shape), order, range(-len(order), 0))
    return _tuples(ids.reshape(-1, math.prod(shape[i] for i in order)))


def _device_ids(text):
    if "[" in text:
        return _iota(text if "<=" in text else re.sub(r"\[([\d,]+)\]", r"[\1]<=[\1]", text))
    return np.array([int(i) for i in text.split(",")])


def _iota(text):
    shape, source, *order = [
        [int(i) for i in part.split(",")] for part in re.findall(r"[\[(]([\d,]+)[\])]", text)
    ]
    ids = np.arange(math.prod(source)).reshape(source)
    return (ids.transpose(order[0]) if order else ids).reshape(shape)


def _tuples(groups):
    return tuple(tuple(group) for group in groups.tolist())


def split_computations(text):
    """The lines of each computation, by name; the entry's under `None`."""
    result, lines = {}, None
    for line in text.splitlines():
        header = None if line[:1].isspace() else _COMPUTATION.match(line)
        if header:
            lines = result.setdefault(None if header[1] else header[2], [])
        elif lines is not None:
            lines.append(line)
    return result


def count_runs(computations):
    """How often each computation runs in one run of the entry."""
    callers = collections.defaultdict(list)
    for name, lines in computations.items():
        for line in lines:
            trips = _TRIPS.search(line)
            for role, one, several in _CALLED.findall(line):
                if role in _CALLS:
                    times = int(trips[1]) if trips and role == "body" else 1
                    for called in [one] if one else re.findall(r"%([\w.\-]+)", several):
                        callers[called].append((name, times))
    runs = {None: 1}

    def count(name):
        if name not in runs:
            runs[name] = sum(times * count(caller) for caller, times in callers[name])
        return runs[name]

    return {name: count(name) for name in computations}


def _collective(computation, line, match, num_cores):
    """(kind, dtype, bytes, groups) of an instruction."""
    kind = match[2]
    tensors = _TENSOR.findall(match[1])
    if match[3] and kind == "all-gather":
        tensors = tensors[len(tensors) // 2 :]
    elif match[3] and kind == "collective-permute":
        tensors = tensors[1:2]
    num_bytes = int(sum(tensor_bytes(*tensor) for tensor in tensors))
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=(\{.*?\}\})", line)[1]
        groups = replica_groups(pairs, num_cores)
    else:
        groups = replica_groups(line.split("replica_groups=", 1)[1], num_cores)
    if kind == "reduce-scatter":
        num_bytes *= max(map(len, groups))
    if (computation or "").startswith(_FUSED_SCATTER):
        kind = "reduce-scatter"
    dtype = "+".join(dict.fromkeys(dtype for dtype, _ in tensors))
    return kind, dtype, num_bytes, groups


def tensor_bytes(dtype, shape):
    """Bytes of a tensor, such as `("bf16", "8,128")`; `"<=8"` is the bound of a dynamic size."""
    size = _BYTES[dtype] if dtype in _BYTES else int(re.search(r"\d+", dtype)[0]) / 8
    return size * math.prod(int(i) for i in re.findall(r"\d+", shape))
