"""The scripts of Backups and Restores, run by this machine's own shell and tar on real directories."""

import hashlib
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from tests.kits.tenant import CANARIES, desired_of

from dotmac_crds.backup import BackupFile
from dotmac_operator.core import archive
from dotmac_operator.core.archive import Job
from dotmac_operator.core.container import ContainerSpec

JOB = Job("Restore", "tenants", "back", "uid-back", "dotmac-acme-backups", "monday-uid")
NEW, OLD = ".dotmac-restore-x.new", ".dotmac-restore-x.old"
BETWEEN = {"RESTORE_VOLUMES": "files", "RESTORE_NEW": NEW, "RESTORE_OLD": OLD}
TOLD = re.compile(r"^dotmac-file sha256=([0-9a-f]{64}) size=([0-9]+) name=(\S+)$", re.MULTILINE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    fill(tmp_path / "volumes" / "files")
    return tmp_path


def fill(volume: Path, content: str = "old") -> None:
    """Names that a shell, or tar, could stumble over; rights; links; what a dot hides."""
    for name in ("a", "-rf", "in voices/* 2026", ".hidden", "..odd", ".dir/x", "ünïcode"):
        path = volume / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content} {name}")
        path.chmod(0o640)
    (volume / "link").symlink_to("nowhere")


