"""What a mesh of the TensorFlow backend holds, saves and loads."""

import io
import json
import math
import pathlib
import tempfile
import unittest
import zipfile

import h5py
import keras
import mesh_helpers
import numpy as np
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import X
from mesh_helpers import Y
from mesh_helpers import assert_same
from mesh_helpers import compiled
from mesh_helpers import fit
from mesh_helpers import mesh_of
from mesh_helpers import values

from keras_switch.training import Adafactor
from keras_switch.training import checkpoint

if IS_TENSORFLOW:
    import tensorflow as tf

    from keras_switch import export

PATH = ("8", ONE_CORE, "4", "2x2", "8")
BUILDS = {
    "adam": lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2),
    "adafactor": lambda: Adafactor(min_dim_size_to_factor=4, beta_1=0.5),
}


def noisy():
    return mesh_helpers.model(expert_dropout=0.2, num_experts=8, gated=True)


def make(name, optimizer="adam"):
    """A compiled model whose optimizer has its slots."""
    made = compiled(name, BUILDS[optimizer], noisy)
    made.optimizer.build(made.trainable_variables)
    return made


def fill(trained):
    """Gives every weight and slot numbers of its own."""
    rng = np.random.default_rng(0)
    for variable in (*trained.weights, *trained.optimizer.variables):
        value = rng.uniform(1, 9, size=variable.shape)
        variable.assign(value.astype(variable.dtype))


def load(name, path, optimizer):
    """Loads a whole model, whose optimizer on a mesh must be wrapped."""
    if name is ONE_CORE:
        return keras.saving.load_model(path)
    mesh = mesh_of(name)
    with mesh.scope():
        loaded = keras.saving.load_model(path, compile=False)
        loaded.compile(mesh.optimizer(BUILDS[optimizer]()), "mse")
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(path)
    return loaded


def saved(trained):
    """The values of what a file holds."""
    return values(trained.weights), values(trained.optimizer.variables)


def bytes_of_cores(variables, layout):
    """For each core, the bytes of its `tf.Variable`s."""
    sums = np.zeros(layout.num_cores, int)
    for variable in variables:
        held = variable.slices if hasattr(variable, "slices") else variable.value.values
        assert len({part.device for part in held}) == layout.num_cores
        sums += [math.prod(part.shape) * part.dtype.size for part in held]
    return sums


