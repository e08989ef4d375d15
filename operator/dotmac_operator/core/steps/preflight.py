"""Step 1: may this Instance be deployed here at all? Touches nothing."""

from collections.abc import Callable, Iterable, Mapping

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from dotmac_crds.release import ReleaseSpec
from dotmac_operator.core import names, proxy
from dotmac_operator.core.quantity import mebibytes, memory_bytes
from dotmac_operator.core.steps.base import MET, Step, Verdict, blocked, wait
from dotmac_operator.core.view import Neighbour, View

RETRY = 30.0
"""Seconds after which a cause outside the Instance, such as a full Server, is looked at again."""


def check(view: View) -> Verdict:
    return _judged(view, (_taken_names, _taken_hosts, _capacity, _volumes, _password))


def presence(view: View, *, opened: bool) -> Verdict:
    """The same for an Instance that is not to run, and so takes nothing of the Server. `opened`: its database is still
    to be read, for which its password is needed."""
    judges = (_taken_names, _taken_hosts, _volumes)
    return _judged(view, (*judges, _password) if opened else judges)


def _judged(view: View, judges: Iterable[Callable[[View], Verdict | None]]) -> Verdict:
    if not view.server.ready:
        return wait(f"Server {view.server.name} is not ready: {view.server.message}", after=RETRY)
    for judge in judges:
        verdict = judge(view)
        if verdict is not None:
            return verdict
    return MET


def release_allowed(
    release_name: str, release: ReleaseSpec, current: str | None, version: str | None
) -> Verdict | None:
    """Whether an Instance that runs `current` (a Release's name, with `version`) may move to `release`."""
    if current == release_name:
        return None
    if release.yanked:
        return blocked("ReleaseYanked", f"Release {release_name} is yanked: choose another in spec.releaseRef")
    if version is None or not release.upgrade_from:
        return None
    try:
        allowed = any(Version(version) in SpecifierSet(text, prereleases=True) for text in release.upgrade_from)
    except (InvalidVersion, InvalidSpecifier) as error:
        return blocked("InvalidRelease", f"Release {release_name}: spec.upgradeFrom cannot be compared: {error}")
    if allowed:
        return None
    ranges = ", ".join(release.upgrade_from)
    return blocked(
        "UpgradeNotAllowed",
        f"Release {release_name} can be reached from {ranges}, but {version} runs: go by a Release in between",
    )


def _taken_names(view: View) -> Verdict | None:
    mine = view.desired.org_code.lower()
    for other in view.neighbours:
        if other.org_code.lower() == mine and _goes_first(view, other):
            return blocked(
                "OrgCodeTaken",
                f"Instance {other.key} has orgCode {other.org_code} on Server {view.server.name}: choose another one",
                after=RETRY,
            )
    return None


def _taken_hosts(view: View) -> Verdict | None:
    for host, _ in view.desired.route.hosts:
        owner = proxy.owner_of_host(view.config, host)
        if owner == view.desired.tenant.uid:
            continue  # it is served under this name; whoever claims it as well is the one who waits
        for other in view.neighbours:
            if owner == other.uid:
                return blocked("DomainTaken", f"the proxy serves domain {host} for Instance {other.key}", after=RETRY)
            if host in other.hosts and _goes_first(view, other):
                return blocked(
                    "DomainTaken", f"domain {host} belongs to Instance {other.key}: remove it from one", after=RETRY
                )
    return None


def _goes_first(view: View, other: Neighbour) -> bool:
    """Of two that claim the same, the one that is on the host keeps it; among equals the first by name.

    Without an order two newcomers would wait for each other for ever.
    """
    there = other.serving or any(c.labels.get(names.INSTANCE_UID) == other.uid for c in view.facts.containers)
    served = view.record.release is not None and view.record.release.current is not None
    here = served or bool(view.containers)
    return other.key < view.desired.tenant.key if there == here else there


def _capacity(view: View) -> Verdict | None:
    if view.containers:
        return None  # it lives here already; what it takes has been granted
    capacity = view.server.spec.capacity
    if not view.server.spec.schedulable:
        return blocked(
            "Unschedulable", f"Server {view.server.name} takes no new Instances (schedulable: false)", after=RETRY
        )
    ahead = _ahead(view)
    if len(ahead) >= capacity.max_instances:
        return blocked(
            "ServerFull",
            f"Server {view.server.name} holds {len(ahead)} of {capacity.max_instances}",
            after=RETRY,
        )
    free = view.server.memory - memory_bytes(capacity.reserved_memory) - sum(n.memory for n in ahead)
    if view.server.memory and view.desired.memory > free:
        return blocked(
            "InsufficientMemory",
            f"the Instance needs {mebibytes(view.desired.memory)}, but {mebibytes(max(0, free))} are left on Server"
            f" {view.server.name}: choose a smaller class or another Server",
            after=RETRY,
        )
    return None


def _ahead(view: View) -> list[Neighbour]:
    """The neighbours whose claim comes first: those that live here, and of the newcomers those with a lower uid, so
    that of too many some are let in."""
    here = {container.labels.get(names.INSTANCE_UID) for container in view.facts.containers}
    mine = view.desired.tenant.uid
    claims = (other for other in view.neighbours if not other.archived)
    return [other for other in claims if other.serving or other.uid in here or other.uid < mine]


def _ours(found: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Left by this organisation of this namespace, perhaps under an earlier Instance of the same name."""
    return all(found.get(label, "").lower() == labels[label].lower() for label in (names.NAMESPACE, names.ORG))


def _strange_volume(view: View, name: str) -> Verdict:
    if name in view.data_volumes:
        return blocked(
            "DataVolumeMissing",
            f"volume {name} on Server {view.server.name} has lost its labels, so it is not the one with the tenant's"
            " data, but one made since by hand or by Docker itself: remove it and restore the data from a backup",
            after=RETRY,
        )
    return blocked(
        "VolumeTaken",
        f"volume {name} on Server {view.server.name} belongs to somebody else: remove it, or choose another orgCode",
        after=RETRY,
    )


def _volumes(view: View) -> Verdict | None:
    labels = view.desired.labels
    for name in view.desired.volumes:
        volume = view.volume(name)
        if volume is None:
            continue
        if not _ours(volume.labels, labels):
            return _strange_volume(view, name)
    network = view.network(view.desired.network)
    if network is not None and not _ours(network.labels, labels):
        return blocked(
            "NetworkTaken",
            f"network {network.name} on Server {view.server.name} belongs to somebody else: remove it, or "
            "choose another orgCode",
            after=RETRY,
        )
    for name in view.data_volumes:
        if view.volume(name) is None:
            return blocked(
                "DataVolumeMissing",
                f"volume {name} with the tenant's data is gone from Server {view.server.name}: restore it from a backup"
                f" under that name with the labels {names.NAMESPACE}={labels[names.NAMESPACE]} and"
                f" {names.ORG}={labels[names.ORG]}, or delete the Instance and create it anew",
                after=RETRY,
            )
    return None


def _password(view: View) -> Verdict | None:
    present = view.volume(view.database_volume) is not None
    if present and view.credential_keys is None:
        return blocked(
            "CredentialsMissing",
            f"volume {view.database_volume} holds data, but Secret {view.desired.tenant.credentials} with its password "
            "is gone: restore the Secret",
            after=RETRY,
        )
    return None


STEP = Step("preflight", check)
