"""The language model that a command is asked about."""

import json
import pathlib


def load(name):
    """Loads a `SwitchSeq2SeqLM`.

    Args:
        name: string. What `from_preset` takes, or the directory of a run, which has such a folder.

    Raises:
        ValueError: If there is no such model, or it is another one, such as a classifier.
    """
    from keras_switch import models

    folder = pathlib.Path(name)
    if (folder / "model").is_dir():
        folder = folder / "model"
    elif "settings" in _read(folder / "config.json"):
        raise ValueError(
            "The run has not ended yet, and has saved no model. Run `keras-switch pretrain` again, "
            f"which goes on from its last checkpoint. Received: preset={name!r}"
        )
    kind = _read(folder / "task.json").get("class_name", models.SwitchSeq2SeqLM.__name__)
    if kind != models.SwitchSeq2SeqLM.__name__:
        raise ValueError(
            "`preset` must be the folder of a `SwitchSeq2SeqLM`, which writes text. Received: "
            f"preset={str(folder)!r}, the folder of a {kind}"
        )
    return models.SwitchSeq2SeqLM.from_preset(str(folder) if folder.is_dir() else name)


def _read(path):
    """The JSON object in a file; an empty one if there is none, which `from_preset` explains."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
