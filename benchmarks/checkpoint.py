"""Time what a checkpoint takes from training, written in a thread and without one.

    python benchmarks/checkpoint.py

The model has the sizes of `make pretrain`, and trains in `fit` on batches of random ids.
"""

import argparse
import importlib.metadata
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import report

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

from keras_switch import training  # noqa: E402
from keras_switch.models import SwitchBackbone  # noqa: E402
from keras_switch.models import SwitchSeq2SeqLM  # noqa: E402

VOCABULARY, BATCH, INPUTS, TARGETS = 2048, 16, 128, 50
SIZES = {"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 512}
EXPERTS, WARM_STEPS = 8, 5


class Timed(training.Checkpoint):
    """A `Checkpoint` that keeps the time of steps and of saves, and when a thread wrote.

    Attributes:
        saves: List of the seconds that training stood still.
        writes: List of pairs, the begin and the end of a write.
        steps: List of pairs, the begin and the end of a step.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.saves, self.writes, self.steps = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((self._begin, time.perf_counter()))
        super().on_train_batch_end(batch, logs)

    def save(self):
        start = time.perf_counter()
        path = super().save()
        self.saves.append(time.perf_counter() - start)
        return path

    def _write(self, *args):
        start = time.perf_counter()
        super()._write(*args)
        self.writes.append((start, time.perf_counter()))


def build(dtype):
    backbone = SwitchBackbone(VOCABULARY, **SIZES, num_experts=EXPERTS, dtype=dtype, seed=0)
    model = SwitchSeq2SeqLM(backbone)
    model.compile(keras.optimizers.Adam(1e-3), sampler="greedy", jit_compile=False)
    return model


def batches(steps):
    draw = np.random.default_rng(0)
    ids = {
        f"{side}_token_ids": draw.integers(3, VOCABULARY, (steps * BATCH, length))
        for side, length in (("encoder", INPUTS), ("decoder", TARGETS))
    }
    masks = {f"{name[:7]}_padding_mask": np.ones(x.shape, bool) for name, x in ids.items()}
    return {**ids, **masks}, np.roll(ids["decoder_token_ids"], -1, axis=1)


def milliseconds(values):
    values = list(values)
    return f"{1000 * statistics.median(values):.0f}" if values else "-"


def measure(asynchronous, dtype, every, steps):
    """Trains; returns the cells of a row."""
    x, y = batches(steps)
    with tempfile.TemporaryDirectory(dir=".") as directory:
        saver = Timed(directory, every=every, keep=2, asynchronous=asynchronous)
        build(dtype).fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[saver])
    beside, alone = [], []
    for start, end in saver.steps[WARM_STEPS:]:
        overlaps = any(start < last and first < end for first, last in saver.writes)
        (beside if overlaps else alone).append(end - start)
    stalls = saver.saves[:-1] or saver.saves
    ratio = statistics.median(stalls) / statistics.median(alone)
    return [
        milliseconds(alone),
        milliseconds(beside),
        milliseconds(stalls),
        f"{1000 * max(stalls):.0f}",
        milliseconds(end - start for start, end in saver.writes),
        f"{ratio:.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--steps", type=int, default=120, help="steps of a run")
    parser.add_argument("--dtype", default="mixed_bfloat16")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    names = ("keras", keras.config.backend())
    versions = {name: importlib.metadata.version(name) for name in names}
    model = build(flags.dtype)
    with report.Report(flags.output) as out:
        out.title("What a checkpoint takes from training", versions)
        out.write(
            f"{flags.dtype}, Adam, {model.count_params():,} parameters, batches of {BATCH} texts "
            f"of {INPUTS} and {TARGETS} ids; a checkpoint every {flags.every} of "
            f"{flags.steps} steps. Medians.\n"
        )
        out.head(
            [
                "checkpoints",
                "a step, ms",
                "a step while a thread writes, ms",
                "training stands still, ms",
                "at most, ms",
                "a write, ms",
                "still, in steps",
            ]
        )
        for asynchronous in (True, False):
            name = f"`asynchronous={asynchronous}`"
            out.row([name, *measure(asynchronous, flags.dtype, flags.every, flags.steps)])


if __name__ == "__main__":
    main()
