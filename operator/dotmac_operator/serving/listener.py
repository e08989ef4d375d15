"""HTTP in a thread with an event loop of its own: it answers also when the operator's main loop does not."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from aiohttp import web

from dotmac_operator.serving.address import Address

log = logging.getLogger(__name__)

START_SECONDS = 10.0
STOP_SECONDS = 5.0


class AddressTaken(RuntimeError):
    """Nothing can listen at an address."""


class Listener:
    """One application at one address."""

    def __init__(self, what: str, setting: str, address: Address, make: Callable[[], web.Application]) -> None:
        """`setting` is named in the error when the address cannot be had."""
        self._what = what
        self._setting = setting
        self._wanted = address
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started: Future[Address] = Future()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self.address = address
        """Where it really listens, once started."""

    def start(self) -> None:
        """Returns when it listens.

        Raises:
            AddressTaken: the address is in use or not of this machine.
        """
        self._thread.start()
        self.address = self._started.result(START_SECONDS)
        log.info("%s at http://%s", self._what, self.address)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        # A handler whose client has left is cancelled: a followed log must not be read for nobody.
        runner = web.AppRunner(self._make(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        try:
            await runner.setup()
            site = web.TCPSite(runner, self._wanted.host or None, self._wanted.port)
            await site.start()
        except OSError as error:
            await runner.cleanup()
            message = f"cannot listen at {self._wanted} ({error.strerror or error}): set {self._setting} to another"
            self._started.set_exception(AddressTaken(message))
            return
        except Exception as error:
            self._started.set_exception(error)
            return
        bound = runner.addresses[0]
        self._started.set_result(Address(str(bound[0]), int(bound[1])))
        await self._stop.wait()
        await runner.cleanup()
