"""Callbacks that show and record what a run does."""

import datetime
import signal
import threading
import time

import keras
import numpy as np

from keras_switch import checks
from keras_switch.layers import fit_logs
from keras_switch.training.checkpoint import check_steps
from keras_switch.training.checkpoint import finished_steps
from keras_switch.training.expert_loads import ExpertLoads

# Seconds between two looks of the progress bar at the routers.
READ_EVERY = 1.0


class RoutingMetrics(keras.callbacks.Callback):
    """Puts the routing metrics of every `SwitchDense` into the logs of each epoch.

    On the TensorFlow backend they are there without it. The trainer of the JAX backend
    has no place for a layer's metrics, so this callback adds them at the end of an epoch.
    It comes before `Checkpoint` in the list of callbacks.

    Example:
    >>> layer = keras_switch.layers.SwitchDense(2, 4, name="switch")
    >>> model = keras.Sequential([keras.Input((3, 4)), layer])
    >>> model.compile("sgd", "mse")
    >>> x = keras.ops.ones((8, 3, 4))
    >>> history = model.fit(x, x, verbose=0, callbacks=[RoutingMetrics()])
    >>> [name.split("/", 1)[1] for name in history.history if name.endswith("/dropped")]
    ['switch/dropped']
    """

    def on_epoch_begin(self, epoch, logs=None):
        fit_logs.start_epoch(self.model)

    def on_epoch_end(self, epoch, logs=None):
        logs.update(fit_logs.of_epoch(self.model))


