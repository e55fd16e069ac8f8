"""Runs every cell of the table in `docs/exports.md`."""

import itertools
import pathlib
import re
import textwrap
import unittest
from unittest import mock

import export_cases
import exports
import keras

from keras_switch.layers import SwitchDense

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "exports.md"


def in_bfloat16(shape):
    inputs = keras.Input(batch_shape=(*shape, 8), name="x")
    return keras.Model(inputs, SwitchDense(4, 16, seed=1, dtype="mixed_bfloat16")(inputs))


def in_float32(model):
    """The documented clone."""
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    scope = {"keras": keras, "model": model}
    exec(textwrap.dedent("  " + code.lstrip()), scope)
    return scope["clone"]


class ExportsTest(unittest.TestCase):
    def test_every_cell_is_as_documented(self):
        cells = dict(exports.rows(DOCS.read_text()))
        parts = export_cases.CASES, export_cases.SIZES, exports.FORMATS
        self.assertEqual(list(cells), list(itertools.product(*parts)))
        for (name, size, format), documented in cells.items():
            with self.subTest(f"{name}, {size}, {format}"):
                self.assertEqual(exports.cell(name, size, format), documented)

    def test_bfloat16_is_refused_by_all_but_saved_models(self):
        cases = {"bfloat16": in_bfloat16, "float32": lambda shape: in_float32(in_bfloat16(shape))}
        refusals = {
            "onnx": "Type Error",
            "openvino": "OpConversionFailure",
            "litert": "Select T",
        }
        with mock.patch.dict(export_cases.CASES, cases):
            for format in exports.FORMATS:
                with self.subTest(format):
                    expected = refusals.get(format, "^equal$")
                    self.assertRegex(exports.cell("bfloat16", "known", format), expected)
                    self.assertEqual(exports.cell("float32", "known", format), "equal")


if __name__ == "__main__":
    unittest.main()