def contents(path):
    """What lies in a `.keras` file: its config, and every array with its path and dtype."""
    with zipfile.ZipFile(path) as archive:
        # Keras writes addresses of objects.
        config = json.loads(
            archive.read("config.json"),
            object_hook=lambda x: {k: v for k, v in x.items() if k != "shared_object_id"},
        )
        arrays = {}
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(
                lambda name, x: arrays.update({name: x[()]} if isinstance(x, h5py.Dataset) else {})
            )
            attributes = {}
            file.visititems(lambda name, x: attributes.update({name: dict(x.attrs)}))
        return config, arrays, str(attributes)


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class MeshStateTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        keras.utils.clear_session()

    def test_a_core_holds_its_part_of_weights_and_slots(self):
        whole = {}
        for optimizer in BUILDS:
            for name in ("1", "2", "4", "8", "2 outer, 4 inner", "4x2"):
                layout = mesh_of(name).layout
                made = make(name, optimizer)
                kernels = [v for v in made.weights if "switch/kernel_" in v.path]
                slots = [v for v in made.optimizer.variables if "switch_kernel_" in v.path]
                self.assertEqual(len(kernels), 3)
                self.assertGreaterEqual(len(slots), 9)
                parts = layout.size("experts") * layout.size("expert_hidden")
                for kind, variables in (("kernels", kernels), ("slots", slots)):
                    held = bytes_of_cores(variables, layout)
                    expected = whole.setdefault((optimizer, kind), held[0]) / parts
                    if (optimizer, kind, name) == ("adafactor", "slots", "4x2"):
                        # A mean over the columns is not split as they are.
                        self.assertLess(held.max(), 2 * expected)
                    else:
                        self.assertEqual(held.tolist(), [expected] * layout.num_cores)

    def test_weights_are_whole_to_the_outside(self):
        split, alone = make("4x2"), make(ONE_CORE)
        assert_same(split.get_weights(), alone.get_weights(), 0, 0)
        self.assertEqual(split.count_params(), alone.count_params())
        fill(alone)
        split.set_weights(alone.get_weights())
        assert_same(split.get_weights(), alone.get_weights(), 0, 0)
        layer = split.get_layer("switch")
        value = layer.kernel_in.value.numpy()
        layer.kernel_in.assign_add(np.ones_like(value))
        np.testing.assert_array_equal(layer.kernel_in.value, value + 1)
        with self.assertRaisesRegex(ValueError, "shape"):
            layer.kernel_in.assign(value[:4])

    def test_files_go_from_mesh_to_mesh_bit_for_bit(self):
        for optimizer in BUILDS:
            first = make(PATH[0], optimizer)
            fill(first)
            expected = saved(first)
            first.save(self.directory / "0.keras")
            first.save_weights(self.directory / "0.weights.h5")
            for step, name in enumerate(PATH[1:]):
                with self.subTest(f"{optimizer} {name}"):
                    loaded = load(name, self.directory / f"{step}.keras", optimizer)
                    assert_same(saved(loaded), expected, 0, 0)
                    other = make(name, optimizer)
                    other.load_weights(self.directory / f"{step}.weights.h5")
                    assert_same(saved(other), expected, 0, 0)
                    loaded.save(self.directory / f"{step + 1}.keras")
                    other.save_weights(self.directory / f"{step + 1}.weights.h5")

    def test_a_loaded_optimizer_must_be_wrapped(self):
        make("2").save(self.directory / "model.keras")
        with mesh_of("2").scope(), self.assertRaisesRegex(ValueError, "compile=False"):
            keras.saving.load_model(self.directory / "model.keras")

    def test_a_file_holds_no_trace_of_the_mesh(self):
        for optimizer in BUILDS:
            found = []
            for name in ("4x2", ONE_CORE):
                keras.utils.clear_session()
                made = make(name, optimizer)
                fill(made)
                made.save(self.directory / "model.keras")
                found.append(contents(self.directory / "model.keras"))
            (config, arrays, attributes), expected = found
            self.assertEqual(config, expected[0])
            self.assertEqual(arrays.keys(), expected[1].keys())
            for path, array in arrays.items():
                np.testing.assert_array_equal(array, expected[1][path], path)
                self.assertEqual(array.dtype, expected[1][path].dtype)
            self.assertEqual(attributes, expected[2])

    def test_training_goes_on_from_mesh_to_mesh(self):
        pieces = np.split(X, 5), np.split(Y, 5)
        alone = make(ONE_CORE)
        expected = [fit(alone, x, y) for x, y in zip(*pieces)]
        for part, (name, x, y) in enumerate(zip(PATH, *pieces)):
            trained = make(name)
            if part:
                checkpoint.restore(trained, checkpoint.latest(self.directory / str(part - 1)))
            saves = [
                checkpoint.Checkpoint(self.directory / str(part)),
                keras.callbacks.ModelCheckpoint(self.directory / f"{part}.keras"),
            ]
            with self.subTest(f"{part}: {name}"):
                got = fit(trained, x, y, callbacks=saves)
                assert_same(got.history, expected[part].history)
                assert_same(got.slots, expected[part].slots)
                loaded = keras.saving.load_model(self.directory / f"{part}.keras")
                assert_same(saved(loaded)[1], got.slots, 0, 0)

    def test_an_epoch_is_resumed_in_its_middle_on_another_mesh(self):
        x, y = X[:96], Y[:96]
        expected = fit(make(ONE_CORE), x, y)
        fit(make("2"), x, y, callbacks=[checkpoint.Checkpoint(self.directory / "a", every=4)])
        (path,) = (self.directory / "a").glob("step-000000004-*")
        resumed = make("2x2")
        position = checkpoint.restore(resumed, path)
        saver = checkpoint.Checkpoint(self.directory / "b", state=position)
        got = fit(resumed, x[64:], y[64:], callbacks=[saver])
        assert_same(got.slots, expected.slots)
        history = {name: np.array(x) for name, x in position.history.items()}
        self.assertEqual(history.keys(), expected.history.keys())
        assert_same([history[name] for name in expected.history], list(expected.history.values()))

    def test_whole_is_the_ordinary_model(self):
        split = make("4x2")
        fill(split)
        mesh = mesh_of("4x2")
        whole = mesh.whole(split)
        self.assertFalse([v for v in whole.variables if hasattr(v, "slices")])
        assert_same([whole(X[:8]).numpy()], [split(X[:8]).numpy()])
        whole.export(self.directory / "keras", verbose=False)
        exported = tf.saved_model.load(self.directory / "keras")
        assert_same([exported.serve(X[:8]).numpy()], [whole(X[:8]).numpy()])
        exported = tf.saved_model.load(export.export_saved_model(whole, self.directory / "ours"))
        serve = exported.signatures["serving_default"]
        self.assertEqual(tuple(serve(tf.constant(X[:8]))["output_0"].shape), (8, 4, 3))
        with mesh.scope(), self.assertRaisesRegex(ValueError, "outside `with mesh.scope"):
            mesh.whole(split)

    def test_whole_of_a_model_without_inputs(self):
        mesh = mesh_of("2")
        with mesh.scope():
            split = keras.Sequential([mesh_helpers.switch()])
        split.build((None, 4, 6))
        assert_same([mesh.whole(split)(X[:8]).numpy()], [split(X[:8]).numpy()])

    def test_exporting_a_split_model_is_an_error(self):
        split = make("2")
        exports = (
            lambda path: split.export(path, verbose=False),
            lambda path: tf.saved_model.save(split, path),
            lambda path: export.export_saved_model(split, path),
        )
        for number, export_to in enumerate(exports):
            with self.assertRaisesRegex(ValueError, "split over the cores.*mesh.whole"):
                export_to(str(self.directory / str(number)))

    def test_clones_are_split_where_they_are_made(self):
        with mesh_of("2x2").scope():
            split = noisy()
        with mesh_of("4").scope():
            inside = keras.models.clone_model(split)
        outside = keras.models.clone_model(split)
        self.assertEqual(inside.get_layer("switch").kernel_in.slices[0].shape, (2, 6, 4))
        self.assertFalse(hasattr(outside.get_layer("switch").kernel_in, "slices"))

    def test_tensorflow_checkpoints_are_whole_too(self):
        split, alone = make("2x2"), make(ONE_CORE)
        fill(split)
        path = tf.train.Checkpoint(model=split).save(self.directory / "tf")
        tf.train.Checkpoint(model=alone).restore(path)
        assert_same(alone.get_weights(), split.get_weights(), 0, 0)

    def test_describe_gives_the_figures(self):
        mesh = mesh_of("4x2")
        lines = mesh.describe(make("4x2")).splitlines()
        rows = {line.split()[0]: line for line in lines}
        self.assertRegex(rows["switch/kernel_in"], r"8x6x4 +2x6x2 +0\.1 +-$")
        self.assertRegex(rows["switch/kernel_out"], r"8x4x6 +2x2x6 +0\.1 +-$")
        self.assertRegex(rows["switch/router/kernel"], r"6x8 +6x8 +0\.2 +batch and model$")
        outer = mesh_of("2 outer, 4 inner").describe(make("2 outer, 4 inner"))
        self.assertRegex(outer, r"kernel_in +8x6x4 +2x6x4 +0\.2 +outer\n")
        for words in ("4 all-to-alls", "over batch, 3/4 of the slots", "gathered over model"):
            self.assertIn(words, lines[-1])
        kernels = 3 * 8 * 6 * 4 * 4 / 8
        others = sum(math.prod(v.shape) for v in make(ONE_CORE).weights) * 4 - 8 * kernels
        self.assertRegex(rows["all"], rf"{(kernels + others) / 1024:.1f}$")


if __name__ == "__main__":
    unittest.main()
