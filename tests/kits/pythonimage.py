"""What the Dockerfile needs where no image can be pulled and no index be reached from a build: a base image with the
Python that runs the tests, and the locked wheels inside it.

The stages of the Dockerfile are not touched: only PYTHON_IMAGE and pip's own environment differ.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.kits.dockerhost import DockerHost

from dotmac_local.demo.processes import CommandFailed

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = "python:3.12-slim"
SUBSTITUTE = "dotmac/test-python:3.12"
_LEFT_OUT = (
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "site-packages",
    "lib-dynload/_tkinter*",
)

_DOCKERFILE = """\
FROM dotmac/sample-web:1
USER root
ENTRYPOINT []
RUN rm -rf /usr/bin/python3* /usr/lib/python3*
COPY python /usr/local
COPY wheels /wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
RUN ldconfig && python3 -c 'import ssl, sqlite3, ctypes, lzma, bz2, zoneinfo'
"""


class NoBaseImage(RuntimeError):
    """There is no image with Python to build on, and why."""


def locked() -> list[str]:
    """name==version of everything that the image installs, as poetry.lock says."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text())
    return sorted(f"{p['name']}=={p['version']}" for p in lock["package"] if "main" in p["groups"])


def build_tools() -> list[str]:
    """Poetry and its plug-in, at the versions that the Dockerfile names."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    pins = dict(line.removeprefix("ARG ").split("=") for line in lines if line.startswith("ARG POETRY"))
    return [f"poetry=={pins['POETRY_VERSION']}", f"poetry-plugin-export=={pins['POETRY_EXPORT_VERSION']}"]


def wheels() -> Path:
    """A directory with the wheels, fetched once for each lock; shared by clones like the other images' archives."""
    wanted = [*locked(), *build_tools()]
    name = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dotmac"
    folder = (cache if cache.is_dir() else ROOT / ".local") / "wheels" / name
    if not (folder / "complete").exists():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--prefer-binary", "--dest", str(folder)]
        # Two calls: the tools' own needs are not to be bound by the project's versions.
        for arguments in (["--no-deps", *locked()], build_tools()):
            subprocess.run([*fetch, *arguments], check=True, capture_output=True, timeout=280)
        (folder / "complete").touch()
    return folder


def base_image(host: DockerHost, scratch: Path) -> str:
    """An image with Python on this host: the public one when it can be pulled, else one made of this machine's Python.

    Raises:
        NoBaseImage: neither can be had, with the reason.
    """
    try:
        host.docker("pull", "--quiet", PUBLIC, timeout=8)
        return PUBLIC
    except (CommandFailed, subprocess.TimeoutExpired):
        pass
    host.load_images("dotmac/sample-web:1")
    _copy_python(scratch / "python")
    _copy_program("strip", scratch / "python")
    subprocess.run(["cp", "-rl", str(wheels()), str(scratch / "wheels")], check=True)
    (scratch / "Dockerfile").write_text(_DOCKERFILE)
    try:
        host.docker("build", "--quiet", "--tag", SUBSTITUTE, str(scratch), timeout=200)
    except CommandFailed as error:
        raise NoBaseImage(
            f"{PUBLIC} cannot be pulled, and this machine's Python does not run on Debian 12: {error}"
        ) from None
    return SUBSTITUTE


def _copy_python(target: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path(sys.base_prefix)
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    subprocess.run(["cp", str(prefix / "bin" / version), str(target / "bin" / version)], check=True)
    (target / "bin" / "python3").symlink_to(version)
    excluded = [f"--exclude={name}" for name in _LEFT_OUT] + ["--exclude=config-*", "--exclude=*.a"]
    packed = subprocess.run(
        ["tar", "-C", str(prefix / "lib"), *excluded, "-cf", "-", version], check=True, capture_output=True
    )
    subprocess.run(["tar", "-C", str(target / "lib"), "-xf", "-"], input=packed.stdout, check=True)
    (target / "lib" / version / "site-packages").mkdir()
    for shared in prefix.glob("lib/libpython3*.so*"):
        subprocess.run(["cp", "-P", str(shared), str(target / "lib")], check=True)


def _copy_program(name: str, target: Path) -> None:
    """A program of this machine with its libraries, since a build here cannot install packages."""
    program = shutil.which(name)
    if program is None:
        raise NoBaseImage(f"there is no {name} on this machine: apt-get install binutils")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    subprocess.run(["cp", "-L", program, str(target / "bin" / name)], check=True)
    for library in libraries:
        if not Path(library).name.startswith(("libc.", "ld-")):
            subprocess.run(["cp", "-L", library, str(target / "lib")], check=True)
