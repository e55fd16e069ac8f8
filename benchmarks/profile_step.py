"""Prints where the time of a step goes: SwitchDense, dropless and dense, kind by kind.

    python benchmarks/profile_step.py --output benchmarks/results/profile.md

Outside XLA, where operations stay apart. Some run side by side, so sums can pass the step.
"""

import argparse
import collections
import importlib.metadata
import pathlib
import tempfile

import contenders
import report
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

STEPS = 10
NAMES = ("switch", "slots", "dropless", "tokens")
# Operations of TensorFlow by what they do here.
KINDS = {
    "matrix products": ("MatMul",),
    "elementwise": (
        *("Mul", "Add", "Sub", "Neg", "Relu", "Exp", "Log", "Shift", "Xor", "Select", "Equal"),
        *("Less", "Greater", "Square", "Real", "Softmax", "Cast", "Maximum", "Minimum"),
    ),
    "moving rows": ("Gather", "Concat", "Split", "Slice", "Pad", "Transpose", "Pack", "Unpack"),
    "sorting and sums": ("TopK", "Sum", "ArgMax", "Max", "Mean", "Cumsum"),
}


def kind_of(operation):
    for kind, words in KINDS.items():
        if any(word in operation for word in words):
            return kind
    return "other"


def profile(name, num_experts, dtype, train):
    """Milliseconds of each kind in one step."""
    step = contenders.make_step(*contenders.make(name, num_experts, dtype), False, train)
    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(STEPS):
            step()
        tf.profiler.experimental.stop()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    times = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                node, _, operation = plane.event_metadata[event.metadata_id].name.rpartition(":")
                # Nodes of the graph are `name:Operation`, the runtime's own events `Class::Method`.
                if node and node[-1] != ":" and operation.isidentifier():
                    times[kind_of(operation)] += event.duration_ps / 1e9 / STEPS
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=pathlib.Path)
    flags = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    with report.Report(flags.output) as out:
        out.title("Where a step's time goes", versions)
        unit = "milliseconds summed over operations, some side by side"
        out.write(f"\n{flags.experts} experts, {flags.dtype}, {unit}.\n")
        kinds = [*KINDS, "other"]
        out.head(["pass", "layer", *kinds])
        for train in (False, True):
            for name in NAMES:
                times = profile(name, flags.experts, flags.dtype, train)
                cells = [f"{times[kind]:.1f}" for kind in kinds]
                out.row(["train" if train else "forward", name, *cells])


if __name__ == "__main__":
    main()
