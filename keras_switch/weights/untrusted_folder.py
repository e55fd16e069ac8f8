"""Files of a folder that someone else wrote."""

import json
import os
import pathlib

_SPIECE = "spiece.model"
_LARGEST_JSON = 2**26


def inside(folder, name):
    """Path of a file in a folder, which it may not leave.

    In Hugging Face's cache, `snapshots/REVISION`, links to the `blobs` beside are followed.

    Raises:
        ValueError: If the name is no name of a file, or a link leads out of the folder.
        FileNotFoundError: If there is no such file.
    """
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    is_name = isinstance(name, str) and name not in ("", "..") and "\0" not in name
    if not is_name or pathlib.PurePath(name).name != name:
        raise ValueError(
            f"A file must be named without folders. Received: input={str(folder)!r}, {name!r}"
        )
    path = folder / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"A file must not be a link out of the folder. Received: {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"A file is missing. Received: {str(path)!r}")
    return path


def read_json(folder, name):
    """Reads a dictionary.

    Raises:
        ValueError: If the file is no JSON, or no dictionary.
    """
    path = inside(folder, name)
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"A JSON file must be smaller than 64 MiB. Received: {str(path)!r}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"A file must be JSON. Received: {str(path)!r} ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"A file must hold a JSON object. Received: {str(path)!r}")
    return value


def read_spiece(folder):
    """Reads the SentencePiece model of a tokenizer.

    Returns:
        bytes, or `None` if there is none.
    """
    return inside(folder, _SPIECE).read_bytes() if os.path.lexists(folder / _SPIECE) else None
