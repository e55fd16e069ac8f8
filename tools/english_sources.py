"""The texts in the packages of `make_english.py`, as documents: lists of sentences by title."""

import gzip
import json
import lzma
import pathlib
import re
import subprocess
import tempfile
import zlib

import packages
import prose

ROOT = pathlib.Path(__file__).resolve().parents[1]
ADDRESSES = ROOT / "keras_switch" / "data" / "corpora" / "sotu.txt.xz"
FINITE = re.compile(
    r"\b(?:is|are|was|were|am|has|have|had|does|do|did|will|shall|can|may|must|would|should|could|"
    r"might|i|he|she|we|they|you|thou|it|there)\b",
    re.I,
)
BIBLE_READER = packages.Package(
    "debian",
    "bible-kjv",
    "4.38",
    "75a49c032a6efa9faa2beb4a9acb70974380122906329d0e100de36cc88ff02d",
    architecture="amd64",
)


def read_addresses(package, folder):
    """Return the State of the Union addresses, of the corpus that ships, without its tables."""
    with lzma.open(ADDRESSES, "rt", encoding="utf-8") as file:
        addresses = file.read().split("\n\n")
    return {
        str(number): [
            prose.plain(line)
            for line in address.splitlines()
            if len(line) <= prose.MAX_SENTENCE_LENGTH * 2 and not re.search("__|@|\\.{4}", line)
        ]
        for number, address in enumerate(addresses)
    }


def read_austen(package, folder):
    """Return the chapters of the novels, which R stores as compressed vectors of lines."""
    (database,) = package.files(folder, r".*/data/Rdata\.rdb").values()
    chapters = {}
    while database:
        stream = zlib.decompressobj()
        lines = r_strings(stream.decompress(database[4:]))
        for number, chapter in enumerate(
            re.split(r"\nCHAPTER [^\n]*\n", "\n".join(lines), flags=re.I)
        ):
            chapters[f"{lines[0]} {number}"] = book_sentences(chapter)
        database = stream.unused_data
    return chapters


def r_strings(data):
    """Return the strings of a serialized vector of strings of R (version 3, XDR)."""
    start = 18 + int.from_bytes(data[14:18])
    count, start = int.from_bytes(data[start + 4 : start + 8]), start + 8
    strings = []
    for _ in range(count):
        size = int.from_bytes(data[start + 4 : start + 8])
        strings.append(data[start + 8 : start + 8 + size].decode("utf-8"))
        start += 8 + size
    return strings


def read_moby_dick(package, folder):
    """Return the chapters of Moby Dick."""
    (text,) = package.files(folder, r"package/data/data\.txt").values()
    chapters = re.split(r"(?m)^CHAPTER \d+\..*$", text.decode("utf-8"))
    return {str(number): book_sentences(chapter) for number, chapter in enumerate(chapters)}


def book_sentences(text):
    """Return the sentences of a book, without headings."""
    return [
        sentence
        for paragraph in prose.book_paragraphs(text)
        for sentence in prose.split_sentences(paragraph)
        if re.search(r"[a-z]{2}.*[.!?][\"')]*$", sentence) and not prose.PRIVATE.search(sentence)
    ]


def read_bible(package, folder):
    """Return the books of the Bible, a verse a line, read by the program that packs them."""
    (program,) = BIBLE_READER.files(folder, "usr/bin/bible").values()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for path, data in package.files(folder, r"usr/lib/bible\.data.*").items():
            (scratch / pathlib.Path(path).name).write_bytes(data)
        (scratch / "bible").write_bytes(program)
        (scratch / "bible").chmod(0o755)
        command = [scratch / "bible", "-f", "gen1:1-rev22:21"]
        verses = subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
    books = {}
    for line in verses.stdout.splitlines():
        match = re.match(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line)
        if match:
            books.setdefault(match[1], []).append(re.sub(r"[\[\]]", "", match[2]).strip())
    return books


def read_factbook(package, folder):
    """Return the descriptions of the countries."""
    return {
        path: prose_sentences(json_texts(json.loads(data)))
        for path, data in package.files(folder, r"package/.*/..\.json").items()
    }


def json_texts(value):
    """Yield the strings in a JSON value."""
    if isinstance(value, str):
        yield prose.plain(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from json_texts(item)


def read_dictionary(package, folder):
    """Return the notes and quotations that have a verb, by the first two letters of the words."""
    (data,) = package.files(folder, r".*/gcide\.dict\.dz").values()
    text = gzip.decompress(data).decode("utf-8", "replace")
    documents = {}
    for entry in re.split(r"\n(?=[A-Z])", text[text.index("\nA \\") :]):
        paragraphs = re.split(r"\n\s*\n", "\n".join(entry.strip("\n").splitlines()[1:]))
        sentences = prose_sentences(definition(paragraph) for paragraph in paragraphs)
        documents.setdefault(entry[:2].lower(), []).extend(filter(FINITE.search, sentences))
    return documents


def definition(paragraph):
    """Return a paragraph of the dictionary without its marks, sources and labels."""
    if re.search(r"\bSyn:|\[Obs|\[(?:root|WordNet)", paragraph):
        return ""
    text = re.sub(r"\[[^\]]*\]|[{}]", "", prose.plain(paragraph))
    text = re.sub(r"^(?:\d+\. |\([a-z]\) |Note: )+|\s*-- ?[A-Z][^a-z]*[a-z][\w. &]*$", "", text)
    return prose.plain(text)


def read_html(package, folder, pattern):
    """Return the prose of HTML pages."""
    return {
        path: prose_sentences(prose.html_paragraphs(main_part(data.decode("utf-8", "replace"))))
        for path, data in package.files(folder, pattern).items()
    }


def main_part(page):
    """Return the page from the start of what is not navigation, where Sphinx marks it."""
    return page[max(page.find('itemprop="articleBody"'), page.find('role="main"'), 0) :]


def prose_sentences(paragraphs):
    """Return the sentences that are prose."""
    return [
        sentence
        for paragraph in paragraphs
        for sentence in prose.split_sentences(paragraph)
        if prose.is_prose(sentence)
    ]
