import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import keras
import numpy as np
import tensorflow as tf

from keras_switch import atomic
from keras_switch import training
from keras_switch.training import callbacks
from keras_switch.training import checkpoint as checkpoint_module
from keras_switch.training import unsaved_variables

# Trains ten epochs of six steps, and prints the history. Arguments: directory, `every`,
# and the step after which the process kills itself: while training, while writing, or while a
# thread writes and training is two steps further.
SCRIPT = """
import json, os, pathlib, signal, sys, time
import keras
import numpy as np
import tensorflow as tf
from keras_switch import atomic
from keras_switch import training
from keras_switch.layers import SwitchDense
from keras_switch.training.snapshot import Snapshot

directory, every, fatal_step, moment = sys.argv[1:]
every = every if every == "epoch" else int(every)
keras.utils.set_random_seed(7)
inputs = keras.Input((4, 8))
x = keras.layers.Dropout(0.2, seed=3)(inputs)
x = x + SwitchDense(2, 16, seed=5, dtype="float32")(x)
model = keras.Model(inputs, keras.layers.Dense(1)(x))
model.compile(keras.optimizers.Adam(0.01), "mse", weighted_metrics=["mae"])

def example(i):
    x = tf.random.stateless_normal((8, 4, 8), tf.stack([i, 1]))
    return x, tf.reduce_sum(x[..., :2], axis=-1, keepdims=True)

path = training.latest(directory)
state = training.restore(model, path) if path else training.TrainingState()
print("from step", state.step)
checkpoint = training.Checkpoint(
    directory, every=every, keep=2, state=state, parts={"load": training.LoadRecorder(4)},
    asynchronous=moment == "thread")

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if checkpoint.state.step == int(fatal_step) and moment == "training":
            os.kill(os.getpid(), signal.SIGKILL)

def kill_while_writing(path):
    if checkpoint.state.step == int(fatal_step) and moment == "writing":
        (pathlib.Path(path).parent / "model.keras").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

write = Snapshot.write

def kill_in_thread(self, path):
    if f"step-{int(fatal_step):09d}" in str(path) and moment == "thread":
        while checkpoint.state.step < int(fatal_step) + 2:
            time.sleep(0.001)
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, path)

atomic.sync = kill_while_writing
Snapshot.write = kill_in_thread
if moment == "slow":
    tf.config.run_functions_eagerly(True)
recorder = checkpoint.parts["load"]

def fit(epochs, steps):
    if steps and checkpoint.state.epoch < epochs:
        data = tf.data.Dataset.counter(checkpoint.state.step, dtype=tf.int32).map(example)
        model.fit(data, initial_epoch=checkpoint.state.epoch, epochs=epochs, steps_per_epoch=steps,
                  shuffle=False, callbacks=[recorder, checkpoint, Kill()], verbose=0)

if state.epoch_step:
    fit(state.epoch + 1, 6 - state.epoch_step)
fit(10, 6)
weights = [float(np.sum(w)) for w in model.get_weights()]
print(json.dumps([checkpoint.state.history, recorder.windows, weights]))
"""


def run(directory, every="epoch", fatal_step=0, moment="training"):
    """Runs the script; returns its exit code and its lines."""
    args = [sys.executable, "-c", SCRIPT, str(directory), str(every), str(fatal_step), moment]
    result = subprocess.run(args, capture_output=True, text=True, check=False)
    if result.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(result.stderr[-3000:])
    return result.returncode, result.stdout.splitlines()


def small_model(**kwargs):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse", **kwargs)
    return model


class ResumeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.directory.name)
        cls.addClassCleanup(cls.directory.cleanup)
        _, lines = run(cls.root / "whole")
        cls.expected = json.loads(lines[-1])

    def check(self, name, every, fatal_step, moment, resumed_step):
        code, _ = run(self.root / name, every, fatal_step, moment)
        self.assertEqual(code, -signal.SIGKILL)
        code, lines = run(self.root / name, every)
        self.assertEqual(lines[0], f"from step {resumed_step}")
        for expected, received in zip(self.expected, json.loads(lines[-1]), strict=True):
            self.assertEqual(expected, received)
        left = sorted(path.name for path in (self.root / name).iterdir())
        self.assertEqual(len(left), 2)
        self.assertTrue(left[-1].startswith("step-000000060"))

    def test_the_loss_falls(self):
        losses = self.expected[0]["loss"]
        self.assertEqual(len(losses), 10)
        self.assertLess(losses[-1], 0.7 * losses[0])

    def test_a_kill_in_an_epoch_changes_no_bit(self):
        self.check("mid_epoch", 5, 28, "training", 25)

    def test_a_kill_after_a_checkpoint_at_an_epochs_end_changes_no_bit(self):
        self.check("epoch_end", 4, 27, "training", 24)

    def test_a_kill_while_writing_changes_no_bit(self):
        self.check("writing", "epoch", 24, "writing", 18)

    def test_a_kill_while_a_thread_writes_changes_no_bit(self):
        self.check("thread", 5, 20, "thread", 15)

    def test_a_finished_run_resumes_to_the_same_history(self):
        _, lines = run(self.root / "whole")
        self.assertEqual(lines[0], "from step 60")
        self.assertEqual(json.loads(lines[-1])[0], self.expected[0])

    def test_a_kill_from_outside_leaves_whole_checkpoints(self):
        directory = self.root / "outside"
        args = [sys.executable, "-c", SCRIPT, str(directory), "1", "0", "slow"]
        process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while training.latest(directory) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.kill()
        process.wait()
        path = training.latest(directory)
        self.assertGreater(checkpoint_module.read_state(path).step, 0)
        self.assertGreater(len(keras.models.load_model(path / "model.keras").weights), 0)


class CheckpointTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def fit(self, checkpoint, epochs=1):
        model = small_model()
        data = np.ones((4, 3)), np.ones((4, 2))
        first = checkpoint.state.epoch
        model.fit(
            *data,
            batch_size=2,
            initial_epoch=first,
            epochs=first + epochs,
            callbacks=[checkpoint],
            verbose=0,
        )
        return model

    def test_keeps_the_last_ones(self):
        self.fit(training.Checkpoint(self.directory, keep=2), epochs=5)
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["step-000000008-epoch-00004", "step-000000010-epoch-00005"])

    def test_restores_weights_optimizer_and_seeds(self):
        model = self.fit(training.Checkpoint(self.directory))
        other = small_model()
        state = training.restore(other, training.latest(self.directory))
        self.assertEqual((state.step, state.epoch), (2, 1))
        for x, y in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(x, y)
        for x, y in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(x, y)
        self.assertEqual(int(other.optimizer.iterations), 2)

    def test_leftovers_are_ignored_and_removed(self):
        leftover = self.directory / ".step-000000099-epoch-00001.tmp"
        leftover.mkdir()
        (leftover / "model.keras").write_bytes(b"half")
        self.assertIsNone(training.latest(self.directory))
        self.fit(training.Checkpoint(self.directory))
        self.assertFalse(leftover.exists())

    def test_a_failed_write_leaves_the_checkpoints_before_it(self):
        checkpoint = training.Checkpoint(self.directory, keep=1)
        self.fit(checkpoint)
        before = training.latest(self.directory)
        checkpoint.state.step += 1
        with unittest.mock.patch.object(atomic, "sync", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                checkpoint.save()
        self.assertEqual(training.latest(self.directory), before)
        self.assertTrue(os.path.exists(before / "model.keras"))

    def test_checkpoints_beyond_the_state_are_refused(self):
        self.fit(training.Checkpoint(self.directory), epochs=3)
        before = sorted(self.directory.iterdir())
        states = {0: None, 4: checkpoint_module.read_state(before[1])}
        for step, state in states.items():
            message = f"beyond the state.*{self.directory}.*step-000000006.*state.step={step}"
            with self.assertRaisesRegex(ValueError, message):
                self.fit(training.Checkpoint(self.directory, state=state))
        self.assertEqual(sorted(self.directory.iterdir()), before)

    def test_a_rollback_goes_on_once_newer_checkpoints_are_gone(self):
        self.fit(training.Checkpoint(self.directory), epochs=3)
        first, second, third = sorted(self.directory.iterdir())
        for path in (second, third):
            shutil.rmtree(path)
        checkpoint = training.Checkpoint(
            self.directory, state=training.restore(small_model(), first)
        )
        self.fit(checkpoint)
        self.assertEqual(sorted(self.directory.iterdir()), [first, second])

    def test_state_is_assigned_by_name(self):
        self.fit(training.Checkpoint(self.directory))
        path = training.latest(self.directory)
        seeds = [keras.random.SeedGenerator(seed) for seed in (1, 2)]
        named = unsaved_variables.by_path(seed.state for seed in seeds)
        self.assertEqual(len(named), 2)
        values = unsaved_variables.values_of(named)
        unsaved_variables.assign(named, dict(reversed(values.items())))
        self.assertEqual([int(seed.state[0]) for seed in seeds], [1, 2])
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        other.add(keras.layers.Dropout(0.5))
        other.compile("adam", "mse")
        with self.assertRaisesRegex(ValueError, "not one of this model.*seed_generator"):
            training.restore(other, path)

    def test_executions_of_several_steps_end_with_their_epoch(self):
        saved = []

        class Watched(training.Checkpoint):
            def save(self):
                saved.append((self.state.step, self.state.epoch, self.state.epoch_step))
                return super().save()

        x, y = np.ones((10, 3)), np.ones((10, 2))
        model = small_model(steps_per_execution=2)
        callbacks = [Watched(self.directory, every=3)]
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=callbacks)
        self.assertEqual(saved, [(4, 0, 4), (7, 1, 2), (9, 1, 4), (10, 2, 0)])

    def test_steps_need_an_epoch_of_known_length(self):
        data = tf.data.Dataset.from_tensors((np.ones((2, 3)), np.ones((2, 2)))).repeat(5)
        data = data.filter(lambda x, y: True)
        checkpoint = training.Checkpoint(self.directory, every=2)
        stop = callbacks.StopOnInterrupt(training.Checkpoint(self.directory))
        for callback in (checkpoint, stop):
            name = type(callback).__name__
            with self.assertRaisesRegex(ValueError, f"`{name}` saves in the middle.*`steps_per_"):
                small_model().fit(data, callbacks=[callback], verbose=0)
        with self.assertRaisesRegex(ValueError, "`Checkpoint` saves .*counts the steps of exec"):
            small_model(steps_per_execution=2).fit(
                data, callbacks=[training.Checkpoint(self.directory)], verbose=0
            )
        small_model().fit(data, callbacks=[training.Checkpoint(self.directory)], verbose=0)
        self.assertEqual(checkpoint_module.read_state(training.latest(self.directory)).step, 5)

    def test_a_checkpoint_of_another_model_is_told_apart(self):
        self.fit(training.Checkpoint(self.directory))
        path = training.latest(self.directory)

        def model(units=2, more=(), optimizer="adam"):
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, name="d")])
            for layer in more:
                model.add(layer)
            model.compile(optimizer, "mse")
            return model

        adam, frozen = keras.optimizers.Adam(amsgrad=True), model()
        frozen.layers[0].trainable = False
        frozen.compile("adam", "mse")
        other, optimizer = "not one of this model.*model.keras", "of another optimizer.*model.keras"
        for made, message in (
            (model(5), rf"{other}.*d/kernel` has the shape \(3, 2\) \(here \(3, 5\)\)"),
            (model(2, [keras.layers.Dense(7, name="e")]), rf"{other}.*e/kernel` of .*is missing"),
            (model(optimizer="sgd"), f"{optimizer}, with Adam of 6 variables; here SGD of 2"),
            (model(optimizer="adamw"), f"{optimizer}, with Adam of 6 variables; here AdamW of 6"),
            (model(optimizer=adam), f"{optimizer}, .*amsgrad=False; here Adam of 8.*amsgrad=True"),
            (frozen, "freeze the same layers.* with Adam of 6 variables; here Adam of 2"),
        ):
            weights = made.get_weights()
            with self.assertRaisesRegex(ValueError, message):
                training.restore(made, path)
            for before, after in zip(weights, made.get_weights(), strict=True):
                np.testing.assert_array_equal(before, after)
        empty = keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu")])
        with self.assertRaisesRegex(ValueError, rf"{other}.*dense/vars/0` of .*is not in the mod"):
            training.restore(empty, path)

    def test_an_optimizer_is_not_needed_and_its_rate_may_change(self):
        trained = self.fit(training.Checkpoint(self.directory))
        uncompiled = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        slower = small_model()
        slower.compile(keras.optimizers.Adam(1e-5), "mse")
        for model in (uncompiled, slower):
            training.restore(model, training.latest(self.directory))
            for x, y in zip(trained.get_weights(), model.get_weights(), strict=True):
                np.testing.assert_array_equal(x, y)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, '`every` must be "epoch" or a positive integer'):
            training.Checkpoint(self.directory, every=0)
        with self.assertRaisesRegex(ValueError, "`keep` must be a positive integer"):
            training.Checkpoint(self.directory, keep=0)
        with self.assertRaisesRegex(ValueError, "`path` must be a checkpoint, a directory with"):
            training.restore(small_model(), self.directory)


if __name__ == "__main__":
    unittest.main()
