"""Small Hugging Face folders, under the names that transformers writes."""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy
from absl.testing import parameterized

from keras_switch.weights.convert import convert
from keras_switch.weights.convert import load

SIZES = {
    "vocab_size": 150,
    "d_model": 8,
    "d_kv": 3,
    "d_ff": 12,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 20,
}
SWITCH = {
    **SIZES,
    "model_type": "switch_transformers",
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "num_experts": 4,
}
T5 = {**SIZES, "model_type": "t5"}
T5_1_1 = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# Which blocks of `SWITCH` are sparse: one in three is the second; one in two is every one.
SPARSE = {"encoder": [1], "decoder": [1]}


def tensors(config, sparse=SPARSE):
    """Random float32 tensors of a configuration, by their names in a state dictionary."""
    dim, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    hidden, vocabulary = config["d_ff"], config["vocab_size"]
    is_switch = config["model_type"] == "switch_transformers"
    gated = config.get("feed_forward_proj", "").startswith("gated")
    buckets = (config["relative_attention_num_buckets"], config["num_heads"])
    shapes = {"shared.weight": (vocabulary, dim)}
    if config.get("tie_word_embeddings") is False:
        shapes["lm_head.weight"] = (vocabulary, dim)
    for side, depth in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        shapes[f"{side}.final_layer_norm.weight"] = (dim,)
        layers = ["SelfAttention", "EncDecAttention"] if side == "decoder" else ["SelfAttention"]
        first = f"{side}.block.0.layer.0.SelfAttention"
        shapes[f"{first}.relative_attention_bias.weight"] = buckets
        for block in range(config[depth]):
            prefix = f"{side}.block.{block}.layer"
            for number, layer in enumerate(layers):
                shapes[f"{prefix}.{number}.layer_norm.weight"] = (dim,)
                for part in "qkv":
                    shapes[f"{prefix}.{number}.{layer}.{part}.weight"] = (inner, dim)
                shapes[f"{prefix}.{number}.{layer}.o.weight"] = (dim, inner)
            prefix = f"{prefix}.{len(layers)}"
            shapes[f"{prefix}.layer_norm.weight"] = (dim,)
            prefix += ".mlp" if is_switch else ".DenseReluDense"
            places = [prefix]
            if is_switch and block in sparse[side]:
                shapes[f"{prefix}.router.classifier.weight"] = (config["num_experts"], dim)
                places = [f"{prefix}.experts.expert_{e}" for e in range(config["num_experts"])]
            for place in places:
                for part in ("wi_0", "wi_1") if gated else ("wi",):
                    shapes[f"{place}.{part}.weight"] = (hidden, dim)
                shapes[f"{place}.wo.weight"] = (dim, hidden)
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def write(folder, config, arrays):
    """Writes a folder of one file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def write_shards(folder, config, arrays, number=3):
    """Writes a folder of several files, and returns its index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    places = {}
    for index in range(number):
        name = f"model-{index + 1:05d}-of-{number:05d}.safetensors"
        part = {key: arrays[key] for key in list(arrays)[index::number]}
        safetensors.numpy.save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": places}
    write_index(folder, index)
    return index


def write_index(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class FolderTest(parameterized.TestCase):
    """Tests with a folder, `theirs`, that transformers might have written."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def load(self, name="theirs"):
        return load(self.folder / name, dtype="float32", verbose=0)

    def write(self, config, arrays=None):
        """Writes a folder, and returns its tensors."""
        arrays = tensors(config) if arrays is None else arrays
        write(self.folder / "theirs", config, arrays)
        return arrays

    def convert(self, model, name="written"):
        """Writes a model as a Hugging Face folder; returns its configuration and tensors."""
        model.save_to_preset(self.folder / "keras")
        convert(self.folder / "keras", self.folder / name, "huggingface", "float32", verbose=0)
        path = self.folder / name
        config = json.loads((path / "config.json").read_text())
        return config, safetensors.numpy.load_file(path / "model.safetensors")

    def check_weights(self, weights, expected):
        self.assertLessEqual(expected.keys(), weights.keys())
        for name, value in expected.items():
            np.testing.assert_array_equal(weights[name], value, err_msg=name)
