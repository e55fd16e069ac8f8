"""What a compiled TPU program reads from and writes to the memory of a core.

XLA's own figure, "bytes accessed", also counts what stays in the core's vector memory.
"""

import re
import typing

from keras_switch.tpu.rehearsal import hlo

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_TENSOR = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_CALLS = re.compile(
    r"\b(?:body|condition|to_apply|(?:branch|true|false)_computations?)=(\{[^}]*\}|%[\w.\-]+)"
)
# They move nothing, or what starts them is counted.
_FREE = {
    "add-dependency",
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "custom-call",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
_KERNEL = 'custom_call_target="tpu_custom_call"'
_SLICES = ("dynamic-slice", "gather", "slice")


class _Instruction(typing.NamedTuple):
    name: str
    result: str
    opcode: str
    operands: list
    line: str


def traffic(text):
    """Estimates the bytes that a program moves between a core and its memory.

    Each instruction reads its operands and writes its results, if they lie in the memory; of an
    operand that is only sliced or gathered from, what is taken counts, and of a result that is
    an updated operand, what is updated. Loops count as often as they run.

    Args:
        text: str. `jax.stages.Compiled.as_text()`.

    Returns:
        int. Bytes of a core.
    """
    computations = hlo.split_computations(text)
    runs = hlo.count_runs(computations)
    parsed = {name: _parse(lines) for name, lines in computations.items()}
    waiting, scheduled, total = [None], set(), 0
    while waiting:
        name = waiting.pop()
        if name in scheduled:
            continue
        scheduled.add(name)
        known = {x.name: x for x in parsed[name]}
        for x in parsed[name]:
            if x.opcode in ("while", "conditional", "call"):
                for called in _CALLS.findall(x.line):
                    waiting += re.findall(r"%([\w.\-]+)", called)
            total += runs[name] * _moved(x, known, parsed)
    return int(total)


def _parse(lines):
    found = []
    for line in lines:
        match = _INSTRUCTION.match(line)
        if match:
            operands = re.findall(r"%([\w.\-]+)", match[4].split(")", 1)[0])
            found.append(_Instruction(*match.groups()[:3], operands, line))
    return found


def _moved(x, known, parsed):
    """Bytes that an instruction reads and writes."""
    if x.opcode.endswith("-done") or (x.opcode in _FREE and _KERNEL not in x.line):
        return 0
    if x.opcode in ("copy-start", "slice-start"):
        sizes = [size for size in _sizes(x.result, everywhere=True) if size > 4]
        places = len([size for size in _sizes(x.result) if size > 4])
        return min(sizes, default=0) * places
    reads = [sum(_sizes(known[name].result)) if name in known else 0 for name in x.operands]
    writes = sum(_sizes(x.result))
    if x.opcode.endswith("-start") and x.opcode != "all-reduce-start":
        writes -= sum(reads)  # The results come after the operands.
    elif x.opcode == "fusion":
        called = re.search(r"calls=%([\w.\-]+)", x.line)
        if called:
            reads, writes = _fused(parsed[called[1]], reads, writes)
    elif x.opcode in _SLICES:
        reads = [min(read, sum(_sizes(x.result, everywhere=True))) for read in reads]
    elif x.opcode == "dynamic-update-slice":
        reads, writes = reads[1:], min(writes, 2 * _whole(known[x.operands[1]]))
    return sum(reads) + writes


def _fused(inner, reads, writes):
    """What a fusion reads of each operand, and what it writes."""
    known = {x.name: x for x in inner}
    for parameter in inner:
        if parameter.opcode != "parameter":
            continue
        number = int(re.search(r"parameter\((\d+)\)", parameter.line)[1])
        users = [x for x in inner if parameter.name in x.operands]
        taken = [_taken(x, parameter.name, known) for x in users]
        if users and None not in taken:
            reads[number] = min(reads[number], sum(taken))
    root = next((x for x in inner if x.line.lstrip().startswith("ROOT")), None)
    if root and root.opcode == "dynamic-update-slice":
        writes = min(writes, _whole(known[root.operands[1]]))
    return reads, writes


def _taken(user, name, known):
    """Bytes that an instruction takes of an operand that it slices, `None` if it does not."""
    if user.operands[0] != name:
        return None
    if user.opcode in _SLICES:
        return _whole(user)
    if user.opcode == "dynamic-update-slice":
        return 0
    return None


def _whole(x):
    return sum(_sizes(x.result, everywhere=True))


def _sizes(result, everywhere=False):
    """Bytes of each tensor of a type that lies in the memory (space 0), or anywhere."""
    return [
        hlo.tensor_bytes(dtype, shape)
        for dtype, shape, layout in _TENSOR.findall(result)
        if everywhere or "S(" not in layout
    ]
