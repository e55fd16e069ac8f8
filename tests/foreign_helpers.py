"""Small models whose weights are written in other people's formats."""

import numpy as np

from keras_switch import models
from keras_switch.weights.convert import convert

SPARSE = {
    "vocabulary_size": 20,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "key_value_dim": 3,
    "num_experts": 3,
    "num_buckets": 8,
}
# Switch-Base's way, Switch-XXL's, Switch-C's, and T5's of 1.0 and 1.1.
CASES = {
    "sparse": SPARSE,
    "gated": {
        **SPARSE,
        "num_decoder_layers": 3,
        "gated": True,
        "activation": "gelu_approximate",
        "tie_embedding_weights": False,
    },
    "all_sparse": {
        **SPARSE,
        "encoder_sparse_layers": [0, 1],
        "decoder_sparse_layers": [0, 1],
        "tie_embedding_weights": False,
    },
    "one_side": {**SPARSE, "encoder_sparse_layers": [], "decoder_sparse_layers": [0]},
    "dense": {**SPARSE, "num_experts": None},
    "dense_gated": {
        **SPARSE,
        "num_experts": None,
        "gated": True,
        "activation": "gelu_approximate",
        "tie_embedding_weights": False,
    },
}


def random_backbone(arguments, seed=0):
    """Makes a backbone in which every weight has random values, its norms too."""
    backbone = models.SwitchBackbone(**arguments, dtype="float32")
    rng = np.random.default_rng(seed)
    for weight in backbone.named_weights().values():
        weight.assign(rng.normal(size=weight.shape).astype("float32"))
    return backbone


def values(backbone):
    """Returns the weights of a backbone as numpy arrays, by name."""
    return {name: weight.numpy() for name, weight in backbone.named_weights().items()}


def check_equal(test, converted, backbone):
    """Asserts that a backbone was converted: the same configuration, the same bits."""
    ours, theirs = backbone.get_config(), converted.get_config()
    for name in ("name", "dtype", "seed"):
        ours.pop(name), theirs.pop(name)
    test.assertEqual(theirs, ours)
    expected, actual = values(backbone), values(converted)
    test.assertEqual(actual.keys(), expected.keys())
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


class Refused:
    """For tests of `self.input`, in `self.folder`, that something is wrong with."""

    def check_refused(self, message, error=ValueError):
        """Asserts that the input is not converted, and that nothing is left of an output."""
        output = self.folder / "output"
        with self.assertRaisesRegex(error, message):
            convert(self.input, output, dtype="float32", verbose=0)
        left = {path.name for path in self.folder.iterdir()}
        self.assertEqual(left - {self.input.name, "outside"}, set())
