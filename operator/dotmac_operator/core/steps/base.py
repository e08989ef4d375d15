"""What a step answers when it is asked how far it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dotmac_operator.core import names
from dotmac_operator.core.actions import (
    Action,
    ProbeContainer,
    ProbeInside,
    RemoveContainer,
    RunContainer,
    StartContainer,
)
from dotmac_operator.core.container import ContainerSpec, ExecCheck, RemoteCheck
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.view import View

State = Literal["met", "skipped", "act", "wait", "failed", "blocked"]


@dataclass(frozen=True)
class Verdict:
    """One step's answer.

    `met` and `skipped`: nothing to do. `act`: `actions` are to be done, in order. `wait`: something is under way; look
    again after `after` seconds or on an event. `failed`: the attempt went wrong (`container` has the log). `blocked`:
    nothing can be done until somebody changes an object or the host.
    """

    state: State
    message: str = ""
    reason: str = ""
    actions: tuple[Action, ...] = ()
    after: float = 0.0
    container: str = ""
    final: bool = False
    """Of `failed`: trying again would change nothing, so it is told at once that somebody should look."""

    @property
    def done(self) -> bool:
        return self.state in ("met", "skipped")


MET = Verdict("met")


def skipped(message: str) -> Verdict:
    return Verdict("skipped", message)


def act(*actions: Action) -> Verdict:
    more = f" (and {len(actions) - 1} more)" if len(actions) > 1 else ""
    return Verdict("act", f"{actions[0].text}: {actions[0].reason}{more}", actions=actions)


def wait(message: str, after: float = 5.0) -> Verdict:
    return Verdict("wait", message, after=after)


def failed(reason: str, message: str, container: str = "", *, final: bool = False) -> Verdict:
    return Verdict("failed", message, reason, container=container, final=final)


def blocked(reason: str, message: str, after: float = 0.0) -> Verdict:
    return Verdict("blocked", message, reason, after=after)


@dataclass(frozen=True)
class Step:
    """One of the ten steps: its name and its check, a pure function of a View."""

    name: str
    check: Callable[[View], Verdict]


def one_shot(view: View, spec: ContainerSpec, timeout: int, failure: str) -> Verdict:
    """A container that runs to its end once for each digest.

    The container itself is the record of how far it is, so a crash of the operator at any point loses nothing; the
    digest is also recorded in the status, so that a later prune of stopped containers does not run it again.
    """
    if view.done(spec.role, spec.hash):
        return MET
    container = view.container(spec)
    if container is None:
        # The one of another version goes first: two must not run at once, and once this one has run, that one's work
        # is undone, so its container must not count as done when somebody goes back to it.
        return act(
            *leftovers(view, spec.role, spec.name), RunContainer(f"{spec.role} has not run for this version", spec)
        )
    if container.state == "created":
        return act(StartContainer(f"{spec.role} was created but not started", spec.name))
    if container.state != "exited" and container.state != "dead":
        return _running(view, spec, timeout, failure, container.created)
    if container.exit_code == 0:
        return MET
    code = container.exit_code
    killed = " (killed, out of memory or by somebody)" if code == 137 else ""
    return failed(failure, f"{spec.role} ended with exit code {code}{killed}", container.name)


def _running(view: View, spec: ContainerSpec, timeout: int, failure: str, created: int) -> Verdict:
    spent = max(0, int(view.now - created))
    if spent > timeout:
        return failed(failure, f"{spec.role} did not end within {timeout} s", spec.name)
    # No seconds in the message: it goes into the status, and a status that moves costs a write.
    return wait(f"{spec.role} runs (at most {timeout} s)", after=min(30.0, timeout - spent + 1.0))


PROBE_EVERY = 1.0
"""Seconds between two probes of a container that is not healthy yet."""


def probes(view: View, spec: ContainerSpec, container: ContainerFact) -> Iterator[Action]:
    """The probe of a container that is not known to work yet, when one is due."""
    last = view.memory.probes.get(container.id)
    if view.health(spec, container) != "starting" or (last is not None and view.now - last.at < PROBE_EVERY):
        return
    address = container.networks.get(view.desired.network, "")
    if isinstance(spec.check, ExecCheck):
        yield ProbeInside(f"{spec.role} has not answered yet", container.name, spec.check)
    elif isinstance(spec.check, RemoteCheck) and address:
        yield ProbeContainer(f"{spec.role} has not answered yet", container.name, address, spec.check)


def leftovers(view: View, role: str, keep: str) -> tuple[RemoveContainer, ...]:
    """Removal of a role's containers other than `keep`."""
    return tuple(
        RemoveContainer(f"{role} of another version", container.name, grace=30)
        for container in view.of_role(role)
        if container.name != keep
    )


def owner_labels(view: View) -> tuple[tuple[str, str], ...]:
    """Labels of networks and volumes: who owns them. They outlive a Release, so they name none."""
    kept = (names.MANAGED_BY, names.INSTANCE_UID, names.NAMESPACE, names.INSTANCE, names.ORG)
    return tuple((name, view.desired.labels[name]) for name in kept)
