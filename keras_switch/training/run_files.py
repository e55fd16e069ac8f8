"""Callbacks that write what a run has done to files, whole after each epoch."""

import csv
import importlib.util
import pathlib

import keras

from keras_switch import atomic
from keras_switch import checks
from keras_switch.training import plots


class _FromState(keras.callbacks.Callback):
    """Writes files from the history of a `Checkpoint`: a resumed run has each epoch once."""

    def __init__(self, checkpoint):
        super().__init__()
        self.checkpoint = checkpoint

    def on_epoch_end(self, epoch, logs=None):
        if self.checkpoint.state.epoch != epoch + 1:
            name = type(self).__name__
            raise ValueError(
                f"`{name}` must come after its `Checkpoint` in the list of callbacks. "
                f"Received: checkpoint.state.epoch={self.checkpoint.state.epoch} at the end of "
                f"epoch {epoch + 1}"
            )
        self.write()

    def write(self):
        """Writes the files of the epochs so far."""
        raise NotImplementedError


class HistoryCSV(_FromState):
    """Writes the logs of all epochs to a CSV file, with a row for each epoch.

    The file is written anew at the end of each epoch, whole or not at all, and a resumed run has
    each epoch once. Keras's `CSVLogger` appends, and so repeats epochs after a kill. It comes
    after `Checkpoint` in the list of callbacks.

    Args:
        path: Path of the file.
        checkpoint: `Checkpoint`, whose state has the history.

    Raises:
        ValueError: In `fit`, if it does not come after the checkpoint.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones((8, 3)), keras.ops.zeros((8, 1))
    >>> checkpoint = keras_switch.training.Checkpoint("my_run")
    >>> callbacks = [checkpoint, HistoryCSV("history.csv", checkpoint)]
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    >>> [line.split(",")[0] for line in open("history.csv")]
    ['epoch', '1', '2']
    """

    def __init__(self, path, checkpoint):
        super().__init__(checkpoint)
        self.path = pathlib.Path(path)

    def write(self):
        history = self.checkpoint.state.history
        with atomic.whole(self.path) as beside, open(beside, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["epoch", *history])
            for number, values in enumerate(zip(*history.values(), strict=True), 1):
                writer.writerow([number, *values])


class Figures(_FromState):
    """Draws the losses, and the load of each expert, anew at the end of each epoch.

    The files are `loss.png` and, with a recorder, `expert_load.png`. It comes after `Checkpoint`
    in the list of callbacks.

    Args:
        directory: Path of the folder of the figures.
        checkpoint: `Checkpoint`, whose state has the history.
        steps_per_epoch: int. Steps of a whole epoch.
        recorder: `LoadRecorder`, or `None`.
        metric: string. Name of the metric to draw, a cross-entropy, with its `val_` twin if any.
        title: string.

    Raises:
        ValueError: If `steps_per_epoch` is not a positive integer. In `fit`, if there is no
            such metric, or if it does not come after the checkpoint.
    """

    def __init__(
        self, directory, checkpoint, steps_per_epoch, recorder=None, metric="loss", title="Loss"
    ):
        super().__init__(checkpoint)
        self.directory = pathlib.Path(directory)
        self.steps_per_epoch = checks.check_positive_integer("steps_per_epoch", steps_per_epoch)
        self.recorder, self.metric, self.title = recorder, metric, title

    def write(self):
        history, path = self.checkpoint.state.history, self.directory / "loss.png"
        plots.plot_losses(history, path, self.steps_per_epoch, self.title, self.metric)
        windows = self.recorder.windows if self.recorder is not None else {}
        if windows:
            path = self.directory / "expert_load.png"
            plots.plot_loads(windows, path, self.recorder.every)


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's `TensorBoard`, which needs the package of that name and says so at once.

    It writes the logs of each epoch under its number, also where a run is resumed with
    `initial_epoch`. Epochs that a killed run had begun after its last checkpoint are there twice.

    Args:
        log_dir: Path of the directory.
        **kwargs: Keyword arguments of Keras's callback. The graph is not written by default.

    Raises:
        ImportError: If the package is not installed.
    """

    def __init__(self, log_dir, **kwargs):
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "The package tensorboard is not installed: pip install 'keras-switch[tensorboard]'."
                f" Received: log_dir={str(log_dir)!r}"
            )
        super().__init__(str(log_dir), **{"write_graph": False, **kwargs})
