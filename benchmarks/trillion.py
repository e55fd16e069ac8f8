"""Compile a train step of the paper's two largest models for real TPU slices, on any machine.

Both are the presets, without dropout, as T5 1.1 is pre-trained. Switch-C has 2,048 experts in every
block and splits the experts only; Switch-XXL has wide experts in every other block and splits
tokens, experts and each layer's width. Nothing is allocated: weights and slots of the optimizer are
shapes.

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

import report

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models.losses import TargetCrossEntropy
from keras_switch.models.presets import preset
from keras_switch.tpu.rehearsal.rehearse import rehearse
from keras_switch.training import Adafactor

LENGTHS = {
    f"{side}_{name}": length
    for side, length in (("encoder", 512), ("decoder", 114))
    for name in ("token_ids", "padding_mask")
}
EVERYTHING = "expert_hidden:model,heads:model,d_ff:model,vocab:model"
REHEARSALS = {
    "switch_c_2048": {
        "topology": "v5p:8x8x8",
        "mesh": ("batch:512", "batch:batch,experts:batch"),
        "batch_size": 2048,
    },
    "switch_xxl_128": {
        "topology": "v5p:8x8x8",
        "mesh": (
            "outer:2,batch:64,model:4",
            f"outer_batch:outer,batch:batch,experts:batch,{EVERYTHING}",
        ),
        "batch_size": 1024,
    },
}


def build(name):
    """The model of a preset without dropout, not compiled."""
    config = preset(name)
    config["switch"] = {**config["switch"], "expert_dropout": 0.0}
    return SwitchSeq2SeqLM(SwitchBackbone(**{**config, "dropout": 0.0}), compile=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=REHEARSALS, default=list(REHEARSALS))
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
                loss=TargetCrossEntropy(),
                sequence_length=LENGTHS,
                search=False,
                **REHEARSALS[name],
            )
            minutes = (time.perf_counter() - start) / 60
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            out.write(f"\n## {name}\n\n```\n{rehearsal}\n```\n")
            out.write(
                f"Compiled in {minutes:.1f} minutes; this process held {peak:.1f} GiB at most."
            )


if __name__ == "__main__":
    main()
