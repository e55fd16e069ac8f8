"""The directory of a run: its settings, its corpus' digest and its vocabulary."""

import hashlib
import json
import pathlib

from keras_switch import atomic

NAME = "config.json"


def digest(lines):
    """SHA-256 of a list of strings."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_settings(settings, directory):
    """Refuses to resume a run that was started with other settings.

    Args:
        settings: Dictionary.
        directory: Path of the run's directory.

    Returns:
        bool. Whether there is a run to resume.

    Raises:
        ValueError: If a setting differs.
    """
    theirs = _read(directory)
    if theirs is None:
        return False
    differ = [name for name in settings if settings[name] != theirs["settings"].get(name)]
    if differ:
        pairs = ", ".join(
            f"{x}={settings[x]!r} (was {theirs['settings'].get(x)!r})" for x in differ
        )
        raise ValueError(
            f"The run in {directory} has other settings. Give the same ones to resume it, "
            f"another --output_dir, or --restart. Received: {pairs}"
        )
    return True


def check_corpus(lines, directory):
    """Refuses to resume a run on a corpus that has changed since it began.

    Args:
        lines: List of strings.
        directory: Path of the run's directory, which has settings.

    Raises:
        ValueError: If the corpus differs.
    """
    ours, theirs = digest(lines), _read(directory)["corpus_sha256"]
    if ours != theirs:
        raise ValueError(
            f"The corpus has changed since the run in {directory} began. Give the one it began "
            "with to resume it, another --output_dir, or --restart. Received: a corpus of "
            f"SHA-256 {ours[:12]}... (was {theirs[:12]}...)"
        )


def write_settings(settings, lines, directory):
    """Writes the settings and the digest of the corpus: from now on there is a run to resume."""
    path = pathlib.Path(directory) / NAME
    text = json.dumps({"settings": settings, "corpus_sha256": digest(lines)}, indent=2)
    with atomic.whole(path) as beside:
        beside.write_text(f"{text}\n", encoding="utf-8")


def move_aside(directory):
    """Renames a directory to a free name beside it, and returns that."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    directory.rename(aside)
    return aside


def _read(directory):
    path = pathlib.Path(directory) / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
