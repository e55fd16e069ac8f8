"""Print what the package needs without its upper bounds, for `make test-newest`.

python tools/newest.py > requirements.txt
"""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        print(re.sub(r",?<[^,]*", "", requirement))


if __name__ == "__main__":
    main()
