"""A container image of a few megabytes, made of this machine's own programs, for tests that need just any container."""

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.kits.dockerhost import DockerHost

TAG = "dotmac/tiny:1"
PROGRAMS = ("sh", "cat", "sleep", "wc", "true", "false", "head", "id", "printenv", "sha256sum", "seq")
FILES = {"etc/passwd": b"root:x:0:0:root:/:/bin/sh\n", "etc/motd": b"hello\n", "etc/empty": b""}
LINKS = {"etc/link": "motd", "etc/far": "../etc/link", "etc/loop": "loop", "etc/broken": "nowhere"}


PLAIN_TAG = "dotmac/plain:1"
PLAIN = {
    "bin/pg_isready": b"#!/bin/sh\n",
    "bin/redis-server": b"#!/bin/sh\ntrap 'exit 0' TERM\nsleep 100000 & wait\n",
    "bin/redis-cli": b"#!/bin/sh\n",
    "bin/grep": b"#!/bin/sh\n",
}
"""What the operator asks of a database and a cache, answered at once by an image that only sleeps."""


def ensure_tiny_image(host: DockerHost) -> str:
    """Imports the image unless the engine has it; its tag."""
    return _ensure(host, TAG, FILES)


def ensure_plain_image(host: DockerHost) -> str:
    """An image whose containers sleep, and pass for a healthy database or cache."""
    return _ensure(host, PLAIN_TAG, FILES | PLAIN, "--change", 'CMD ["redis-server"]')


def _ensure(host: DockerHost, tag: str, files: dict[str, bytes], *options: str) -> str:
    if tag not in host.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        host.docker("import", *options, "-", tag, data=_archive(files))
    return tag


def _archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for directory in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, target in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, content in (*files.items(), *_programs().items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _programs() -> dict[str, bytes]:
    """Each program and the libraries that ldd names, at the same paths."""
    found: dict[str, bytes] = {}
    for name in PROGRAMS:
        path = shutil.which(name, path="/usr/bin:/bin")
        if path is None:
            raise FileNotFoundError(f"this machine has no {name}")
        found[f"bin/{name}"] = Path(path).read_bytes()
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            found.setdefault(library.lstrip("/"), Path(library).read_bytes())
    return found
