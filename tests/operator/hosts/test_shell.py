"""Quoting is proved by a real shell, not by comparing strings."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dotmac_operator.core.facts import DiskFact
from dotmac_operator.hosts.shell import CommandInvalid, command_line, parse_df

PRINT_ARGV = [sys.executable, "-c", "import sys; sys.stdout.write('\\0'.join(sys.argv[1:]))"]

HOSTILE = [
    "$(touch /tmp/owned)",
    "`id`",
    "a;b|c&d>e<f",
    'it\'s "quoted"',
    "two\nlines\r\n",
    "-rf",
    "--",
    "",
    " ",
    "*?[a]",
    "~root",
    "!history",
    "naïve ünïcode 漢字 \u202e",
    "\\",
    "%s%n",
    "#",
]


def echoed(words: list[str]) -> list[str]:
    shell = subprocess.run(["/bin/sh", "-c", command_line([*PRINT_ARGV, *words])], capture_output=True, check=True)
    return shell.stdout.decode().split("\0")


def test_every_hostile_word_arrives_as_it_was_given():
    assert echoed(HOSTILE) == HOSTILE


@settings(max_examples=15)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_word_arrives_as_it_was_given(words):
    assert echoed(words) == words


def test_output_is_made_in_the_c_locale():
    shell = subprocess.run(["/bin/sh", "-c", command_line(["printenv", "LC_ALL"])], capture_output=True, check=True)
    assert shell.stdout == b"C\n"


def test_sudo_never_asks_for_a_password():
    assert command_line(["docker", "ps"], sudo=True) == "env LC_ALL=C sudo -n -- docker ps"


@pytest.mark.parametrize("argv", [[], [""], ["-c", "id"], ["PATH=/tmp", "id"], ["echo", "a\0b"]])
def test_what_is_not_a_program_and_its_arguments_is_refused(argv):
    with pytest.raises(CommandInvalid):
        command_line(argv)


def test_df_is_read_from_the_right_because_devices_have_any_name():
    said = (
        b"Filesystem     1024-blocks     Used Available Capacity Mounted on\n"
        b"//nas/a 1 2 3      264212084 1000 77111253      73% /var/lib/docker data\n"
    )
    assert parse_df(said) == DiskFact(total=264212084 * 1024, free=77111253 * 1024)


@pytest.mark.parametrize("said", [b"", b"df: /nope: No such file or directory\n", b"\xff\xfe\n\n"])
def test_what_is_not_df_is_none(said):
    assert parse_df(said) is None