class LoadRecorder(keras.callbacks.Callback):
    """Records the share of the tokens that each expert gets, over windows of steps.

    Args:
        every: int. Steps in a window. Where a model runs several steps per execution, a window
            ends with the execution of its last step.

    Attributes:
        windows: Dictionary by layer path of lists of arrays of shape `(E,)`.

    Example:
    >>> model = keras.Sequential([keras_switch.layers.SwitchDense(2, 4)])
    >>> model.compile("sgd", "mse")
    >>> x = keras.ops.ones((8, 3, 4))
    >>> recorder = LoadRecorder(every=1)
    >>> history = model.fit(x, x, batch_size=4, verbose=0, callbacks=[recorder])
    >>> [len(shares) for shares in recorder.windows.values()]
    [2]
    """

    def __init__(self, every=20):
        super().__init__()
        self.every = checks.check_positive_integer("every", every)
        self.windows = {}
        self._steps = 0
        self._epoch_steps = 0
        self._open = {}
        self._loads = ExpertLoads()

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self._epoch_steps = 0
            self._loads.begin_epoch(self.model)

    def on_train_batch_end(self, batch, logs=None):
        before, done = self._steps, finished_steps(batch, self.params["steps"])
        self._steps += done - self._epoch_steps
        self._epoch_steps = done
        if self._steps // self.every > before // self.every:
            self._read()
            for path, load in self._open.items():
                self.windows.setdefault(path, []).append((load / load.sum()).tolist())
            self._open = {}

    def on_epoch_end(self, epoch, logs=None):
        self._read()

    def get_state(self):
        self._read()
        loads = {path: load.tolist() for path, load in self._open.items()}
        return {"windows": self.windows, "steps": self._steps, "open": loads}

    def set_state(self, state):
        self.windows, self._steps = state["windows"], state["steps"]
        self._open = {path: np.asarray(load) for path, load in state["open"].items()}

    def _read(self):
        """Adds what each layer's loads have grown by since the last read."""
        for path, growth in self._loads.read(self.model).items():
            self._open[path] = self._open.get(path, 0.0) + growth


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with the time left, tokens per second, and numbers for all routers.

    It shows the time left of the whole run, which includes what lies between epochs once there has
    been one: validation, checkpoints, figures. It shows the share of the tokens that found no room,
    over all sparse layers, the load of the busiest expert, in even shares, and dead experts, if
    any. The logs keep each layer's own. In an epoch it shows `val_loss` of the epoch before.

    Args:
        tokens_per_batch: int. Tokens read in a step.
        epochs: int. Epochs of the whole run. Defaults to those of `fit`.
        steps_per_epoch: int. Steps of a whole epoch. Defaults to those of `fit`, which are fewer
            where the rest of an epoch is resumed.
        guard: `TrainingGuard`, before this in the list of callbacks, which tells dead experts.

    Raises:
        ValueError: If `epochs` or `steps_per_epoch` is not a positive integer.
    """

    def __init__(self, tokens_per_batch, epochs=None, steps_per_epoch=None, guard=None):
        super().__init__()
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if value is not None:
                checks.check_positive_integer(name, value)
        self.tokens_per_batch = tokens_per_batch
        self.total_epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.guard = guard
        self.tokens_per_second = 0.0
        self._start = None
        self._epoch, self._left = 0, None
        self._last_step, self._pause = None, 0.0
        self._held_out = {}
        self._routing, self._routing_read = {}, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        now = time.perf_counter()
        self._start = (now, 0)
        self._epoch, self._left = epoch, None
        if self._last_step is not None:
            self._pause = now - self._last_step
        self._routing = {}

    def on_train_batch_end(self, batch, logs=None):
        now, done = time.perf_counter(), finished_steps(batch, self.target)
        start, steps_before = self._start
        self._last_step = now
        # The first execution of an epoch may trace or wait for the data: it counts only if alone.
        if steps_before or done == self.target:
            steps = done - steps_before
            self.tokens_per_second = steps * self.tokens_per_batch / (now - start)
            self._left = self._time_left((now - start) / steps, done)
        else:
            self._start = (now, done)
        if self.verbose == 1 and now - self._routing_read > READ_EVERY:
            self._routing, self._routing_read = fit_logs.of_epoch(self.model), now
        logs = {**self._routing, **(logs or {}), **self._held_out}
        super().on_train_batch_end(batch, self._brief(logs))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["tokens_per_second"] = self.tokens_per_second
            self._held_out = {name: logs[name] for name in ("val_loss",) if name in logs}
        if self._left is not None:
            self._left -= self._pause  # That of this epoch is over.
        super().on_epoch_end(epoch, self._brief(logs))

    def _time_left(self, seconds, done):
        """Seconds to the end of the run, or `None` if the length of an epoch is not known."""
        if self.target is None:
            return None
        epochs = (self.total_epochs or self.epochs) - self._epoch - 1
        steps = self.target - done + epochs * (self.steps_per_epoch or self.target)
        return seconds * steps + self._pause * (epochs + 1)

    def _brief(self, logs):
        logs = logs or {}
        brief = {name: value for name, value in logs.items() if "/" not in name}
        brief.pop("tokens_per_second", None)
        if self._left is not None:
            brief = {"left": _Duration(self._left), **brief}
        if self.tokens_per_second:
            brief["tokens/s"] = round(self.tokens_per_second)
        for name, summary in (("dropped", np.mean), ("busiest", np.max)):
            values = [value for path, value in logs.items() if path.endswith(f"/{name}")]
            if values:
                brief[name] = float(summary(values))
        if self.guard is not None and self.guard.dead:
            brief["dead"] = sum(map(len, self.guard.dead.values()))
        return brief


class _Duration(float):
    """Seconds that Keras's bar shows as hours, minutes and seconds."""

    def __truediv__(self, number):
        return _Duration(float(self) / number)

    def __format__(self, how):
        return str(datetime.timedelta(seconds=round(self)))


class StopOnInterrupt(keras.callbacks.Callback):
    """Lets Ctrl-C finish the step in hand and save it; a second Ctrl-C stops at once.

    It is a context manager around `fit`, so that Ctrl-C gets its meaning back whatever ends it.

    Args:
        checkpoint: `Checkpoint`, which comes before it in the list of callbacks.

    Raises:
        ValueError: In `fit`, if the length of an epoch is not known.
    """

    def __init__(self, checkpoint):
        super().__init__()
        self.checkpoint = checkpoint
        self._pressed = False
        self._handler = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind, *error):
        self._release()
        if self._pressed and kind is None:  # While `fit` was ending: everything is saved.
            raise KeyboardInterrupt

    def on_train_begin(self, logs=None):
        check_steps(self)

    def on_train_batch_end(self, batch, logs=None):
        if self._pressed and finished_steps(batch, self.params["steps"]) != self.params["steps"]:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        if self._pressed:
            self._stop()

    def _press(self, number, frame):
        self._pressed = True
        self._release()
        print("\nFinishing the step to save it. Press Ctrl-C again to stop at once.", flush=True)

    def _release(self):
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _stop(self):
        self.checkpoint.save()
        self.checkpoint.wait()
        raise KeyboardInterrupt
