"""Taking leave of containers that get no new requests: they stay until the requests that they have are answered.

Everything that is asked for is on the host: the route tells since when, the proxy what is open. See ADR 0020.
"""

from collections.abc import Iterable, Iterator

from dotmac_operator.core import names
from dotmac_operator.core.actions import CountConnections
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.proxy import LINGER
from dotmac_operator.core.view import View

DRAIN = 30
"""Seconds that requests may take to end, for a container that does not say it itself."""


def busy(view: View, container: ContainerFact) -> bool:
    """Whether requests may still be on their way to a container that the route does not lead to any more.

    A crash loses nothing but the last answer of the proxy.
    """
    if names.PORT not in container.labels or not container.running or view.route is None:
        return False
    if not container.networks.get(view.desired.network):
        return False  # nobody can reach it
    spent = view.now - view.route.since
    if spent >= number(container, names.DRAIN, DRAIN):
        return False
    found = view.memory.open_requests.get(container.id)
    if found is None or found.upstream is None or found.upstream > 0:
        return True
    return found.clients > 0 and spent < LINGER


def counts(view: View, containers: Iterable[ContainerFact]) -> Iterator[CountConnections]:
    """The questions to the proxy about those that are busy."""
    for container in containers:
        if busy(view, container):
            address, port = container.networks[view.desired.network], number(container, names.PORT, 0)
            yield CountConnections("requests to it may still be open", container.name, address, port)


def number(container: ContainerFact, label: str, default: int) -> int:
    """The whole number that a label tells, or `default`: labels can be set by anybody on the host."""
    told = container.labels.get(label, "")
    return int(told) if told.isdecimal() else default
