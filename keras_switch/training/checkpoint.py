"""Checkpoints that a killed process leaves whole."""

import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np

MODEL_NAME, STATE_NAME = "model.keras", "state.json"
_PREFIX = "step-"


@dataclasses.dataclass
class TrainingState:
    """Where a run is, beside its model.

    Attributes:
        step: int. Batches read so far: the number of the next one.
        epoch: int. Finished epochs.
        epoch_step: int. Batches read in the unfinished epoch.
        history: Dictionary of lists, the logs of the finished epochs.
        variables: List of the values of all seeds, which Keras does not save, of the
            weights that no gradient changes, and of the metrics.
        parts: Dictionary of what the parts of `Checkpoint` keep.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    variables: list = dataclasses.field(default_factory=list)
    parts: dict = dataclasses.field(default_factory=dict)


class Checkpoint(keras.callbacks.Callback):
    """Saves the model, the optimizer and the position of a run, and keeps the last few.

    Each checkpoint is a directory of a `.keras` file and a `state.json`. It is written
    beside, synced to the disk, and then renamed: a kill at any moment, even while
    writing, leaves the checkpoints before it as they were.

    To resume, build and compile the model, call `restore` on it, and go on with `fit`
    from the batch and epoch of the state; the run goes on as if it had never stopped.

    Args:
        directory: Path of the directory of the checkpoints.
        every: `"epoch"`, or int, a number of steps.
        keep: int. Number of checkpoints to keep.
        state: `TrainingState` to go on from. Defaults to that of a new run.
        parts: Dictionary of objects with `get_state` and `set_state` methods that
            give and take what JSON can hold, saved and restored with the rest. Those
            that are callbacks come before this one in the list of callbacks.

    Raises:
        ValueError: If `every` or `keep` is not as described.

    Example:
    >>> state = restore(model, latest(directory)) if latest(directory) else TrainingState()
    >>> model.fit(
    ...     batches.dataset(first_batch=state.step), steps_per_epoch=100, epochs=9,
    ...     initial_epoch=state.epoch, callbacks=[Checkpoint(directory, state=state)])
    """

    def __init__(self, directory, every="epoch", keep=3, state=None, parts=None):
        super().__init__()
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise ValueError(
                f'`every` must be "epoch" or a positive integer. Received: every={every!r}'
            )
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"`keep` must be a positive integer. Received: keep={keep}")
        self.directory = pathlib.Path(directory)
        self.every = every
        self.keep = keep
        self.state = state or TrainingState()
        self.parts = parts or {}
        self._steps_before = 0
        self._due = False
        for name, part in self.parts.items():
            if name in self.state.parts:
                part.set_state(self.state.parts[name])

    def on_train_begin(self, logs=None):
        self.directory.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self.directory)

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before = self.state.epoch_step
        if self.state.epoch_step:
            # `fit` has just reset the metrics of the epoch that is being resumed.
            _assign(self.model, self.state.variables)

    def on_train_batch_end(self, batch, logs=None):
        epoch_step = self._steps_before + batch + 1
        before = self.state.step
        self.state.step += epoch_step - self.state.epoch_step
        self.state.epoch_step = epoch_step
        if self.every != "epoch" and self.state.step // self.every > before // self.every:
            self._due = True
        # What falls on the last step of an epoch waits for its validation and its logs.
        if self._due and batch + 1 != self.params["steps"]:
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.state.history.setdefault(name, []).append(float(value))
        self.state.epoch, self.state.epoch_step = epoch + 1, 0
        if self.every == "epoch" or self._due:
            self.save()

    def on_train_end(self, logs=None):
        self.save()

    def save(self):
        """Writes a checkpoint of this moment, and returns its path."""
        values = [keras.ops.convert_to_numpy(v.value) for v in _untrained(self.model)]
        self.state.variables = [value.tolist() for value in values]
        self.state.parts = {name: part.get_state() for name, part in self.parts.items()}
        path = self.directory / f"{_PREFIX}{self.state.step:09d}-epoch-{self.state.epoch:05d}"
        self._due = False
        if path.exists():
            return path
        beside = path.with_name(f".{path.name}.tmp")
        _remove(beside)
        beside.mkdir(parents=True)
        self.model.save(beside / MODEL_NAME)
        (beside / STATE_NAME).write_text(json.dumps(dataclasses.asdict(self.state)))
        for written in (beside / MODEL_NAME, beside / STATE_NAME, beside):
            _sync(written)
        beside.rename(path)
        _sync(self.directory)
        for old in _checkpoints(self.directory)[: -self.keep]:
            _remove(old)
        return path


def latest(directory):
    """Path of the newest whole checkpoint in a directory, or `None`."""
    checkpoints = _checkpoints(pathlib.Path(directory))
    return checkpoints[-1] if checkpoints else None


def restore(model, path):
    """Loads a checkpoint into a model of the same architecture, built and compiled.

    Args:
        model: `keras.Model`.
        path: Path of one checkpoint, as `latest` returns it.

    Returns:
        `TrainingState`.

    Raises:
        ValueError: If there is no checkpoint.
    """
    state = read_state(path)
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(pathlib.Path(path) / MODEL_NAME)
    _assign(model, state.variables)
    return state


def read_state(path):
    """The `TrainingState` of a checkpoint."""
    path = pathlib.Path(path) / STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"`path` must be a checkpoint, a directory with a {STATE_NAME}. "
            f"Received: path={str(path.parent)!r}"
        )
    return TrainingState(**json.loads(path.read_text()))


def _untrained(model):
    return [*model.non_trainable_variables, *model.metrics_variables]


def _assign(model, values):
    for variable, value in zip(_untrained(model), values):
        variable.assign(np.asarray(value, dtype=variable.dtype))


def _checkpoints(directory):
    """Whole checkpoints, the oldest first. Only a rename gives one its name."""
    return sorted(directory.glob(f"{_PREFIX}*"))


def _remove_leftovers(directory):
    """Removes what a killed process was writing or removing."""
    for path in directory.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(path)


def _remove(path):
    """Removes a directory; a kill leaves it whole, or under a name that is ignored."""
    hidden = path.with_name(f".{path.name.strip('.')}.removed.tmp")
    if path.exists():
        path.rename(hidden)
        shutil.rmtree(hidden)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
