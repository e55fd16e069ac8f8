"""Files and folders that are written whole or not at all."""

import contextlib
import glob
import os
import pathlib
import secrets
import shutil
import socket


@contextlib.contextmanager
def whole(path):
    """Gives a path beside to write a file or a folder to; it takes its name once on the disk.

    A kill at any moment leaves what was at `path` as it was, and at most a hidden file or
    folder beside it, which the next writer on that machine removes. An error leaves nothing
    behind but the parents that were made. Of writers at the same time, each has its own path: of
    a file the last one stays, of a folder the first.

    Args:
        path: Path of the file or folder. A file there is replaced. Missing parents are made.

    Yields:
        Path to write to, of which nothing exists.

    Raises:
        OSError: If it cannot be written, or a folder that is not empty is at `path`.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f".{path.name}.{socket.gethostname()}"
    for leftover in path.parent.glob(f"{glob.escape(writer)}+*+*.tmp"):
        if not _is_running(int(leftover.name.split("+")[-2])):
            remove(leftover)
    beside = path.with_name(f"{writer}+{os.getpid()}+{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        for written in (*beside.rglob("*"), beside):
            sync(written)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        remove(beside)


def remove(path):
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path):
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_running(process):
    """Whether there is a process of a number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is someone else's.
    return True
