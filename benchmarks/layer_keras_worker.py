"""Times the Keras contenders on TensorFlow. A worker of `layer.py`."""

import functools
import importlib.metadata
import os
import pathlib
import re
import time

import contenders
import tensorflow as tf
import worker

STEPS = {}


@functools.cache
def contender(name, num_experts, dtype):
    return contenders.make(name, num_experts, dtype)


def versions():
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub")}


def prepare(names, num_experts, dtype, jit, train):
    """Traces, compiles and warms up the steps of a row."""
    STEPS.clear()
    for name in names:
        STEPS[name] = contenders.make_step(*contender(name, num_experts, dtype), jit, train)
        STEPS[name]()
        STEPS[name]()


def seconds(name):
    """How long one step takes."""
    start = time.perf_counter()
    STEPS[name]()
    return time.perf_counter() - start


def peak_memory(name, num_experts, dtype, jit, train):
    """Mebibytes that steps need above what the process held before the first one."""
    step = contenders.make_step(*contender(name, num_experts, dtype), jit, train)
    # Sets the peak back to what is held now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = peak_resident()
    for _ in range(5):
        step()
    return peak_resident() - before


def peak_resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


if __name__ == "__main__":
    threads = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    functions = (versions, prepare, seconds, peak_memory)
    worker.answer({function.__name__: function for function in functions})
