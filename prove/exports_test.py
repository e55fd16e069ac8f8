"""Runs every cell of the table in `docs/exports.md`."""

import itertools
import pathlib
import unittest

import export_cases
import exports

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "exports.md"


class ExportsTest(unittest.TestCase):
    def test_every_cell_is_as_documented(self):
        cells = dict(exports.rows(DOCS.read_text()))
        parts = export_cases.CASES, export_cases.SIZES, exports.FORMATS
        self.assertEqual(list(cells), list(itertools.product(*parts)))
        for (name, size, format), documented in cells.items():
            with self.subTest(f"{name}, {size}, {format}"):
                self.assertEqual(exports.cell(name, size, format), documented)


if __name__ == "__main__":
    unittest.main()
