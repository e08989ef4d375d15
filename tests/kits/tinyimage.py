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


def ensure_tiny_image(host: DockerHost) -> str:
    """Imports the image unless the engine has it; its tag."""
    if TAG not in host.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        host.docker("import", "-", TAG, data=_archive())
    return TAG


def _archive() -> bytes:
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
        for name, content in (*FILES.items(), *_programs().items()):
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