def listed(directory: Path) -> dict[str, str]:
    """Every path below with what it is, its rights and what is in it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "directory"
        found[str(path.relative_to(directory))] = f"{mode:o} {content}"
    return found


def run(command: tuple[str, ...], root: Path, path: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The command with the container's directories at `root`."""
    script = command[2].replace("/dotmac", str(root))
    variables = {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"], **env}
    return subprocess.run(["sh", "-c", script], env=variables, capture_output=True, text=True, check=False, timeout=60)


def archived(root: Path) -> str:
    """Archives the volume; RESTORE_SUMS of it."""
    done = run(archive.ARCHIVE_COMMAND, root, BACKUP_PATH="monday-uid", BACKUP_VOLUMES="files")
    assert done.returncode == 0, done.stderr
    ((sum_, size, name),) = TOLD.findall(done.stdout)
    made = root / "backups" / "monday-uid" / name
    assert hashlib.sha256(made.read_bytes()).hexdigest() == sum_
    assert made.stat().st_size == int(size)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    return f"{sum_}  monday-uid/{name}"


def prepared(root: Path, sums: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return run(archive.PREPARE_COMMAND, root, path, BACKUP_PATH="monday-uid", RESTORE_SUMS=sums, **BETWEEN)


def test_there_and_back(root: Path) -> None:
    volume = root / "volumes" / "files"
    before = listed(volume)
    sums = archived(root)
    (volume / "a").write_text("changed")
    (volume / "virus").write_text("new")
    changed = listed(volume)
    done = prepared(root, sums)
    assert done.returncode == 0, done.stderr
    assert {name: held for name, held in listed(volume).items() if not name.startswith(NEW)} == changed
    done = run(archive.EXCHANGE_COMMAND, root, **BETWEEN)
    assert done.returncode == 0, done.stderr
    assert listed(volume) == before


def shim(root: Path, program: str, number: int) -> str:
    """A directory for PATH whose `program` kills the script at its call of this number: before, or half-way."""
    directory = root / "bin"
    directory.mkdir(exist_ok=True)
    made = directory / program
    real = subprocess.run(["which", program], capture_output=True, text=True, check=True).stdout.strip()
    made.write_text(
        f"#!/bin/sh\necho >> {root}/calls\n"
        f'[ "$(wc -l < {root}/calls)" -lt {number} ] || kill -9 $PPID\nexec {real} "$@"\n'
    )
    made.chmod(0o755)
    return str(directory)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["mv", "mkdir", "rmdir", "rm", "sync"])
def test_an_exchange_that_is_killed_at_any_call_goes_on(root: Path, program: str) -> None:
    volume = root / "volumes" / "files"
    before = listed(volume)
    sums = archived(root)
    for number in range(1, 40):
        for path in (volume / "a", volume / "virus"):
            path.write_text("new")
        assert prepared(root, sums).returncode == 0
        (root / "calls").write_text("")
        killed = run(archive.EXCHANGE_COMMAND, root, shim(root, program, number), **BETWEEN)
        again = run(archive.EXCHANGE_COMMAND, root, **BETWEEN)
        assert again.returncode == 0, again.stderr
        assert listed(volume) == before, (program, number)
        if killed.returncode == 0:
            break
    assert number > 1 and killed.returncode == 0, "the last round came to its end"


@pytest.mark.slow
def test_no_file_is_ever_without_a_place(root: Path) -> None:
    """At each moment of an exchange, old and new are both there in full, somewhere in the volume."""
    volume = root / "volumes" / "files"
    sums = archived(root)
    (volume / "a").write_text("changed")
    old = {held for name, held in listed(volume).items() if not held.endswith("directory")}
    for number in range(1, 40):
        assert prepared(root, sums).returncode == 0
        (root / "calls").write_text("")
        killed = run(archive.EXCHANGE_COMMAND, root, shim(root, "mv", number), **BETWEEN)
        if killed.returncode == 0:
            break
        assert old <= set(listed(volume).values()), number
        assert run(archive.EXCHANGE_COMMAND, root, **BETWEEN).returncode == 0
        (volume / "a").write_text("changed")
    assert number > 10


def test_a_wrong_checksum_is_named_and_nothing_is_touched(root: Path) -> None:
    sums = archived(root)
    (root / "backups" / "monday-uid" / "files.tar.gz").write_bytes(b"something else")
    before = listed(root / "volumes")
    done = prepared(root, sums)
    assert done.returncode == 65
    assert "files.tar.gz: FAILED" in done.stderr
    assert listed(root / "volumes") == before
    assert prepared(root, sums.replace("files", "absent")).returncode == 65


def test_what_cannot_be_unpacked_leaves_nothing_behind(root: Path) -> None:
    sums = archived(root)
    before = listed(root / "volumes")
    directory = root / "bin"
    directory.mkdir()
    (directory / "tar").write_text('#!/bin/sh\necho "tar: No space left on device" >&2\nexit 2\n')
    (directory / "tar").chmod(0o755)
    done = prepared(root, sums, str(directory))
    assert done.returncode == 2
    assert archive.NO_SPACE in done.stderr
    assert listed(root / "volumes") == before


@pytest.mark.parametrize("code", [1, 2])
def test_an_archive_that_fails_leaves_nothing_behind(root: Path, code: int) -> None:
    directory = root / "bin"
    directory.mkdir()
    (directory / "tar").write_text(f'#!/bin/sh\n[ "$1" = -czf ] || exit 0\nprintf half > "$2"\nexit {code}\n')
    (directory / "tar").chmod(0o755)
    done = run(archive.ARCHIVE_COMMAND, root, str(directory), BACKUP_PATH="x", BACKUP_VOLUMES="files")
    assert done.returncode == code
    assert TOLD.findall(done.stdout) == []
    assert listed(root / "backups" / "x") == {}


def test_a_file_that_changes_while_it_is_read_is_no_failure(root: Path) -> None:
    """GNU tar says so with 1, of an application that writes meanwhile."""
    directory = root / "bin"
    directory.mkdir()
    (directory / "tar").write_text('#!/bin/sh\n/usr/bin/env -i /bin/tar "$@"\n[ "$1" != -czf ] || exit 1\n')
    (directory / "tar").chmod(0o755)
    done = run(archive.ARCHIVE_COMMAND, root, str(directory), BACKUP_PATH="x", BACKUP_VOLUMES="files")
    assert done.returncode == 0, done.stderr


def test_what_an_unfinished_restore_left_is_not_copied(root: Path) -> None:
    fill(root / "volumes" / "files" / NEW, "half")
    before = {name: held for name, held in listed(root / "volumes" / "files").items() if not name.startswith(NEW)}
    sums = archived(root)
    assert run(archive.TIDY_COMMAND, root, **BETWEEN).returncode == 0
    assert prepared(root, sums).returncode == 0
    assert run(archive.EXCHANGE_COMMAND, root, **BETWEEN).returncode == 0
    assert listed(root / "volumes" / "files") == before


def test_its_own_directory_is_erased_and_no_other(root: Path) -> None:
    archived(root)
    (root / "backups" / "step3.dump").write_text("x")
    assert run(archive.ERASE_COMMAND, root, BACKUP_PATH="monday-uid").returncode == 0
    assert listed(root / "backups") == {"step3.dump": "644 x"}


# -- the containers


def every() -> list[ContainerSpec]:
    server = desired_of().database
    dump = BackupFile(name="monday-uid/database.dump", sha256="a" * 64, size=1, kind="Database")
    file = BackupFile(name="monday-uid/files.tar.gz", sha256="b" * 64, size=1, kind="Volume", volume="files")
    files = (dump, file)
    return [
        archive.dump(JOB, server),
        archive.archive(JOB, server, ("files",)),
        archive.erase(JOB, "example/caddy:2"),
        archive.prepare(JOB, server, files),
        archive.database_back(JOB, server, dump),
        archive.exchange(JOB, server, files),
        archive.tidy(JOB, server, files),
    ]


def test_each_is_capped_labelled_and_another_one() -> None:
    made = every()
    assert len({spec.name for spec in made}) == len(made)
    for spec in made:
        body = spec.body()
        host = body["HostConfig"]
        assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
        assert host["Memory"] > 0 and host["NanoCpus"] > 0 and host["PidsLimit"] > 0
        assert host["RestartPolicy"] == {"Name": "no"}
        assert body["Labels"]["platform.dotmac.io/job"] == "Restore/back"
        assert "platform.dotmac.io/instance-uid" not in body["Labels"], "no step of an Instance may look at it"
        assert body["Healthcheck"] == {"Test": ["NONE"]}


def test_only_those_of_the_database_have_its_password_and_a_network() -> None:
    for spec in every():
        body = spec.body()
        knows = CANARIES["database-password"] in repr(body["Env"])
        assert knows == (spec.network != "none"), spec.name
        assert CANARIES["database-password"] not in repr({**body, "Env": None})
        assert bool(body["NetworkingConfig"]["EndpointsConfig"]) == knows


def test_what_is_only_read_cannot_be_written() -> None:
    by_target = {
        (number, mount["Target"]): mount.get("ReadOnly", False)
        for number, spec in enumerate(every())
        for mount in spec.body()["HostConfig"]["Mounts"]
    }
    assert by_target[(1, "/dotmac/volumes/files")] is True
    assert by_target[(1, "/dotmac/backups")] is False
    assert by_target[(3, "/dotmac/backups")] is True
    assert by_target[(3, "/dotmac/volumes/files")] is False
