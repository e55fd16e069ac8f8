import lzma
import pathlib
import tempfile
import unittest

import sentencepiece
import tensorflow as tf

from keras_switch.data import Vocabulary
from keras_switch.data import corpus

LINES = [
    f"The {adjective} {noun} of the {other} is {verb} by the people."
    for adjective in ("great", "small", "public", "present")
    for noun in ("union", "treasury", "congress", "nation", "army")
    for other in ("states", "senate", "house", "country")
    for verb in ("seen", "made", "governed", "measured")
]


class VocabularyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.vocabulary = Vocabulary.train(LINES, vocabulary_size=50, num_sentinels=10)

    def test_ids_are_those_of_t5(self):
        pieces = self.vocabulary.pieces
        self.assertEqual(pieces[:3], ["<pad>", "</s>", "<unk>"])
        self.assertEqual(self.vocabulary.size, 50)
        self.assertEqual(self.vocabulary.first_sentinel, 49)
        self.assertEqual([pieces[49], pieces[40]], ["<extra_id_0>", "<extra_id_9>"])
        self.assertEqual(self.vocabulary.num_sentinels, 10)

    def test_text_survives_a_round_trip(self):
        ids = self.vocabulary.tokenize(tf.constant(LINES))
        self.assertEqual([text.decode() for text in self.vocabulary.detokenize(ids).numpy()], LINES)

    def test_sentinels_in_text_are_one_id_each(self):
        ids = self.vocabulary.tokenize(["The<extra_id_0> of the<extra_id_1> people"])[0].numpy()
        self.assertEqual([i for i in ids if i >= 40], [49, 48])

    def test_equals_the_sentencepiece_library(self):
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.vocabulary.model)
        ids = self.vocabulary.tokenize(tf.constant(LINES)).to_list()
        self.assertEqual(ids, processor.encode(LINES))

    def test_a_corpus_is_one_row_of_ids(self):
        ids = self.vocabulary.tokenize(tf.constant(LINES)).flat_values.numpy()
        tokens = self.vocabulary.tokenize_corpus(LINES)
        self.assertEqual(tokens.tolist(), ids.tolist())

    def test_saves_whole_and_loads(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "new" / "vocabulary.model"
            self.vocabulary.save(path)
            self.assertEqual(Vocabulary.load(path).pieces, self.vocabulary.pieces)
            self.assertEqual([p.name for p in path.parent.iterdir()], ["vocabulary.model"])

    def test_training_twice_gives_the_same_model(self):
        again = Vocabulary.train(LINES, vocabulary_size=50, num_sentinels=10)
        self.assertEqual(again.model, self.vocabulary.model)

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`vocabulary_size` must be an integer above 103"):
            Vocabulary.train(LINES, vocabulary_size=100)
        with self.assertRaisesRegex(ValueError, "The text must be long enough for the vocabulary"):
            Vocabulary.train(LINES, vocabulary_size=30000)
        with self.assertRaisesRegex(ValueError, "`path` must be an existing file. Received: path="):
            Vocabulary.load("/nowhere")


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
        for name, message in (
            ("none.txt", "`path` must be an existing text file. Received: path="),
            ("empty.txt", "`path` must hold some text. Received: path="),
            ("binary.txt", "`path` must hold UTF-8 text"),
            ("broken.xz", "`path` must hold UTF-8 text"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                corpus.read_corpus(self.directory / name)

    def test_bad_splits_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`held_out` must be between 0 and 1. Received"):
            corpus.split_corpus(["a", "b"], held_out=1.0)
        with self.assertRaisesRegex(ValueError, "`lines` must be at least two. Received: 1 line"):
            corpus.split_corpus(["a"])


if __name__ == "__main__":
    unittest.main()
