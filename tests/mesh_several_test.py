"""Several meshes in one process, on the TensorFlow backend: what cannot be mixed, and what can."""

import unittest

import keras
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import X
from mesh_helpers import Y
from mesh_helpers import assert_same
from mesh_helpers import compiled
from mesh_helpers import fit
from mesh_helpers import mesh_of
from mesh_helpers import model


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class MeshSeveralTest(unittest.TestCase):
    def test_models_on_meshes_and_off_them_in_any_order(self):
        models = [compiled(name) for name in (ONE_CORE, "2", "2x2", ONE_CORE)]
        runs = [fit(models[i], X[:32], Y[:32]) for i in (1, 0, 2, 3)]
        for run in runs[1:]:
            assert_same(run, runs[0])

    def test_an_optimizer_of_another_mesh(self):
        mesh, other = mesh_of("2"), mesh_of("4")
        with mesh.scope():
            optimizer = mesh.optimizer(keras.optimizers.Adam())
        self.assertIs(mesh.optimizer(optimizer), optimizer)
        with self.assertRaisesRegex(ValueError, "another mesh already. Received: adam"):
            other.optimizer(optimizer)
        with other.scope():
            split = model()
        with self.assertRaisesRegex(ValueError, "another mesh than the model.*functional.*, adam"):
            split.compile(optimizer, "mse")

    def test_a_scope_in_a_scope(self):
        mesh, other = mesh_of("2"), mesh_of("4")
        with mesh.scope(), mesh.scope():
            with self.assertRaisesRegex(ValueError, "leave the outer one first. Received: "):
                with other.scope():
                    pass

    def test_what_compile_makes_is_on_the_mesh(self):
        mesh = mesh_of("2")
        with mesh.scope():
            split = model()
            optimizer = mesh.optimizer(keras.optimizers.Adam(1e-2))
        split.compile(optimizer, "mse")
        assert_same(fit(split, X[:32], Y[:32]), fit(compiled("2"), X[:32], Y[:32]))
        self.assertEqual(
            len(
                mesh._backend.strategy.experimental_local_results(split._loss_tracker.total._value)
            ),
            2,
        )

    def test_a_callback_that_swaps_weights(self):
        split = compiled("2", lambda: keras.optimizers.SGD(use_ema=True))
        callbacks = [keras.callbacks.SwapEMAWeights()]
        with self.assertRaisesRegex(ValueError, r"`SwapEMAWeights` cannot.*switch/kernel_in"):
            split.fit(X[:16], Y[:16], callbacks=callbacks, verbose=0)


if __name__ == "__main__":
    unittest.main()
