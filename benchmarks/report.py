"""Markdown on the standard output and, if asked for, in a file."""

import contextlib
import os
import pathlib
import platform
import re
import shlex
import sys


class Report(contextlib.AbstractContextManager):
    """Prints as it goes, and writes the file when all of it is there.

    Args:
        path: Path of a file, or `None`.
    """

    def __init__(self, path=None):
        self.path = path
        self.texts = []

    def __exit__(self, error, *rest):
        if error is None and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(self.texts) + "\n", encoding="utf-8")

    def write(self, text):
        print(text, flush=True)
        self.texts.append(text)

    def title(self, title, versions):
        """A heading, and how the figures were made."""
        script = os.path.relpath(sys.argv[0])
        command = shlex.join(["python", script, *sys.argv[1:]])
        packages = ", ".join(f"{name} {version}" for name, version in versions.items())
        self.write(f"# {title}\n\n    {command}\n")
        self.write(f"{machine()}; Python {platform.python_version()}; {packages}.")

    def head(self, names):
        self.write("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))

    def row(self, cells):
        self.write("| " + " | ".join(map(str, cells)) + " |")


def machine():
    """The processor, how many cores of it this process may use, and who else does."""
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0))
    name = found[1] if found else platform.processor()
    return f"{name}, {cores} cores, {os.getloadavg()[0]:.1f} processes at work before"
