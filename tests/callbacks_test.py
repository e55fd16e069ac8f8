import contextlib
import io
import pathlib
import signal
import tempfile
import unittest
from unittest import mock

import keras
import numpy as np

from keras_switch import training
from keras_switch.layers import SwitchDense
from keras_switch.layers.routing_metrics import SCALARS
from keras_switch.training import callbacks

STEPS = 5


def make_model(**kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 8))
    x = inputs + SwitchDense(4, 16, seed=5, dtype="float32", name="switch")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.SGD(0.1), "mse", **kwargs)
    return model


def fit(*given, validation=False, epochs=2, verbose=0, steps=STEPS, **kwargs):
    """Trains a few steps; returns the model and its history."""
    model = make_model(**kwargs)
    x = np.random.default_rng(0).normal(size=(steps * 2, 4, 8)).astype("float32")
    # Held-out tokens that all go elsewhere.
    held_out = (np.ones((6, 4, 8), "float32"), np.ones((6, 4, 1), "float32"))
    history = model.fit(
        x,
        x[..., :1],
        batch_size=2,
        epochs=epochs,
        shuffle=False,
        validation_data=held_out if validation else None,
        callbacks=list(given),
        verbose=verbose,
    )
    return model, history.history


class StepMetrics(keras.callbacks.Callback):
    """An independent record: reads the totals after each step."""

    def __init__(self):
        super().__init__()
        self.steps = []
        self.before = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("switch").routing_totals.assign(np.zeros(10))
        self.before = 0.0
        self.steps.append([])

    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.get_layer("switch")
        totals = np.array(keras.ops.convert_to_numpy(layer.routing_totals), "float64")
        self.steps[-1].append(totals - self.before)
        self.before = totals


class RoutingMetricsTest(unittest.TestCase):
    def test_logs_hold_the_means_of_the_training_steps(self):
        for validation in (False, True):
            steps = StepMetrics()
            _, history = fit(steps, training.RoutingMetrics(), validation=validation)
            for number, name in enumerate(SCALARS):
                (path,) = [x for x in history if x.endswith(f"switch/{name}")]
                expected = [np.mean([s[1 + number] for s in epoch]) for epoch in steps.steps]
                np.testing.assert_allclose(history[path], expected, rtol=1e-4)

    def test_validation_changes_nothing(self):
        _, alone = fit(training.RoutingMetrics())
        _, validated = fit(training.RoutingMetrics(), validation=True)
        for name in alone:
            self.assertEqual(alone[name], validated[name])

    @unittest.skipIf(keras.config.backend() != "tensorflow", "Only TensorFlow logs them itself.")
    def test_logs_are_those_without_the_callback(self):
        for validation in (False, True):
            _, without = fit(validation=validation)
            _, with_callback = fit(training.RoutingMetrics(), validation=validation)
            self.assertEqual(without, with_callback)


class LoadRecorderTest(unittest.TestCase):
    def test_windows_hold_the_loads_of_their_steps(self):
        steps = StepMetrics()
        recorder = training.LoadRecorder(every=3)
        fit(steps, recorder, training.RoutingMetrics(), epochs=3)
        loads = np.array(steps.steps).reshape(-1, 3, 10)[..., 6:].mean(axis=1)
        (windows,) = recorder.windows.values()
        np.testing.assert_allclose(windows, loads, rtol=1e-4, atol=1e-6)

    def test_validation_changes_nothing(self):
        recorders = [training.LoadRecorder(every=3) for _ in range(2)]
        for recorder, validation in zip(recorders, (False, True), strict=True):
            fit(recorder, validation=validation, epochs=3)
        self.assertEqual(len(recorders[0].windows["switch"]), 5)
        self.assertEqual(recorders[0].windows, recorders[1].windows)

    def test_windows_of_executions_of_several_steps(self):
        alone, together = training.LoadRecorder(every=4), training.LoadRecorder(every=4)
        fit(alone, epochs=2, steps=8)
        fit(together, epochs=2, steps=8, steps_per_execution=4)
        (expected,), (windows,) = alone.windows.values(), together.windows.values()
        self.assertEqual(len(windows), 4)
        np.testing.assert_allclose(windows, expected, atol=1e-6)

    def test_an_execution_ends_with_its_epoch(self):
        recorder = training.LoadRecorder(every=5)
        fit(recorder, epochs=4, steps=5, steps_per_execution=3)
        self.assertEqual(recorder.get_state()["steps"], 20)
        self.assertEqual(len(recorder.windows["switch"]), 4)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`every` must be a positive integer"):
            training.LoadRecorder(0)


