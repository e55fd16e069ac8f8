"""A rehearsal on the JAX backend, in this process or (`python -m`) in one of its own.

    KERAS_BACKEND=jax python -m keras_switch.tpu.rehearsal.run REQUEST.json

replaces the request by the answer.
"""

import collections
import importlib
import json
import pathlib
import sys

import keras

from keras_switch.tpu.layout import Layout
from keras_switch.tpu.rehearsal import compiler
from keras_switch.tpu.rehearsal import hlo
from keras_switch.tpu.rehearsal import hlo_traffic
from keras_switch.tpu.rehearsal import progress
from keras_switch.tpu.rehearsal import search
from keras_switch.tpu.rehearsal import train_step
from keras_switch.tpu.rehearsal.chips import Topology


def run(request):
    """Compiles a train step for a slice.

    Args:
        request: Dict of the fields of `train_step.Program`, and `topology`, `mesh` (two
            strings), `program` (what to say was compiled), `search` and `verbose`.

    Returns:
        Dict of the fields of `Rehearsal`.

    Raises:
        ValueError: as `rehearse` says.
    """
    program = train_step.Program(*(request[name] for name in train_step.Program._fields))
    topology, layout = Topology(request["topology"]), Layout(*request["mesh"])
    if layout.num_cores != topology.num_cores:
        raise ValueError(
            f"The mesh has {layout.num_cores} cores and the slice {topology.num_cores}: make them "
            f"equal. Received: {layout}, topology={topology.name!r}"
        )
    say = progress.teller(request.get("verbose"))
    say(f"making the model's shapes for the {topology.num_cores} cores of {topology.name}")
    devices = compiler.devices(topology)
    step = train_step.on_devices(program, layout, devices)
    say("compiling the train step, which takes longest")
    outcome = compiler.compile_step(step)
    result = {
        "model": _describe(step),
        "topology": topology.name,
        "mesh": layout.strings[0],
        "layout": layout.strings[1],
        "program": request["program"],
        "memory": {**outcome.memory, "available": topology.hbm},
        "collectives": [],
        "flops": {},
        "seconds": {},
        "proposal": None,
    }
    if outcome.executable is not None:
        coordinates = [device.coords for device in devices]
        text = compiler.text(outcome.executable)
        result["collectives"] = _collectives(text, topology, coordinates)
        compiled = outcome.executable.cost_analysis()["flops"]
        say("counting the products of the step as it is written")
        result["flops"], products = _flops(compiled, program, topology)
        result["seconds"] = {
            "compute": products / topology.flops,
            "memory": hlo_traffic.traffic(text) / topology.bandwidth,
            "links": sum(row["seconds"] for row in result["collectives"]),
        }
    if request["search"] and outcome.memory["total"] > topology.hbm:
        result["proposal"] = search.nearest(program, topology, layout, say)
    return result


def _describe(step):
    model = step.model
    shapes = keras.tree.flatten_with_path(step.data[0])
    batch = ", ".join(
        " ".join([*map(str, path), str(shape.dtype), str(tuple(shape.shape))])
        for path, shape in shapes
    )
    return (
        f"{model.name}: {model.count_params():,} parameters, trained by "
        f"{type(model.optimizer).__name__} on batches of {batch}"
    )


def _collectives(text, topology, coordinates):
    """Rows of the collectives: equal ones over groups of one size are one row."""
    rows = collections.defaultdict(lambda: [0, 0.0])
    for x in hlo.collectives(text, topology.num_cores):
        slowest = max(
            topology.seconds(x.kind, x.bytes, [coordinates[core] for core in group])
            for group in x.groups
        )
        row = rows[x.kind, x.dtype, x.bytes, x.group_size]
        row[0] += x.count
        row[1] += x.count * slowest
    return [
        {
            "kind": kind,
            "dtype": dtype,
            "bytes": num_bytes,
            "group_size": size,
            "count": count,
            "seconds": seconds,
        }
        for (kind, dtype, num_bytes, size), (count, seconds) in rows.items()
    ]


def _flops(compiled, program, topology):
    """Operations of a core; and with the further passes of float32 products, which none counts."""
    step = train_step.on_one_core(program, topology.num_cores)
    ideal, passes = (flops / topology.num_cores for flops in step.matmul_flops())
    flops = {"compiled": compiled, "ideal": ideal, "ratio": compiled / ideal}
    return flops, compiled + passes - ideal


def import_classes(config):
    """Imports the modules that a serialized object names, which registers their classes."""
    if isinstance(config, dict):
        module = config.get("module")
        # A class of the other process's script is not to be had here; Keras will say so.
        if isinstance(module, str) and module != "__main__":
            importlib.import_module(module)
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            import_classes(value)


def main(path):
    """Answers the request in a file, in the same file."""
    path = pathlib.Path(path)
    try:
        request = json.loads(path.read_text())
        import_classes([request["model"], request["compile"]])
        answer = run(request)
    except (ImportError, TypeError, ValueError) as error:
        answer = {"error": str(error)}
    path.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
