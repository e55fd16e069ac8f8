"""The production TPU compiler, on a machine without a TPU."""

import contextlib
import os
import re
import typing

import jax
from jax.experimental import topologies

# Without these libtpu asks the cloud, and complains about a missing TPU; it also allows one
# process at a time, which is right for a TPU and wrong for a compiler.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_MIN_LOG_LEVEL": "4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Outcome(typing.NamedTuple):
    """What the compiler said.

    Attributes:
        executable: `jax.stages.Compiled`; `None` if the program needs more memory than there is.
        memory: Dict of bytes of a core: `arguments`, `temporaries`, `outputs` (those that take
            the place of no argument), `generated_code` and `total`. Without an executable,
            `temporaries` are all but the arguments.
    """

    executable: typing.Any
    memory: dict


def devices(topology):
    """Returns stand-ins for the cores of a slice.

    Args:
        topology: `Topology`.

    Raises:
        ValueError: If libtpu knows no such slice.
    """
    shape = (*topology.shape, 1)[:3]
    # A host has four chips, unless it is told that it has one.
    options = {"chips_per_host_bounds": shape} if topology.num_chips == 1 else {}
    name = f"{topology.family}:" + "x".join(map(str, shape))
    try:
        with _environment():
            return topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"libtpu knows no such slice. Received: topology={topology.name!r}, {error}"
        ) from error


@contextlib.contextmanager
def _environment():
    """Sets what libtpu looks at when it starts, where nobody has."""
    missing = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def compile_step(step):
    """Compiles a `train_step.Step`; returns an `Outcome`."""
    try:
        executable = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"total memory required .*?\(([\d.]+)([KMGT]?)\)", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        total = int(float(needed[1]) * _UNITS[needed[2]])
        arguments = step.argument_bytes
        return Outcome(None, _memory(arguments, max(total - arguments, 0), 0, 0))
    stats = executable.memory_analysis()
    return Outcome(
        executable,
        _memory(
            stats.argument_size_in_bytes,
            stats.temp_size_in_bytes,
            stats.output_size_in_bytes - stats.alias_size_in_bytes,
            stats.generated_code_size_in_bytes,
        ),
    )


def text(executable):
    """Returns a compiled program as text.

    Raises:
        RuntimeError: If JAX cannot read what this libtpu writes.
    """
    try:
        return executable.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            f"JAX {jax.__version__} cannot read this libtpu's programs. Install the one that "
            f"belongs to it: pip install 'jax[tpu]=={jax.__version__}'"
        ) from error


def _memory(arguments, temporaries, outputs, generated_code):
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "outputs": outputs,
        "generated_code": generated_code,
        "total": arguments + temporaries + outputs + generated_code,
    }
