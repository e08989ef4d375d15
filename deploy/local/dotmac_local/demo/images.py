"""Build the images of deploy/images and keep them as archives that `docker load` takes.

An archive is named by the content of everything it is made of, so a warm run builds nothing, and a changed Dockerfile
builds that image and those on top of it. Archives are looked for in .local/images and in $XDG_CACHE_HOME/dotmac/images
(which several clones may share) and written to the first; to the second too when that directory exists.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotmac_local.demo.dockerd import Dockerd, DockerdSettings
from dotmac_local.demo.processes import CommandFailed, run

ROOT = Path(__file__).resolve().parents[4]
SOURCES = ROOT / "deploy" / "images"
CACHE = ROOT / ".local" / "images"
SUITE = "bookworm"
PUBLIC_BASE = "debian:bookworm-slim"

Say = Callable[[str], None]


def own_mirror() -> list[str]:
    """The mirror of Debian's archive that somebody has named in DOTMAC_DEBIAN_MIRROR, if any."""
    named = os.environ.get("DOTMAC_DEBIAN_MIRROR")
    return [named] if named else []


class ImageBuildFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """An image could not be built; the message names it, shows the end of the output, and says what to do."""


@dataclass(frozen=True)
class Image:
    """One tag: a directory of deploy/images (or a Dockerfile there) on top of another tag."""

    tag: str
    context: str
    parent: str
    arguments: tuple[str, ...] = ()
    dockerfile: str = "Dockerfile"


@dataclass(frozen=True)
class Archive:
    """Tags that are saved together, since they share nearly every layer."""

    name: str
    tags: tuple[str, ...]


BASE = "dotmac/base:bookworm"
DEBIAN = "dotmac/debian:bookworm"
IMAGES = (
    Image(BASE, "base", DEBIAN),
    Image("dotmac/postgresql:15", "postgresql", BASE),
    Image("dotmac/redis:7", "redis", BASE),
    Image("dotmac/caddy:2.6", "caddy", BASE),
    Image("dotmac/tryton:6.0", "tryton", BASE),
    Image("dotmac/tryton:6.0.1", ".", "dotmac/tryton:6.0", ("VERSION=6.0.1",), "version.Dockerfile"),
    Image("dotmac/sample-web:1", "sample-web", BASE),
    Image("dotmac/sample-web:2", ".", "dotmac/sample-web:1", ("VERSION=2",), "version.Dockerfile"),
    Image("dotmac/sample-web:3-bad", ".", "dotmac/sample-web:1", ("VERSION=3-bad",), "version.Dockerfile"),
)
ARCHIVES = (
    Archive("postgresql", ("dotmac/postgresql:15",)),
    Archive("redis", ("dotmac/redis:7",)),
    Archive("caddy", ("dotmac/caddy:2.6",)),
    Archive("tryton", ("dotmac/tryton:6.0", "dotmac/tryton:6.0.1")),
    Archive("sample-web", ("dotmac/sample-web:1", "dotmac/sample-web:2", "dotmac/sample-web:3-bad")),
)
TAGS = tuple(tag for archive in ARCHIVES for tag in archive.tags)


def image_of(tag: str) -> Image:
    """The image with this tag; KeyError names the tags there are."""
    for image in IMAGES:
        if image.tag == tag:
            return image
    raise KeyError(f"{tag} is none of {', '.join(TAGS)}")


