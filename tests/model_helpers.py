"""Small whole models, and token ids for them."""

import numpy as np
from keras import ops

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM

SMALL = {
    "vocabulary_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "num_decoder_layers": 1,
    "num_experts": 8,
    "decoder_sparse_layers": [0],
    "switch": {"num_groups": 8},
    "seed": 1,
    "dtype": "float32",
}
LENGTHS = {"encoder": 6, "decoder": 5}
# Options of `shallow`: all of T5, and as many others as go together.
T5 = {"num_experts": None, "encoder_sparse_layers": None, "decoder_sparse_layers": None}
T5 |= {"switch": None}
OTHER = {
    "encoder_sparse_layers": [],
    "decoder_sparse_layers": [0],
    "gated": True,
    "activation": "gelu_approximate",
    "tie_embedding_weights": False,
    "expert_attention": True,
    "switch": {
        "num_groups": 8,
        "num_selected_experts": 2,
        "overflow": "dropless",
        "expert_dropout": 0.2,
        "routing_metrics": False,
    },
}


def language_model(preprocessor=None, **options):
    """A float32 `SwitchSeq2SeqLM` with experts in both stacks, which can lie on any mesh."""
    return SwitchSeq2SeqLM(SwitchBackbone(**{**SMALL, **options}), preprocessor)


def shallow(**options):
    """The same with one sparse block, in the encoder, and one dense one, in the decoder."""
    options = {"num_layers": 1, "encoder_sparse_layers": [0], "decoder_sparse_layers": []} | options
    return language_model(**options)


def batches(number, size, seed=0):
    """Inputs, targets and sample weights of batches in a row; rows have unequal padding."""
    rng = np.random.default_rng(seed)
    rows = number * size
    x = {}
    for side, length in LENGTHS.items():
        real = np.arange(length) < rng.integers(1, length + 1, (rows, 1))
        x[f"{side}_padding_mask"] = real.astype("int32")
        x[f"{side}_token_ids"] = np.where(real, rng.integers(1, 16, real.shape), 0).astype("int32")
    y = rng.integers(1, 16, (rows, LENGTHS["decoder"])).astype("int32")
    return x, y, x["decoder_padding_mask"].astype("float32")


def prompts(number, length=6):
    """Inputs of `generate`: the decoder has the 0 that starts it, and room."""
    x, *_ = batches(1, number)
    starts = np.zeros((number, length), "int32")
    return {
        **{name: x[name] for name in ("encoder_token_ids", "encoder_padding_mask")},
        "decoder_token_ids": starts,
        "decoder_padding_mask": starts + (np.arange(length) == 0),
    }


def values(model):
    """The weights of a model as numpy arrays, by name."""
    weights = getattr(model, "backbone", model).named_weights()
    return {name: ops.convert_to_numpy(ops.convert_to_tensor(w)) for name, w in weights.items()}
