import json
import pathlib
import random
import tempfile

import tokenizer_helpers
import tokenizers
from absl.testing import parameterized
from sentencepiece import sentencepiece_model_pb2

from keras_switch.data import read_corpus
from keras_switch.data import train_sentencepiece
from keras_switch.models import SwitchTokenizer
from keras_switch.weights import huggingface_tokenizer

# Without a combining mark: tokenizers drops one behind a letter that it replaces.
LETTERS = "aeghlopstTw,.  \t\n\u00a0\u3000\u200b\ufb01\uff34\u00e9\u65e5\U0001f600-1<>"


def change(content, value, *path):
    """Puts a value in a place of a nested structure."""
    *way, last = path
    for name in way:
        content = content[name]
    content[last] = value


class HuggingFaceTokenizerTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.proto = tokenizer_helpers.model_proto()

    def write(self, content, name="tokenizer.json"):
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text)

    def read(self):
        return huggingface_tokenizer.read(self.folder)

    def check_added(self):
        read = self.read()
        tokenizer = SwitchTokenizer(read.spiece, num_sentinels=read.num_sentinels)
        huggingface_tokenizer.check_added(self.folder, tokenizer, read.added)
        return tokenizer

    @parameterized.parameters(4, 5)
    def test_gives_the_model_that_transformers_made_it_of(self, version):
        self.write(tokenizer_helpers.tokenizer_json(self.proto, transformers=version))
        tokenizer = self.check_added()
        self.assertEqual(tokenizer.spiece_model(), tokenizer_helpers.spiece_model())
        self.assertEqual(tokenizer.proto, SwitchTokenizer(self.proto.SerializeToString()).proto)
        self.assertIsNone(self.read().left_out)

    @parameterized.parameters(4, 5)
    def test_ids_are_those_of_the_tokenizers_library(self, version):
        lines = read_corpus()[::20]
        model = sentencepiece_model_pb2.ModelProto.FromString(
            train_sentencepiece(lines, vocabulary_size=900, num_sentinels=0)
        )
        content = tokenizer_helpers.tokenizer_json(model, transformers=version)
        self.write(content)
        tokenizer = self.check_added()
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
        rng = random.Random(0)
        texts = ["".join(rng.choices(LETTERS, k=rng.randrange(40))) for _ in range(1000)]
        for text in [*lines, *texts]:
            expected = theirs.encode(text, add_special_tokens=False).ids
            self.assertEqual([int(i) for i in tokenizer(text)], expected, repr(text))

    def test_a_spiece_model_comes_first(self):
        self.write(tokenizer_helpers.tokenizer_json(self.proto, num_sentinels=7))
        self.write({"extra_ids": 7}, "tokenizer_config.json")
        (self.folder / "spiece.model").write_bytes(tokenizer_helpers.spiece_model())
        read = self.read()
        self.assertEqual(read.spiece, tokenizer_helpers.spiece_model())
        self.assertEqual((read.num_sentinels, read.left_out), (7, None))
        self.assertEqual(self.check_added().num_sentinels, 7)

    def test_without_files_there_is_no_tokenizer_and_nothing_to_say(self):
        self.assertEqual(self.read(), (None, 100, [], None))

    @parameterized.parameters(
        ("not 'Unigram'", "BPE", "model", "type"),
        ("'Unigram'", None, "model"),
        ("falls back on bytes", True, "model", "byte_fallback"),
        ("as T5 does", None, "pre_tokenizer"),
        ("as T5 does", None, "normalizer"),
        ("as T5 does", {"type": "NFKC"}, "normalizer"),
        ("as T5 does", {"type": "Sequence", "normalizers": 3}, "normalizer"),
        ("as T5 does", {"type": "Sequence", "pretokenizers": [1]}, "pre_tokenizer"),
        ("as T5 does", "_", "pre_tokenizer", "pretokenizers", 1, "replacement"),
        ("as T5 does", "first", "pre_tokenizer", "pretokenizers", 1, "prepend_scheme"),
        ("as T5 does", {"type": "Metaspace", "replacement": "▁"}, "pre_tokenizer"),
    )
    def test_other_tokenizers_are_left_out_and_named(self, reason, value, *path):
        content = tokenizer_helpers.tokenizer_json(self.proto)
        change(content, value, *path)
        self.write(content)
        read = self.read()
        self.assertIsNone(read.spiece)
        self.assertRegex(read.left_out, f"The tokenizer was left out: .*{reason}.*Put the spiece")

    def test_files_of_other_tokenizers_are_named(self):
        self.write("{}", "tokenizer_config.json")
        self.assertRegex(self.read().left_out, "it has tokenizer_config.json, and no spiece.model")
        self.write("{}", "vocab.json")
        self.assertRegex(self.read().left_out, "has tokenizer_config.json and vocab.json, and no")

    @parameterized.parameters(
        ("vocabulary of type dict", {}, "vocab"),
        ("unk_id='2'", "2", "unk_id"),
        ("unk_id=True", True, "unk_id"),
        ("143 pieces, 143 of them", 143, "unk_id"),
        ("143 pieces, 143 of them", -1, "unk_id"),
        ("the piece 'a'", "a", "vocab", 9),
        ("the piece ", ["a", "1"], "vocab", 9),
        ("the piece ", ["a", True], "vocab", 9),
        ("the piece ", ["a", float("nan")], "vocab", 9),
        ("the piece ", ["a", 10**400], "vocab", 9),
        ("the piece ", ["", 0.0], "vocab", 9),
        ("the piece ", ["\ud800", 0.0], "vocab", 9),
        ("143 pieces, 142 of them different", ["<pad>", 0.0], "vocab", 9),
        ("pad=None", ["other", 0.0], "vocab", 0),
        ("end=None", ["other", 0.0], "vocab", 1),
    )
    def test_broken_vocabularies_are_refused(self, message, value, *path):
        content = tokenizer_helpers.tokenizer_json(self.proto)
        change(content["model"], value, *path)
        self.write(content)
        with self.assertRaisesRegex(ValueError, f"must be those of transformers.*{message}"):
            self.read()

    @parameterized.parameters("!", "\u00e9", 3, None)
    def test_a_broken_charsmap_is_refused(self, value):
        content = tokenizer_helpers.tokenizer_json(self.proto)
        change(content, value, "normalizer", "precompiled_charsmap")
        self.write(content)
        with self.assertRaisesRegex(ValueError, "a precompiled_charsmap that is no base64"):
            self.read()

    @parameterized.parameters(
        ("added_tokens.json", {"<col>": 143}),
        ("added_tokens.json", {"<extra_id_0>": 143}),
        ("added_tokens.json", {"<extra_id_0>": "142"}),
        ("added_tokens.json", {"▁people": 7}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"143": {"content": "<col>"}}}),
        ("tokenizer.json", {"added_tokens": [{"id": 143, "content": "<col>"}]}),
    )
    def test_tokens_of_its_own_are_refused(self, name, content):
        (self.folder / "spiece.model").write_bytes(tokenizer_helpers.spiece_model())
        self.assertEqual(self.check_added().vocabulary_size(), 143)
        self.write(content, name)
        with self.assertRaisesRegex(ValueError, "has tokens of its own.*Remove them.*: '?14|7"):
            self.check_added()

    def test_a_token_of_two_ids_is_refused(self):
        (self.folder / "spiece.model").write_bytes(tokenizer_helpers.spiece_model())
        self.write({"<extra_id_0>": 142}, "added_tokens.json")
        self.check_added()
        decoder = {"143": {"content": "<extra_id_0>"}}
        self.write({"added_tokens_decoder": decoder}, "tokenizer_config.json")
        with self.assertRaisesRegex(ValueError, "of its own.*'<extra_id_0>': 143"):
            self.check_added()

    def test_many_tokens_of_its_own_are_counted(self):
        (self.folder / "spiece.model").write_bytes(tokenizer_helpers.spiece_model())
        self.write({f"<{number}>": 143 + number for number in range(11)}, "added_tokens.json")
        with self.assertRaisesRegex(ValueError, "'<7>': 150 and 3 more"):
            self.check_added()

    @parameterized.parameters(
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "that are no list"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "content"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: "a"}}, "added token 'a'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"143": 4}}, "an added token 4"),
        ("tokenizer.json", {"added_tokens": {"a": 1}}, "that are no list"),
        ("tokenizer.json", {"added_tokens": [["<col>", 143]]}, "an added token"),
    )
    def test_broken_lists_of_tokens_are_refused(self, name, content, message):
        self.write(content, name)
        with self.assertRaisesRegex(ValueError, f"must be those of transformers.*{message}"):
            self.read()
