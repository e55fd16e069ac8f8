import builtins
import gzip
import importlib.util
import json
import lzma
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

import tensorflow as tf

from keras_switch.data import read_corpus
from keras_switch.data import read_lines
from keras_switch.data import sources

DATA_DIR = "tensorflow_datasets.core.constants.DATA_DIR"
SHARDS = "tensorflow_datasets.core.utils.shard_utils.ShardConfig.get_number_shards"
HAS_TFDS = bool(importlib.util.find_spec("tensorflow_datasets"))
HAS_ZSTANDARD = bool(importlib.util.find_spec("zstandard"))


def zstd(data):
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


class SourcesTestCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def write(self, name, data):
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    def check_error(self, source, message, error=ValueError):
        with self.assertRaisesRegex(error, message):
            list(read_lines(source))


class FilesTest(SourcesTestCase):
    def test_plain_or_compressed(self):
        text = " one\n\ntwo\r\nthrée".encode()
        compressions = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
        if HAS_ZSTANDARD:
            compressions[".zst"] = zstd
        for suffix, compress in compressions.items():
            path = self.write(f"a.txt{suffix}", compress(text))
            self.assertEqual(list(read_lines(path)), ["one", "two", "thrée"], suffix)
            self.assertEqual(read_corpus(pathlib.Path(path)), ["one", "two", "thrée"], suffix)

    def test_globs_are_read_in_order(self):
        for name in ("b/2.txt", "b/1.txt", "b/10.jsonl", "c/1.txt"):
            text = f"{name}\n"
            self.write(name, json.dumps({"text": text}) if name.endswith("jsonl") else text)
        (self.directory / "b" / "0.txt").mkdir()
        self.assertEqual(
            list(read_lines(f"{self.directory}/b/*")), ["b/1.txt", "b/10.jsonl", "b/2.txt"]
        )
        self.assertEqual(list(read_lines(f"{self.directory}/**/1.txt")), ["b/1.txt", "c/1.txt"])

    def test_a_name_that_looks_like_a_glob_is_a_file_if_there_is_one(self):
        path = self.write("[a]*.txt", "one")
        self.write("a1.txt", "two")
        self.assertEqual(list(read_lines(path)), ["one"])

    def test_a_list_is_read_in_its_order(self):
        paths = [self.write("b.txt", "b1\nb2"), self.write("a.txt.gz", gzip.compress(b"a"))]
        self.assertEqual(list(read_lines(paths)), ["b1", "b2", "a"])
        self.assertEqual(sources.parts(paths), paths)

    def test_files_of_other_file_systems_are_read_by_tensorflow(self):
        with tf.io.gfile.GFile("ram://texts/1.txt.gz", "wb") as file:
            file.write(gzip.compress(b"one\ntwo"))
        for name in ("ram://texts/1.txt.gz", "ram://texts/*.gz"):
            self.assertEqual(list(read_lines(name)), ["one", "two"])
        self.check_error("ram://texts/none.txt", "`path` must be an existing text file")
        self.check_error("none://texts/a.txt", "`path` must be a file that can be read .*none")

    def test_one_line_is_held_at_a_time(self):
        path = self.write("a.txt", "word " * 20 + "\n")
        with open(path, "a") as file:
            lines = read_lines(path)
            next(lines)
            file.write("later\n" * 100000)
        self.assertEqual(next(lines), "later")

    def test_nothing_means_the_corpus_of_the_package(self):
        self.assertEqual(next(read_lines()), read_corpus()[0])
        self.assertEqual(next(read_lines("")), read_corpus()[0])

    @unittest.skipUnless(HAS_ZSTANDARD, "zstandard is not installed.")
    def test_zstd_frames_follow_one_another(self):
        long = "\n".join(f"{number} {number**9}" for number in range(50000)).encode()
        path = self.write("a.zst", zstd(long) + zstd(b"\nlast"))
        lines = list(read_lines(path))
        self.assertEqual((len(lines), lines[-1]), (50001, "last"))
        self.check_error(self.write("b.zst", zstd(long)[:-5]), "UTF-8 text .*ends too early")

    def test_damage_is_explained(self):
        damaged = {
            "binary.txt": b"\xff\xfe\x00",
            "zeros.txt": b"words\n\x00\x00",
            "broken.gz": b"text",
            "broken.xz": b"text",
            "cut.gz": gzip.compress(b"text" * 100)[:-9],
            "cut.xz": lzma.compress(b"text" * 100)[:-9],
            "altered.gz": gzip.compress(os.urandom(999))[:400] + b"?" * 600,
        }
        if HAS_ZSTANDARD:
            damaged["broken.zst"] = b"text"
        for name, data in damaged.items():
            self.check_error(self.write(name, data), f"`path` must hold UTF-8 text .*{name}")
        self.check_error(str(self.directory / "zeros.txt"), "line 2 has a zero byte")

    def test_files_that_are_not_there_are_explained(self):
        self.check_error(f"{self.directory}/none.txt", "`path` must be an existing text file. Rec")
        self.check_error(f"{self.directory}/*.txt", "existing text file, or a glob that matches")
        self.check_error(self.directory, "not a folder. Name its files by a glob, such as .*txt")
        self.check_error([], "`source` must name some text")
        self.check_error(f"{self.directory}/none.jsonl#body", "must be an existing text file")
        self.write("index.json", "{}")
        self.check_error(self.directory, "It holds tokens, which `.*PreparedTokens` reads")

    def test_files_that_vanish_are_explained(self):
        paths = [self.write(f"{name}.txt", name) for name in "ab"]
        lines = read_lines(f"{self.directory}/*.txt")
        self.assertEqual(next(lines), "a")
        os.remove(paths[1])
        with self.assertRaisesRegex(ValueError, "must be an existing text file. .*b.txt"):
            next(lines)

    def test_files_that_cannot_be_read_are_explained(self):
        path = self.write("a.txt", "a")
        error = PermissionError(13, "Permission denied", path)
        with unittest.mock.patch.object(builtins, "open", side_effect=error):
            self.check_error(path, r"a file that can be read \(Permission denied\). Received")

    def test_text_without_words_is_explained(self):
        empty, full = self.write("empty.txt", "\n \n"), self.write("full.txt", "words")
        for source in (empty, [full, empty]):
            self.check_error(source, "`path` must hold some text. Received: path=.*empty")
        self.assertEqual(list(read_lines(f"{self.directory}/*.txt")), ["words"])

    def test_megabytes_without_a_line_break_are_explained(self):
        path = self.write("a.txt", "short\n" + "word " * 500000)
        self.check_error(path, "at most 1,048,576 characters. Break line 2 into several. Rec")
        book = {"text": "word " * 500000}
        self.assertEqual(len(read_corpus(self.write("a.jsonl", json.dumps(book)))[0]), 2499999)

    def test_zstd_without_its_package_is_explained(self):
        path = self.write("a.txt.zst", b"")
        with unittest.mock.patch.dict(sys.modules, {"zstandard": None}):
            self.check_error(path, "needs zstandard: pip install 'keras-switch.data.", ImportError)


