"""Runs the notebooks of `colabs/` from their first cell to the last, with small sizes."""

import pathlib
import tempfile
import unittest

import nbclient
import nbformat

COLABS = pathlib.Path(__file__).resolve().parents[1] / "colabs"

# What takes the place of the cell that is tagged `parameters`.
SMALL = {
    "switch_transformer": """
VOCABULARY_SIZE = 1000
LENGTH, BATCH_SIZE = 32, 8
DIM, HIDDEN_DIM, NUM_HEADS, NUM_EXPERTS = 32, 64, 2, 4
EPOCHS, STEPS = 2, 10
""",
}


def run(path):
    """Runs a notebook in an empty folder, and returns it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SMALL[path.stem]
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    return notebook


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs), outputs


class NotebooksTest(unittest.TestCase):
    def test_every_notebook_has_small_sizes(self):
        self.assertEqual(set(SMALL), {path.stem for path in COLABS.glob("*.ipynb")})

    def test_notebooks_are_stored_without_outputs(self):
        for path in COLABS.glob("*.ipynb"):
            self.assertFalse(printed(nbformat.read(path, as_version=4))[1], path)

    def test_the_first_notebook_trains_draws_and_answers(self):
        text, outputs = printed(run(COLABS / "switch_transformer.ipynb"))
        for words in ("parameters", "busiest", "val_loss", "has the power to<extra_id_1>"):
            self.assertIn(words, text)
        self.assertTrue([x for x in outputs if "image/png" in x.get("data", {})])


if __name__ == "__main__":
    unittest.main()
