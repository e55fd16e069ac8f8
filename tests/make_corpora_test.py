"""Tests of the scripts that make corpora from packages."""

import gzip
import hashlib
import io
import lzma
import pathlib
import sys
import tarfile
import tempfile
import unittest
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

import english_sources  # noqa: E402
import make_english  # noqa: E402
import make_multilingual  # noqa: E402
import packages  # noqa: E402
import prose  # noqa: E402

PAGE = """<html><body><nav><p>This is the way to the next page of the book.</p></nav><h1>The</h1>
<p>The <b>mouse</b> ran&nbsp;up the clock. It called get_time() twice, as it is.</p>
<table><tr><td><p>This is in the table of the page.</p></td></tr></table>
<ul><li><p>Write to the <i>author</i>, who is at a@b.org, at once.</p></li>
<li><p>It’s all “here” in the list — just as it was before.<pre>The code is in this.</pre></li>
</ul></body></html>"""

MALLARD = """<page xmlns="http://projectmallard.org/1.0/"><info>
<credit><name>{author}</name><email>a@b.org</email></credit></info>{paragraphs}</page>"""


def archive(mode, files):
    """Return a tar archive of `{path: text}`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for path, text in files.items():
            data = text if isinstance(text, bytes) else text.encode()
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def debian_package(files):
    """Return a Debian package of `{path: text}`, whose control archive has an odd length."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": archive("w:xz", {f"./{path}": text for path, text in files.items()}),
    }
    package = b"!<arch>\n"
    for name, data in parts.items():
        package += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        package += data + b"\n" * (len(data) % 2)
    return package


class MakeCorporaTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def package(self, registry, name, data):
        package = packages.Package(registry, name, "1:2-3", hashlib.sha256(data).hexdigest())
        (self.folder / package.file_name).write_bytes(data)
        return package

    def test_packages_are_read_and_checked(self):
        files = {"usr/b.html": "two", "usr/a.html": "one", "usr/a.txt": "no"}
        debian = self.package("debian", "book", debian_package(files))
        npm = self.package("npm", "@a/book", archive("w:gz", files))
        for package in (debian, npm):
            found = package.files(self.folder, r"usr/.*\.html")
            self.assertEqual(list(found.items()), [("usr/a.html", b"one"), ("usr/b.html", b"two")])
            with self.assertRaisesRegex(ValueError, "book must hold files that match 'none'"):
                package.files(self.folder, "none")
        self.assertTrue((self.folder / "book_1%3a2-3_all.deb").exists())
        (self.folder / npm.file_name).write_bytes(b"other")
        with self.assertRaisesRegex(ValueError, "must have the sha256 .* Received: "):
            npm.files(self.folder, ".*")
        with self.assertRaisesRegex(ValueError, "A Debian package must hold data.tar"):
            packages.debian_data(b"!<arch>\n")

    def test_a_page_gives_its_sentences_of_prose(self):
        sentences = english_sources.prose_sentences(prose.html_paragraphs(PAGE))
        self.assertEqual(
            sentences,
            [
                "The mouse ran up the clock.",
                'It\'s all "here" in the list -- just as it was before.',
            ],
        )

    def test_sentences_of_code_addresses_and_fragments_are_no_prose(self):
        self.assertTrue(prose.is_prose("Mr. O'Neil's 42 well-known books (all of them) are here."))
        for sentence in (
            "and so the story is told.",
            "The story is told in the",
            "Is it so?",
            "The function is named read_file in the module.",
            "The page is at www.example.org for all of you.",
            "Write to the author at a@b.org for a copy.",
            "The array x[0] is the first of all.",
            "The list (of all the books is long.",
            "THIS IS ALL IN CAPITALS, AS IT is.",
        ):
            self.assertFalse(prose.is_prose(sentence), sentence)

    def test_a_novel_is_read_out_of_the_database_of_r(self):
        lines = ["EMMA", "", "CHAPTER I", "", "She was _so_ happy", "with him. He", "was not."]
        strings = b"".join(b"\0\4\0\x09" + len(line).to_bytes(4) + line.encode() for line in lines)
        header = b"X\n" + bytes(12) + (5).to_bytes(4) + b"UTF-8" + b"\0\0\0\x10"
        data = zlib.compress(header + len(lines).to_bytes(4) + strings)
        package = self.package("debian", "r", debian_package({"r/data/Rdata.rdb": bytes(4) + data}))
        chapters = english_sources.read_austen(package, self.folder)
        self.assertEqual(chapters["EMMA 1"], ["She was so happy with him.", "He was not."])

    def test_the_dictionary_gives_sentences_with_a_verb(self):
        entry = (
            "\nA \\A\\\n   A letter.\n\nLark \\Lark\\, n. [OE. larke]\n   1. A frolic; a jolly "
            "time of the day. [Colloq.]\n\n   Note: The {lark} is noted for its song. --Gay.\n\n"
            "   It is an old word of the north. [Obs.]\n"
        )
        package = self.package(
            "debian", "dict", debian_package({"d/gcide.dict.dz": gzip.compress(entry.encode())})
        )
        documents = english_sources.read_dictionary(package, self.folder)
        self.assertEqual(documents["la"], ["The lark is noted for its song."])

    def test_english_is_the_same_each_time_and_holds_no_sentence_twice(self):
        pages = {f"{name}.html": PAGE.replace("clock", name) for name in ("wall", "tree")}
        source = make_english.Source(
            "none",
            make_english.pages(r".*\.html"),
            self.package("debian", "pages", debian_package(pages)),
        )
        corpus = self.folder / "english.txt"
        texts = set()
        for _ in range(2):
            make_english.make_corpus(corpus, {"pages": source}, self.folder)
            texts.add(corpus.read_text())
        (text,) = texts
        self.assertEqual(len(text.split("\n\n")), 2)
        self.assertEqual(text.count("in the list"), 1)
        self.assertEqual(text.count("ran up"), 2)

    def test_languages_leave_out_what_is_english_and_name_their_translators(self):
        def page(author, *paragraphs):
            text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
            return MALLARD.format(author=author, paragraphs=text)

        same = "The word that stays as it is, in English."
        older = "This is the text that you had with an older version."
        german = [f"Der Satz mit der Nummer {number} steht hier." for number in range(500)]
        keys = "Drücken Sie <keyseq><key>Strg</key><key>C</key></keyseq>, um zu kopieren."
        hole = 'Besuchen Sie die Seite <link href="x"/>, um mehr zu lernen.'
        files = {
            "usr/share/help/C/a.page": page("Ann Author", same),
            "usr/share/help/de/a.page": page("Tom Translator", same, older, keys, hole, *german),
            "usr/share/help/fr/a.page": page("Théo", "Une seule phrase est traduite ici."),
        }
        package = self.package("debian", "help", debian_package(files))
        original, make_multilingual.PACKAGE = make_multilingual.PACKAGE, package
        self.addCleanup(setattr, make_multilingual, "PACKAGE", original)
        corpora = self.folder / "gnome"
        make_multilingual.make_corpora(self.folder, corpora)
        self.assertEqual(sorted(x.name for x in corpora.iterdir()), ["CREDITS.md", "de.txt.xz"])
        lines = lzma.open(corpora / "de.txt.xz", "rt", encoding="utf-8").read().splitlines()
        self.assertEqual(lines, ["Drücken Sie Strg+C, um zu kopieren.", *german])
        credits = (corpora / "CREDITS.md").read_text(encoding="utf-8")
        self.assertIn("- English originals: Ann Author.\n- `de`: Tom Translator.", credits)
        self.assertNotIn("@", credits)


if __name__ == "__main__":
    unittest.main()