class JsonLinesTest(SourcesTestCase):
    def test_the_key_is_text_or_is_named(self):
        lines = [{"text": " a\nb ", "body": "c"}, {"text": "", "body": "d"}]
        data = "\n\n".join(map(json.dumps, lines))
        path = self.write("a.jsonl", data)
        zipped = self.write("b.jsonl.gz", gzip.compress(data.encode()))
        for name in (path, zipped):
            self.assertEqual(list(read_lines(name)), ["a\nb"])
            self.assertEqual(list(read_lines(f"{name}#body")), ["c", "d"])
        self.assertEqual(list(read_lines(f"{self.directory}/?.jsonl*#body")), ["c", "d"] * 2)

    def test_a_file_may_have_the_sign_in_its_name(self):
        path = self.write("a.jsonl#1.jsonl", json.dumps({"text": "a", "b": "c"}))
        self.assertEqual(list(read_lines(path)), ["a"])
        self.assertEqual(list(read_lines(f"{path}#b")), ["c"])

    def test_broken_lines_are_explained(self):
        good = json.dumps({"text": "words"})
        for bad, message in (
            ("{'text': 1}", "Line 2 of `path` must be a JSON object .Expecting property name"),
            ("{", "Line 2 of `path` must be a JSON object .*path="),
            ('["words"]', "whose 'text' is a string.*with the keys none"),
            ('{"body": "", "url": ""}', "another key is named by .*a.jsonl#KEY.*'body', 'url'"),
            ('{"text": 5}', "Line 2 of `path` must be a JSON object whose 'text' is a string"),
        ):
            self.check_error(self.write("a.jsonl", f"{good}\n{bad}\n{good}"), message)


