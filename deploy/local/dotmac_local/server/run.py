"""Run the server in the foreground of this process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop

from dotmac_local.kubeconfig import write_kubeconfig
from dotmac_local.server import tls
from dotmac_local.server.app import Application
from dotmac_local.storage import HistoryLimits

log = logging.getLogger("dotmac_local")

NOTICE = "For laptops and CI only, never for production: there, use any Kubernetes (k3s on one machine)."


@dataclass(frozen=True)
class Listen:
    """Where to listen; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0


class _Server(uvicorn.Server):
    """Ends the watches first, or shutting down would wait for them."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    def handle_exit(self, sig: int, frame: object) -> None:
        self._application.end_watches()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(directory: Path, listen: Listen, limits: HistoryLimits | None = None) -> None:
    """Serve until SIGTERM or SIGINT; writes `directory/kubeconfig` when it answers."""
    identity = tls.load_or_create(directory / "tls", listen.host)
    bound = _bind(listen)
    port = bound.getsockname()[1]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(directory, identity, bound, listen.host, port, limits))


def _bind(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((listen.host, listen.port))
    return bound


async def _serve(
    directory: Path, identity: tls.Identity, bound: socket.socket, host: str, port: int, limits: HistoryLimits | None
) -> None:
    application = Application(directory, identity.credentials, limits)
    await application.start()
    config = uvicorn.Config(
        application,
        ssl_certfile=str(identity.certificate),
        ssl_keyfile=str(identity.key),
        lifespan="off",
        access_log=False,
        log_level="warning",
        http="httptools",
        timeout_keep_alive=120,
        timeout_graceful_shutdown=1,
        server_header=False,
        date_header=False,
        ws="none",
    )
    server = _Server(config, application)
    url = write_kubeconfig(directory, identity, host, port)
    log.warning(NOTICE)
    if host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("listening on %s: everyone who reaches this machine reaches the API server", host)
    log.warning("serving on %s, state in %s, pid=%d", url, directory, os.getpid())
    try:
        await server.serve(sockets=[bound])
    finally:
        await application.close()
