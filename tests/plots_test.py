import pathlib
import tempfile
import unittest

import numpy as np
from matplotlib import image

from keras_switch.training import plots


class PlotsTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def check(self, path):
        pixels = image.imread(path)
        self.assertGreater(min(pixels.shape[:2]), 300)
        self.assertGreater(pixels.std(), 0.05)
        self.assertEqual([p.name for p in path.parent.iterdir()], [path.name])

    def test_losses_are_drawn(self):
        path = self.directory / "new" / "loss.png"
        history = {"nats_per_token": [5.0, 4.0, 3.5], "val_nats_per_token": [4.5, 3.8, 3.6]}
        plots.plot_losses(history, path, steps_per_epoch=10)
        self.check(path)

    def test_one_epoch_without_validation_is_drawn(self):
        path = self.directory / "loss.png"
        plots.plot_losses({"nats_per_token": [5.0]}, path, steps_per_epoch=10)
        self.check(path)

    def test_loads_are_drawn(self):
        path = self.directory / "load.png"
        loads = np.random.default_rng(0).dirichlet(np.ones(4), size=6).tolist()
        plots.plot_loads({"encoder/1": loads, "decoder/1": loads}, path, steps_per_window=5)
        self.check(path)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(
            ValueError, "`history` must hold the `nats_per_token` of an epoch"
        ):
            plots.plot_losses({}, self.directory / "loss.png", 10)
        with self.assertRaisesRegex(ValueError, "`windows` must hold a window of every layer"):
            plots.plot_loads({}, self.directory / "load.png", 10)


if __name__ == "__main__":
    unittest.main()