@unittest.skipUnless(HAS_TFDS, "tensorflow-datasets is not installed.")
class TfdsTest(SourcesTestCase):
    def setUp(self):
        super().setUp()
        # What TFDS_DATA_DIR says when tensorflow-datasets is imported.
        patch = unittest.mock.patch(DATA_DIR, str(self.directory))
        patch.start()
        self.addCleanup(patch.stop)

    def mock(self):
        import tensorflow_datasets as tfds

        return tfds.testing.mock_data(num_examples=4)

    def test_data_sets_are_read_by_name(self):
        with self.mock():
            for source in (
                "tfds:c4/en",
                "tfds:c4/en:3.1.0",
                "tfds:c4/multilingual:sw",
                "tfds:lm1b:test",
                "tfds:glue/cola:train#sentence",
                "tfds:imdb_reviews:train[:50%]",
            ):
                lines = read_corpus([source])
                self.assertTrue(0 < len(lines) <= 4 and all(lines), source)
                self.assertEqual(lines, read_corpus(source))
                self.assertEqual(sources.parts(source), [source])

    def test_each_file_of_a_prepared_split_is_a_part(self):
        import tensorflow_datasets as tfds

        examples = [{"text": f"{number:03}"} for number in range(50)]
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(examples), output_signature={"text": tf.TensorSpec((), tf.string)}
        )
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        with unittest.mock.patch(SHARDS, lambda *_: 3):
            tfds.dataset_builders.store_as_tfds_dataset(
                name="numbers",
                version="1.0.0",
                features=features,
                split_datasets={"train": dataset},
                data_dir=self.directory,
            )
        parts = sources.parts("tfds:numbers")
        self.assertEqual(sorted(read_corpus("tfds:numbers")), [x["text"] for x in examples])
        self.assertEqual(
            [line for part in parts for line in sources.read_part(part)],
            list(read_lines("tfds:numbers")),
        )

    def test_what_is_not_there_is_explained(self):
        self.check_error(
            "tfds:imdb_review",
            "the name of a data set .* Did you mean tfds:imdb_reviews\\?",
        )
        self.check_error("tfds:no_such_thing", "the name of a data set of tensorflow-datasets. Rec")
        self.check_error("tfds:c4/enn", "enn not found .* Did you mean tfds:c4/en\\? Received: sou")
        self.check_error("tfds:c4/en:9.9.9", r"at version 9.9.9, only: 3.1.0.*\)\. Received")
        self.check_error("tfds:c4/en", f"prepared in {self.directory}/c4/en/3.1.0, .* tfds build")
        self.check_error("tfds:glue/cola", "are 'sentence': `tfds:glue/cola#FEATURE`. Received")
        self.check_error("tfds:glue/cola#label", "must be one of its texts, which are 'sentence'")
        self.check_error("tfds:", "must be spelled `tfds:NAME`, .* Received: source='tfds:'")

    def test_bad_splits_are_explained(self):
        import tensorflow_datasets as tfds

        dataset = tf.data.Dataset.from_tensors({"text": "one"})
        tfds.dataset_builders.store_as_tfds_dataset(
            name="one",
            version="1.0.0",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            split_datasets={"train": dataset},
            data_dir=self.directory,
        )
        self.assertEqual(read_corpus("tfds:one"), ["one"])
        for split in ("test", "train[:x]"):
            self.check_error(f"tfds:one:{split}", "The split of a data set must be one that it has")
        self.check_error("tfds:one:test", "train.* Received: source='tfds:one:test'")


class WithoutTfdsTest(SourcesTestCase):
    def test_data_sets_without_the_package_are_explained(self):
        with unittest.mock.patch.dict(sys.modules, {"tensorflow_datasets": None}):
            self.check_error(
                "tfds:c4/en",
                "`tfds:` needs tensorflow-datasets .*keras-switch.data.",
                ImportError,
            )


if __name__ == "__main__":
    unittest.main()
