"""The process of the command `keras-switch`, which starts at once and quietly."""

import contextlib
import os
import pathlib
import signal
import sys
import threading

INTERRUPTED = 130


def is_command():
    """Whether this is the process of the command, which imports Keras only when it needs it."""
    program = pathlib.Path(sys.argv[0]).name if sys.argv else ""
    return program == "keras-switch" or (program == "-m" and "keras_switch.cli" in sys.orig_argv)


@contextlib.contextmanager
def loading():
    """Hides stderr while libraries are imported, and lets Ctrl-C end the process at once.

    TensorFlow prints some lines while it is imported, whatever its log level; and of a
    `KeyboardInterrupt` in the middle of its imports it would make other errors.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)

    def stop(number, frame):
        os.write(stderr, b"\nStopped.\n")
        os._exit(INTERRUPTED)

    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, stop) if is_main else None
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        if is_main:
            signal.signal(signal.SIGINT, handler)
