import pathlib
import tempfile
import unittest

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tokenizer_helpers
from keras import ops

from keras_switch.data import train_sentencepiece
from keras_switch.models import SwitchTokenizer

# What transformers 5.23.0 gives: `T5Tokenizer.from_pretrained(FOLDER)(text).input_ids`, where
# FOLDER has the model of `tokenizer_helpers` as its `spiece.model`.
TRANSFORMERS = {
    "The people walk.": [5, 7, 8, 42, 1],
    "The <extra_id_0> of the people": [5, 142, 6, 4, 7, 1],
    "The<extra_id_0>of the people": [5, 142, 6, 4, 7, 1],
    "<extra_id_0> walks<extra_id_1>.": [142, 8, 9, 141, 3, 42, 1],
    "<extra_id_0>, a house": [142, 3, 41, 10, 12, 1],
    "  a  small <extra_id_1> <extra_id_99>  house ": [10, 11, 141, 43, 12, 1],
    "<extra_id_100> is": [3, 2, 19, 37, 33, 32, 15, 2, 23, 18, 2, 13, 1],
    "the\nhouse\tsleeps": [4, 12, 14, 9, 1],
    "日本 <extra_id_3>日": [3, 2, 139, 3, 2, 1],
    "": [1],
    "<extra_id_0>": [142, 1],
    "s<extra_id_2>s": [3, 9, 140, 3, 9, 1],
    "a <extra_id_0": [10, 3, 2, 19, 37, 33, 32, 15, 2, 23, 18, 2, 1],
    "Ｔhe ｐeople\u00a0of\u3000ﬁ\u200b.": [5, 7, 6, 3, 20, 23, 3, 42, 1],
    "a\u00a0<extra_id_4>\u3000a": [10, 138, 10, 1],
    "a 7 <extra_id_0><extra_id_0>  7": [10, 3, 2, 142, 142, 3, 2, 1],
}
TEXTS = list(TRANSFORMERS)
IDS = [ids[:-1] for ids in TRANSFORMERS.values()]
FIRST, LAST = 43, 142


def in_graph(function, value):
    """What a function gives inside a tf.data pipeline."""
    return next(iter(tf.data.Dataset.from_tensors(value).map(function)))


def ints(rows):
    return [[int(i) for i in row] for row in rows]


class SwitchTokenizerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())

    def test_ids_are_those_of_transformers(self):
        self.assertEqual(ints(self.tokenizer(TEXTS)), IDS)
        for text, ids in zip(TEXTS, IDS):
            self.assertEqual(np.asarray(self.tokenizer(text)).tolist(), ids, text)

    def test_ids_are_the_same_in_a_pipeline(self):
        self.assertEqual(in_graph(self.tokenizer, TEXTS).to_list(), IDS)
        for text, ids in zip(TEXTS, IDS):
            self.assertEqual(in_graph(self.tokenizer, text).numpy().tolist(), ids, text)

    def test_takes_every_kind_of_strings(self):
        for texts in (
            np.array(TEXTS),
            tuple(TEXTS),
            tf.constant(TEXTS),
            [t.encode() for t in TEXTS],
        ):
            self.assertEqual(ints(self.tokenizer(texts)), IDS)
        self.assertEqual(ints(self.tokenizer([])), [])

    def test_sentinels_count_down_to_the_last_id(self):
        self.assertEqual(self.tokenizer.vocabulary_size(), 143)
        self.assertEqual(self.tokenizer.num_sentinels, 100)
        self.assertEqual(self.tokenizer.sentinel_ids, list(range(LAST, FIRST - 1, -1)))
        self.assertEqual(self.tokenizer.token_to_id("<extra_id_0>"), LAST)
        self.assertEqual(self.tokenizer.token_to_id("<extra_id_99>"), FIRST)
        released = [piece.piece for piece in tokenizer_helpers.model_proto().pieces]
        self.assertEqual(self.tokenizer.get_vocabulary()[:FIRST], released)

    def test_special_tokens(self):
        self.assertEqual(self.tokenizer.pad_token_id, 0)
        self.assertEqual(self.tokenizer.end_token_id, 1)
        self.assertEqual(self.tokenizer.start_token_id, 1)

    def test_text_survives_a_round_trip(self):
        for text in ("the<extra_id_0> of a people<extra_id_99>", "<extra_id_7><extra_id_6>", ""):
            ids = self.tokenizer(text)
            self.assertEqual(self.tokenizer.detokenize(ids), text)
            self.assertEqual(in_graph(self.tokenizer.detokenize, ids).numpy().decode(), text)

    def test_ids_that_no_piece_has_are_padding(self):
        ids = [[5, LAST + 1, 7, 32127, 10**6, -1], [0, LAST, 1, 6, 6, 6]]
        expected = ["The people", "<extra_id_0> of of of"]
        for kind in (list, np.array, ops.array, tf.constant, tf.ragged.constant):
            self.assertEqual(self.tokenizer.detokenize(kind(ids)), expected, kind)
        for kind in (tf.constant, tf.ragged.constant):
            texts = in_graph(self.tokenizer.detokenize, kind(ids, dtype=tf.int64)).numpy()
            self.assertEqual([text.decode() for text in texts], expected, kind)
        self.assertEqual(self.tokenizer.detokenize([5, 143]), "The")
        self.assertEqual(self.tokenizer.detokenize(200), "")

    def test_a_model_with_sentinels_stays_as_it_is(self):
        lines = ["The people of the small house walk.", "The house of the people is small."] * 9
        proto = train_sentencepiece(lines, vocabulary_size=32, num_sentinels=10)
        tokenizer = SwitchTokenizer(proto)
        self.assertEqual(tokenizer.proto, proto)
        self.assertEqual(tokenizer.num_sentinels, 10)
        text = "The<extra_id_0> of the<extra_id_9> house."
        self.assertEqual(tokenizer.detokenize(tokenizer(text)), text)

    def test_sentinels_may_have_any_ids(self):
        proto = tokenizer_helpers.model_proto()
        for number in (2, 0, 10, 1):
            proto.pieces.add(piece=f"<extra_id_{number}>", type=proto.SentencePiece.USER_DEFINED)
        tokenizer = SwitchTokenizer(proto.SerializeToString())
        self.assertEqual(tokenizer.sentinel_ids, [FIRST + 1, FIRST + 3, FIRST, FIRST + 2])
        self.assertEqual(ints([tokenizer("a <extra_id_2>")]), [[10, FIRST]])

    def test_without_sentinels(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model(), num_sentinels=0)
        self.assertEqual(tokenizer.vocabulary_size(), FIRST)
        self.assertEqual(tokenizer.proto, tokenizer_helpers.spiece_model())
        self.assertEqual(np.asarray(tokenizer("The people")).tolist(), [5, 7])

    def test_gives_back_the_model_that_transformers_reads(self):
        self.assertEqual(self.tokenizer.spiece_model(), tokenizer_helpers.spiece_model())
        proto = tokenizer_helpers.model_proto()
        for number in range(2):
            proto.pieces.add(piece=f"<extra_id_{number}>", type=proto.SentencePiece.USER_DEFINED)
        tokenizer = SwitchTokenizer(proto.SerializeToString())
        with self.assertRaisesRegex(ValueError, "The sentinels must be the last pieces, counting"):
            tokenizer.spiece_model()

    def test_a_new_random_seed_leaves_it_working(self):
        keras.utils.set_random_seed(1)
        self.assertEqual(in_graph(self.tokenizer, TEXTS).to_list(), IDS)
        keras.utils.set_random_seed(2)
        texts = in_graph(self.tokenizer.detokenize, [[5, 7]]).numpy()
        self.assertEqual(texts.tolist(), [b"The people"])

    @unittest.skipUnless(
        keras.backend.backend() == "tensorflow", "TensorFlow saves the layers of its own backend."
    )
    def test_a_saved_model_holds_it(self):
        class Both(tf.Module):
            def __init__(self, tokenizer):
                self.tokenizer = tokenizer

            @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
            def ids(self, texts):
                return self.tokenizer(texts)

            @tf.function(input_signature=[tf.RaggedTensorSpec((None, None), tf.int32)])
            def texts(self, ids):
                return self.tokenizer.detokenize(ids)

        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(Both(self.tokenizer), folder)
            loaded = tf.saved_model.load(folder)
        self.assertEqual(loaded.ids(TEXTS).to_list(), IDS)
        self.assertEqual(loaded.texts(tf.ragged.constant([[5, 7], [6]])).numpy()[0], b"The people")

    def test_reads_a_file_and_the_text_of_a_config(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "spiece.model"
            path.write_bytes(tokenizer_helpers.spiece_model())
            tokenizer = SwitchTokenizer(str(path), num_sentinels=7)
        self.assertEqual(tokenizer.vocabulary_size(), FIRST + 7)
        config = keras.saving.serialize_keras_object(tokenizer)
        again = keras.saving.deserialize_keras_object(config)
        self.assertIsInstance(again, SwitchTokenizer)
        self.assertEqual(again.get_config(), tokenizer.get_config())
        again.set_proto(tokenizer.proto)
        self.assertEqual(again.get_vocabulary(), tokenizer.get_vocabulary())
        self.assertIsInstance(again, keras_hub.tokenizers.SentencePieceTokenizer)

    def test_bad_models_are_explained(self):
        for missing in ("</s>", "<pad>"):
            proto = tokenizer_helpers.model_proto()
            for piece in proto.pieces:
                if piece.piece == missing:
                    piece.piece = "other"
            with self.assertRaisesRegex(ValueError, f"Cannot find special token `'{missing}'`"):
                SwitchTokenizer(proto.SerializeToString())
        proto = tokenizer_helpers.model_proto()
        proto.pieces[3].piece = "▁▁"
        with self.assertRaisesRegex(ValueError, "must have the piece '▁', a lone space. Received"):
            SwitchTokenizer(proto.SerializeToString())
        with self.assertRaisesRegex(
            ValueError, "`proto` must be a SentencePiece model with pieces"
        ):
            SwitchTokenizer(b"not a model")
        with self.assertRaises(FileNotFoundError):
            SwitchTokenizer("/nowhere/spiece.model")
        with self.assertRaisesRegex(ValueError, "No vocabulary has been set"):
            SwitchTokenizer().detokenize([1])

    def test_bad_arguments_are_explained(self):
        model = tokenizer_helpers.spiece_model()
        for number in (-1, 2.5):
            with self.assertRaisesRegex(ValueError, f"`num_sentinels` must .*={number}"):
                SwitchTokenizer(model, num_sentinels=number)
        for kwargs in ({"sequence_length": 8}, {"dtype": "string"}):
            with self.assertRaisesRegex(ValueError, "Pad them with `SwitchSeq2SeqLMPreprocessor`"):
                SwitchTokenizer(model, **kwargs)


if __name__ == "__main__":
    unittest.main()
