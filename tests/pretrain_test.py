import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import unittest
import unittest.mock

import keras
import numpy as np

from keras_switch import atomic
from keras_switch import data
from keras_switch.configs import PretrainConfig
from keras_switch.data import read_corpus
from keras_switch.data import shards
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.training import checkpoint
from keras_switch.training import pretrain
from keras_switch.training import pretrain_data
from keras_switch.training import pretrain_model
from keras_switch.training import run_directory

SIZES = {
    "vocabulary_size": 400,
    "inputs_length": 32,
    "short_inputs_length": 16,
    "short_epochs": 1,
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


def run(config, directory, fillings_every=0, **kwargs):
    """Runs the recipe; returns what it returns, and what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        model = pretrain.pretrain(config, directory, fillings_every=fillings_every, **kwargs)
    return model, output.getvalue()


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
        cls.model, cls.output = run(cls.config(), cls.directory, fillings_every=2)
        cls.state = checkpoint.read_state(checkpoint.latest(cls.directory / "checkpoints"))

    @classmethod
    def config(cls, **kwargs):
        return PretrainConfig(**{"corpus": str(cls.corpus), **SIZES, **kwargs})

    def test_trains_and_draws(self):
        for name in ("vocabulary.model", "config.json", "history.csv", "figures/loss.png"):
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
        self.assertIn(f"{history['nats_per_token'][-1]:.2f} in the last.", self.output)

    def test_a_second_run_finds_the_run_finished(self):
        model, output = run(self.config(), self.directory)
        self.assertIn("nothing left to train", output)
        self.assertNotIn("Epoch 1/2", output)
        for other in (model, SwitchSeq2SeqLM.from_preset(str(self.directory / "model"))):
            for x, y in zip(other.get_weights(), self.model.get_weights(), strict=True):
                np.testing.assert_array_equal(x, y)
        self.assertEqual(list(self.directory.glob(".*")), [])

    def test_saves_a_model_that_takes_and_gives_text(self):
        self.assertIn(f"Saved {self.directory / 'model'}", self.output)
        model = SwitchSeq2SeqLM.from_preset(str(self.directory / "model"), dtype="float32")
        self.assertEqual(model.preprocessor.encoder_sequence_length, 32)
        texts = ["The <extra_id_0> of the people", ""]
        written = []
        for one in (model, self.model):
            one.compile(keras.optimizers.Adam(0.01), sampler="greedy", jit_compile=False)
            written.append(one.generate(texts))
        self.assertEqual(written[0], written[1])
        self.assertEqual([type(text) for text in written[0]], [str, str])
        self.assertTrue(written[0][0])
        pairs = {"encoder_text": texts, "decoder_text": ["<extra_id_0> union", "laws"]}
        losses = model.fit(pairs, epochs=3, verbose=0).history["loss"]
        self.assertLess(losses[-1], losses[0])

    def test_a_failed_save_leaves_no_half(self):
        folder = self.root / "half" / "model"
        with unittest.mock.patch.object(atomic, "sync", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                pretrain.save(self.model, folder)
        self.assertFalse(folder.parent.exists())
        for _ in range(2):
            with contextlib.redirect_stdout(io.StringIO()):
                pretrain.save(self.model, folder)
            self.assertEqual([path.name for path in folder.parent.iterdir()], ["model"])

    def test_a_run_stopped_in_an_epoch_resumes_to_the_same_history(self):
        directory = self.root / "stopped"
        save = checkpoint.Checkpoint.save
        # The first two are those of step 3, and of the end of the stage of short texts.
        saves = unittest.mock.Mock(side_effect=[None, None, KeyboardInterrupt])

        def save_and_stop(self):
            save(self)
            saves()

        with unittest.mock.patch.object(checkpoint.Checkpoint, "save", save_and_stop):
            with self.assertRaises(KeyboardInterrupt):
                run(self.config(), directory, checkpoint_every=3)
        _, output = run(self.config(), directory, checkpoint_every=3)
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
        with self.assertRaisesRegex(ValueError, r"has other settings.*epochs=1 \(was 2\)"):
            run(self.config(epochs=1, short_epochs=0), directory)
        with self.assertRaisesRegex(ValueError, "must fill a batch of 200000 chunks"):
            run(config, directory, restart=True)
        self.assertEqual((self.root / "other.1" / "config.json").read_text(), settings)
        self.assertFalse(directory.exists())

    def copy(self, name):
        """A copy of the finished run."""
        directory = self.root / name
        shutil.copytree(self.directory, directory)
        return directory

    def test_a_run_is_extended_to_more_epochs(self):
        directory = self.copy("extended")
        _, output = run(self.config(epochs=3), directory)
        self.assertIn("Extended the run from 2 to 3 epochs", output)
        self.assertIn("resumed, at step 8", output)
        state = checkpoint.read_state(checkpoint.latest(directory / "checkpoints"))
        self.assertEqual((state.step, state.epoch), (12, 3))
        for name, values in self.state.history.items():
            self.assertEqual(state.history[name][:2], values)
        _, output = run(self.config(epochs=3), directory)
        self.assertIn("nothing left to train", output)
        self.assertNotIn("Extended", output)

    def test_the_learning_rate_of_an_extended_run_is_the_longer_runs(self):
        rates = [
            pretrain_model.build_and_compile(
                self.config(epochs=epochs), 400
            ).optimizer._learning_rate
            for epochs in (2, 4)
        ]
        shorter, longer = ([float(rate(step)) for step in range(8)] for rate in rates)
        self.assertGreater(longer[7], shorter[7])

    def test_a_run_goes_on_from_the_newest_whole_checkpoint(self):
        directory = self.copy("damaged")
        newest = checkpoint.latest(directory / "checkpoints")
        os.truncate(newest / "model.keras", 1000)
        with self.assertRaisesRegex(ValueError, f"damaged.*Received: {newest / 'model.keras'}"):
            checkpoint.restore(self.model, newest)
        _, output = run(self.config(), directory)
        self.assertIn(
            f"damaged, and now called damaged-{newest.name}: {newest}/model.keras", output
        )
        self.assertIn("The newest whole checkpoint is step-000000004-epoch-00001.", output)
        self.assertIn("resumed, at step 4", output)
        state = checkpoint.read_state(newest)
        self.assertEqual(state.history["loss"], self.state.history["loss"])

    def test_without_a_whole_checkpoint_a_run_begins_anew(self):
        directory = self.copy("all_damaged")
        for path in (directory / "checkpoints").iterdir():
            (path / "model.keras").write_bytes(b"")
        _, output = run(self.config(), directory)
        self.assertIn("No whole checkpoint is left.", output)
        state = checkpoint.read_state(checkpoint.latest(directory / "checkpoints"))
        self.assertEqual(state.history["loss"], self.state.history["loss"])

    def test_damaged_files_of_a_run_are_named(self):
        for name, content, message in (
            ("config.json", b"{", "settings of the run are damaged. Put the file back"),
            ("config.json", b"", "settings of the run are damaged"),
            ("config.json", b"[]", "settings of the run are damaged"),
            ("config.json", b"\xff", "settings of the run are damaged"),
            ("config.json", None, "settings of the run are missing"),
            ("vocabulary.model", b"", "A file of the run is damaged"),
            ("vocabulary.model", None, "A file of the run is missing"),
        ):
            directory = self.copy("damaged_files")
            if content is None:
                (directory / name).unlink()
            else:
                (directory / name).write_bytes(content)
            pattern = f"{message}.*--restart. Received: {directory / name}"
            with self.assertRaisesRegex(ValueError, pattern):
                run(self.config(), directory)
            shutil.rmtree(directory)

    def test_a_second_process_is_kept_out(self):
        directory = self.copy("locked")
        with run_directory.lock(directory):
            for restart in (False, True):
                with self.assertRaisesRegex(ValueError, f"A run is at work.*'{directory}'"):
                    run(self.config(), directory, restart=restart)
        self.assertTrue((directory / "config.json").exists())
        run(self.config(), directory)

    def test_the_question_is_of_the_held_out_text(self):
        question = pretrain.question(self.config(), self.model.preprocessor.tokenizer)
        start = question.split(" <extra")[0]
        self.assertTrue([line for line in self.lines[49::50] if line.startswith(start)])
        self.assertIn("<extra_id_1>", question)

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
        message = "corpus that is held out, 2% of it, is too short.*must fill a batch of 128"
        with self.assertRaisesRegex(ValueError, message):
            pretrain_data.prepare(
                config, pretrain_data.Corpus(config), self.model.preprocessor.tokenizer
            )

    def prepare(self, **kwargs):
        with contextlib.redirect_stdout(io.StringIO()):
            config = self.config(**kwargs)
            return pretrain_data.prepare(config, pretrain_data.Corpus(config))

    def test_batches_are_those_of_the_tokenizer(self):
        tokenizer, stages = self.prepare(noise_density=0.3)
        self.assertEqual(tokenizer.proto, self.model.preprocessor.tokenizer.proto)
        for batches in stages[-1].train.long, stages[-1].held_out:
            self.assertEqual(batches.inputs_length, 32)
            self.assertAlmostEqual(batches.plan.num_noise / batches.plan.length, 0.3, delta=0.02)

    def test_short_texts_of_later_epochs_are_others(self):
        _, (short, whole) = self.prepare()
        first, later = (
            batches.example(0)[0].numpy() for batches in (short.train, whole.train.short)
        )
        self.assertNotEqual(first.tolist(), later.tolist())

    def test_short_texts_come_first_and_fill_as_large_a_batch(self):
        _, (short, whole) = self.prepare()
        self.assertEqual((short.first_epoch, short.first_step), (0, 0))
        self.assertEqual((whole.first_epoch, whole.first_step), (1, 4))
        parts = short.train, whole.train.long, whole.train.short
        sizes = [(part.batch_size, part.inputs_length) for part in parts]
        self.assertEqual(sizes, [(4, 16), (1, 32), (2, 16)])

    def test_a_run_may_have_texts_of_one_length_only(self):
        for config, length in (
            ({"short_epochs": 0}, 32),
            ({"short_inputs_length": 32}, 32),
        ):
            _, stages = self.prepare(**config)
            self.assertEqual([stage.train.inputs_length for stage in stages], [length])

    def test_a_tokenizer_of_ones_own_is_used(self):
        path = self.root / "own.model"
        path.write_bytes(self.model.preprocessor.tokenizer.proto)
        tokenizer, _ = self.prepare(vocabulary=str(path), vocabulary_size=1)
        self.assertEqual(tokenizer.vocabulary_size(), 400)

    @unittest.skipUnless(importlib.util.find_spec("array_record"), "array_record is missing")
    def test_prepared_tokens_are_read_from_the_disk(self):
        folder, tokenizer = self.root / "prepared", self.model.preprocessor.tokenizer
        folder.mkdir()
        tokens = data.tokenize_corpus(self.lines, tokenizer)
        shard = shards.write_shard(str(folder / "one.array_record"), [(tokens, 1)], "<u2")
        shards.write_index(str(folder), [shard], tokenizer.proto, "<u2")
        config = self.config(corpus=str(folder), epochs=1, short_epochs=0)
        model, output = run(config, self.root / "from_tokens", fillings_every=1)
        self.assertIn(f"Data: {len(tokens) * 49 // 50:,} tokens", output)
        self.assertIn("what the model fills their blanks with", output)
        self.assertEqual(model.preprocessor.tokenizer.proto, tokenizer.proto)
        with self.assertRaisesRegex(ValueError, "`vocabulary` must not be given"):
            pretrain_data.Corpus(self.config(corpus=str(folder), vocabulary="mine.model"))

    def test_the_gap_between_own_and_others_inputs_is_shown(self):
        history = self.state.history
        self.assertEqual(len(history["val_shuffled_nats_per_token"]), 2)
        self.assertNotEqual(history["val_shuffled_nats_per_token"], history["val_nats_per_token"])
        self.assertRegex(self.output, "Held-out text, 16 tokens: .* the inputs of another text")
        self.assertRegex(self.output, "Held-out text, 32 tokens: .* the inputs of another text")

    def test_held_out_texts_are_shown_with_what_fills_their_blanks(self):
        self.assertIn("what the model fills their blanks with", self.output)
        held_out = self.lines[49::50]
        shown = re.findall(
            r"\n  (.*)\n    <extra_id_0> was '(.*)'; the model: (.* [\d.]+%)", self.output
        )
        self.assertEqual(len(shown), 4)
        for text, answer, found in shown:
            start = text.split("<extra_id_0>")[0]
            (line,) = (line for line in held_out if line.startswith(start + answer))
            self.assertEqual(found.count("%"), 3)


if __name__ == "__main__":
    unittest.main()
