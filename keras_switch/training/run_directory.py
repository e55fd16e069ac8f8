"""The directory of a run: its lock, its settings, digests, and what was exported."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib

from keras_switch import atomic

NAME, LOCK, EXPORTED = "config.json", ".lock", "exported.json"
_WAY_OUT = "Put the file back, give another --output_dir, or --restart."


def digest(lines):
    """SHA-256 of a list of strings."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def lock(directory):
    """Keeps other processes out of a directory, which is made if there is none.

    The lock ends with the process, however it ends. An error leaves no directory that it made
    and that is empty.

    Raises:
        ValueError: If another process holds the lock.
        OSError: If the directory cannot be made or written to.
    """
    path = pathlib.Path(directory) / LOCK
    with atomic.folder(path.parent):
        handle = _acquire(path)
        try:
            yield
        finally:
            # The directory may have been moved aside, and another process may hold this name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    path.unlink()
            os.close(handle)


def _acquire(path):
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError:
            os.close(handle)
            raise ValueError(
                "A run is at work there. Wait until it ends, or give another --output_dir. "
                f"Received: output_dir={str(path.parent)!r}"
            ) from None
        os.close(handle)  # Whoever held it has just removed it.


def check_settings(settings, directory, growing=(), free=(), defaults=None):
    """Refuses to resume a run that was started with other settings.

    Args:
        settings: Dictionary.
        directory: Path of the run's directory.
        growing: Names of settings that may be larger than they were.
        free: Names of settings that may be others than they were.
        defaults: Dictionary of the settings that a run has which began before there were such.

    Returns:
        Dictionary of the settings of the run to resume; `None` if there is none.

    Raises:
        ValueError: If a setting differs, or they are damaged.
    """
    theirs = _read(directory)
    if theirs is None:
        return None
    theirs = {**(defaults or {}), **theirs["settings"]}
    may_differ = {x for x in growing if isinstance(theirs.get(x), int) and settings[x] > theirs[x]}
    may_differ.update(free)
    differ = [x for x in settings if x not in may_differ and settings[x] != theirs.get(x)]
    if differ:
        pairs = ", ".join(f"{x}={settings[x]!r} (was {theirs.get(x)!r})" for x in differ)
        raise ValueError(
            f"The run in {directory} has other settings. Give the same ones to resume it, "
            f"another --output_dir, or --restart. Received: {pairs}"
        )
    return theirs


def check_corpus(sha256, directory):
    """Refuses to resume a run on a corpus that has changed since it began.

    Args:
        sha256: string. The digest of the corpus.
        directory: Path of the run's directory, which has settings.

    Raises:
        ValueError: If the corpus differs.
    """
    theirs = _read(directory)["corpus_sha256"]
    if sha256 != theirs:
        raise ValueError(
            f"The corpus has changed since the run in {directory} began. Give the one it began "
            "with to resume it, another --output_dir, or --restart. Received: a corpus of "
            f"SHA-256 {sha256[:12]}... (was {theirs[:12]}...)"
        )


def check_files(directory):
    """Refuses to resume a run of which a file is not as it was written.

    Args:
        directory: Path of the run's directory, which has settings.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    for name, expected in _read(directory)["files_sha256"].items():
        path = pathlib.Path(directory) / name
        if not path.is_file():
            raise ValueError(f"A file of the run is missing. {_WAY_OUT} Received: {path}")
        if atomic.sha256(path) != expected:
            raise ValueError(f"A file of the run is damaged. {_WAY_OUT} Received: {path}")


def write_settings(settings, sha256, directory, files):
    """Writes settings and digests: from now on there is a run to resume.

    Args:
        settings: Dictionary.
        sha256: string. The digest of the corpus.
        directory: Path of the run's directory.
        files: Names of files in it that do not change.
    """
    directory = pathlib.Path(directory)
    value = {
        "settings": settings,
        "corpus_sha256": sha256,
        "files_sha256": {name: atomic.sha256(directory / name) for name in files},
    }
    _write(directory / NAME, value)


def exported(directory, checkpoint):
    """Path of the export of a checkpoint, or `None` if there is none.

    Args:
        directory: Path of the run's directory.
        checkpoint: Path of the checkpoint.
    """
    try:
        record = json.loads((directory / EXPORTED).read_text(encoding="utf-8"))
        path = directory / record["path"]
        return path if record["checkpoint"] == checkpoint.name and path.is_dir() else None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None  # At worst the model is exported once more.


def write_exported(directory, checkpoint, path):
    """Records what `exported` tells: the path of the export of a checkpoint."""
    value = {"checkpoint": checkpoint.name, "path": str(path.relative_to(directory))}
    _write(directory / EXPORTED, value)


def move_aside(directory):
    """Renames a directory to a free name beside it, and returns that."""
    directory, number = directory.resolve(), 1
    while (aside := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    directory.rename(aside)
    (aside / LOCK).unlink(missing_ok=True)
    return aside


def _read(directory):
    """What is in the settings' file, or `None` if there is no run."""
    path = pathlib.Path(directory) / NAME
    if not path.exists():
        if any(path.parent.glob("checkpoints/step-*")):
            raise ValueError(f"The settings of the run are missing. {_WAY_OUT} Received: {path}")
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in (("settings", dict), ("corpus_sha256", str), ("files_sha256", dict)):
            if not isinstance(value, dict) or not isinstance(value.get(name), kind):
                raise ValueError(f"no {name}")
    except ValueError as error:
        raise ValueError(
            f"The settings of the run are damaged. {_WAY_OUT} Received: {path} ({error})"
        ) from None
    return value


def _write(path, value):
    with atomic.whole(path) as beside:
        beside.write_text(f"{json.dumps(value, indent=2)}\n", encoding="utf-8")
