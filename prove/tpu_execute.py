"""Runs and compiles the TPU programs that `tpu_lower.py` made.

    python prove/tpu_execute.py FOLDER

Each program runs on eight replicas by XLA's CPU client, and must give what one core gave. Then
libtpu compiles it for slices of eight cores, and what it exchanges, holds and computes must be
what theory says.
"""

import collections
import json
import os
import pathlib
import re
import sys

os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from tpu_theory import Theory
from tpu_theory import check

from keras_switch.tpu.rehearsal import compiler
from keras_switch.tpu.rehearsal import hlo
from keras_switch.tpu.rehearsal.chips import Topology

CORES = 8
SLICES = ("v5e:2x4", "v4:2x2x1")  # A v4 chip has two cores.
# Small programs have as much arithmetic outside the products as in them.
MOST_FLOPS = 1.05
DTYPES = {"bf16": "bfloat16", "f32": "float32"}
# Of the L2 norm of a tensor. A bfloat16 has 8 bits: a rounding moves it by up to 2 ** -9, and the
# two programs round some ten times in a row, not at the same places. A wrong exchange or sum would
# move it by about 1.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-4}


def options():
    result = xla_client.CompileOptions()
    for target in (result, result.executable_build_options):
        target.num_replicas, target.num_partitions = CORES, 1
    result.device_assignment = xla_client.DeviceAssignment.create(np.arange(CORES)[:, None])
    return result


def read_program(path):
    computation = xla_client.XlaComputation(path.read_bytes())
    return xla_client._xla.mlir.xla_computation_to_mlir_module(computation)


def run(program, arguments):
    """What each core returns: a list of arrays with a leading axis of cores."""
    devices = jax.devices()
    executable = devices[0].client.compile_and_load(
        program, xla_client.DeviceList(tuple(devices)), options()
    )
    # As replicated, though each core has a value of its own.
    mesh = jax.sharding.Mesh(np.array(devices), ("core",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(x):
        parts = [jax.device_put(part, device) for part, device in zip(x, devices)]
        return jax.make_array_from_single_device_arrays(x.shape[1:], sharding, parts)

    results = executable.execute_sharded([place(x) for x in arguments])
    results = results.disassemble_into_single_device_arrays()
    return [np.stack([np.asarray(part) for part in parts]) for parts in results]


def compare(folder, facts):
    """Checks every tensor that a program returns against one core's."""
    arguments = np.load(folder / "arguments.npz")
    arguments = [arguments[str(i)] for i in range(len(arguments))]
    expected = dict(np.load(folder / "expected.npz"))
    results = run(read_program(folder / "program.hlo"), arguments)
    check("number of results", len(results), len(expected))
    errors = {
        name: float(np.linalg.norm(ours - whole) / (np.linalg.norm(whole) or 1.0))
        for (name, whole), ours in zip(expected.items(), results)
    }
    tolerance = TOLERANCE[facts["dtype"]]
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if wrong:
        sys.exit(f"{folder.name}: too different: {wrong}")
    worst = max(errors, key=errors.get)
    row(folder.name, errors["loss"], len(errors) - 1, worst, errors[worst], tolerance)


def compile_for(name, program):
    devices = compiler.devices(Topology(name))
    check("cores of the slice", len(devices), CORES)
    with mlir.make_ir_context():
        return devices[0].client.compile(
            ir.Module.parse(program), xla_client.DeviceList(tuple(devices)), options()
        )


def inspect(executable, theory):
    """Checks a compiled program against theory, and says what was seen."""
    text = executable.hlo_modules()[0].to_string()
    found = hlo.collectives(text, CORES)
    check("kinds of collectives", {x.kind for x in found}, {"all-to-all", "all-reduce"})
    exchanges, sums = collections.Counter(), collections.Counter()
    seen = {"all-to-all": [], "all-reduce": []}
    for x in found:
        seen[x.kind] += [f"{x.count} x {x.bytes:,} {x.dtype} ({len(x.groups)} x {x.group_size})"]
        if x.kind == "all-to-all":
            exchanges[DTYPES[x.dtype], x.bytes, x.groups] += x.count
        else:
            sums[DTYPES[x.dtype], x.groups] += x.bytes * x.count
    check("all-to-alls", exchanges, theory.exchanges())
    check("forward all-to-alls", forward_exchanges(text), exchanges.total() // 2)
    check("bytes summed", sums, theory.bytes_summed())
    check("shapes of split weights", theory.held(parameters(text)), theory.slices())
    check("float32 products", *theory.router_products(convolutions(text)))
    part, whole = theory.split_bytes()
    flops = executable.cost_analysis()["flops"] / theory.flops()
    return *map("; ".join, seen.values()), f"{part:,} of {whole:,}", flops


def forward_exchanges(text):
    """How many all-to-alls have a layer's name: those of gradients have none."""
    names = re.findall(r" all-to-all\(.*?op_name=\"(.*?)\"", text)
    return sum("/" in name for name in names)


def parameters(text):
    """Shapes of the program's arguments."""
    layout = re.search(r"entry_computation_layout=\{\((.*?)\)->", text)[1]
    shapes = re.findall(r"\w+\[([\d,]*)\]", layout)
    return [[int(size) for size in shape.split(",") if size] for shape in shapes]


def convolutions(text):
    """(dtype, sorted shape, precision) of each product of matrices."""
    pattern = r"= (\w+)\[([\d,]+)\]\S* (?:convolution|dot)\((.*)"
    for dtype, shape, rest in re.findall(pattern, text):
        precision = re.search(r"operand_precision=\{(.*?)\}", rest)
        yield dtype, sorted(map(int, shape.split(","))), precision and precision[1]


def row(*cells):
    """Prints a row of a Markdown table."""
    print("|", " | ".join(f"{x:.1e}" if isinstance(x, float) else str(x) for x in cells), "|")


def head(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))


def main(folder):
    cases = {case: json.loads((case / "facts.json").read_text()) for case in folder.iterdir()}
    print("Executed on 8 replicas; differences are those of L2 norms, relative:")
    head("program", "loss differs", "other results", "the one that differs most", "by", "at most")
    for case, facts in sorted(cases.items()):
        if facts["runs"]:
            compare(case, facts)
    print("\nCompiled; bytes a core, and groups x cores:")
    head("program", "slice", "all-to-alls", "all-reduces", "experts' bytes", "FLOPs / ideal")
    for case, facts in sorted(cases.items()):
        for name in SLICES:
            executable = compile_for(name, read_program(case / "program.hlo"))
            *cells, flops = inspect(executable, Theory(facts))
            if facts["runs"]:
                row(case.name, name, *cells, "")
            elif flops <= MOST_FLOPS:
                row(case.name, name, *cells, f"{flops:.4f} (at most {MOST_FLOPS})")
            else:
                sys.exit(f"{case.name}: FLOPs are {flops:.4f} times the ideal.")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
