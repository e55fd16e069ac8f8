"""Times greedy generation against Hugging Face's, and many experts against few.

    python benchmarks/generate.py

Each contender has a process of its own, they take turns, and each printed figure is a median of
ratios within a turn. Hugging Face's needs an environment with torch and transformers, which
`make bench` sets up; without it, only the experts are compared.
"""

import argparse
import contextlib
import functools
import pathlib
import statistics
import sys

import report
import worker

HERE = pathlib.Path(__file__).resolve().parent
TORCH = HERE.parent / ".venv-prove-huggingface" / "bin" / "python"
ENCODER_LENGTH, NEW_TOKENS = 32, 64
FEW, MANY = 8, 128
# `jit_compile` of our models: the choice of Keras for TensorFlow on a CPU, and XLA.
JIT = (False, True)
NOTES = f"""
Each text has {ENCODER_LENGTH} tokens, and {NEW_TOKENS} are written after it; nothing stops
earlier. Weights are random and float32, sizes those of Switch-Base. Both keep keys and values.
`jit_compile` is an argument of `compile`; for TensorFlow on a CPU
Keras's own choice is False. What is
compiled, or traced, at the first call is not timed.
"""


def take_turns(asks, turns):
    """Returns the seconds of each contender in each turn, the order reversed every other one."""
    times = [[] for _ in asks]
    for turn in range(turns):
        for index in range(len(asks))[:: 1 if turn % 2 else -1]:
            times[index].append(asks[index]())
    return times


def ratio(above, below):
    return f"{statistics.median(a / b for a, b in zip(above, below)):.2f}"


def against_peer(ours, peer, turns, out):
    """Writes a row for each batch: tokens a second, and how many times those of the peer."""
    out.write("\nSwitch-Base with 8 experts in every other block; at least 1.5:\n")
    out.head(["batch", "jit_compile", "tokens a second", "Hugging Face's", "ratio"])
    for batch in (1, 8):
        sizes = (batch, ENCODER_LENGTH, NEW_TOKENS)
        parameters = [ours.ask("prepare", i, FEW, 12, jit, *sizes) for i, jit in enumerate(JIT)]
        parameters.append(peer.ask("prepare", *sizes))
        if len(set(parameters)) > 1:
            raise ValueError(f"Models of equal size are compared. Received: {parameters}")
        asks = [functools.partial(ours.ask, "seconds", i, *sizes) for i in range(len(JIT))]
        *times, peer_times = take_turns([*asks, lambda: peer.ask("seconds", *sizes)], turns)
        for jit, own_times in zip(JIT, times):
            speeds = (batch * NEW_TOKENS / statistics.median(x) for x in (own_times, peer_times))
            speeds = [f"{speed:.1f}" for speed in speeds]
            out.row([batch, jit, *speeds, ratio(peer_times, own_times)])


def against_few(ours, turns, out):
    """Writes the cost of many experts over that of few."""
    sizes = (1, ENCODER_LENGTH, NEW_TOKENS)
    for i, number in enumerate((MANY, FEW)):
        ours.ask("prepare", i, number, 2, False, *sizes)
    asks = [functools.partial(ours.ask, "seconds", i, *sizes) for i in range(2)]
    times = take_turns(asks, turns)
    out.write(f"\n2 + 2 blocks, batch 1, not jitted, {MANY} experts over {FEW}; at most 1.3:\n")
    out.head([f"seconds, {MANY} experts", f"{FEW} experts", "ratio"])
    out.row([*(f"{statistics.median(x):.2f}" for x in times), ratio(*times)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="runs of each contender")
    parser.add_argument("--torch", type=pathlib.Path, default=TORCH, help="python with torch")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(report.Report(flags.output))
        ours = stack.enter_context(worker.Worker(sys.executable, HERE / "generate_keras_worker.py"))
        versions = ours.ask("versions")
        if flags.torch.exists():
            script = HERE / "generate_torch_worker.py"
            with worker.Worker(flags.torch, script) as peer:
                out.title("Generation", versions | peer.ask("versions"))
                out.write(NOTES)
                against_peer(ours, peer, flags.turns, out)
        else:
            out.title("Generation", versions)
            out.write(NOTES)
        against_few(ours, flags.turns, out)


if __name__ == "__main__":
    main()
