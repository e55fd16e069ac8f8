import contextlib
import io
import json
import pathlib
import tempfile
import unittest
import unittest.mock

from keras_switch.data import Vocabulary
from keras_switch.data import read_corpus
from keras_switch.training import checkpoint
from keras_switch.training import pretrain

SIZES = {
    "vocabulary_size": 400,
    "inputs_length": 32,
    "noise_density": 0.15,
    "batch_size": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "num_experts": 2,
    "dtype": "float32",
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "epochs": 2,
    "steps_per_epoch": 4,
    "validation_steps": 1,
    "seed": 0,
}


def run(config, directory, **kwargs):
    """Runs the recipe; returns what it returns, and what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = pretrain.pretrain(config, directory, **kwargs)
    return *result, output.getvalue()


class PretrainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.lines = read_corpus()[:400]
        cls.corpus = cls.root / "corpus.txt"
        cls.corpus.write_text("\n".join(cls.lines))
        cls.directory = cls.root / "whole"
        cls.model, cls.vocabulary, cls.output = run(cls.config(), cls.directory)
        cls.state = checkpoint.read_state(checkpoint.latest(cls.directory / "checkpoints"))

    @classmethod
    def config(cls, **kwargs):
        return pretrain.PretrainConfig(**{"corpus": str(cls.corpus), **SIZES, **kwargs})

    def test_trains_and_draws(self):
        for name in ("vocabulary.model", "config.json", "figures/loss.png"):
            self.assertTrue((self.directory / name).is_file(), name)
        self.assertEqual((self.state.step, self.state.epoch), (8, 2))
        for words in ("tokens/s", "dropped", "nats_per_token", "val_nats_per_token"):
            self.assertIn(words, self.output)

    def test_both_losses_are_the_cross_entropy_alone(self):
        history = self.state.history
        for training, nats in zip(history["loss"], history["nats_per_token"], strict=True):
            # Two sparse layers add about 0.01 each.
            self.assertGreater(training - nats, 0.015)
        for loss, nats in zip(history["val_loss"], history["val_nats_per_token"], strict=True):
            self.assertAlmostEqual(loss, nats, places=4)
        self.assertIn(f"{history['val_nats_per_token'][-1]:.2f}.", self.output)

    def test_a_second_run_finds_the_run_finished(self):
        model, _, output = run(self.config(), self.directory)
        self.assertIn("nothing left to train", output)
        self.assertNotIn("Epoch 1/2", output)
        for x, y in zip(model.get_weights(), self.model.get_weights(), strict=True):
            self.assertTrue((x == y).all())

    def test_a_run_stopped_in_an_epoch_resumes_to_the_same_history(self):
        directory = self.root / "stopped"
        save = checkpoint.Checkpoint.save
        saves = unittest.mock.Mock(side_effect=[None, KeyboardInterrupt])

        def save_and_stop(self):
            save(self)
            saves()

        with unittest.mock.patch.object(checkpoint.Checkpoint, "save", save_and_stop):
            with self.assertRaises(KeyboardInterrupt):
                run(self.config(), directory, checkpoint_every=3)
        _, _, output = run(self.config(), directory, checkpoint_every=3)
        self.assertIn("resumed, at step 6", output)
        state = checkpoint.read_state(checkpoint.latest(directory / "checkpoints"))
        self.assertEqual(state.history, self.state.history)
        self.assertEqual(state.parts, self.state.parts)

    def test_other_settings_are_refused_and_restart_moves_the_run_aside(self):
        directory = self.root / "other"
        directory.mkdir()
        settings = (self.directory / "config.json").read_text()
        (directory / "config.json").write_text(settings)
        config = self.config(batch_size=100000)
        message = r"has other settings.*batch_size=100000 \(was 2\)"
        with self.assertRaisesRegex(ValueError, message):
            run(config, directory)
        with self.assertRaisesRegex(ValueError, "must fill a batch of 100000 chunks"):
            run(config, directory, restart=True)
        self.assertEqual((self.root / "other.1" / "config.json").read_text(), settings)
        self.assertFalse(directory.exists())

    def test_an_edited_corpus_is_refused(self):
        directory = self.root / "edited"
        directory.mkdir()
        settings = json.loads((self.directory / "config.json").read_text())
        settings["corpus_sha256"] = "0" * 64
        (directory / "config.json").write_text(json.dumps(settings))
        with self.assertRaisesRegex(ValueError, "The corpus has changed since.*was 000000000000"):
            run(self.config(), directory)

    def test_a_failed_start_leaves_nothing_in_the_way(self):
        directory = self.root / "failed"
        with self.assertRaisesRegex(ValueError, "`path` must be an existing text file"):
            run(self.config(corpus="/none"), directory)
        with self.assertRaisesRegex(ValueError, "must fill a batch"):
            run(self.config(batch_size=100000), directory)
        self.assertFalse(directory.exists())

    def test_a_held_out_part_that_is_too_short_is_named(self):
        config = self.config(batch_size=64)
        message = "corpus that is held out, 8 of 400 lines, is too short.*must fill a batch of 64"
        with self.assertRaisesRegex(ValueError, message):
            pretrain.prepare_data(config, self.lines, Vocabulary(self.vocabulary.model))

    def test_batches_are_those_of_the_vocabulary(self):
        with contextlib.redirect_stdout(io.StringIO()):
            vocabulary, train, held_out = pretrain.prepare_data(
                self.config(noise_density=0.3), self.lines
            )
        self.assertEqual(vocabulary.model, self.vocabulary.model)
        for batches in (train, held_out):
            self.assertEqual(batches.inputs_length, 32)
            self.assertEqual(batches.noise[0], 0.3)


if __name__ == "__main__":
    unittest.main()
