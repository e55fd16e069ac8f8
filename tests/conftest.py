import importlib.metadata
import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import pytest  # noqa: E402

import keras_switch.tpu  # noqa: E402


def _is_tpu_build():
    try:
        return bool(importlib.metadata.version("tensorflow-tpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


# All tests of a process share its devices, and a mesh needs eight.
keras_switch.tpu.connect(cores=8)

if not importlib.util.find_spec("jax"):
    # A rehearsal compiles with JAX.
    collect_ignore = ["rehearsal_test.py", "rehearsal_step_test.py"]
if _is_tpu_build():
    # Keras would compile for the CPU, which this build's XLA does not.
    keras.Model._resolve_auto_jit_compile = lambda model: False

NO_XLA = "could not find registered transfer manager for platform Host"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Skips a test that needs XLA for the CPU, which TensorFlow's TPU build lacks."""
    report = yield
    if report.failed and NO_XLA in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, "Skipped: This TensorFlow has no XLA for the CPU.")
    return report
