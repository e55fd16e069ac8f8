"""Compile a train step of the paper's two largest models for real TPU slices, on any machine.

Switch-C has 2,048 experts in every block and splits the experts only; Switch-XXL has wide experts
in every other block and splits tokens, experts and each layer's width. Nothing is allocated:
weights and slots of the optimizer are shapes.

    python benchmarks/trillion.py --output benchmarks/results/trillion.md
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import importlib.metadata
import pathlib
import resource
import time

import keras
import report
from keras import ops

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.tpu.rehearse import rehearse
from keras_switch.training import Adafactor

VOCABULARY = 32128
LENGTHS = {"encoder_token_ids": 512, "decoder_token_ids": 114}
EVERYTHING = "expert_hidden:model,heads:model,d_ff:model,vocab:model"

# Table 9 of the paper; capacities of the released configurations. The paper's table gives
# Switch-XXL 64 experts, which its 395 billion parameters belie.
MODELS = {
    "Switch-C": {
        "hidden_dim": 2080,
        "num_layers": 15,
        "sparse_every": 1,
        "block": {
            "num_heads": 32,
            "intermediate_dim": 6144,
            "key_value_dim": 64,
        },
        "num_experts": 2048,
        "switch": {"exploration": "argmax", "capacity_factor": 1.0, "min_capacity": 2},
        "rehearsal": {
            "topology": "v5p:8x8x8",
            "mesh": ("batch:512", "batch:batch,experts:batch"),
            "batch_size": 2048,
        },
    },
    "Switch-XXL": {
        "hidden_dim": 4096,
        "num_layers": 24,
        "sparse_every": 2,
        "block": {
            "num_heads": 64,
            "intermediate_dim": 10240,
            "key_value_dim": 64,
            "activation": "gelu",
            "gated": True,
        },
        "num_experts": 128,
        "switch": {"exploration": "argmax", "min_capacity": 2},
        "rehearsal": {
            "topology": "v5p:8x8x8",
            "mesh": (
                "outer:2,batch:64,model:4",
                f"outer_batch:outer,batch:batch,experts:batch,{EVERYTHING}",
            ),
            "batch_size": 1024,
        },
    },
}


def build(name):
    """The functional model, with logits of its own as both models have."""
    config = MODELS[name]
    dim = config["hidden_dim"]
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in LENGTHS}
    embedding = keras.layers.Embedding(VOCABULARY, dim, dtype="mixed_bfloat16", name="embedding")
    encoder_ids, decoder_ids = (inputs[key] for key in LENGTHS)
    mask = ops.not_equal(encoder_ids, 0)
    encoded = _stack("encoder", config, embedding(encoder_ids), mask)
    decoded = _stack(
        "decoder",
        config,
        embedding(decoder_ids),
        ops.ones_like(decoder_ids, dtype="bool"),
        encoder_sequence=encoded,
        encoder_padding_mask=mask,
    )
    logits = keras.layers.Dense(VOCABULARY, use_bias=False, dtype="mixed_bfloat16", name="logits")
    return keras.Model(inputs, logits(decoded), name=name.replace("-", "_"))


def _stack(side, config, x, mask, **kwargs):
    decoder = side == "decoder"
    bias = RelativePositionBias(
        config["block"]["num_heads"], bidirectional=not decoder, name=f"{side}_position_bias"
    )(x)
    for number in range(config["num_layers"]):
        sparse = number % config["sparse_every"] == config["sparse_every"] - 1
        block = SwitchTransformerBlock(
            num_experts=config["num_experts"] if sparse else None,
            switch=config["switch"] if sparse else None,
            causal=decoder,
            cross_attention=decoder,
            relative_attention=False,
            name=f"{side}_block_{number}",
            **config["block"],
        )
        x = block(x, position_bias=bias, padding_mask=mask, **kwargs)
    return keras.layers.RMSNormalization(dtype="mixed_bfloat16", name=f"{side}_norm")(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("keras", "jax", "libtpu")}
    with report.Report(flags.output) as out:
        out.title("A train step of a trillion parameters, compiled", versions)
        for name in flags.models:
            start = time.perf_counter()
            rehearsal = rehearse(
                lambda: build(name),
                optimizer=Adafactor(),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                sequence_length=LENGTHS,
                search=False,
                **MODELS[name]["rehearsal"],
            )
            minutes = (time.perf_counter() - start) / 60
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            out.write(f"\n## {name}\n\n```\n{rehearsal}\n```\n")
            out.write(
                f"Compiled in {minutes:.1f} minutes; this process held {peak:.1f} GiB at most."
            )


if __name__ == "__main__":
    main()
