"""Processes that hold contenders and run a step of one whenever they are asked to.

A request is a line of JSON on the standard input; the answer is one on the standard
output. This module needs nothing but Python, so any environment can run it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time


class Worker:
    """A process to ask. What it prints is hidden unless it fails.

    Args:
        python: Path of the interpreter of the worker's environment.
        script: Path of a script that calls `answer`.
    """

    def __init__(self, python, script):
        self.printed = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.printed,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.printed.close()

    def ask(self, name, *args):
        """Returns what the worker's function `name` returns."""
        self.process.stdin.write(json.dumps([name, args]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.printed.seek(0)
            raise RuntimeError(f"A worker failed at {name}{args}:\n{self.printed.read()}")
        return json.loads(answer)


def answer(functions):
    """Answers requests until the standard input ends.

    Args:
        functions: Dictionary of functions by name.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, args = json.loads(line)
        print(json.dumps(functions[name](*args)), file=answers, flush=True)


def seconds(step):
    """Returns how long a function takes, and how long all threads work for it."""
    start, start_of_work = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start, time.process_time() - start_of_work