def fingerprint(tag: str) -> str:
    """SHA-256 (hex) of everything the image is made of: its files, their modes, its arguments, and its parent's."""
    if tag == DEBIAN:
        return hashlib.sha256(f"{SUITE} {PUBLIC_BASE}".encode()).hexdigest()
    image = image_of(tag)
    digest = hashlib.sha256(repr((image.arguments, fingerprint(image.parent))).encode())
    folder = SOURCES / image.context
    files = [folder / image.dockerfile] if image.context == "." else sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        digest.update(repr((file.name, os.access(file, os.X_OK))).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def shared_cache() -> Path:
    """The cache that several clones share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dotmac" / "images"


def archive_name(archive: Archive) -> str:
    """File name of an archive of the present sources."""
    content = "".join(fingerprint(tag) for tag in archive.tags)
    return f"{archive.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.tar"


def find_archive(archive: Archive) -> Path | None:
    """Where the archive lies, or None when it must be built."""
    for folder in (CACHE, shared_cache()):
        path = folder / archive_name(archive)
        if path.is_file():
            return path
    return None


def archives_of(tags: Sequence[str]) -> list[Path]:
    """The archives that hold these tags; FileNotFoundError names the command that makes a missing one."""
    for tag in tags:
        image_of(tag)
    found = []
    for archive in ARCHIVES:
        if set(archive.tags) & set(tags):
            path = find_archive(archive)
            if path is None:
                raise FileNotFoundError(f"{archive.name} is not built: run deploy/images/build as root first")
            found.append(path)
    return found


class Builder:
    """Builds with a dockerd of its own, which touches neither a running Docker nor the machine's firewall."""

    def __init__(self, say: Say) -> None:
        self._say = say
        identity = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
        self.dockerd = Dockerd(
            DockerdSettings(
                data=ROOT / ".local" / "build" / "docker",
                runtime=Path("/run/dotmac-build") / identity,
                log=ROOT / ".local" / "log" / "build-dockerd.log",
                group="root",
                options=("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            )
        )

    def docker(self, *arguments: str, timeout: float = 900) -> str:
        """Run the docker client against the builder's Engine, with the classic builder (no plug-in needed)."""
        argv = ["env", "DOCKER_BUILDKIT=0", "docker", "--host", f"unix://{self.dockerd.socket}", *arguments]
        return run(argv, timeout=timeout)

    def build(self, archives: Sequence[Archive]) -> None:
        """Build and save these archives, one after another."""
        self.dockerd.remove()
        CACHE.mkdir(parents=True, exist_ok=True)
        for draft in CACHE.glob("*.part"):
            draft.unlink()
        self.dockerd.start()
        try:
            self._import_debian()
            built: set[str] = {DEBIAN}
            for archive in archives:
                for tag in archive.tags:
                    self._build_image(tag, built)
                self._save(archive)
        finally:
            self.dockerd.remove()

    def _import_debian(self) -> None:
        """The lowest layer: pulled where a registry can be reached, else made by debootstrap and kept."""
        kept = [path for folder in (CACHE, shared_cache()) if (path := folder / f"debian-{SUITE}.tar").is_file()]
        if not kept:
            try:
                self.docker("pull", "--quiet", PUBLIC_BASE, timeout=60)
                self.docker("tag", PUBLIC_BASE, DEBIAN)
                self._say(f"pulled {PUBLIC_BASE}")
                return
            except CommandFailed:
                self._say(f"{PUBLIC_BASE} cannot be pulled from here; making a Debian {SUITE} with debootstrap (~30 s)")
            kept = [self._debootstrap()]
        self.docker("import", str(kept[0]), DEBIAN)

    def _debootstrap(self) -> Path:
        root, path = ROOT / ".local" / "build" / "debian", CACHE / f"debian-{SUITE}.tar"
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Without a mirror in the arguments debootstrap takes Debian's own.
            run(["debootstrap", "--variant=minbase", SUITE, str(root), *own_mirror()], timeout=600)
        except CommandFailed as failed:
            raise ImageBuildFailed(
                f"debootstrap could not make the base image: {failed}. Check that Debian's archive can be reached from "
                "here, or name a mirror of it in DOTMAC_DEBIAN_MIRROR"
            ) from failed
        listed = root / "etc/apt/sources.list"
        mirror = listed.read_text().split()[1].rstrip("/")
        suites = ((mirror, SUITE), (mirror, f"{SUITE}-updates"), (f"{mirror}-security", f"{SUITE}-security"))
        listed.write_text("".join(f"deb {url} {suite} main\n" for url, suite in suites))
        # As the official images do: no package cache, no start of services, and syncing is wasted on a layer.
        (root / "etc/apt/apt.conf.d/docker").write_text(
            'APT::Keep-Downloaded-Packages "false";\nAcquire::Languages "none";\nAcquire::GzipIndexes "true";\n'
            'DPkg::Post-Invoke {"rm -f /var/cache/apt/archives/*.deb || true";};\n'
        )
        (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(
            "".join(f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "man", "locale")) + "force-unsafe-io\n"
        )
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        unwanted = [
            "var/cache/apt",
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "var/log",
        ]
        exclude = [f"--exclude=./{name}/*" for name in unwanted]
        draft = path.with_suffix(".part")
        run(["tar", "--numeric-owner", *exclude, "-C", str(root), "-cf", str(draft), "."])
        draft.rename(path)
        shutil.rmtree(root, ignore_errors=True)
        self._share(path)
        return path

    def _build_image(self, tag: str, built: set[str]) -> None:
        if tag in built:
            return
        image = image_of(tag)
        self._build_image(image.parent, built)
        began = time.monotonic()
        self._say(f"building {tag} ...")
        folder = SOURCES / image.context
        arguments = [word for value in (f"BASE={image.parent}", *image.arguments) for word in ("--build-arg", value)]
        command = ["build", "--network=host", "--tag", tag, *arguments, "--file", str(folder / image.dockerfile)]
        try:
            self.docker(*command, str(folder))
        except CommandFailed as failed:
            raise ImageBuildFailed(
                f"{tag} could not be built: {failed}. Packages come from Debian's archive; check that it can be"
                " reached, and run the command again: what is built already is kept"
            ) from failed
        built.add(tag)
        self._say(f"built {tag} in {time.monotonic() - began:.0f} s")

    def _save(self, archive: Archive) -> None:
        path = CACHE / archive_name(archive)
        draft = path.with_suffix(".part")
        self.docker("save", "--output", str(draft), *archive.tags)
        draft.chmod(0o644)
        draft.rename(path)
        for stale in CACHE.glob(f"{archive.name}-????????????????.tar"):
            if stale != path:
                stale.unlink()
        self._share(path)

    def _share(self, path: Path) -> None:
        folder = shared_cache()
        if folder.is_dir():
            draft = folder / f"{path.name}.{os.getpid()}.part"
            shutil.copyfile(path, draft)
            draft.rename(folder / path.name)


def ensure_built(say: Say, names: Sequence[str] = ()) -> None:
    """Build the archives (all, or those named) that are not there yet; needs root when there is something to build."""
    wanted = [archive for archive in ARCHIVES if not names or archive.name in names]
    missing = [archive for archive in wanted if find_archive(archive) is None]
    if not missing:
        say("images are built already")
        return
    if os.geteuid() != 0:
        raise ImageBuildFailed("building images needs root (a private dockerd, debootstrap); run it with sudo")
    say(f"building {', '.join(archive.name for archive in missing)} from deploy/images")
    Builder(say).build(missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: build what is missing; exit 1 with the reason when that fails."""
    parser = argparse.ArgumentParser(prog="deploy/images/build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="archives to build; all when absent")
    parser.add_argument("--check", action="store_true", help="build nothing; exit 1 when something is missing")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {line}\n")
        sys.stderr.flush()

    unknown = set(chosen.names) - {archive.name for archive in ARCHIVES}
    if unknown:
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(a.name for a in ARCHIVES)}")
    if chosen.check:
        wanted = [archive for archive in ARCHIVES if not chosen.names or archive.name in chosen.names]
        return int(any(find_archive(archive) is None for archive in wanted))
    try:
        ensure_built(say, chosen.names)
    except (ImageBuildFailed, CommandFailed, subprocess.SubprocessError) as failed:
        say(f"failed: {failed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
