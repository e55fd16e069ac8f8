"""Digests of the files of a checkpoint, by which damage is noticed."""

import errno
import shutil

from keras_switch import atomic

NAME = "SHA256SUMS"


def write(folder, names):
    """Writes the digests of files in a folder, as `sha256sum --check` reads them."""
    sums = [f"{atomic.sha256(folder / name)}  {name}\n" for name in names]
    (folder / NAME).write_text("".join(sums), encoding="utf-8")


def damage(folder, names):
    """What is wrong with files in a folder, in a few words that name one; `None` if nothing is."""
    try:
        sums = (folder / NAME).read_bytes().splitlines()
        for name in names:
            if f"{atomic.sha256(folder / name)}  {name}".encode() not in sums:
                return f"{folder / name} is not what was written"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{error.filename} is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"a file in {folder} cannot be read"
    return None


def set_damaged_aside(folders, names):
    """Renames damaged folders, up to the newest whole one.

    Args:
        folders: List of paths, the oldest first.
        names: Names of the files in each.

    Returns:
        List of lines that say what was done.
    """
    lines = []
    for folder in reversed(folders):
        wrong = damage(folder, names)
        if wrong is None:
            if lines:
                lines.append(f"The newest whole checkpoint is {folder.name}.")
            return lines
        aside = folder.with_name(f"damaged-{folder.name}")
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)
        lines.append(f"A checkpoint is damaged, and now called {aside.name}: {wrong}.")
    if lines:
        lines.append("No whole checkpoint is left.")
    return lines
