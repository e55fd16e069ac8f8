"""Tests of weights in torch's files, with as much of torch as is used."""

import pickle
import sys
import types
import unittest
import unittest.mock
import zipfile

import huggingface_helpers as helpers
import ml_dtypes
import numpy as np
from foreign_helpers import values


class FakeTensor:
    """As much of a torch tensor as is read."""

    layout, device = "strided", types.SimpleNamespace(type="cpu")

    def __init__(self, array, contiguous=True):
        self.array, self.contiguous = array, contiguous
        self.shape, self.dtype = array.shape, array.dtype.name

    def is_contiguous(self):
        return self.contiguous

    def detach(self):
        return self

    def view(self, dtype):
        return FakeTensor(self.array.view(dtype))

    def numpy(self):
        if self.dtype == "bfloat16":
            raise TypeError("numpy has no bfloat16")
        return self.array


class TorchTest(helpers.FolderTest):
    def setUp(self):
        super().setUp()
        self.arrays = self.write(helpers.SWITCH)
        theirs = self.folder / "theirs"
        (theirs / "model.safetensors").rename(theirs / "pytorch_model.bin")

    def load_fake(self, tensors, mmap=False):
        """Loads the folder with a torch that has these tensors, or raises this error."""
        names = ("float64", "float32", "float16", "bfloat16", "int16", "strided")
        torch = types.SimpleNamespace(**{name: name for name in names})
        torch.Tensor, torch.load = FakeTensor, unittest.mock.Mock(side_effect=[tensors])
        with unittest.mock.patch.dict(sys.modules, {"torch": torch}):
            weights = values(self.load().backbone)
        options = {"weights_only": True, "mmap": mmap, "map_location": "cpu"}
        torch.load.assert_called_once_with(self.folder / "theirs" / "pytorch_model.bin", **options)
        return weights

    def test_tensors_of_torch(self):
        weights = self.load_fake({name: FakeTensor(x) for name, x in self.arrays.items()})
        self.check_weights(weights, {"token_embedding": self.arrays["shared.weight"]})

    def test_zip_files_are_mapped_and_older_ones_read(self):
        tensors = {name: FakeTensor(x) for name, x in self.arrays.items()}
        self.load_fake(tensors, mmap=False)
        with zipfile.ZipFile(self.folder / "theirs" / "pytorch_model.bin", "w"):
            pass
        self.load_fake(tensors, mmap=True)

    def test_whatever_torch_raises_is_explained(self):
        for error, message in (
            (IndexError("pop from empty list"), "IndexError: pop from empty list"),
            (KeyError(5), "KeyError: 5"),
            (RuntimeError("a zip\nin two lines"), r"RuntimeError: a zip\)$"),
            (pickle.UnpicklingError("use weights_only=False"), "refuses it with weights_only=True"),
        ):
            with self.assertRaisesRegex(ValueError, f"cannot be read.*_model.bin.*{message}"):
                self.load_fake(error)

    def test_bfloat16_of_torch(self):
        halves = {name: x.astype(ml_dtypes.bfloat16) for name, x in self.arrays.items()}
        weights = self.load_fake({name: FakeTensor(x) for name, x in halves.items()})
        expected = halves["shared.weight"].astype("float32")
        self.check_weights(weights, {"token_embedding": expected})

    def test_what_is_no_whole_tensor_is_refused(self):
        for value in (FakeTensor(np.ones(3, "float32"), contiguous=False), np.ones(3, "float32")):
            with self.assertRaisesRegex(ValueError, "not a dictionary of whole tensors"):
                self.load_fake({"shared.weight": value})
        with self.assertRaisesRegex(ValueError, "shared.weight: int32"):
            self.load_fake({"shared.weight": FakeTensor(np.ones(3, "int32"))})

    def test_missing_torch_is_explained(self):
        with unittest.mock.patch.dict(sys.modules, {"torch": None}):
            with self.assertRaisesRegex(ImportError, "needs torch: `pip install torch`"):
                self.load()


if __name__ == "__main__":
    unittest.main()
