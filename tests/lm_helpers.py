"""Small language models, their inputs, and what they compute without any cache."""

import functools

import keras
import numpy as np
from block_helpers import compiled
from block_helpers import numpy
from keras import ops

from keras_switch.layers import dropless
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_experts": 4,
    "dtype": "float32",
    "seed": 3,
}
# Options with which a model can lie on a mesh.
ON_A_MESH = {"decoder_sparse_layers": (0,), "switch": {"num_groups": 8}}
# Arguments of `fit` for the batch that `to_train` makes.
QUIET = {"batch_size": 16, "shuffle": False, "verbose": 0}
VARIANTS = {
    "switch": {},
    "dense": {"num_experts": None, "gated": True, "tie_embedding_weights": False},
    "odd": {
        "key_value_dim": 3,
        "num_decoder_layers": 3,
        "decoder_sparse_layers": (0, 2),
        "switch": {"num_selected_experts": 2},
    },
    "expert attention": {"expert_attention": True},
}


def make(z_loss_weight=1e-4, **kwargs):
    """A model with weights of its own for each seed, the same ones on both backends."""
    model = SwitchSeq2SeqLM(SwitchBackbone(**SIZES | kwargs), z_loss_weight=z_loss_weight)
    rng = np.random.default_rng(kwargs.get("seed", 0))
    for name, weight in sorted(model.backbone.named_weights().items()):
        weight.assign(rng.normal(scale=0.4 if "norm" not in name else 1.0, size=weight.shape))
    return model


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(2, 30, shape).astype("int32")


def to_generate(batch=3, prompts=(1, 1, 1), length=9):
    """Inputs of `generate`: padded texts, and prompts of so many tokens each."""
    encoder_ids, decoder_ids = ids(batch, 6), ids(batch, length, seed=1)
    encoder_mask = np.ones_like(encoder_ids)
    encoder_ids[0, 4:] = encoder_mask[0, 4:] = 0
    decoder_mask = np.arange(length) < np.array(prompts)[:, None]
    decoder_ids = np.where(decoder_mask, decoder_ids, 0)
    decoder_ids[:, 0] = 0
    return {
        "encoder_token_ids": encoder_ids,
        "encoder_padding_mask": encoder_mask,
        "decoder_token_ids": decoder_ids,
        "decoder_padding_mask": decoder_mask,
    }


def to_train(batch=16, length=6, seed=0):
    """Inputs, targets and sample weights: some rows have many targets, half of them have none."""
    lengths = np.arange(batch) % (length + 1)
    lengths[batch // 2 :] = 0
    real = (np.arange(length) < lengths[:, None]).astype("int32")
    x = {
        "encoder_token_ids": ids(batch, 5, seed=seed),
        "encoder_padding_mask": np.ones((batch, 5), "int32"),
        "decoder_token_ids": ids(batch, length, seed=seed + 1) * real,
        "decoder_padding_mask": real,
    }
    return x, ids(batch, length, seed=seed + 2) * real, real.astype("float32")


def uncached(model, inputs, decoder_ids):
    """Hidden states and logits of whole rows, as many as there are of the decoder."""
    times = len(decoder_ids) // len(inputs["encoder_token_ids"])
    x = {name: np.repeat(inputs[name], times, 0) for name in inputs if name.startswith("encoder")}
    x |= {"decoder_token_ids": decoder_ids, "decoder_padding_mask": np.ones(decoder_ids.shape)}
    x = {name: ops.convert_to_tensor(value, "int32") for name, value in x.items()}
    return _whole(model)(x)


@functools.cache
def _whole(model):
    def function(x):
        with dropless():
            states = model.backbone(x)["decoder_sequence_output"]
            return states, model.backbone.logits(states)

    return compiled_on_jax(function)


def compiled_on_jax(function):
    """JAX would compile each operation by itself."""
    return compiled(function) if keras.backend.backend() == "jax" else function


def without_padding(logits):
    """Logits of which no sampler chooses id 0."""
    return ops.where(ops.arange(logits.shape[-1]) == 0, -1e9, logits)


def greedy(model, inputs):
    """The ids other than 0 that are likeliest at each step, each step computed anew."""
    decoder_ids, mask = inputs["decoder_token_ids"].copy(), inputs["decoder_padding_mask"]
    for index in range(1, decoder_ids.shape[1]):
        _, logits = uncached(model, inputs, decoder_ids)
        likeliest = numpy(without_padding(logits))[:, index - 1].argmax(-1)
        decoder_ids[:, index] = np.where(mask[:, index], decoder_ids[:, index], likeliest)
    return decoder_ids
