"""Runs every guide of `docs/guides`, in a process of its own, and compares what it prints."""

import pathlib
import re
import tempfile
import unittest

import guide_helpers


class GuidesTest(unittest.TestCase):
    """A test for each guide, which are added below."""

    maxDiff = None

    def check_guide(self, path, backend):
        for block, printed in guide_helpers.run(path, backend):
            if not guide_helpers.is_as_expected(block, printed):
                self.assertEqual(printed, block.expected, f"{path.name}, line {block.line}")


for _guide in guide_helpers.guides():
    setattr(
        GuidesTest,
        f"test_{_guide[0].stem}_on_{_guide[1]}",
        lambda self, guide=_guide: self.check_guide(*guide),
    )


class GuideHelpersTest(unittest.TestCase):
    def guide(self, text):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder, "guide.md")
        path.write_text(text)
        return path

    def test_the_index_has_every_guide(self):
        index = (guide_helpers.ROOT / "docs" / "README.md").read_text()
        rows = re.findall(r"\| \[(.*)\]\(guides/(\S+)\) \| (.*) \|", index)
        names = {"tensorflow": "TensorFlow", "jax": "JAX"}
        guides = sorted({path for path, _ in guide_helpers.guides()})
        for path in guides:
            title = re.search(r"^# (.*)$", path.read_text(), re.MULTILINE)[1]
            backends = " and ".join(names[x] for x in guide_helpers.backends(path))
            self.assertIn((title, path.name, backends), rows)
        self.assertEqual(len(rows), len(guides))
        self.assertTrue(rows)

    def test_blocks_are_one_program(self):
        path = self.guide(
            "<!-- backend: jax -->\n# Title\n```python\nimport os\n\nx = 2\n```\n"
            "<!-- file: double.py -->\n```python\nimport sys\nprint(2 * int(sys.argv[1]))\n```\n"
            "```bash\npython double.py 4\n```\n```text\n8\n```\n```console\nsudo rm -rf /\n```\n"
            "```python\nprint(x, os.environ['KERAS_BACKEND'])\n```\n```text\n3 jax\n```\n"
        )
        results = guide_helpers.run(path, *guide_helpers.backends(path))
        self.assertEqual([printed for _, printed in results], ["", "", "8\n", "2 jax\n"])
        right = [guide_helpers.is_as_expected(*result) for result in results]
        self.assertEqual(right, [True, True, True, False])
        guide_helpers.write(path)
        self.assertIn("```text\n2 jax\n```", path.read_text())

    def test_a_block_that_fails(self):
        for code in ("```python\nx = 1\n1 / 0\n```\n", "```bash\nfalse | true\n```\n"):
            with self.assertRaisesRegex(RuntimeError, r"guide\.md failed"):
                guide_helpers.run(self.guide(code), "jax")
        with self.assertRaisesRegex(RuntimeError, r'guide\.md\[1\]", line 3'):
            guide_helpers.run(self.guide("```python\nx = 1\n1 / 0\n```\n"), "jax")

    def test_a_guide_without_a_backend(self):
        with self.assertRaisesRegex(ValueError, "A guide must say which backend it is for"):
            guide_helpers.backends(self.guide("# Title\n"))

    def test_blocks_that_would_not_run(self):
        for text in ("```py\nx = 1\n```\n", "```text\n1\n```\n", "```\nx\n```\n"):
            with self.assertRaisesRegex(ValueError, "A block must be of python, bash, text or"):
                guide_helpers.blocks(text)


if __name__ == "__main__":
    unittest.main()
