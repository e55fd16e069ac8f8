import lzma
import pathlib
import tempfile
import unittest

from keras_switch.data import corpus


class CorpusTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def test_reads_lines_plain_or_compressed(self):
        (self.directory / "a.txt").write_text("one\n\n  two \n")
        with lzma.open(self.directory / "a.txt.xz", "wt") as file:
            file.write("one\ntwo\n")
        for name in ("a.txt", "a.txt.xz"):
            self.assertEqual(corpus.read_corpus(self.directory / name), ["one", "two"])

    def test_the_corpus_of_the_package_is_english(self):
        lines = corpus.read_corpus()
        self.assertGreater(len(lines), 1000)
        self.assertIn("Congress", " ".join(lines[:2000]))

    def test_no_line_is_in_both_splits(self):
        lines = [str(number) for number in range(1000)]
        train, validation = corpus.split_corpus(lines, held_out=0.02)
        self.assertEqual(len(validation), 20)
        self.assertEqual(sorted(train + validation), sorted(lines))
        self.assertEqual(corpus.split_corpus(["a", "b"]), (["a"], ["b"]))

    def test_bad_files_are_explained(self):
        (self.directory / "empty.txt").write_text("\n \n")
        (self.directory / "binary.txt").write_bytes(b"\xff\xfe\x00")
        (self.directory / "broken.xz").write_bytes(b"text")
        (self.directory / "cut.xz").write_bytes(lzma.compress(b"text" * 100)[:-9])
        for name, message in (
            ("none.txt", "`path` must be an existing text file. Received: path="),
            ("empty.txt", "`path` must hold some text. Received: path="),
            ("binary.txt", "`path` must hold UTF-8 text"),
            ("broken.xz", "`path` must hold UTF-8 text"),
            ("cut.xz", "`path` must hold UTF-8 text"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                corpus.read_corpus(self.directory / name)

    def test_bad_splits_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`held_out` must be between 0 and 1. Received"):
            corpus.split_corpus(["a", "b"], held_out=1.0)
        with self.assertRaisesRegex(
            ValueError, "`lines` must hold at least two lines. Received: 1"
        ):
            corpus.split_corpus(["a"])

    def test_a_question_hides_two_words_of_a_line(self):
        for lines, expected in (
            (
                ["short", "a b c d e f g h i", "longer " * 30],
                "a b c <extra_id_0> e f <extra_id_1> h i",
            ),
            (["a b", "a b c"], "a <extra_id_0> <extra_id_1>"),
            (["abcdef"], "ab<extra_id_0>d<extra_id_1>f"),
            (["a"], "<extra_id_0>"),
        ):
            self.assertEqual(corpus.questions(lines, 1)[0].text, expected)
        words = corpus.questions(["word " * 30], 1)[0].text.split()
        self.assertEqual((len(words), words[6], words[13]), (20, "<extra_id_0>", "<extra_id_1>"))

    def test_questions_are_spread_over_the_lines_and_keep_the_hidden_words(self):
        lines = [" ".join(f"{word}{line}" for word in "abcdefgh") for line in range(10)]
        first, second = corpus.questions(lines, 2)
        self.assertEqual(first.answers, ("c0", "f0"))
        self.assertEqual(second.answers, ("c5", "f5"))
        self.assertEqual(second.text, "a5 b5 <extra_id_0> d5 e5 <extra_id_1> g5 h5")


if __name__ == "__main__":
    unittest.main()
