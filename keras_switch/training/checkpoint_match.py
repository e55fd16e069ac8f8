"""What differs between a checkpoint and the model that is to take it."""

import contextlib
import json
import zipfile

import keras
import numpy as np

from keras_switch.private import keras as keras_private
from keras_switch.training import snapshot

SHOWN = 4  # Differences in an error.
_OPTIMIZER = "optimizer/"


def check(model, path):
    """Refuses the `.keras` file of another model, or of another optimizer.

    Args:
        model: `keras.Model`, built, and its optimizer, too, if it has one.
        path: Path of the file.

    Raises:
        ValueError: If it is one. It names what differs.
    """
    optimizer, theirs = _read(path)
    ours = _Shapes(model)
    differences = [
        f"`{ours.names.get(name, name)}` {_difference(ours.shapes.get(name), theirs.get(name))}"
        for name in sorted({*ours.shapes, *theirs}, key=_natural)
        if ours.shapes.get(name) != theirs.get(name)
        and not name.startswith(_OPTIMIZER)
        and not ours.is_made_later(name)
    ]
    if differences:
        more = len(differences) - SHOWN
        shown = ", ".join(differences[:SHOWN]) + (f", and {more} more" if more > 0 else "")
        raise ValueError(
            "The checkpoint is not one of this model: build the model that was trained. "
            f"Received: {path}, in which {shown}"
        )
    if getattr(model, "optimizer", None) is not None:
        slots = [
            {name: shape for name, shape in shapes.items() if name.startswith(_OPTIMIZER)}
            for shapes in (ours.shapes, theirs)
        ]
        _check_optimizer(model.optimizer, optimizer, *slots, path)


def _check_optimizer(optimizer, theirs, our_slots, their_slots, path):
    """Compares the class, and what is kept for each weight."""
    ours = keras.saving.serialize_keras_object(optimizer)
    theirs = theirs or ours
    is_same_class = ours["class_name"] == theirs["class_name"]
    if is_same_class and our_slots == their_slots:
        return
    options = {*ours["config"]} & {*theirs["config"]} - {"name", "learning_rate"}
    differ = [x for x in sorted(options) if ours["config"][x] != theirs["config"][x]]

    def told(found, slots):
        values = "".join(f", {x}={found['config'][x]!r}" for x in differ * is_same_class)
        return f"{found['class_name']} of {len(slots)} variables{values}"

    raise ValueError(
        "The checkpoint is one of another optimizer: compile the model with the one that it was "
        "trained with, and freeze the same layers. "
        f"Received: {path}, with {told(theirs, their_slots)}; here {told(ours, our_slots)}"
    )


def _difference(ours, theirs):
    if ours is None:
        return f"of shape {theirs} is not in the model"
    if theirs is None:
        return f"of shape {ours} is missing"
    return f"has the shape {theirs} (here {ours})"


def _natural(name):
    """Sorts the numbers in a name as numbers."""
    return [(not x.isdigit(), int(x) if x.isdigit() else x) for x in name.split("/")]


def _read(path):
    """The optimizer's configuration, or `None`, and the shape of each variable, by name."""
    shapes = {}

    def add(name, value):
        if hasattr(value, "shape"):
            shapes[name] = tuple(value.shape)

    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read(snapshot.CONFIG_NAME)).get("compile_config") or {}
        file = keras_private.H5IOStore(snapshot.WEIGHTS_NAME, archive=archive, mode="r")
        with contextlib.closing(file):
            file.h5_file.visititems(add)
    optimizer = config.get("optimizer")
    return (optimizer if isinstance(optimizer, dict) else None), shapes


class _Shapes(keras_private.NpzIOStore):
    """The shapes of what the objects of a model would save, by their names in the file."""

    def __init__(self, model):
        super().__init__(None, mode="w")
        self.shapes, self.names = {}, {}
        keras_private.save_state(model, self, None, "", set())
        for path, entry in self.contents.items():
            for key, value in entry.items():
                name = f"{path}/vars/{key}".lstrip("/")
                self.shapes[name] = tuple(np.shape(value))
                self.names[name] = getattr(value, "path", name)

    def make(self, path, metadata=None):
        self.contents[path] = {}
        return self.contents[path]

    def is_made_later(self, name):
        """Whether a variable is one of an object that has none yet, as some metrics have."""
        path = name.rpartition("/vars/")[0] if "/vars/" in name else ""
        return path in self.contents and not self.contents[path]
