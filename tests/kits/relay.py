"""A TCP relay whose connections can fall silent: nothing is refused and nothing is closed, nothing arrives either."""

import select
import socket
import threading
from contextlib import suppress


class Relay:
    """Listens on a free loopback port, or by `listener`, and forwards to another until `close`."""

    def __init__(self, port: int, listener: socket.socket | None = None) -> None:
        self._target = port
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self._all_silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self, *, new: bool = False) -> int:
        """Every connection of now carries nothing any more, in neither direction; with `new` those to come too.

        Returns how many connections of now there are.
        """
        with self._lock:
            self._all_silent = new
            self._silent = {end for pair in self._pairs for end in pair}
            return len(self._pairs)

    def mend(self) -> None:
        """New connections are as they should be; the silent ones stay so, and what was sent on them is lost."""
        with self._lock:
            self._all_silent = False

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._pairs.append((near, far))
                if self._all_silent:
                    self._silent |= {near, far}
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while True:
                readable, _, _ = select.select([near, far], [], [], 0.2)
                if near in self._silent:
                    threading.Event().wait(0.2)
                    continue
                for end in readable:
                    data = end.recv(65536)
                    if near in self._silent:
                        break
                    if not data:
                        return
                    (far if end is near else near).sendall(data)
        near.close()
        far.close()
        with self._lock:
            self._pairs = [pair for pair in self._pairs if pair[0] is not near]
