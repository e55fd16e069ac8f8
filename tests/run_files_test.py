import csv
import importlib.util
import math
import pathlib
import tempfile
import unittest
from unittest import mock

import keras
import numpy as np

from keras_switch import atomic
from keras_switch import training
from keras_switch.layers import SwitchDense
from keras_switch.training import checkpoint as checkpoint_module


def make_model(*layers):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 8)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    return model


def fit(*given, model=None, first=0, epochs=1, **kwargs):
    x = np.random.default_rng(0).normal(size=(8, 4, 8)).astype("float32")
    data = {"x": x, "y": x[..., :1], "validation_data": (x, x[..., :1]), "batch_size": 4}
    model = model or make_model()
    model.fit(**data, initial_epoch=first, epochs=epochs, callbacks=given, verbose=0, **kwargs)


class RunFilesTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.path = self.directory / "logs" / "history.csv"

    def rows(self):
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def checkpoint(self, **kwargs):
        return training.Checkpoint(self.directory / "checkpoints", **kwargs)

    def test_a_resumed_run_has_each_epoch_once(self):
        saver = self.checkpoint()
        fit(saver, training.HistoryCSV(self.path, saver), epochs=3)
        expected = self.rows()
        self.assertEqual([row["epoch"] for row in expected], ["1", "2", "3"])
        self.assertEqual([float(row["loss"]) for row in expected], saver.state.history["loss"])
        # A kill that took the last checkpoint with it.
        newest = training.latest(saver.directory)
        newest.rename(newest.with_name("gone"))
        model = make_model()
        saver = self.checkpoint(state=training.restore(model, training.latest(saver.directory)))
        fit(saver, training.HistoryCSV(self.path, saver), model=model, first=2, epochs=4)
        rows = self.rows()
        self.assertEqual([row["epoch"] for row in rows], ["1", "2", "3", "4"])
        self.assertEqual(rows[:3], expected)

    def test_the_file_is_whole_or_as_it_was(self):
        saver = self.checkpoint()
        history = training.HistoryCSV(self.path, saver)
        fit(saver, history)
        before = self.path.read_text()
        with mock.patch.object(atomic, "sync", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                history.write()
        self.assertEqual(self.path.read_text(), before)
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["history.csv"])

    def test_an_epoch_without_a_value_has_a_place_for_it(self):
        saver = self.checkpoint()
        fit(saver, training.HistoryCSV(self.path, saver), epochs=3, validation_freq=2)
        values = [float(row["val_loss"]) for row in self.rows()]
        self.assertEqual([math.isnan(value) for value in values], [True, False, True])
        state = checkpoint_module.read_state(training.latest(saver.directory))
        np.testing.assert_array_equal(state.history["val_loss"], values)

    def test_figures_are_drawn_each_epoch(self):
        saver, recorder = self.checkpoint(), training.LoadRecorder(every=2)
        figures = training.Figures(self.directory / "figures", saver, 2, recorder)
        sizes = []
        watch = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: sizes.append(
                {path.name: atomic.sha256(path) for path in figures.directory.iterdir()}
            )
        )
        model = make_model(SwitchDense(2, 4, seed=5, dtype="float32"))
        fit(recorder, saver, figures, watch, model=model, epochs=2)
        for drawn in sizes:
            self.assertEqual(sorted(drawn), ["expert_load.png", "loss.png"])
        self.assertNotEqual(*[drawn["loss.png"] for drawn in sizes])

    def test_they_come_after_the_checkpoint(self):
        for make in (
            lambda saver: training.HistoryCSV(self.path, saver),
            lambda saver: training.Figures(self.directory / "figures", saver, 2),
        ):
            saver = self.checkpoint()
            callback = make(saver)
            name = type(callback).__name__
            with self.assertRaisesRegex(ValueError, f"`{name}` must come after its `Checkpoint`"):
                fit(callback, saver)

    def test_a_metric_that_is_not_there_is_named(self):
        saver = self.checkpoint()
        with self.assertRaisesRegex(ValueError, "must hold the `nats` of an epoch"):
            fit(saver, training.Figures(self.directory / "figures", saver, 2, metric="nats"))
        with self.assertRaisesRegex(ValueError, "`steps_per_epoch` must be a positive integer"):
            training.Figures(self.directory / "figures", saver, 0)

    def test_tensorboard_is_asked_for_at_once(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            message = r"tensorboard is not installed: pip install 'keras-switch\[tensorboard\]'"
            with self.assertRaisesRegex(ImportError, message):
                training.TensorBoard(self.directory)

    @unittest.skipIf(importlib.util.find_spec("tensorboard") is None, "needs tensorboard")
    def test_tensorboard_goes_on_from_the_resumed_epoch(self):
        from tensorboard.backend.event_processing import event_accumulator

        for first in (0, 2):
            fit(training.TensorBoard(self.directory), first=first, epochs=first + 2)
        for part in ("train", "validation"):
            events = event_accumulator.EventAccumulator(str(self.directory / part)).Reload()
            steps = [event.step for event in events.Tensors("epoch_loss")]
            self.assertEqual(steps, [0, 1, 2, 3])


if __name__ == "__main__":
    unittest.main()