class ProgressBarTest(unittest.TestCase):
    def test_shows_one_number_for_all_routers_and_the_speed(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            bar = training.ProgressBar(tokens_per_batch=8)
            _, history = fit(training.RoutingMetrics(), bar, epochs=1, verbose=1)
        last = output.getvalue().strip().splitlines()[-1]
        for words in ("5/5", "loss:", "tokens/s:", "dropped:", "busiest:"):
            self.assertIn(words, last)
        self.assertNotIn("entropy", last)
        self.assertNotIn("tokens/s: 0.0", output.getvalue())
        self.assertGreater(history["tokens_per_second"][0], 0)

    def test_speed_counts_each_step_of_an_execution_and_no_pause(self):
        for steps_per_execution, expected in ((1, 4), (2, 3), (5, 5), (10, 5)):
            bar = training.ProgressBar(tokens_per_batch=8)
            clock = iter(range(1000))
            with mock.patch("time.perf_counter", lambda clock=clock: 10.0 * next(clock)):
                _, history = fit(bar, steps_per_execution=steps_per_execution)
            executions = -(-STEPS // steps_per_execution)
            seconds = 10.0 * max(executions - 1, 1)
            self.assertEqual(history["tokens_per_second"], [expected * 8 / seconds] * 2)

    def test_shows_the_time_left_of_the_whole_run(self):
        output = io.StringIO()
        clock = iter(range(1000))
        with contextlib.redirect_stdout(output):
            with mock.patch("time.perf_counter", lambda: 600.0 * next(clock)):
                bar = training.ProgressBar(8, epochs=4, steps_per_epoch=10)
                fit(bar, epochs=2, verbose=1, validation=True)
        first, second = output.getvalue().split("Epoch 2/2")
        # A step takes 600 s by this clock, and so does the pause between the epochs, which the
        # first one does not know yet.
        self.assertIn("left: 5:00:00", first.split("\r")[-1])
        self.assertIn("left: 3:40:00", second.split("\r")[-1])

    def test_shows_held_out_loss_and_dead_experts(self):
        output, guard = io.StringIO(), training.TrainingGuard(dead_after=1)
        with contextlib.redirect_stdout(output):
            bar = training.ProgressBar(tokens_per_batch=8, guard=guard)
            guard._read = lambda: setattr(guard, "dead", {"switch": [0, 2]})
            _, history = fit(guard, bar, verbose=1, validation=True)
        step = output.getvalue().split("Epoch 2/2")[1].split("\r")[1]
        self.assertIn("1/5", step)
        self.assertIn(f"val_loss: {history['val_loss'][0]:.4f}", step)
        self.assertIn("dead: 2.0000", step)

    def test_bad_arguments_are_explained(self):
        for name in ("epochs", "steps_per_epoch"):
            with self.assertRaisesRegex(ValueError, f"`{name}` must be a positive integer"):
                training.ProgressBar(8, **{name: 0})


class StopOnInterruptTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        # A shell that starts the tests in the background makes them ignore SIGINT.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        self.handler = signal.default_int_handler

    def interrupt(self, after, times=1, **kwargs):
        """Presses Ctrl-C in a step; returns the state that is saved."""

        def press(batch, logs):
            if batch == after:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        checkpoint = training.Checkpoint(self.directory)
        presser = keras.callbacks.LambdaCallback(on_train_batch_begin=press)
        with contextlib.redirect_stdout(io.StringIO()):
            with self.assertRaises(KeyboardInterrupt):
                with callbacks.StopOnInterrupt(checkpoint) as stop:
                    fit(checkpoint, stop, presser, **kwargs)
        self.assertIs(signal.getsignal(signal.SIGINT), self.handler)
        return checkpoint.state

    def saved(self):
        path = training.latest(self.directory)
        return training.restore(make_model(), path)

    def test_saves_the_step_in_hand(self):
        self.interrupt(after=2)
        state = self.saved()
        self.assertEqual((state.step, state.epoch, state.epoch_step), (3, 0, 3))

    def test_the_last_step_of_an_epoch_waits_for_its_end(self):
        self.interrupt(after=STEPS - 1)
        state = self.saved()
        self.assertEqual((state.step, state.epoch, state.epoch_step), (STEPS, 1, 0))

    def test_the_last_execution_of_an_epoch_waits_for_its_end(self):
        self.interrupt(after=4, steps_per_execution=4)
        state = self.saved()
        self.assertEqual((state.step, state.epoch, state.epoch_step), (STEPS, 1, 0))

    def test_the_second_press_stops_at_once(self):
        self.interrupt(after=1, times=2)
        self.assertIsNone(training.latest(self.directory))

    def test_gives_the_handler_back(self):
        with self.assertRaisesRegex(RuntimeError, "broken"):
            with callbacks.StopOnInterrupt(training.Checkpoint(self.directory)):
                self.assertIsNot(signal.getsignal(signal.SIGINT), self.handler)
                raise RuntimeError("broken")
        self.assertIs(signal.getsignal(signal.SIGINT), self.handler)


if __name__ == "__main__":
    unittest.main()
