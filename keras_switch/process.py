"""The command without what TensorFlow says about the machine as it starts."""

import contextlib
import os
import pathlib
import sys


@contextlib.contextmanager
def quiet_command():
    """Hides stderr in the process of the command `keras-switch`; elsewhere it does nothing.

    TensorFlow prints some lines while it is imported, whatever its log level.
    """
    if [pathlib.Path(name).name for name in sys.argv[:1]] != ["keras-switch"]:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
