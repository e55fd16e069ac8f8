"""Write the versions that `pip install .[dev]` would install today to a constraints file.

Run it with the oldest supported Python: what it picks then installs on the newer ones too.

    python3.11 tools/lock.py requirements/lock.txt
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEADER = "# Versions that the tests ran with. Made by `make lock`; do not edit.\n"


def resolve(requirement):
    """Return `name==version` of everything that pip would install for `requirement`."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--report", "-", requirement]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    packages = [package["metadata"] for package in report["install"]]
    return sorted(
        f"{re.sub('[-_.]+', '-', package['name']).lower()}=={package['version']}"
        for package in packages
        if package["name"] != "keras-switch"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", type=pathlib.Path, help="constraints file to write")
    lock = parser.parse_args().lock
    pins = resolve(f"{ROOT}[dev]")
    lock.write_text(HEADER + "\n".join(pins) + "\n")
    print(f"{lock}: {len(pins)} packages")


if __name__ == "__main__":
    main()
