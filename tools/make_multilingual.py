"""Make `keras_switch/data/corpora/gnome/*.txt.xz`, the help of GNOME in many languages.

One file per language, UTF-8 text: one paragraph per line, an empty line between two pages, pages in
order of name. Paragraphs that are not translated are left out, and so are addresses. `CREDITS.md`
names the authors and translators, as the licence asks, and each text's sha256. It depends on the
package only, so running it twice gives the same bytes.

    python tools/make_multilingual.py
"""

import argparse
import hashlib
import lzma
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import packages
import prose

PACKAGE = packages.Package(
    "debian",
    "gnome-user-docs",
    "43.0-2",
    "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
)
ROOT = pathlib.Path(__file__).resolve().parents[1]
CORPORA = ROOT / "keras_switch" / "data" / "corpora" / "gnome"
MALLARD = "{http://projectmallard.org/1.0/}"
ENGLISH = "C"
SERBIAN_IN_LATIN = "sr@latin"
MIN_BYTES = 24
MIN_PARAGRAPHS = 500

CREDITS = """\
# The help of GNOME in many languages

From GNOME's user documentation (gnome-user-docs 43.0, Debian's package 43.0-2), by the authors and
translators named below. It is licensed under the [Creative Commons Attribution-ShareAlike 3.0
Unported License](https://creativecommons.org/licenses/by-sa/3.0/), and so are these files. Changes:
only translated paragraphs of whole sentences are kept, without markup, and none that holds an
address.

| language | paragraphs | bytes | compressed | sha256 of the text |
|---|---|---|---|---|
{rows}

## Authors and translators

{credit}
"""

WHOLE = re.compile(r".*[.!?:…।。！？：;][\"'”’»“)）]*", re.S)
ENGLISH_WORD = re.compile(r"\b(?:the|and|you|your|with|from|this|that|are|can)\b", re.I)


def read_pages(folder):
    """Return `{language: {page: its XML}}` of the package."""
    languages = {}
    for path, data in PACKAGE.files(folder, r"usr/share/help/[^/]*/.*\.page").items():
        language, page = path.removeprefix("usr/share/help/").split("/", 1)
        languages.setdefault(language, {})[page] = ElementTree.fromstring(data)
    return languages


def paragraphs(element):
    """Yield the paragraphs under an element of a page, without its head and listings."""
    if element.tag == MALLARD + "p":
        if all(link.text or len(link) for link in element.iter(MALLARD + "link")):
            yield " ".join(inline_text(element).split())
    elif element.tag not in (MALLARD + "info", MALLARD + "screen", MALLARD + "code"):
        for child in element:
            yield from paragraphs(child)


def inline_text(element):
    """Return the text in an element, with a plus sign between keys to press together."""
    if element.tag == MALLARD + "keyseq":
        return "+".join(inline_text(key) for key in element)
    parts = [element.text or ""]
    for child in element:
        parts += [inline_text(child), child.tail or ""]
    return "".join(parts)


def is_translated(paragraph, english):
    """Whether the paragraph is whole and not English, neither of today nor of an older version."""
    return (
        paragraph not in english
        and len(paragraph.encode()) >= MIN_BYTES
        and WHOLE.fullmatch(paragraph)
        and "@" not in paragraph
        and not prose.PRIVATE.search(paragraph)
        and len(ENGLISH_WORD.findall(paragraph)) < 0.1 * len(paragraph.split())
    )


def translation(pages, english):
    """Return the translated paragraphs of the pages as text, and how many they are."""
    seen = set()
    texts = []
    for page in pages.values():
        fresh = [line for line in dict.fromkeys(paragraphs(page)) if line not in seen]
        fresh = [line for line in fresh if is_translated(line, english)]
        seen.update(fresh)
        texts.append("\n".join(fresh))
    return "\n\n".join(filter(None, texts)) + "\n", len(seen)


def people(pages):
    """Return the names of those whom the pages credit."""
    credits = (credit for page in pages.values() for credit in page.iter(MALLARD + "credit"))
    names = {
        " ".join(credit.findtext(MALLARD + "name", "").split()).rstrip(",") for credit in credits
    }
    return sorted(name for name in names if name and not prose.PRIVATE.search(name))


def make_corpora(folder, corpora):
    """Write a compressed text for each language, and the credits."""
    languages = read_pages(folder)
    english = {line for page in languages[ENGLISH].values() for line in paragraphs(page)}
    authors = people(languages[ENGLISH])
    corpora.mkdir(exist_ok=True)
    rows = []
    credit = [f"- English originals: {', '.join(authors)}."]
    for language, pages in sorted(languages.items()):
        text, count = translation(pages, english)
        if count < MIN_PARAGRAPHS or language == SERBIAN_IN_LATIN:
            continue
        data = text.encode("utf-8")
        packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
        (corpora / f"{language}.txt.xz").write_bytes(packed)
        digest = hashlib.sha256(data).hexdigest()
        rows.append(f"| `{language}` | {count:,} | {len(data):,} | {len(packed):,} | `{digest}` |")
        translators = sorted(set(people(pages)) - set(authors))
        credit.append(f"- `{language}`: {', '.join(translators)}.")
    text = CREDITS.format(rows="\n".join(rows), credit="\n".join(credit))
    (corpora / "CREDITS.md").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=pathlib.Path, default=CORPORA, help="folder to write")
    parser.add_argument(
        "--packages", type=pathlib.Path, default=pathlib.Path("packages"), help="folder to fill"
    )
    arguments = parser.parse_args()
    make_corpora(arguments.packages, arguments.corpora)


if __name__ == "__main__":
    main()
