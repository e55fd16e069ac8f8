"""Print the time that `import keras_switch` takes next to `import keras`.

Each import runs in a fresh process; the two take turns, and the medians are compared.

    python benchmarks/import_time.py
"""

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = ("import keras", "import keras_switch")


def seconds(statement):
    """Return how long a fresh process takes for `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes for each import")
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS:
        seconds(statement)
    times = [[seconds(statement) for statement in STATEMENTS] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*times)]
    for statement, median in zip(STATEMENTS, medians):
        print(f"{statement:22}{median:8.2f} s")
    print(f"{'ratio':22}{medians[1] / medians[0]:8.2f}")


if __name__ == "__main__":
    main()
