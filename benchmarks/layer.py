"""Times SwitchDense against dense layers and other dispatches, side by side.

    make bench                            # the whole table
    python benchmarks/layer.py --quick    # 16 experts, float32, not jitted

Every row is one process. Its contenders take turns, step by step, and each printed
figure is a median of ratios within pairs: this machine's speed does not matter, nor
does a neighbour's load.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

TOKENS, DIM, HIDDEN = 4096, 256, 1024
COLUMNS = {
    "slots": "SwitchDense / dense over the slots",
    "tokens": "SwitchDense / dense over the tokens",
    "dropless": "dropless / dense over the tokens",
    "one_hot": "one-hot dispatch / SwitchDense",
    "kerashub": "KerasHub's Mixtral block / SwitchDense",
}


def feed_forward(dtype):
    import keras

    return keras.Sequential(
        [
            keras.layers.Dense(HIDDEN, "relu", use_bias=False, dtype=dtype),
            keras.layers.Dense(DIM, use_bias=False, dtype=dtype),
        ]
    )


def one_hot_layer(num_experts, dtype):
    """A SwitchDense whose tokens travel by one-hot einsums, as in Mesh TensorFlow."""
    from keras import ops

    from keras_switch.layers import SwitchDense
    from keras_switch.layers import routing

    class OneHot(SwitchDense):
        def call(self, inputs, training=None):
            record, _, _ = self._route(*self._group(inputs, None), training)
            chosen = routing.one_hot(record.experts[..., 0], num_experts)
            position = (ops.cumsum(chosen, axis=1) - chosen) * chosen
            capacity = int(inputs.shape[0] * self.capacity_factor / num_experts)
            kept = chosen * ops.cast(position < capacity, "float32")
            index = ops.cast(ops.sum(position, axis=-1), "int32")
            slot = ops.one_hot(index, capacity, dtype="float32")
            combine = kept[..., None] * slot[:, :, None, :] * record.gates[..., None]
            dispatch = ops.cast(combine > 0, inputs.dtype)
            x = ops.einsum("gsec,gsd->egcd", dispatch, inputs[None])
            h = ops.relu(ops.einsum("egcd,edf->egcf", x, self.kernel_in))
            y = ops.einsum("egcf,efd->egcd", h, self.kernel_out)
            return ops.einsum("gsec,egcd->gsd", ops.cast(combine, y.dtype), y)[0]

    return OneHot(num_experts, HIDDEN, dtype=dtype)


def mixtral_layer(num_experts, dtype):
    """KerasHub's block, which runs every expert on every token."""
    from keras_hub.src.models.mixtral.mixtral_decoder import MixtralSparseMoeBlock

    return MixtralSparseMoeBlock(
        hidden_dim=DIM, intermediate_dim=HIDDEN, num_experts=num_experts, top_k=1, dtype=dtype
    )


def make_step(layer, rows, dtype, jit, train, rank=2):
    """Returns a function that runs one forward pass, or one with its gradients."""
    import tensorflow as tf

    shape = (rows, DIM) if rank == 2 else (8, rows // 8, DIM)
    x = tf.cast(tf.random.normal(shape, seed=1), dtype)
    layer(x)
    # A router as trained: every expert takes about as many tokens as any other.
    if hasattr(layer, "router"):
        layer.router.kernel.assign(tf.random.normal(layer.router.kernel.shape, stddev=0.1, seed=2))

    @tf.function(jit_compile=jit)
    def step(x):
        if not train:
            return layer(x, training=True)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            y = y[0] if isinstance(y, tuple) else y
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2) + sum(layer.losses)
        return tape.gradient(loss, [x, *layer.trainable_variables])

    return lambda: step(x)


def peak_memory(step):
    """Mebibytes that the process needs above what it held before the first step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def contenders(num_experts, dtype):
    """Name, layer, rows and rank of the input, for every contender."""
    from keras_switch.layers import SwitchDense

    slots = num_experts * int(TOKENS * 1.25 / num_experts)
    yield "switch", SwitchDense(num_experts, HIDDEN, dtype=dtype), TOKENS, 2
    free = SwitchDense(num_experts, HIDDEN, dtype=dtype, overflow="dropless")
    yield "dropless", free, TOKENS, 2
    yield "slots", feed_forward(dtype), slots, 2
    yield "tokens", feed_forward(dtype), TOKENS, 2
    yield "one_hot", one_hot_layer(num_experts, dtype), TOKENS, 2
    yield "kerashub", mixtral_layer(num_experts, dtype), TOKENS, 3


def measure(num_experts, dtype, jit, train, pairs):
    """Median ratios of one row of the table."""
    import numpy as np

    steps = {}
    for name, layer, rows, rank in contenders(num_experts, dtype):
        if name == "kerashub" and num_experts > 16:
            continue
        steps[name] = make_step(layer, rows, dtype, jit, train, rank)
        steps[name]()
    times = {name: [] for name in steps}
    for turn in range(pairs):
        for name, step in steps.items():
            if name in ("one_hot", "kerashub") and turn >= 5:
                continue
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)

    def ratio(above, below):
        count = min(len(times[above]), len(times[below]))
        pair = zip(times[above][:count], times[below][:count])
        return float(np.median([a / b for a, b in pair]))

    row = {
        "slots": ratio("switch", "slots"),
        "tokens": ratio("switch", "tokens"),
        "dropless": ratio("dropless", "tokens"),
        "one_hot": ratio("one_hot", "switch"),
    }
    if "kerashub" in steps:
        row["kerashub"] = ratio("kerashub", "switch")
    return row


def child(arguments):
    num_experts, dtype, jit, train, pairs, memory = arguments
    if memory:
        layers = {name: rest for name, *rest in contenders(num_experts, dtype)}
        layer, rows, rank = layers[memory]
        print(json.dumps(peak_memory(make_step(layer, rows, dtype, jit, train, rank))))
    else:
        print(json.dumps(measure(num_experts, dtype, jit, train, pairs)))


def run(*arguments):
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--experts", type=int, nargs="*", default=[8, 16, 64, 128])
    parser.add_argument("--child", type=json.loads)
    flags = parser.parse_args()
    if flags.child:
        return child(flags.child)
    names = ["experts", "dtype", "jitted", "pass", *COLUMNS]
    print("\n".join(f"{name}: {meaning}" for name, meaning in COLUMNS.items()), "\n")
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    experts = [16] if flags.quick else flags.experts
    for num_experts in experts:
        for dtype in ["float32"] if flags.quick else ["float32", "bfloat16"]:
            for jit in [False] if flags.quick else [False, True]:
                for train in (False, True):
                    row = run(num_experts, dtype, jit, train, flags.pairs, None)
                    cells = [f"{row[name]:.2f}" if name in row else "" for name in COLUMNS]
                    settings = [num_experts, dtype, jit, "train" if train else "forward"]
                    print("| " + " | ".join(map(str, [*settings, *cells])) + " |", flush=True)
    print("\nPeak memory of a training step, float32, not jitted (MiB, own processes):")
    for num_experts in experts:
        ours, theirs = (
            run(num_experts, "float32", False, True, 0, name) for name in ("switch", "one_hot")
        )
        print(f"{num_experts} experts: SwitchDense {ours:.0f}, one-hot {theirs:.0f}")


if __name__ == "__main__":
    main()
