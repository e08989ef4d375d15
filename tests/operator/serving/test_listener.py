"""A listener has a thread and a loop of its own, gives its address back, and says when it cannot have one."""

import asyncio
import logging
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest
from aiohttp import web

from dotmac_operator.serving import serving
from dotmac_operator.serving.address import Address, address_of
from dotmac_operator.serving.diagnostics import Diagnostics
from dotmac_operator.serving.listener import AddressTaken, Listener
from dotmac_operator.settings import Settings


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), (":0", "", 0), ("[::1]:9", "::1", 9), ("a.b:1", "a.b", 1)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert address_of(text) == Address(host, port)
    assert address_of(str(address_of(text))) == Address(host, port)


@pytest.mark.parametrize("text", ["", "80", "a:b", "::1:80", "a:65536", "a:-1", "a:٣"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        address_of(text)


def slow(cancelled: threading.Event) -> web.Application:
    async def wait(_: web.Request) -> web.Response:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async def quick(_: web.Request) -> web.Response:
        return web.Response(text=threading.current_thread().name)

    made = web.Application()
    made.router.add_get("/wait", wait)
    made.router.add_get("/", quick)
    return made


def test_it_answers_from_its_own_thread_and_notices_who_leaves() -> None:
    cancelled = threading.Event()
    listener = Listener("test", "X", Address("127.0.0.1", 0), lambda: slow(cancelled))
    listener.start()
    try:
        base = f"http://{listener.address}"
        assert httpx.get(base).text == "test"
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{base}/wait", timeout=0.2)
        assert cancelled.wait(3)
    finally:
        listener.stop()
    with socket.create_server(("127.0.0.1", listener.address.port)):
        pass  # the address is free again


def test_it_ends_soon_although_somebody_waits() -> None:
    listener = Listener("test", "X", Address("127.0.0.1", 0), lambda: slow(threading.Event()))
    listener.start()
    url = f"http://{listener.address}/wait"
    threading.Thread(target=lambda: pytest.raises(httpx.HTTPError, httpx.get, url, timeout=20), daemon=True).start()
    time.sleep(0.2)
    began = time.monotonic()
    listener.stop()
    assert time.monotonic() - began < 4


def test_an_address_that_is_taken_is_an_error_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(AddressTaken, match="set DOTMAC_OPERATOR_X_ADDRESS to another"):
            Listener("test", "DOTMAC_OPERATOR_X_ADDRESS", address, web.Application).start()


def test_a_usual_address_that_is_taken_is_left_to_whoever_has_it(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as running:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with caplog.at_level(logging.WARNING):
            listener = Listener("test", "X", address, web.Application)
            assert not serving.listened(listener, running, asked_for=False)
        assert "no metrics and no health: cannot listen" in caplog.text
        with pytest.raises(AddressTaken):
            serving.listened(Listener("test", "X", address, web.Application), running, asked_for=True)


def test_without_a_token_there_is_no_endpoint() -> None:
    with ExitStack() as running:
        assert serving.start_diagnostics(Settings(), Diagnostics(*[None] * 4), running) is None  # type: ignore[arg-type]
