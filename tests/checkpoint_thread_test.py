import contextlib
import errno
import io
import json
import pathlib
import re
import signal
import tempfile
import threading
import time
import unittest
import zipfile
from unittest import mock

import h5py
import keras
import numpy as np

from keras_switch import training
from keras_switch.layers import SwitchDense
from keras_switch.training import callbacks
from keras_switch.training.snapshot import Snapshot

STEPS, EVERY = 6, 4


def make_model(sparse=False):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 8))
    x = keras.layers.Dropout(0.2, seed=3)(inputs)
    if sparse:
        x = x + SwitchDense(2, 16, seed=5, dtype="float32", name="switch")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(x))
    model.compile(keras.optimizers.Adam(0.1), "mse", weighted_metrics=["mae"], jit_compile=False)
    return model


def fit(*given, model=None, epochs=2):
    x = np.random.default_rng(0).normal(size=(STEPS * 2, 4, 8)).astype("float32")
    model = model or make_model()
    data = {"x": x, "y": x[..., :1], "batch_size": 2, "shuffle": False}
    model.fit(**data, epochs=epochs, callbacks=list(given), verbose=0)
    return model


def contents(path):
    """What a checkpoint holds."""
    arrays = {}

    def add(name, value):
        arrays[name] = value[()] if isinstance(value, h5py.Dataset) else dict(value.attrs)

    with zipfile.ZipFile(path / "model.keras") as archive:
        config = re.sub(r'"shared_object_id": \d+', "", archive.read("config.json").decode())
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(add)
    return config, arrays, json.loads((path / "state.json").read_text())


def slow(checkpoint, steps, seen):
    """A patch under which a thread writes after some more steps than the one it saves."""
    write, lock = Snapshot.write, threading.Lock()

    def write_late(self, path):
        assert lock.acquire(blocking=False), "Two checkpoints are written at the same time."
        due = min(int(path.parent.name.split("-")[1]) + steps, 2 * STEPS)
        deadline = time.monotonic() + 60
        while checkpoint.state.step < due and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append((path.parent.name.split(".")[1], checkpoint.state.step))
        write(self, path)
        lock.release()

    return mock.patch.object(Snapshot, "write", write_late)


class CheckpointThreadTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def checkpoint(self, name="thread", asynchronous=True, **kwargs):
        recorder = training.LoadRecorder(every=3)
        kwargs = {"every": EVERY, "keep": 9, "parts": {"load": recorder}, **kwargs}
        saver = training.Checkpoint(self.directory / name, asynchronous=asynchronous, **kwargs)
        return recorder, saver

    def test_what_is_saved_is_the_step_that_it_names(self):
        recorder, saver = self.checkpoint(every=4)
        with slow(saver, 3, seen := []):
            fit(recorder, saver, model=make_model(sparse=True))
        for (_, step), due in zip(seen, [7, 11, 12], strict=True):
            self.assertGreaterEqual(step, due)
        other = make_model(sparse=True)
        fit(*self.checkpoint("waits", asynchronous=False, every=4), model=other)
        paths = sorted((self.directory / "thread").iterdir())
        expected = sorted((self.directory / "waits").iterdir())
        self.assertEqual([path.name for path in paths], [path.name for path in expected])
        for path, other in zip(paths, expected, strict=True):
            (config, arrays, state), (config_2, arrays_2, state_2) = contents(path), contents(other)
            self.assertEqual(config, config_2)
            self.assertEqual(state, state_2)
            self.assertEqual(arrays.keys(), arrays_2.keys())
            for name, value in arrays.items():
                np.testing.assert_array_equal(value, arrays_2[name], name)

    def test_the_file_is_keras_own(self):
        model = fit(*self.checkpoint(every="epoch"))
        path = training.latest(self.directory / "thread")
        loaded = keras.saving.load_model(path / "model.keras")
        for x, y in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(x, y)
        for x, y in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(x, y)
        model.save(self.directory / "model.keras")
        with zipfile.ZipFile(self.directory / "model.keras") as own:
            with zipfile.ZipFile(path / "model.keras") as ours:
                self.assertEqual(sorted(own.namelist()), sorted(ours.namelist()))

    def test_assets_are_in_the_file(self):
        inputs = keras.Input((1,), dtype="string")
        words = keras.layers.StringLookup(vocabulary=["one", "two"])(inputs)
        model = keras.Model(inputs, words)
        if keras.config.backend() == "tensorflow":
            Snapshot(model).write(self.directory / "model.keras")
            loaded = keras.saving.load_model(self.directory / "model.keras")
            self.assertEqual(loaded.layers[-1].get_vocabulary(), ["[UNK]", "one", "two"])

    def test_the_last_ones_are_kept(self):
        fit(*self.checkpoint(every=2, keep=2))
        names = [path.name for path in sorted((self.directory / "thread").iterdir())]
        self.assertEqual(names, ["step-000000010-epoch-00001", "step-000000012-epoch-00002"])

    def test_a_full_disk_is_told_by_the_next_save_and_at_the_end(self):
        write = Snapshot.write
        for fatal, latest in ((4, 8), (12, 12)):
            recorder, saver = self.checkpoint(f"full_{fatal}")

            def write_until(self, path, fatal=fatal):
                write(self, path)
                if f"-{fatal:09d}-" in str(path):
                    raise OSError(errno.ENOSPC, "No space left on device")

            with mock.patch.object(Snapshot, "write", write_until):
                with self.assertRaisesRegex(OSError, "No space left") as raised:
                    fit(recorder, saver)
            self.assertIn(f"full_{fatal}/step-{fatal:09d}", raised.exception.filename)
            step = saver.state.step
            self.assertIn(step, range(fatal, latest + 1))
            left = [path.name[:14] for path in sorted(saver.directory.iterdir())]
            self.assertEqual(left, ["step-000000004", "step-000000008"] if fatal == 12 else [])
            saver.save()
            saver.wait()
            self.assertEqual(training.latest(saver.directory).name[:14], f"step-{step:09d}")

    def test_ctrl_c_waits_for_the_thread(self):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        recorder, saver = self.checkpoint(every="epoch")
        presser = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: (
                batch == 2 and signal.raise_signal(signal.SIGINT)
            )
        )
        with slow(saver, 0, seen := []), contextlib.redirect_stdout(io.StringIO()):
            with self.assertRaises(KeyboardInterrupt):
                with callbacks.StopOnInterrupt(saver) as stop:
                    fit(recorder, saver, stop, presser)
        self.assertEqual(seen, [("step-000000003-epoch-00000", 3)])
        self.assertEqual(training.restore(make_model(), training.latest(saver.directory)).step, 3)

    def test_weights_that_are_not_finite_are_not_saved(self):
        def spoil(batch, logs):
            if batch == 5:
                kernel = model.get_layer("dense").kernel
                value = np.array(keras.ops.convert_to_numpy(kernel))
                value[3, 0] = np.inf
                kernel.assign(value)

        for asynchronous in (False, True):
            recorder, saver = self.checkpoint(f"spoiled_{asynchronous}", asynchronous)
            model = make_model()
            spoiler = training.LoadRecorder()
            spoiler.on_train_batch_end = spoil
            good = "step-000000004-epoch-00000"
            message = f"not saved: `dense/kernel` holds NaN or inf.*step-000000008.*is .*{good}"
            with self.assertRaisesRegex(ValueError, message):
                fit(recorder, spoiler, saver, model=model)
            self.assertEqual([path.name for path in saver.directory.iterdir()], [good])


if __name__ == "__main__":
    unittest.main()
