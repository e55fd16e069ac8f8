"""Tensors in the files of a Hugging Face folder."""

import importlib
import pickle
import zipfile

import ml_dtypes
import safetensors

from keras_switch.weights import untrusted_folder

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FLOATS = ("F64", "F32", "F16", "BF16")


class Tensors:
    """The tensors of a folder: their names and shapes, and one at a time their values.

    Attributes:
        shapes: Dictionary from names to tuples of ints.

    Raises:
        ValueError: If a file is broken, if two have one tensor, or if the index is wrong.
        FileNotFoundError: If a file is missing.
        ImportError: If torch is needed and missing.
    """

    def __init__(self, folder):
        name = next((x for x in (*SAFETENSORS, *PICKLES) if (folder / x).is_file()), None)
        if name is None:
            raise FileNotFoundError(
                f"A folder must have one of {', '.join((*SAFETENSORS, *PICKLES))}. Received: "
                f"{str(folder)!r}"
            )
        open_file = _SafeFile if name in SAFETENSORS else _TorchFile
        self._files = {}
        self.shapes = {}
        listed = _read_index(folder, name) if name.endswith(".json") else {name: None}
        for file_name, expected in listed.items():
            path = untrusted_folder.inside(folder, file_name)
            file = open_file(path)
            if expected is not None and expected != file.shapes.keys():
                wrong = sorted(expected ^ file.shapes.keys())
                raise ValueError(
                    "The index and a file must list the same tensors. Received: "
                    f"{str(path)!r}, and in only one of them {wrong[:8]}"
                )
            self._files |= dict.fromkeys(file.shapes, file)
            self.shapes |= file.shapes

    def read(self, name):
        """Returns a tensor as a numpy array."""
        return self._files[name].read(name)


def _read_index(folder, name):
    """Returns a dictionary from names of files to sets of names of tensors."""
    places = untrusted_folder.read_json(folder, name).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            "An index must have a `weight_map`, an object that names the file of each tensor. "
            f"Received: {str(folder / name)!r}"
        )
    listed = {}
    for tensor, file_name in places.items():
        untrusted_folder.inside(folder, file_name)
        listed.setdefault(file_name, set()).add(tensor)
    return listed


class _SafeFile:
    def __init__(self, path):
        self.shapes = {}
        try:
            self._file = safetensors.safe_open(path, framework="np", backend="pread")
            for name in self._file.keys():
                tensor = self._file.get_slice(name)
                self.shapes[name] = tuple(tensor.get_shape())
                _check_dtype(path, name, tensor.get_dtype())
        except (safetensors.SafetensorError, OSError) as error:
            raise _broken(path, error) from None

    def read(self, name):
        return self._file.get_tensor(name)


class _TorchFile:
    def __init__(self, path):
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            raise ImportError(
                "Reading pytorch_model.bin needs torch: `pip install torch`, or convert a folder "
                f"with model.safetensors. Received: {str(path)!r}"
            ) from None
        try:
            # Torch before 1.6 wrote no zip files; those can only be read whole.
            is_zip = zipfile.is_zipfile(path)
            tensors = torch.load(path, weights_only=True, mmap=is_zip, map_location="cpu")
        except pickle.UnpicklingError:
            # Torch's message says how to run what is in the file.
            raise _broken(path, "torch.load refuses it with weights_only=True") from None
        except Exception as error:
            problem = str(error).split("\n")[0]
            raise _broken(path, f"{type(error).__name__}: {problem}") from error
        if not isinstance(tensors, dict) or not all(
            isinstance(name, str)
            and isinstance(tensor, torch.Tensor)
            and (tensor.device.type, tensor.layout) == ("cpu", torch.strided)
            and tensor.is_contiguous()
            for name, tensor in tensors.items()
        ):
            raise _broken(path, "not a dictionary of whole tensors")
        names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
        names[torch.bfloat16] = "BF16"
        for name, tensor in tensors.items():
            _check_dtype(path, name, names.get(tensor.dtype, tensor.dtype))
        self._torch, self._tensors = torch, tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name):
        tensor = self._tensors[name].detach()
        if tensor.dtype == self._torch.bfloat16:
            return tensor.view(self._torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def _check_dtype(path, name, dtype):
    if dtype not in _FLOATS:
        raise ValueError(
            f"A tensor must be of one of the dtypes {', '.join(_FLOATS)}. Received: "
            f"{str(path)!r}, {name}: {dtype}"
        )


def _broken(path, error):
    return ValueError(f"A file of weights cannot be read. Received: {str(path)!r} ({error})")
