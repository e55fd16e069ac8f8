"""Asks an exported text model in a process that has neither Keras nor this package."""

import subprocess
import sys

from keras_switch.export import serve


def ask_in_another_process(path, text):
    """Prints `text` with its blanks filled by the SavedModel at `path`.

    Raises:
        RuntimeError: If the process fails.
    """
    # What TensorFlow says about the machine stays unread, unless something is wrong.
    command = [sys.executable, serve.__file__, str(path), text]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(
            "The process that was to answer failed. Received: "
            f"exit code {result.returncode}, {last}\n{result.stderr}"
        )
    print(result.stdout, end="", flush=True)
