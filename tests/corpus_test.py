import hashlib
import lzma
import pathlib
import re
import tempfile
import unittest

from keras_switch.data import corpus
from keras_switch.data import sources

# Frequent words of each language, or characters where it has no spaces between words.
FREQUENT = {
    "english": r"\b(?:the|of|and)\b",
    "ca": r"\b(?:per|els|amb|aquesta|podeu|i)\b",
    "cs": r"\b(?:pokud|které|můžete|když|nebo)\b",
    "da": r"\b(?:ikke|dit|hvis|og|kan)\b",
    "de": r"\b(?:der|die|und|Sie|nicht)\b",
    "el": r"\b(?:και|το|να|για)\b",
    "es": r"\b(?:puede|los|con|una|y)\b",
    "fi": r"\b(?:voit|ja|jos|tai|on)\b",
    "fr": r"\b(?:vous|les|dans|est|et)\b",
    "gl": r"\b(?:unha|pode|dos|seu|ou)\b",
    "gu": r"[\u0a80-\u0aff]",
    "hr": r"\b(?:možete|kako|odaberite|ako|ili)\b",
    "hu": r"\b(?:az|és|vagy|hogy|egy)\b",
    "id": r"\b(?:Anda|yang|dan|untuk|atau)\b",
    "ja": r"[\u3040-\u30ff]",
    "ko": r"[\uac00-\ud7a3]",
    "lv": r"\b(?:jūs|ir|vai|jūsu|lai)\b",
    "mr": r"[\u0900-\u097f]",
    "nl": r"\b(?:het|een|van|uw|niet)\b",
    "pl": r"\b(?:się|jest|lub|można|aby)\b",
    "pt": r"\b(?:você|não|uma|seu|para)\b",
    "pt_BR": r"\b(?:você|não|uma|seu|para)\b",
    "ru": r"[ыэё]",
    "sr": r"[јљњћђ]",
    "sv": r"\b(?:och|att|inte|för|är)\b",
    "ta": r"[\u0b80-\u0bff]",
    "uk": r"[іїє]",
    "zh_CN": r"[的是您在]",
}


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


class EmbeddedCorporaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.paths = corpus.embedded_corpora()
        cls.lines = {name: corpus.read_corpus(path) for name, path in cls.paths.items()}

    def test_the_default_corpus_is_the_english_one(self):
        self.assertEqual(corpus.read_corpus(), self.lines["english"])

    def test_each_is_the_text_that_its_document_names(self):
        documents = "".join(
            path.read_text(encoding="utf-8") for path in sources.EMBEDDED.parent.rglob("*.md")
        )
        digests = set(re.findall(r"`([0-9a-f]{64})`", documents))
        texts = [lzma.open(path).read() for path in self.paths.values()]
        self.assertEqual({hashlib.sha256(text).hexdigest() for text in texts}, digests)

    def test_none_holds_an_address(self):
        address = re.compile(r"\w@\w|://|www\.")
        for name, lines in self.lines.items():
            self.assertEqual([line for line in lines if address.search(line)], [], name)
        credits = sources.EMBEDDED.parent / "gnome" / "CREDITS.md"
        self.assertNotIn("@", credits.read_text(encoding="utf-8"))

    def test_each_is_in_its_language_and_repeats_no_line(self):
        for name, lines in self.lines.items():
            language = name.removeprefix("gnome/")
            shares = {
                other: sum(bool(re.search(words, line, re.I)) for line in lines[:500])
                for other, words in FREQUENT.items()
            }
            self.assertEqual(shares[language], max(shares.values()), (name, shares))
            self.assertGreater(shares[language], 250, name)
            if name != "english":
                self.assertEqual(len(lines), len(set(lines)), name)


if __name__ == "__main__":
    unittest.main()
