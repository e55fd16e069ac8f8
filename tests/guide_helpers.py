"""Runs a guide of `docs/guides` as it stands, and compares what it prints.

    PYTHONPATH=. python tests/guide_helpers.py docs/guides/mesh.md    # writes what it prints there

A guide is one program: its blocks of `python` and of `bash` run in order, in one fresh process and
an empty folder. A block of `text` after one of them is what that one prints, where `...` stands for
anything. A block of `console` does not run: it needs a network, a TPU or several machines. The
comment `<!-- backend: tensorflow, jax -->` names the backends that a guide runs on, and
`<!-- file: train.py -->` before a block makes it a file of that name instead.
"""

import doctest
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDES = ROOT / "docs" / "guides"
BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n+)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)
BACKENDS = re.compile(r"<!-- backend: (tensorflow|jax|tensorflow, jax) -->")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MARK = "\x1e"

# Runs blocks of code, which it reads from the standard input, and prints a mark before each.
RUNNER = f"""
import json, linecache, pathlib, subprocess, sys
names = {{"__name__": "__main__"}}
for guide, line, language, file, code in json.load(sys.stdin):
    print({MARK!r}, flush=True)
    if file:
        pathlib.Path(file).write_text(code)
    elif language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    else:
        # Tracebacks, and whoever asks for the source of a function, find the guide's lines.
        name, code = f"{{guide}}[{{line}}]", "\\n" * line + code
        linecache.cache[name] = len(code), None, code.splitlines(True), name
        exec(compile(code, name, "exec"), names)
    sys.stdout.flush()
"""


class Block(typing.NamedTuple):
    """A block of a guide that runs.

    Attributes:
        line: int. Line of the guide before its first.
        language: `"python"` or `"bash"`.
        file: string, or `None`. Name of the file that the block is.
        code: string.
        expected: string, or `None`. What the guide says that it prints.
    """

    line: int
    language: str
    file: str | None
    code: str
    expected: str | None = None


def guides():
    """Yields each guide's path with each backend that it is for."""
    for path in sorted(GUIDES.glob("*.md")):
        for backend in backends(path):
            yield path, backend


def backends(path):
    """The backends that a guide is for.

    Raises:
        ValueError: If it does not say so.
    """
    comment = BACKENDS.search(path.read_text(encoding="utf-8"))
    if comment is None:
        raise ValueError(
            "A guide must say which backend it is for: <!-- backend: tensorflow -->, jax, or both "
            f"with a comma. Received: {path}"
        )
    return comment[1].split(", ")


def blocks(text):
    """The blocks of a guide's text that run, with what they print.

    Raises:
        ValueError: If a block is in no known language, or of output without code before it.
    """
    found = []
    for match in BLOCK.finditer(text):
        language, line = match["language"], text.count("\n", 0, match.start("code"))
        if language in ("python", "bash"):
            found.append(Block(line, language, match["file"], match["code"]))
        elif language == "text" and found and found[-1].expected is None:
            found[-1] = found[-1]._replace(expected=match["code"])
        elif language != "console":
            raise ValueError(
                "A block must be of python, bash, text or console, and one of text must follow "
                f"what prints it. Received: {language!r} in line {line}"
            )
    return found


def run(path, backend):
    """Runs a guide on a backend; returns pairs of a `Block` and of what it printed.

    Raises:
        RuntimeError: If a block fails.
    """
    found = blocks(path.read_text(encoding="utf-8"))
    folders = [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Most of a guide's time on JAX is compilation.
        "KERAS_BACKEND": backend,
        "MPLBACKEND": "Agg",
        "PATH": os.pathsep.join(folders),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "-c", RUNNER],
            input=json.dumps([(path.name, *block[:4]) for block in found]),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    if result.returncode:
        raise RuntimeError(f"{path} failed.\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
    printed = [part.removeprefix("\n") for part in result.stdout.split(MARK)[1:]]
    return list(zip(found, printed, strict=True))


def is_as_expected(block, printed):
    """Whether a block printed what its guide says, if it says something."""
    if block.expected is None:
        return True
    return doctest.OutputChecker().check_output(block.expected, printed, FLAGS)


def write(path):
    """Runs a guide, and puts what its blocks print in the place of what it says that they do."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for block, printed in reversed(run(path, backends(path)[0])):
        if not is_as_expected(block, printed):
            end = block.line + block.code.count("\n")
            start = lines.index("```text\n", end) + 1
            lines[start : start + block.expected.count("\n")] = [printed.rstrip() + "\n"]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(pathlib.Path(name))
