"""Checkpoints that a killed process leaves whole."""

import concurrent.futures
import dataclasses
import json
import math
import pathlib
import shutil

import keras

from keras_switch import atomic
from keras_switch import checks
from keras_switch.training import checkpoint_match
from keras_switch.training import checkpoint_sums
from keras_switch.training import unsaved_variables as unsaved
from keras_switch.training.snapshot import Snapshot
from keras_switch.training.training_state import STATE_NAME
from keras_switch.training.training_state import TrainingState
from keras_switch.training.training_state import read_state

MODEL_NAME = "model.keras"
_FILES = (MODEL_NAME, STATE_NAME)
_PREFIX = "step-"


class Checkpoint(keras.callbacks.Callback):
    """Saves the model, the optimizer and the position of a run, and keeps the last few.

    Each checkpoint is a directory of a `.keras` file, a `state.json`, and their digests. It is
    written beside, synced to the disk, and then renamed: a kill at any moment, even while
    writing, leaves the checkpoints before it as they were. So does an error such as a full disk,
    and weights with NaN or infinity in them, which are not written.

    An asynchronous checkpoint stops training only while the state is copied to host memory. It is
    written in a thread while steps go on, one at a time: the next save waits for it, and so do the
    end of training and `StopOnInterrupt`. An error of the thread is raised there. Where something
    else ends `fit`, `wait` waits for it; a process that ends waits by itself.

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
        asynchronous: bool. Whether checkpoints are written while training goes on. It takes host
            memory for one more copy of the weights and of the optimizer's variables.

    Raises:
        ValueError: If `every` or `keep` is not as described. In `fit`, if the directory
            holds checkpoints beyond the state, if weights are not finite, or if the length of an
            epoch is not known, and `every` is a number or the model runs several steps per
            execution.
        OSError: In `fit`, if a checkpoint cannot be written. It names the checkpoint.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x, y = keras.ops.ones((8, 3)), keras.ops.ones((8, 1))
    >>> history = model.fit(x, y, batch_size=4, verbose=0, callbacks=[Checkpoint("run")])
    >>> state = restore(model, latest("run"))
    >>> state.epoch, state.step
    (1, 2)
    >>> go_on = Checkpoint("run", state=state)
    >>> history = model.fit(
    ...     x, y, batch_size=4, initial_epoch=state.epoch, epochs=2, verbose=0, callbacks=[go_on])
    >>> latest("run").name
    'step-000000004-epoch-00002'
    """

    def __init__(
        self, directory, every="epoch", keep=3, state=None, parts=None, asynchronous=False
    ):
        super().__init__()
        if every != "epoch" and (not checks.is_integer(every) or every < 1):
            raise ValueError(
                f'`every` must be "epoch" or a positive integer. Received: every={every!r}'
            )
        self.directory = pathlib.Path(directory)
        self.every = checks.plain(every)
        self.keep = checks.check_positive_integer("keep", keep)
        self.state = state or TrainingState()
        self.parts = parts or {}
        self.asynchronous = checks.check_bool("asynchronous", asynchronous)
        self._writing = None
        self._snapshot = None
        self._steps_before = 0
        self._due = False
        self._written = None
        self._late_metrics = {}
        for name, part in self.parts.items():
            if name in self.state.parts:
                part.set_state(self.state.parts[name])

    def on_train_begin(self, logs=None):
        if self.every != "epoch" or self.model.steps_per_execution > 1:
            check_steps(self)
        self.wait()
        self.directory.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self.directory)
        newest = latest(self.directory)
        if newest is not None and newest.name > self._path().name:
            raise ValueError(
                "The directory holds checkpoints beyond the state to go on from, which would "
                "outlive those that this run writes. Restore the latest one, move them away, or "
                f"give another directory. Received: directory={str(self.directory)!r}, with "
                f"{newest.name}, and state.step={self.state.step}"
            )
        if newest == self._path():
            # The one that the state was restored from.
            self._written = newest

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before = self.state.epoch_step
        if self.state.epoch_step:
            # `fit` has just reset the metrics of the epoch that is being resumed.
            unsaved.assign(unsaved.of_model(self.model), self.state.variables)
            named, values = (
                unsaved.by_path(self.model.metrics_variables),
                dict(self.state.metrics),
            )
            unsaved.assign(named, {name: values.pop(name) for name in named if name in values})
            self._late_metrics = values

    def on_train_batch_end(self, batch, logs=None):
        if self._late_metrics:
            self._add_late_metrics()
        epoch_step = self._steps_before + finished_steps(batch, self.params["steps"])
        before = self.state.step
        self.state.step += epoch_step - self.state.epoch_step
        self.state.epoch_step = epoch_step
        if self._writing is not None and self._writing.done():
            self.wait()  # An error of the thread stops training at once.
        if self.every != "epoch" and self.state.step // self.every > before // self.every:
            self._due = True
        # What falls on the last step of an epoch waits for its validation and its logs.
        if self._due and finished_steps(batch, self.params["steps"]) != self.params["steps"]:
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        logs, history = logs or {}, self.state.history
        for name in {**history, **logs}:
            values = history.setdefault(name, [])
            values += [math.nan] * (epoch - len(values))
            values.append(float(logs.get(name, math.nan)))
        self.state.epoch, self.state.epoch_step = epoch + 1, 0
        if self.every == "epoch" or self._due:
            self.save()

    def on_train_end(self, logs=None):
        self.save()
        self.wait()

    def save(self):
        """Saves this moment, and returns the path, where an asynchronous checkpoint will be."""
        self._due = False
        self.wait()
        path = self._path()
        if path == self._written:
            return path
        state = self.state
        state.variables = unsaved.values_of(unsaved.of_model(self.model))
        # The metrics of a finished epoch are in the history, and start anew.
        state.metrics = (
            unsaved.values_of(unsaved.by_path(self.model.metrics_variables))
            if state.epoch_step
            else {}
        )
        state.parts = {name: part.get_state() for name, part in self.parts.items()}
        self._snapshot = Snapshot(self.model, earlier=self._snapshot)
        arguments = path, self._snapshot, json.dumps(dataclasses.asdict(state))
        if self.asynchronous:
            thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
            self._writing = thread.submit(self._write, *arguments)
            thread.shutdown(wait=False)
        else:
            self._write(*arguments)
        return path

    def wait(self):
        """Waits for the checkpoint that is being written, and raises the error of its thread."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, path, snapshot, state):
        not_finite = snapshot.first_not_finite()
        if not_finite is not None:
            raise ValueError(
                f"Weights are not finite, so they are not saved: `{not_finite}` holds NaN or "
                "infinity. Go on from an earlier checkpoint, with a lower learning rate or clipped "
                f"gradients. Received: {path}; the newest is {latest(self.directory)}"
            )
        with atomic.whole(path) as beside:
            beside.mkdir()
            snapshot.write(beside / MODEL_NAME)
            (beside / STATE_NAME).write_text(state)
            checkpoint_sums.write(beside, _FILES)
        self._written = path
        for old in _checkpoints(self.directory)[: -self.keep]:
            _remove(old)

    def _add_late_metrics(self):
        """Restores the metrics that Keras made in the first step: they are sums from zero."""
        named = unsaved.by_path(self.model.metrics_variables)
        late = {name: x for name, x in named.items() if name in self._late_metrics}
        values = {name: unsaved.value_of(x) + self._late_metrics[name] for name, x in late.items()}
        unsaved.assign(late, self._late_metrics | values)
        self._late_metrics = {}

    def _path(self):
        step, epoch = self.state.step, self.state.epoch
        return self.directory / f"{_PREFIX}{step:09d}-epoch-{epoch:05d}"


def latest(directory):
    """Path of the newest whole checkpoint in a directory, or `None`."""
    checkpoints = _checkpoints(pathlib.Path(directory))
    return checkpoints[-1] if checkpoints else None


def restore(model, path):
    """Loads a checkpoint into a model of the same architecture.

    Args:
        model: `keras.Model`, built, and compiled to go on with training.
        path: Path of one checkpoint, as `latest` returns it.

    Returns:
        `TrainingState`.

    Raises:
        ValueError: If there is no checkpoint, if it is damaged, or one of another model or of
            another optimizer. It names what differs, and nothing is loaded.
    """
    state = read_state(path)
    damage = checkpoint_sums.damage(pathlib.Path(path), _FILES)
    if damage:
        raise ValueError(f"The checkpoint is damaged: take another one. Received: {damage}")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    checkpoint_match.check(model, pathlib.Path(path) / MODEL_NAME)
    unsaved.check(unsaved.of_model(model), state.variables)
    model.load_weights(pathlib.Path(path) / MODEL_NAME)
    unsaved.assign(unsaved.of_model(model), state.variables)
    return state


def set_damaged_aside(directory):
    """Renames damaged checkpoints, up to the newest whole one; returns lines that say so."""
    return checkpoint_sums.set_damaged_aside(_checkpoints(pathlib.Path(directory)), _FILES)


def check_steps(callback):
    """Requires an epoch of known length, whose end can be told from its middle."""
    if callback.params.get("steps") is None:
        raise ValueError(
            f"`{type(callback).__name__}` saves in the middle of epochs, or counts the steps of "
            "executions, and needs to know where epochs end: give `steps_per_epoch` to `fit`. "
            "Received: steps_per_epoch=None"
        )


def finished_steps(batch, steps):
    """Steps of an epoch of `steps`, or `None`, that are done at the end of a batch.

    Of the last execution of an epoch Keras counts `steps_per_execution` steps, also those beyond
    the epoch's end.
    """
    return batch + 1 if steps is None else min(batch + 1, steps)


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
