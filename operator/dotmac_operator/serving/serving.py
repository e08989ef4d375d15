"""What listens, put together from the settings."""

import asyncio
import logging
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass

from kubernetes import client

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.store import Store
from dotmac_operator.serving.address import address_of
from dotmac_operator.serving.diagnostics import Diagnostics
from dotmac_operator.serving.endpoint import Endpoint
from dotmac_operator.serving.health import (
    BUSY_SECONDS,
    STUCK_SECONDS,
    Health,
    check_loop,
    check_streams,
    check_workers,
    loop_canary,
    pool_canary,
)
from dotmac_operator.serving.kubeapi import KubeVersions
from dotmac_operator.serving.listener import AddressTaken, Listener
from dotmac_operator.serving.metrics import Metrics
from dotmac_operator.serving.watchers import Watchers
from dotmac_operator.serving.watching import Seen, WatchCanary, places_of
from dotmac_operator.settings import DEFAULT_METRICS_ADDRESS, OFF, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """The parts of the operator that health looks at."""

    loop: asyncio.AbstractEventLoop
    pool: Executor
    workers: Workers
    store: Store
    hosts: Hosts
    seen: Seen
    api: client.ApiClient
    """For the canary alone: what it asks is not among the requests that are counted."""


def start_diagnostics(settings: Settings, diagnostics: Diagnostics, running: ExitStack) -> Listener | None:
    """The endpoint for the facade, stopped with `running`; None without a token.

    Raises:
        AddressTaken
    """
    token = settings.diagnostics_token
    if token is None or settings.diagnostics_address == OFF:
        return None
    endpoint = Endpoint(diagnostics, SecretStr(token.get_secret_value()))
    address = address_of(settings.diagnostics_address)
    listener = Listener("diagnostics", "DOTMAC_OPERATOR_DIAGNOSTICS_ADDRESS", address, endpoint.application)
    return _started(listener, running)


def start_health(settings: Settings, metrics: Metrics, observed: Observed, running: ExitStack) -> Listener | None:
    """Metrics and health, stopped with `running`; None when they are off, or when nobody asked for an address and the
    usual one is taken: a second operator on a laptop is no reason not to start.

    Raises:
        AddressTaken: of an address that was asked for.
    """
    if settings.metrics_address == OFF:
        return None
    every = settings.watch_canary_seconds
    versions = KubeVersions(observed.api, every / 3)
    canary = WatchCanary(versions, observed.seen, places_of(settings.namespaces), every)
    health = _health(metrics, observed, canary)
    address = address_of(settings.metrics_address or DEFAULT_METRICS_ADDRESS)
    listener = Listener("metrics and health", "DOTMAC_OPERATOR_METRICS_ADDRESS", address, health.application)
    if not listened(listener, running, asked_for=settings.metrics_address is not None):
        return None
    canary.start()
    running.callback(canary.stop)
    return listener


def _health(metrics: Metrics, observed: Observed, canary: WatchCanary) -> Health:
    free = pool_canary(observed.pool)
    live = {
        "main-loop": check_loop(loop_canary(observed.loop)),
        "workers-alive": check_workers(free, observed.workers, STUCK_SECONDS),
        "watchers": Watchers(observed.loop).check,
    }
    ready = {
        "lists": canary.check_lists,
        "kubernetes-api": canary.check_api,
        "watches": canary.check_watches,
        "event-streams": check_streams(observed.hosts, observed.store),
        "workers-free": check_workers(free, observed.workers, BUSY_SECONDS),
    }
    return Health(metrics, live, ready)


def listened(listener: Listener, running: ExitStack, *, asked_for: bool) -> bool:
    """Starts it. An address that nobody asked for is left to whoever has it.

    Raises:
        AddressTaken: of an address that was asked for.
    """
    try:
        _started(listener, running)
    except AddressTaken as error:
        if asked_for:
            raise
        log.warning("no metrics and no health: %s", error)
        return False
    return True


def _started(listener: Listener, running: ExitStack) -> Listener:
    listener.start()
    running.callback(listener.stop)
    return listener
