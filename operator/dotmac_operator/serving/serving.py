"""What listens, put together from the settings."""

import logging
from contextlib import ExitStack

from aiohttp import web

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.serving.address import address_of
from dotmac_operator.serving.diagnostics import Diagnostics
from dotmac_operator.serving.endpoint import Endpoint
from dotmac_operator.serving.listener import AddressTaken, Listener
from dotmac_operator.settings import DEFAULT_METRICS_ADDRESS, OFF, Settings

log = logging.getLogger(__name__)


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


def start_health(settings: Settings, application: web.Application, running: ExitStack) -> Listener | None:
    """Metrics and health, stopped with `running`; None when they are off, or when nobody asked for an address and the
    usual one is taken: a second operator on a laptop is no reason not to start.

    Raises:
        AddressTaken: of an address that was asked for.
    """
    if settings.metrics_address == OFF:
        return None
    address = address_of(settings.metrics_address or DEFAULT_METRICS_ADDRESS)
    listener = Listener("metrics and health", "DOTMAC_OPERATOR_METRICS_ADDRESS", address, lambda: application)
    try:
        return _started(listener, running)
    except AddressTaken as error:
        if settings.metrics_address is not None:
            raise
        log.warning("no metrics and no health: %s", error)
        return None


def _started(listener: Listener, running: ExitStack) -> Listener:
    listener.start()
    running.callback(listener.stop)
    return listener
