"""Times SwitchDense against dense layers, other dispatches and other libraries.

    make bench                            # the whole table
    python benchmarks/layer.py --quick    # 16 experts, float32, not jitted

The contenders take turns, step by step, each library in a process of its own, and each
printed figure is a median of ratios within a turn, so the speed of the machine does not
matter. Other work on it does: PyTorch's threads wait for each other, and lose far more by
it than TensorFlow's. Hugging Face's layer needs an environment with torch and
transformers, which `make bench` sets up; without it, its columns stay empty.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import time

import report
import worker

HERE = pathlib.Path(__file__).resolve().parent
TORCH = HERE.parent / ".venv-prove-huggingface" / "bin" / "python"
KERAS = ("switch", "dropless", "slots", "tokens", "one_hot", "kerashub")
# These take long, and differ by much: a few turns tell.
EXPENSIVE, EXPENSIVE_TURNS = ("one_hot", "kerashub", "huggingface", "hf_bfloat16"), 5
SIZES_FOR_KERASHUB = (16,)
# Column, numerator, denominator, meaning.
RATIOS = (
    ("slots", "switch", "slots", "SwitchDense / dense over the slots: at most 1.10 at 16 experts"),
    ("tokens", "switch", "tokens", "SwitchDense / dense over the tokens: at most 1.375, likewise"),
    ("dropless", "dropless", "tokens", "dropless / dense over the tokens: at most 1.10"),
    ("one_hot", "one_hot", "switch", "one-hot dispatch / SwitchDense: at least 2 from 16 experts"),
    ("kerashub", "kerashub", "switch", "KerasHub's Mixtral block / SwitchDense: at least 8 at 16"),
    ("huggingface", "huggingface", "switch", "Hugging Face's sparse MLP / SwitchDense: above 1"),
    ("hf_bfloat16", "hf_bfloat16", "switch", "the same with its weights in bfloat16"),
)
NOTES = """
4,096 tokens in 8 rows of 512, width 256, hidden width 1,024, capacity factor 1.25, one
group. `forward` is inference with as many slots as in training. `train` is forward and
backward with jitter and the balance loss, without an optimizer. `mixed_bfloat16` computes
in bfloat16 with float32 variables; PyTorch does so by its autocast, and is not jitted.
"""


def take_turns(workers, turns):
    """Times every contender once a turn, the order reversed every other turn.

    Args:
        workers: Dictionary of the `Worker` of each contender.
        turns: int.

    Returns:
        Dictionary by contender of lists of seconds, `None` where it sat out.
    """
    every = max(1, turns // EXPENSIVE_TURNS)
    times = {name: [] for name in workers}
    for turn in range(turns):
        for name in list(workers)[:: 1 if turn % 2 else -1]:
            sits_out = name in EXPENSIVE and turn % every
            # Let the threads of the last step, which spin for a moment, fall asleep.
            time.sleep(0.01)
            times[name].append(None if sits_out else workers[name].ask("seconds", name))
    return times


def ratio(times, above, below):
    """Median ratio within a turn, as text; empty without the contender."""
    pairs = zip(times.get(above, ()), times.get(below, ()))
    ratios = [a / b for a, b in pairs if a is not None and b is not None]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def measure_rows(num_experts, dtype, settings, turns, torch):
    """Yields the rows of one size and dtype, a row for each pair of jitted and pass."""
    names = [x for x in KERAS if x != "kerashub" or num_experts in SIZES_FOR_KERASHUB]
    with contextlib.ExitStack() as stack:
        keras = stack.enter_context(worker.Worker(sys.executable, HERE / "layer_keras_worker.py"))
        if torch.exists():
            peer = stack.enter_context(worker.Worker(torch, HERE / "layer_torch_worker.py"))
        for jit, train in settings:
            keras.ask("prepare", names, num_experts, dtype, jit, train)
            workers = {name: keras for name in names}
            if torch.exists():
                peers = peer.ask("prepare", num_experts, dtype, train)
                workers.update((name, peer) for name in peers)
            times = take_turns(workers, turns)
            own = statistics.median(times["switch"]) * 1000
            cells = [num_experts, dtype, "yes" if jit else "no", "train" if train else "forward"]
            yield [*cells, f"{own:.0f}", *(ratio(times, *pair[1:3]) for pair in RATIOS)]


def measure_memory(experts):
    """Yields rows of the mebibytes of a training step, each in a process of its own."""
    for num_experts in experts:
        peaks = []
        for name in ("switch", "one_hot", "slots"):
            with worker.Worker(sys.executable, HERE / "layer_keras_worker.py") as keras:
                peaks.append(keras.ask("peak_memory", name, num_experts, "float32", False, True))
        half = peaks[1] / 2
        yield [num_experts, *(f"{peak:.0f}" for peak in peaks), f"{half / peaks[0]:.2f}"]


def versions(torch):
    """Returns the versions of what is measured."""
    found = {}
    for python, script in (
        (sys.executable, "layer_keras_worker.py"),
        (torch, "layer_torch_worker.py"),
    ):
        if pathlib.Path(python).exists():
            with worker.Worker(python, HERE / script) as process:
                found.update(process.ask("versions"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16 experts, float32, not jitted")
    parser.add_argument("--turns", type=int, default=20, help="steps of each contender")
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 16, 64, 128])
    parser.add_argument("--torch", type=pathlib.Path, default=TORCH, help="python with torch")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    experts = [16] if flags.quick else flags.experts
    dtypes = ["float32"] if flags.quick else ["float32", "mixed_bfloat16"]
    jits = (False,) if flags.quick else (False, True)
    settings = [(jit, train) for jit in jits for train in (False, True)]
    with report.Report(flags.output) as out:
        out.title("SwitchDense and its peers", versions(flags.torch))
        out.write(NOTES)
        out.write("\n".join(f"- {name}: {meaning}" for name, _, _, meaning in RATIOS) + "\n")
        columns = ["experts", "dtype", "jitted", "pass", "ms", *(name for name, *_ in RATIOS)]
        out.head(columns)
        for num_experts in experts:
            for dtype in dtypes:
                for row in measure_rows(num_experts, dtype, settings, flags.turns, flags.torch):
                    out.row(row)
        out.write("\nMiB that a training step needs above what was held before, float32:\n")
        out.head(["experts", "SwitchDense", "one-hot", "dense", "half of one-hot / SwitchDense"])
        for row in measure_memory(experts):
            out.row(row)


if __name__ == "__main__":
    main()
