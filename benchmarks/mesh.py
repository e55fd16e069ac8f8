"""Time a training step on 8 virtual CPU cores next to one core with 8 groups.

The two models have the same weights and take turns; a ratio is the median of the rounds' ratios.

    python benchmarks/mesh.py
"""

import argparse
import importlib.metadata
import os
import pathlib
import time

import numpy as np
import report

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_switch  # noqa: E402

CORES, BATCH, LENGTH, DIM, HIDDEN_DIM, EXPERTS = 8, 32, 128, 256, 1024, 16
MESHES = {
    "SwitchDense": ("batch:8", "batch:batch,experts:batch"),
    "SwitchDense, experts on 4 cores, twice": (
        "outer:2,inner:4",
        "outer_batch:outer,batch:inner,experts:inner",
    ),
    "SwitchDense, experts split in two": (
        "batch:4,model:2",
        "batch:batch,experts:batch,expert_hidden:model",
    ),
    "SwitchTransformerBlock": ("batch:8", "batch:batch,experts:batch"),
}


def build(name):
    """A functional model of one layer with 16 experts and one group a core."""
    inputs = keras.Input((LENGTH, DIM))
    common = {
        "num_groups": CORES,
        "router_initializer": keras.initializers.RandomNormal(0, 0.1, seed=1),
    }
    if name == "SwitchTransformerBlock":
        layer = keras_switch.layers.SwitchTransformerBlock(
            4, HIDDEN_DIM, EXPERTS, switch=common, dtype="float32", seed=0
        )
    else:
        layer = keras_switch.layers.SwitchDense(
            EXPERTS, HIDDEN_DIM, **common, dtype="float32", seed=0
        )
    return keras.Model(inputs, layer(inputs))


def step(model, optimizer):
    """Compiles a model; returns a function that trains it for one step of `fit`."""
    model.compile(optimizer, "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(BATCH, LENGTH, DIM)).astype("float32")
    model.fit(x, 0.5 * x, batch_size=BATCH, verbose=0)
    dataset = tf.data.Dataset.from_tensors((x, 0.5 * x)).repeat()
    strategy = model.distribute_strategy
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    return lambda: model.train_function(iterator)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="steps of each model")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    keras_switch.tpu.connect(cores=CORES)
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    with report.Report(flags.output) as out:
        out.title("Training step on 8 virtual CPU cores", versions)
        out.write(
            f"float32, Adam, {BATCH * LENGTH:,} tokens, width {DIM}, hidden width {HIDDEN_DIM}, "
            f"{EXPERTS} experts, medians of {flags.rounds} rounds.\n"
        )
        out.head(["model", "one core, 8 groups, ms", "8 cores, ms", "ratio"])
        for name, strings in MESHES.items():
            alone = step(build(name), keras.optimizers.Adam(1e-3))
            mesh = keras_switch.tpu.Mesh(*strings)
            with mesh.scope():
                split = step(build(name), mesh.optimizer(keras.optimizers.Adam(1e-3)))
            for function in (alone, split) * 2:
                function()
            times = [(seconds(alone), seconds(split)) for _ in range(flags.rounds)]
            one, eight = np.median(times, axis=0) * 1e3
            ratio = np.median([after / before for before, after in times])
            out.row([name, f"{one:.0f}", f"{eight:.0f}", f"{ratio:.2f}"])


if __name__ == "__main__":
    main()
