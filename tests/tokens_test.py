import time
import unittest

import numpy as np
import sentencepiece

from keras_switch.data import read_corpus
from keras_switch.data import tokenize_corpus
from keras_switch.data import train_sentencepiece
from keras_switch.models import SwitchTokenizer

LINES = [
    f"The {adjective} {noun} of the {other} is {verb} by the people."
    for adjective in ("great", "small", "public", "present")
    for noun in ("union", "treasury", "congress", "nation", "army")
    for other in ("states", "senate", "house", "country")
    for verb in ("seen", "made", "governed", "measured")
]


class TrainSentencepieceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.proto = train_sentencepiece(LINES, vocabulary_size=50, num_sentinels=10)
        cls.tokenizer = SwitchTokenizer(cls.proto)

    def test_ids_are_those_of_t5(self):
        self.assertEqual(self.tokenizer.proto, self.proto)
        pieces = self.tokenizer.get_vocabulary()
        self.assertEqual(pieces[:3], ["<pad>", "</s>", "<unk>"])
        self.assertEqual(len(pieces), 50)
        self.assertEqual(pieces[40:], [f"<extra_id_{number}>" for number in reversed(range(10))])

    def test_text_survives_a_round_trip(self):
        self.assertEqual(self.tokenizer.detokenize(self.tokenizer(LINES)), LINES)

    def test_training_twice_gives_the_same_model(self):
        again = train_sentencepiece(LINES, vocabulary_size=50, num_sentinels=10)
        self.assertEqual(again, self.proto)

    def test_long_lines_count(self):
        one = train_sentencepiece([" ".join(LINES)], vocabulary_size=50, num_sentinels=10)
        self.assertIn("▁the", SwitchTokenizer(one).get_vocabulary())

    def test_sentinels_in_the_text_are_no_words(self):
        lines = [f"<extra_id_{number % 3}>{line}" for number, line in enumerate(LINES)]
        tokenizer = SwitchTokenizer(train_sentencepiece(lines, 50, num_sentinels=10))
        self.assertEqual(tokenizer.sentinel_ids, list(range(49, 39, -1)))

    def test_without_sentinels(self):
        proto = train_sentencepiece(LINES, vocabulary_size=40, num_sentinels=0)
        tokenizer = SwitchTokenizer(proto, num_sentinels=0)
        self.assertEqual((tokenizer.vocabulary_size(), tokenizer.num_sentinels), (40, 0))

    def test_bad_arguments_are_explained(self):
        with self.assertRaisesRegex(ValueError, "`vocabulary_size` must be an integer above 103"):
            train_sentencepiece(LINES, vocabulary_size=100)
        with self.assertRaisesRegex(ValueError, "`num_sentinels` must be an integer of at least 0"):
            train_sentencepiece(LINES, num_sentinels=-1)
        for lines in (LINES, []):
            with self.assertRaisesRegex(ValueError, "The text must be long enough for the vocab"):
                train_sentencepiece(lines, vocabulary_size=30000)


class TokenizeCorpusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lines = read_corpus()
        cls.proto = train_sentencepiece(cls.lines[:2000], vocabulary_size=1000)
        cls.tokenizer = SwitchTokenizer(cls.proto)

    def test_ids_are_those_of_the_sentencepiece_library(self):
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.proto)
        start = time.perf_counter()
        tokens = tokenize_corpus(self.lines, self.tokenizer)
        seconds = time.perf_counter() - start
        expected = np.concatenate(processor.encode(self.lines, num_threads=1))
        np.testing.assert_array_equal(tokens, expected)
        self.assertEqual(tokens.dtype, "int32")
        self.assertGreater(len(tokens), 3 * 10**6)
        self.assertLess(seconds, 60)

    def test_sentinels_are_one_id_each(self):
        lines = ["The<extra_id_0> of the <extra_id_1>people", "", "the <extra_id_99>"]
        tokens = tokenize_corpus(lines, self.tokenizer)
        self.assertEqual([i for i in tokens if i >= 900], [999, 998, 900])
        expected = [i for line in lines for i in self.tokenizer(line)]
        self.assertEqual(tokens.tolist(), expected)

    def test_no_lines_have_no_ids(self):
        for lines in ([], [""]):
            self.assertEqual(tokenize_corpus(lines, self.tokenizer).tolist(), [])


if __name__ == "__main__":
    unittest.main()
