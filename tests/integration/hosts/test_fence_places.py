"""Where a host keeps the leader's number: for root, for users with and without a home, on full and read-only disks.

Each case has a mount namespace of its own, so that this machine's /var/lib is left alone. Needs root.
"""

import shlex
import shutil
import subprocess

import pytest

from dotmac_operator.hosts.fence import FenceToken, fenced

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv (util-linux)"),
]

DOMAIN = "erp.dotmac-operator.1"
NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"
FRESH = (
    "mount -t tmpfs -o mode=755 t /var/lib; mount -t tmpfs -o mode=1777 t /var/tmp; mount -t tmpfs -o mode=1777 t /tmp"
)
SHARED = "install -d -m 2770 -g 65534 /var/lib/dotmac-fence"
FULL = "head -c 1000000 /dev/zero >/tmp/full/fill 2>/dev/null; true"


def attempt(number: int, who: str = "", **env: str) -> str:
    """A line of shell: the fence with this number, as this user, with nothing but this environment."""
    words = shlex.join(fenced(["echo", f"ran {number}"], FenceToken(number, DOMAIN)))
    given = " ".join(f"{name}={value}" for name, value in env.items())
    return f"env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin {given} {who} {words}"


def run(*lines: str) -> tuple[list[str], list[str]]:
    """Output and errors of lines of shell in a fresh mount namespace."""
    script = "\n".join((FRESH, *lines))
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize(
    ("setup", "who", "home", "kept"),
    [
        pytest.param("", "", "/root", "/var/lib/dotmac-fence", id="root"),
        pytest.param("mkdir -m 777 /tmp/home", NOBODY, "/tmp/home", "/tmp/home/.dotmac-fence", id="a user"),
        pytest.param("", NOBODY, "/", "/var/tmp/dotmac-fence-65534", id="a user without a home"),
        pytest.param(
            SHARED,
            NOBODY,
            "/",
            "/var/lib/dotmac-fence",
            id="a shared place",
        ),
        pytest.param("mount -o remount,ro /var/lib", "", "/tmp/home", "/var/tmp/dotmac-fence-0", id="read-only"),
    ],
)
def test_the_number_is_kept(setup: str, who: str, home: str, kept: str) -> None:
    tries = (attempt(number, who, HOME=home) for number in (5, 6, 5))
    out, err = run(setup, *tries, f"cat {kept}/record")
    assert out == ["ran 5", "ran 6", f"6 {DOMAIN} held"]
    assert err == ["dotmac-fence: refused 6"]


@pytest.mark.parametrize("trap", ["mkdir -m 777 {}", "mkdir -m 777 /tmp/x; chown 65534 /tmp/x; ln -s /tmp/x {}"])
def test_a_place_that_somebody_else_prepared_is_not_used(trap: str) -> None:
    out, err = run(trap.format("/var/tmp/dotmac-fence-65534"), attempt(5, NOBODY, HOME="/"), "ls -A /tmp/x 2>/dev/null")
    assert (out, err) == ([], ["dotmac-fence: unavailable no directory to write to"])


def test_two_users_of_a_shared_place_know_the_same_number() -> None:
    out, err = run(
        SHARED,
        attempt(5, HOME="/root"),
        attempt(6, NOBODY, HOME="/"),
        attempt(5, HOME="/root"),
        attempt(7, HOME="/root"),
        attempt(6, NOBODY, HOME="/"),
    )
    assert out == ["ran 5", "ran 6", "ran 7"]
    assert err == ["dotmac-fence: refused 6", "dotmac-fence: refused 7"]


def test_a_full_disk_lets_no_first_leader_in_and_leaves_nothing_damaged() -> None:
    full = "/tmp/full/fence"
    out, err = run(
        "mkdir /tmp/full; mount -t tmpfs -o size=4k t /tmp/full",
        FULL,
        attempt(5, DOTMAC_FENCE_DIR=full),
        "rm /tmp/full/fill",
        attempt(5, DOTMAC_FENCE_DIR=full),
    )
    assert (out, err) == (["ran 5"], [f"dotmac-fence: unavailable {full} cannot be written to"])


def test_a_full_disk_does_not_keep_the_next_leader_out() -> None:
    full = "/tmp/full/fence"
    out, err = run(
        "mkdir /tmp/full; mount -t tmpfs -o size=64k t /tmp/full",
        attempt(5, DOTMAC_FENCE_DIR=full),
        FULL,
        attempt(6, DOTMAC_FENCE_DIR=full),
        attempt(5, DOTMAC_FENCE_DIR=full),
    )
    assert (out, err) == (["ran 5", "ran 6"], ["dotmac-fence: refused 6"])
