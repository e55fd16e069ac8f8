"""What a rehearsal is doing, a line on stderr before each stage that takes long."""

import subprocess
import sys

_MARK = "rehearse: "


def teller(verbose):
    """Returns a function that writes a line to stderr, or one that does nothing."""
    return _say if verbose else lambda line: None


def _say(line):
    print(f"{_MARK}{line}", file=sys.stderr, flush=True)


def run(command, environment):
    """Runs a process, and passes its lines on at once.

    Args:
        command: List of strings.
        environment: Dictionary of strings.

    Returns:
        Pair of the exit code, and what else the process wrote to stderr.
    """
    others = []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        errors="replace",
    ) as process:
        for line in process.stderr:
            if line.startswith(_MARK):
                print(line, end="", file=sys.stderr, flush=True)
            else:
                others.append(line)
    return process.returncode, "".join(others)
