"""Asks an exported text model in a process that has neither Keras nor this package."""

import subprocess
import sys

from keras_switch.export import serve


def ask_in_another_process(path, text):
    """Prints `text` with its blanks filled by the SavedModel at `path`."""
    subprocess.run([sys.executable, serve.__file__, str(path), text], check=True)
