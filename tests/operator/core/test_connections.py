"""The kernel's table of connections, as it is and as it must not be trusted to be."""

import pytest

from dotmac_operator.core import connections
from dotmac_operator.core.connections import OpenRequests

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
UP = "   1: 0201D20A:C350 0501D20A:1F40 {} 00000000:00000000 00:00000000 00000000   999        0 5 1\n"
CLIENT = (
    "   2: 0000000000000000FFFF00000201D20A:0050 0000000000000000FFFF00000100D20A:D431 01 "
    "00000000:00000000 00:00000000 00000000   999        0 6 1 0000000000000000 20 4 30 10 -1\n"
)
LISTENS = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 4 1\n"


def test_requests_to_one_container_and_clients_are_counted() -> None:
    text = HEAD + LISTENS + UP.format("01") + UP.format("01") + HEAD + CLIENT
    assert connections.open_requests(text, "10.210.1.5", 8000) == OpenRequests(2, 1)
    assert connections.open_requests(text, "10.210.1.5", 8001) == OpenRequests(0, 1)
    assert connections.open_requests(text, "10.210.1.6", 8000) == OpenRequests(0, 1)


def test_a_connection_that_ends_is_open_no_more() -> None:
    assert connections.open_requests(HEAD + UP.format("06") + UP.format("08"), "10.210.1.5", 8000) == OpenRequests(0, 0)


@pytest.mark.parametrize(
    "text", ["", "\n", 'exec failed: exec: "cat": executable file not found in $PATH', UP.format("01")]
)
def test_what_is_no_table_tells_nothing(text: str) -> None:
    """An engine that finds no program says so where the program would have printed."""
    assert connections.clients(text) is None
    assert connections.open_requests(text, "10.210.1.5", 8000) == OpenRequests(None)


@pytest.mark.parametrize("line", ["cat: /proc/net/tcp6: No such file", "x", "1: zz:zz 00:00 01", "1: 1:1 ÿ:1 01"])
def test_other_lines_are_left_out(line: str) -> None:
    assert connections.open_requests(f"{HEAD}{line}\n{UP.format('01')}", "10.210.1.5", 8000) == OpenRequests(1, 0)
