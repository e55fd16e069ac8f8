"""Files and folders that are written whole or not at all."""

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import secrets
import shutil
import socket

# Errors of a write, in which Python names no file.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_EARLIER = ".earlier.tmp"


@contextlib.contextmanager
def whole(path, replaces_folder=False):
    """Gives a path beside to write a file or a folder to; it takes its name once on the disk.

    A kill at any moment leaves what was at `path` as it was, and at most a hidden file or
    folder beside it, which the next writer on that machine removes. An error leaves nothing
    behind, and names `path`, or a file in it. Of writers at the same time, each has its own path:
    of a file the last one stays, of a folder the first.

    Args:
        path: Path of the file or folder. A file there is replaced. Missing parents are made.
        replaces_folder: bool. Whether a folder there is replaced, too. It has a hidden name for a
            moment; after a kill at that moment the next writer gives it its name back.

    Yields:
        Path to write to, of which nothing exists.

    Raises:
        OSError: If it cannot be written, or a folder that is not empty is at `path`.
    """
    path = pathlib.Path(path)
    writer = f".{path.name}.{socket.gethostname()}"
    with folder(path.parent):
        for leftover in path.parent.glob(f"{glob.escape(writer)}+*+*.tmp"):
            if not _is_running(int(leftover.name.split("+")[-2])):
                if leftover.name.endswith(_EARLIER) and not path.exists():
                    os.replace(leftover, path)
                remove(leftover)
        beside = path.with_name(f"{writer}+{os.getpid()}+{secrets.token_hex(4)}.tmp")
        try:
            yield beside
            for written in (*beside.rglob("*"), beside):
                sync(written)
            if replaces_folder and path.is_dir():
                _replace_folder(beside, path)
            else:
                os.replace(beside, path)
            sync(path.parent)
        except OSError as error:
            _rename(error, beside, path)
            raise
        finally:
            remove(beside)


def _replace_folder(beside, path):
    earlier = beside.with_suffix(_EARLIER)
    os.replace(path, earlier)
    try:
        os.replace(beside, path)
    except OSError:
        os.replace(earlier, path)
        raise
    remove(earlier)


@contextlib.contextmanager
def folder(path):
    """Makes a folder and its parents; after an error those that it made and are empty go again.

    Raises:
        OSError: If a file is there, or it cannot be made.
    """
    path = pathlib.Path(path)
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


def reserve(path, num_bytes):
    """Requires room on the disk for a file that is to be written; one that is there stays.

    Raises:
        OSError: If there is none. It names the file.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        remove(beside)


def remove(path):
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path):
    """The digest of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path):
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def _rename(error, beside, path):
    """Lets an error name the file that was to be, instead of the one beside it."""
    if error.filename is None and error.errno in _WRITING:
        error.filename = str(path)
    elif error.filename is not None:
        name = pathlib.Path(os.fsdecode(error.filename))
        if name.is_relative_to(beside):
            error.filename, error.filename2 = str(path / name.relative_to(beside)), None


def _is_running(process):
    """Whether there is a process of a number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is someone else's.
    return True
