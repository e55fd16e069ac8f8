"""The tensors of T5X's checkpoints: in a msgpack file, or in zarr arrays beside it."""

import importlib
import itertools
import math

import ml_dtypes
import numpy as np

NDARRAY, SCALAR = 1, 3  # Flax's msgpack types.
CHUNKED = "__msgpack_chunked_array__"  # Flax's, for arrays beyond 1 GiB.
SPEC = {"driver", "kvstore", "metadata"}  # TensorStore's.
PLACEHOLDER = "PLACEHOLDER://"  # Orbax's.
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_DESCRIPTIONS = {".zarray", ".zattrs", ".zgroup"}  # Zarr's, besides the chunks.
# Compressors make weights a few times smaller at most, but norms of ones a thousand times.
_COMPRESSION, _SMALL = 16, 2**20


def unpack(file):
    """Returns what is in a msgpack file. Arrays are `Packed`.

    Raises:
        ValueError: If it is broken.
    """
    return _library("msgpack").unpackb(file.read_bytes(), ext_hook=Packed)


def is_tensor(value):
    """Whether a value in a msgpack file describes a tensor, not a level of names."""
    return not isinstance(value, dict) or value.keys() >= SPEC or CHUNKED in value


def open_tensor(folder, leaf):
    """Opens a tensor without reading it from a file of its own.

    Args:
        folder: `pathlib.Path` of the checkpoint, resolved.
        leaf: What the msgpack file has for the tensor.

    Returns:
        Object with a `shape`, a tuple of ints, and a method `read`, which returns a numpy array.

    Raises:
        ValueError: If it is broken, or refers to something outside the folder.
        FileNotFoundError: If an array is missing.
    """
    try:
        if isinstance(leaf, Packed):
            return _InFile(leaf)
        if isinstance(leaf, dict) and CHUNKED in leaf:
            return _Chunks(leaf)
        if isinstance(leaf, dict):
            return _Zarr(folder, leaf)
        if isinstance(leaf, str) and leaf.startswith(PLACEHOLDER):
            kvstore = {"driver": "file", "path": leaf.removeprefix(PLACEHOLDER)}
            return _Zarr(folder, {"driver": "zarr", "kvstore": kvstore, "metadata": {}})
    except FileNotFoundError:
        raise
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    raise ValueError(f"not an array, but of type {type(leaf).__name__}")


def check_sizes(tensors):
    """Requires that zarr arrays are not ever so much larger than their files.

    Args:
        tensors: List of what `open_tensor` returned for a checkpoint.

    Raises:
        ValueError: If they are.
    """
    arrays = [tensor for tensor in tensors if isinstance(tensor, _Zarr)]
    needed = sum(array.num_bytes for array in arrays)
    stored = sum({array.path: array.num_stored for array in arrays}.values())
    if needed > _SMALL + _COMPRESSION * stored:
        raise ValueError(f"{needed} bytes of arrays in files of {stored}")


class Packed:
    """A value of a type that msgpack does not know."""

    def __init__(self, code, data):
        if code not in (NDARRAY, SCALAR):
            raise ValueError(f"msgpack type {code} is unknown")
        self.data = data


class _InFile:
    """A tensor in the msgpack file, which is in memory."""

    def __init__(self, packed):
        shape, dtype, data = _library("msgpack").unpackb(packed.data, use_list=False)
        _check_float(dtype)
        self.shape = _sizes(shape)
        self._array = np.frombuffer(data, np.dtype(dtype)).reshape(self.shape)

    def read(self):
        return self._array


class _Chunks:
    """A large tensor in the msgpack file, in pieces."""

    def __init__(self, leaf):
        self.shape = _sizes(_in_order(leaf["shape"]))
        self._pieces = [_InFile(piece) for piece in _in_order(leaf["chunks"])]
        if sum(math.prod(piece.shape) for piece in self._pieces) != math.prod(self.shape):
            raise ValueError(f"its pieces do not make the shape {self.shape}")

    def read(self):
        return np.concatenate([piece.read().ravel() for piece in self._pieces]).reshape(self.shape)


class _Zarr:
    """A tensor in a zarr array."""

    def __init__(self, folder, spec):
        kvstore = spec["kvstore"]
        if spec["driver"] != "zarr" or kvstore["driver"] not in ("file", "gfile", "gcs"):
            raise ValueError(f"{spec['driver']} of {kvstore['driver']} is not zarr of files")
        self.path = _inside(folder, kvstore["path"] if "path" in kvstore else spec["path"])
        place = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{self.path}/"}}
        self._array = _library("tensorstore").open(place, open=True).result()
        self.shape, dtype = tuple(self._array.shape), self._array.dtype.name
        expected = tuple(spec["metadata"].get("shape", self.shape)), spec.get("dtype", dtype)
        if expected != (self.shape, dtype):
            raise ValueError(
                f"the msgpack file says {expected}, the array is {(self.shape, dtype)}"
            )
        if dtype != "uint16":
            _check_float(dtype)
        metadata = self._array.spec().to_json()["metadata"]
        numbers = _chunk_numbers(self.shape, metadata)
        self.num_stored = _check_files(self.path, numbers)
        itemsize = self._array.dtype.numpy_dtype.itemsize
        self.num_bytes = math.prod((*numbers, *metadata["chunks"], itemsize))

    def read(self):
        array = self._array.read().result()
        # T5X's version 2 wrote bfloat16 as uint16.
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


def _inside(folder, name):
    """Folder of an array, which must be in the checkpoint's."""
    path = (folder / name).resolve()
    if path == folder or not path.is_relative_to(folder):
        raise ValueError(f"{name!r} is not in the checkpoint's folder")
    if not (path / ".zarray").is_file():
        raise FileNotFoundError(
            f"A T5X checkpoint lacks an array. Received: input={str(folder)!r}, {name!r}"
        )
    return path


def _chunk_numbers(shape, metadata):
    """Number of chunks along each axis of an array."""
    if metadata["dimension_separator"] != ".":
        raise ValueError(f"its files must have names such as 0.1, not {metadata}")
    if 0 in shape:
        raise ValueError(f"its shape {shape} is empty")
    return [-(-size // chunk) for size, chunk in zip(shape, metadata["chunks"], strict=True)]


def _check_files(path, numbers):
    """Requires a file for each chunk of an array, and no other; returns their bytes."""
    entries = {entry.name: entry for entry in path.iterdir()}
    if any(entry.is_symlink() or not entry.is_file() for entry in entries.values()):
        raise ValueError("its files must be plain files")
    chunks = [entry for name, entry in entries.items() if name not in _DESCRIPTIONS]
    if len(chunks) < math.prod(numbers):
        raise ValueError(f"{len(chunks)} of its {math.prod(numbers)} files are there")
    names = itertools.product(*map(range, numbers))
    expected = {".".join(map(str, name)) or "0" for name in names}
    wrong = sorted(expected ^ {entry.name for entry in chunks})
    if wrong:
        raise ValueError(f"its shape needs other files than there are: {wrong[:8]}")
    return sum(entry.stat().st_size for entry in chunks)


def _library(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            "T5X checkpoints are read with msgpack and tensorstore. "
            f"Install them: pip install 'keras-switch[t5x]'. Received: {error}"
        ) from error


def _in_order(numbered):
    """Values of the dictionary that stands for a tuple in Flax."""
    return [numbered[str(index)] for index in range(len(numbered))]


def _sizes(shape):
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"{shape} is no shape")
    return tuple(shape)


def _check_float(dtype):
    if dtype not in _FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(_FLOATS)}, not {dtype!r}")
