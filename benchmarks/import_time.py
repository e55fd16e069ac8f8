"""Print the time that `import keras_switch` takes next to `import keras`.

Each import runs in a fresh process; the two take turns, and the medians are compared.

    python benchmarks/import_time.py
"""

import argparse
import importlib.metadata
import pathlib
import statistics
import subprocess
import sys
import time

import report

STATEMENTS = ("import keras", "import keras_switch")


def seconds(statement):
    """Return how long a fresh process takes for `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes for each import")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    for statement in STATEMENTS:
        seconds(statement)
    times = [[seconds(statement) for statement in STATEMENTS] for _ in range(flags.rounds)]
    medians = [statistics.median(column) for column in zip(*times)]
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    with report.Report(flags.output) as out:
        out.title("Time of an import", versions)
        out.write("")
        out.head(["statement", "seconds"])
        for statement, median in zip(STATEMENTS, medians):
            out.row([f"`{statement}`", f"{median:.2f}"])
        out.row(["ratio", f"{medians[1] / medians[0]:.2f}"])


if __name__ == "__main__":
    main()
