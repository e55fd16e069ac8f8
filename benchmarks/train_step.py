"""Times a training step of Switch-Base with 8 experts against Hugging Face's.

    python benchmarks/train_step.py

Two such models with their gradients do not fit a small machine, so one process is alive at a
time, and the contenders take turns, each in a new process every turn. A printed ratio is a median
of ratios within a turn.
"""

import argparse
import pathlib
import statistics
import sys

import report
import worker

HERE = pathlib.Path(__file__).resolve().parent
TORCH = HERE.parent / ".venv-prove-huggingface" / "bin" / "python"
BATCH, LENGTH, STEPS = 4, 128, 3
DROPLESS = {"overflow": "dropless", "expert_dropout": 0.1}
PEER = "Hugging Face's"
# Contender: whether it is ours, and the arguments that are not as released.
CONTENDERS = {
    "ours": (True, {}),
    "ours, dropless": (True, {"switch": DROPLESS}),
    PEER: (False, {}),
}
NOTES = f"""
{BATCH} rows of {LENGTH} tokens for the encoder and as many for the decoder, random weights,
float32, dropout 0.1, jitter, the routers' losses and plain SGD, which PyTorch fuses. Nothing is
compiled by XLA or torch.compile. `ours` has the released capacity factor, 1.25; Hugging Face's
capacity is 64 of a row's {LENGTH} tokens for each of 8 experts, which drops next to nothing.

With two threads, `seconds` pass for a step. With one, `processor seconds` are the work of the
process, which other work on the machine changes little; PyTorch's threads wait for each other by
spinning, so that with two theirs would also count the waiting.
"""


def measure(name, threads, torch):
    """Returns the seconds and the processor seconds of a step, in a process of its own."""
    is_ours, kwargs = CONTENDERS[name]
    kind = "keras" if is_ours else "torch"
    python = sys.executable if is_ours else torch
    with worker.Worker(python, HERE / f"train_step_{kind}_worker.py") as process:
        parameters = process.ask("prepare", kwargs, BATCH, LENGTH, threads)
        times = [process.ask("seconds") for _ in range(STEPS)]
        return parameters, *(statistics.median(x) for x in zip(*times))


def measure_threads(threads, turns, torch, out):
    """Writes a row for each contender."""
    index = 1 if threads == 1 else 0  # The work of one thread, or the time of several.
    unit = ("seconds", "processor seconds")[index]
    out.write(f"\nThreads: {threads}\n")
    out.head(["", unit, f"{PEER} / this: above 1"])
    times, sizes = {name: [] for name in CONTENDERS}, set()
    for turn in range(turns):
        for name in list(CONTENDERS)[:: 1 if turn % 2 else -1]:
            parameters, *seconds = measure(name, threads, torch)
            sizes.add(parameters)
            times[name].append(seconds[index])
    if len(sizes) > 1:
        raise ValueError(f"Models of equal size are compared. Received: {sizes}")
    for name, own in times.items():
        ratio = statistics.median(peer / x for peer, x in zip(times[PEER], own))
        out.row([name, f"{statistics.median(own):.1f}", f"{ratio:.2f}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each contender")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--torch", type=pathlib.Path, default=TORCH, help="python with torch")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    with report.Report(flags.output) as out:
        versions = {}
        for python, kind in ((sys.executable, "keras"), (flags.torch, "torch")):
            with worker.Worker(python, HERE / f"train_step_{kind}_worker.py") as process:
                versions |= process.ask("versions")
        out.title("A training step of Switch-Base", versions)
        out.write(NOTES)
        for threads in flags.threads:
            measure_threads(threads, flags.turns, flags.torch, out)


if __name__ == "__main__":
    main()
