"""The SavedModel of a model that was just saved as a preset folder, on either backend."""

import os
import pathlib
import subprocess
import sys

import keras

from keras_switch.export.text_model import export_text_model


def export_pretrained(model, folder, path):
    """Exports a text model; on JAX by a process of the TensorFlow backend, from its folder.

    Args:
        model: `SwitchSeq2SeqLM` with a preprocessor.
        folder: Path of the preset folder that holds the same model.
        path: Path of the directory of versions. The next free one is written.

    Returns:
        Path of the version.

    Raises:
        RuntimeError: If the process fails.
    """
    if keras.config.backend() == "tensorflow":
        return export_text_model(model, path)
    command = ["-m", "keras_switch.cli", "export", f"--model={folder}", f"--output={path}"]
    result = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(f"The process that was to export failed. Received: {result.stderr}")
    return pathlib.Path(result.stdout.strip().splitlines()[-1])
