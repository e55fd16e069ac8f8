"""Tests of folders that are wrong, broken or hostile: each is explained, and nothing is written."""

import json
import pathlib
import struct
import tempfile
import unittest

import huggingface_helpers as helpers
import numpy as np
import safetensors.numpy
from absl.testing import parameterized

from keras_switch.weights.convert import convert

SWITCH = helpers.SWITCH
EXPERT = "encoder.block.1.layer.1.mlp.experts.expert_3.wi.weight"
NORM = "encoder.final_layer_norm.weight"


def of_config(**changes):
    """A folder whose configuration has other values."""

    def write(folder):
        helpers.write(folder, {**SWITCH, **changes}, helpers.tensors(SWITCH))

    return write


def of_tensors(changes, config=SWITCH, tensors_of=None):
    """A folder with other tensors than those of a configuration; `None` takes one away."""

    def write(folder):
        arrays = {**helpers.tensors(tensors_of or config), **changes}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        helpers.write(folder, config, arrays)

    return write


def of_file(name, content):
    """A folder in which a file has another content, or what a function makes of its content."""

    def write(folder):
        helpers.write(folder, SWITCH, helpers.tensors(SWITCH))
        path = folder / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return write


def of_header(header, data=b""):
    """A folder whose tensors' header is made by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return of_file("model.safetensors", struct.pack("<Q", len(text)) + text + data)


def of_index(change):
    """A folder of several files, in whose index a function changes something."""

    def write(folder):
        index = helpers.write_shards(folder, SWITCH, helpers.tensors(SWITCH))
        index = change(folder, index) or index
        helpers.write_index(folder, index)

    return write


def place(name):
    """Changes where the index says that a tensor is."""

    def change(folder, index):
        index["weight_map"][NORM] = name

    return change


def link_out(folder, index):
    outside = folder.parent / "outside.safetensors"
    first = folder / index["weight_map"][NORM]
    first.rename(outside)
    first.symlink_to(outside)


def remove_a_file(folder, index):
    (folder / index["weight_map"][NORM]).unlink()


def repeat_a_tensor(folder, index):
    names = sorted(set(index["weight_map"].values()) - {index["weight_map"][NORM]})
    arrays = safetensors.numpy.load_file(folder / names[0])
    safetensors.numpy.save_file({**arrays, NORM: np.ones(8, "float32")}, folder / names[0])


def of_links(folder):
    of_config()(folder)
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")


def tokenizer_a_dangling_link(folder):
    of_config()(folder)
    (folder / "spiece.model").symlink_to("none")


def without(name):
    def write(folder):
        of_config()(folder)
        (folder / name).unlink()

    return write


def tensor(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


WRONG = np.ones((3, 3), "float32")
BROKEN = "A file of weights cannot be read.*model.safetensors"
CASES = {
    # The configuration.
    "no_config": (without("config.json"), "`input` must be a folder"),
    "config_no_json": (of_file("config.json", b"{"), "must be JSON.*config.json"),
    "config_no_text": (of_file("config.json", b"\xff\xfe"), "must be JSON.*config.json"),
    "config_deep": (of_file("config.json", b"[" * 10**5), "must be JSON.*config.json"),
    "config_a_list": (of_file("config.json", b"[1]"), "must hold a JSON object"),
    "config_large": (of_file("config.json", b" " * (2**26 + 1)), "smaller than 64 MiB"),
    "config_a_link": (of_links, "must not be a link out of the folder.*config.json"),
    "other_model": (of_config(model_type="bert"), "`model_type` .*must be switch_.*'bert'"),
    "list_as_type": (of_config(model_type=[]), r"`model_type` .*model_type=\[\]"),
    "negative": (of_config(d_model=-8), "`d_model` in config.json must be an integer.*-8"),
    "zero": (of_config(num_heads=0), "`num_heads` in config.json must be an integer from 1"),
    "string": (of_config(num_layers="3"), "`num_layers` in config.json.*'3'"),
    "boolean": (of_config(num_experts=True), "`num_experts` in config.json.*True"),
    "beyond_int": (of_config(expert_capacity=2**63), "`expert_capacity` in config.json must be"),
    "absurd_width": (of_config(d_ff=2**31 - 1), "does not fit the weights.*d_ff=2147"),
    "absurd_depth": (of_config(num_layers=10**9), "does not fit the weights.*num_layers=1000000"),
    "deep": (
        of_tensors({f"t{i}": WRONG for i in range(150)}, {**SWITCH, "num_layers": 150}, SWITCH),
        "at most 128 blocks.*num_layers=150",
    ),
    "absurd_experts": (of_config(num_experts=10**9), "does not fit the weights.*num_experts=1"),
    "not_a_number": (of_config(dropout_rate=float("nan")), "`dropout_rate` in config.json.*nan"),
    "infinite": (of_config(layer_norm_epsilon=float("inf")), "`layer_norm_epsilon` in.*inf"),
    "router_bias": (of_config(router_bias=True), "`router_bias` in config.json must be False"),
    "router_dtype": (of_config(router_dtype="float16"), "`router_dtype` .*'float32'.*'float16'"),
    "start": (of_config(decoder_start_token_id=7), "`decoder_start_token_id` in config.json.*7"),
    "activation": (of_config(dense_act_fn="sin"), "`dense_act_fn` in config.json must be one.*sin"),
    "activation_dict": (of_config(dense_act_fn={}), "`dense_act_fn` in config.json must be one"),
    "tied_string": (
        of_config(model_type="t5", tie_word_embeddings="false"),
        "`tie_word_embeddings` in config.json must be true or false.*'false'",
    ),
    "tied_number": (of_config(tie_word_embeddings=1), "`tie_word_embeddings` .*true or false.*=1"),
    "scale": (
        of_config(model_type="t5", scale_decoder_outputs=3),
        "`scale_decoder_outputs` in config.json must be true or false.*3",
    ),
    "projection": (of_config(model_type="t5", feed_forward_proj="a-b-c"), "`feed_forward_proj`"),
    "shape": (of_config(d_kv=4), r"SelfAttention.k.weight: \(6, 8\) \(expected \(8, 8\)\)"),
    "fewer_experts": (of_config(num_experts=3), "has no place for.*expert_3"),
    "more_experts": (of_config(num_experts=5), "lacks these tensors.*expert_4"),
    "other_sparse_blocks": (of_config(num_sparse_encoder_layers=3), "lacks these tensors.*expert"),
    # The tensors.
    "no_weights": (without("model.safetensors"), "must have one of model.safetensors"),
    "missing": (of_tensors({NORM: None}), f"lacks these tensors.*{NORM}"),
    "missing_expert": (of_tensors({EXPERT: None}), f"lacks these tensors.*{EXPERT}"),
    "unknown": (of_tensors({"extra.weight": WRONG}), "has no place for.*extra.weight"),
    "other_shape": (of_tensors({EXPERT: WRONG}), r"expert_3.wi.weight: \(3, 3\) \(expected \(12,"),
    "transposed": (of_tensors({EXPERT: np.ones((8, 12), "float32")}), r"expert_3.wi.*\(8, 12\)"),
    "integers": (of_tensors({NORM: np.ones(8, "int32")}), f"one of the dtypes.*{NORM}: I32"),
    "two_embeddings": (
        of_tensors({"encoder.embed_tokens.weight": np.ones((150, 8), "float32")}),
        "should be equal, but differ.*encoder.embed_tokens.weight and shared.weight",
    ),
    "two_logits": (
        of_tensors({"lm_head.weight": np.ones((150, 8), "float32")}),
        "should be equal, but differ.*lm_head.weight",
    ),
    "duplicate_of_another_shape": (
        of_tensors({"encoder.embed_tokens.weight": WRONG}),
        "should be equal, but differ",
    ),
    "no_logits": (
        of_tensors({"lm_head.weight": None}, {**SWITCH, "tie_word_embeddings": False}),
        "lacks these tensors.*lm_head.weight",
    ),
    "no_logits_t5_1_1": (
        of_tensors({"lm_head.weight": None}, helpers.T5_1_1),
        "lacks these tensors.*lm_head.weight",
    ),
    "no_tokenizer": (tokenizer_a_dangling_link, "A file is missing.*spiece.model"),
    # The file of the tensors.
    "empty": (of_file("model.safetensors", b""), BROKEN),
    "truncated": (of_file("model.safetensors", lambda data: data[:-1]), BROKEN),
    "trailing": (of_file("model.safetensors", lambda data: data + b"0"), BROKEN),
    "truncated_header": (of_file("model.safetensors", lambda data: data[:100]), BROKEN),
    "pickle": (of_file("model.safetensors", b"\x80\x04cos\nsystem\n."), BROKEN),
    "huge_header": (of_file("model.safetensors", struct.pack("<Q", 2**63) + b"{}"), BROKEN),
    "header_no_json": (of_header(b"\xff\xff"), BROKEN),
    "header_a_list": (of_header([1]), BROKEN),
    "absurd_shape": (of_header(tensor(shape=[2**40, 2**40]), b"0" * 8), BROKEN),
    "negative_shape": (of_header(tensor(shape=[-2]), b"0" * 8), BROKEN),
    "offsets_beyond": (of_header(tensor(data_offsets=[0, 2**40]), b"0" * 8), BROKEN),
    "offsets_backwards": (of_header(tensor(data_offsets=[8, 0]), b"0" * 8), BROKEN),
    "unknown_dtype": (of_header(tensor(dtype="F99"), b"0" * 8), BROKEN),
    "overlap": (of_header({**tensor(), "b": tensor()["a"]}, b"0" * 8), BROKEN),
    # The index of several files.
    "index_above": (of_index(place("../x.safetensors")), "without folders.*'../x.safetensors'"),
    "index_absolute": (of_index(place("/etc/passwd")), "without folders.*'/etc/passwd'"),
    "index_inner": (of_index(place("a/b")), "without folders.*'a/b'"),
    "index_dots": (of_index(place("..")), "without folders.*'..'"),
    "index_number": (of_index(place(3)), "without folders.*3"),
    "index_null_byte": (of_index(place("a\0b")), "without folders"),
    "index_link_out": (of_index(link_out), "must not be a link out of the folder"),
    "index_missing_file": (of_index(remove_a_file), "A file is missing.*model-0000"),
    "index_wrong_file": (
        of_index(lambda folder, index: index["weight_map"].update({NORM: EXPERT})),
        f"A file is missing.*{EXPERT}",
    ),
    "index_without_a_tensor": (
        of_index(lambda folder, index: index["weight_map"].pop(NORM) and None),
        f"must list the same tensors.*{NORM}",
    ),
    "tensor_in_two_files": (of_index(repeat_a_tensor), f"must list the same tensors.*{NORM}"),
    "index_empty": (of_index(lambda folder, index: {"weight_map": {}}), "must have a `weight_map`"),
    "index_a_list": (of_index(lambda folder, index: [1]), "must hold a JSON object"),
}


class FaultsTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    def test_is_explained(self, write, message):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        write(folder / "input")
        before = sorted(folder.iterdir())
        with self.assertRaisesRegex((ValueError, FileNotFoundError), message):
            convert(folder / "input", folder / "output", dtype="float32", verbose=0)
        self.assertEqual(sorted(folder.iterdir()), before)


if __name__ == "__main__":
    unittest.main()
