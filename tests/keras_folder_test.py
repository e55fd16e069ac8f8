"""Tests of KerasHub's folders that are of other models, broken or hostile."""

import json
import pathlib
import shutil
import tempfile
import unittest

import numpy as np
import tokenizer_helpers
from absl.testing import parameterized
from foreign_helpers import SPARSE
from foreign_helpers import random_backbone
from foreign_helpers import values

from keras_switch import models
from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load


def edit(**files):
    """Changes JSON files by functions of their content."""

    def change(folder):
        for name, function in files.items():
            path = folder / f"{name}.json"
            content = json.loads(path.read_text())
            function(content)
            path.write_text(json.dumps(content))

    return change


def arguments(**changes):
    """Other arguments of the backbone, in both files."""
    return edit(
        config=lambda config: config["config"].update(changes),
        task=lambda task: task["config"]["backbone"]["config"].update(changes),
    )


def truncate_weights(folder):
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def only_a_name(**content):
    def change(folder):
        (folder / "task.json").unlink()
        config = {"registered_name": "keras_switch>SwitchBackbone", **content}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def name(value):
    return lambda content: content.update(registered_name=value)


def task_a_dangling_link(folder):
    (folder / "task.json").unlink()
    (folder / "task.json").symlink_to("nothing")


BROKEN = "KerasHub folder cannot be loaded"
CASES = {
    "truncated": (truncate_weights, BROKEN),
    "absurd": (arguments(intermediate_dim=2**30), "must hold its weights"),
    "deep": (arguments(num_layers=10**9), "at most 128 blocks.*num_layers=1000000000"),
    "deep_decoder": (arguments(num_decoder_layers=129), "at most 128.*num_decoder_layers=129"),
    "negative": (arguments(hidden_dim=-8), "`hidden_dim` must be a pos"),
    "other_class": (
        edit(config=name("keras_hub>T5Backbone")),
        "config.json must be of a keras_switch>SwitchBackbone.*T5Backbone",
    ),
    "other_task": (
        edit(task=name("keras_switch>SwitchTextClassifier")),
        "task.json must be of a keras_switch>SwitchSeq2SeqLM.*SwitchTextClassifier",
    ),
    "other_class_in_the_task": (
        edit(task=lambda task: name("keras_hub>T5Backbone")(task["config"]["backbone"])),
        "task.json must be of a keras_switch>SwitchBackbone.*T5Backbone",
    ),
    "dangling_task": (task_a_dangling_link, f"{BROKEN}.*task.json"),
    "no_config": (only_a_name(), f"{BROKEN}.*KeyError: 'config'"),
    "empty_config": (only_a_name(config={}), BROKEN),
    "config_a_list": (only_a_name(config=[1]), f"{BROKEN}.*AttributeError"),
    "task_a_list": (edit(task=lambda task: task.update(config=[1])), f"{BROKEN}.*TypeError"),
}


class KerasFolderTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.template = pathlib.Path(folder.name) / "template"
        cls.backbone = random_backbone(SPARSE)
        models.SwitchSeq2SeqLM(cls.backbone).save_to_preset(cls.template)

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.input = self.folder / "input"

    def check_refused(self, message, **kwargs):
        with self.assertRaisesRegex(ValueError, message):
            convert(self.input, self.folder / "output", verbose=0, **kwargs)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["input"])

    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    def test_is_explained(self, change, message):
        shutil.copytree(self.template, self.input)
        change(self.input)
        self.check_refused(message)

    def test_a_classifier_is_refused(self):
        models.SwitchTextClassifier(self.backbone, num_classes=2).save_to_preset(self.input)
        self.check_refused("must be of a keras_switch>SwitchSeq2SeqLM.*SwitchTextClassifier")

    def test_a_backbone_becomes_a_language_model(self):
        self.backbone.save_to_preset(self.input)
        weights = values(load(self.input, "float32", verbose=0).backbone)
        np.testing.assert_array_equal(
            weights["token_embedding"], values(self.backbone)["token_embedding"]
        )

    def test_numbers_beyond_the_dtype_are_refused(self):
        backbone = random_backbone(SPARSE)
        weight = backbone.named_weights()["decoder/1/cross_attention/value"]
        changed = weight.numpy()
        changed[1, 2] = np.inf
        weight.assign(changed)
        models.SwitchSeq2SeqLM(backbone).save_to_preset(self.folder / "infinite")
        loaded = values(load(self.folder / "infinite", "float16", verbose=0).backbone)
        self.assertEqual(loaded["decoder/1/cross_attention/value"][1, 2], np.inf)
        shutil.rmtree(self.folder / "infinite")
        changed[1, 2] = 1e6
        weight.assign(changed)
        models.SwitchSeq2SeqLM(backbone).save_to_preset(self.input)
        self.check_refused("too large for the dtype.*decoder/1/cross.*=float16", dtype="float16")

    def test_what_hugging_face_cannot_hold_is_seen_before_weights_are_read(self):
        gated = random_backbone({**SPARSE, "gated": True})
        models.SwitchSeq2SeqLM(gated).save_to_preset(self.input)
        truncate_weights(self.input)
        self.check_refused("have no such model.*gated=True", to="huggingface")
        self.check_refused(BROKEN)

    def test_a_tokenizer_that_hugging_face_cannot_hold_is_seen_before_too(self):
        proto = tokenizer_helpers.model_proto()
        for piece in ("<extra_id_0>", "<extra_id_1>"):
            proto.pieces.add(piece=piece, score=0.0, type=proto.SentencePiece.USER_DEFINED)
        tokenizer = models.SwitchTokenizer(proto.SerializeToString())
        backbone = random_backbone({**SPARSE, "vocabulary_size": 45})
        preprocessor = models.SwitchSeq2SeqLMPreprocessor(tokenizer)
        models.SwitchSeq2SeqLM(backbone, preprocessor).save_to_preset(self.input)
        truncate_weights(self.input)
        self.check_refused("sentinels must be the last pieces", to="huggingface")


if __name__ == "__main__":
    unittest.main()
