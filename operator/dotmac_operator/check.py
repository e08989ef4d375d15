"""Is everything there that the operator needs? Each answer by name, with the remedy."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dotmac_crds.base import GROUP
from dotmac_crds.kinds import KINDS, Kind
from dotmac_operator import kube, leader
from dotmac_operator.leases import KubeLeases, LeaseError
from dotmac_operator.settings import Settings


@dataclass(frozen=True)
class Result:
    """One check: what was looked at, and what to do when it failed."""

    name: str
    ok: bool
    hint: str = ""


@dataclass(frozen=True)
class Right:
    """One permission that the operator uses."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    subresource: str = ""
    cluster: bool = False


RIGHTS: tuple[Right, ...] = (
    *(Right(GROUP, kind.plural, ("get", "list", "watch", "patch"), cluster=kind.scope == "Cluster") for kind in KINDS),
    *(Right(GROUP, kind.plural, ("patch",), "status", cluster=kind.scope == "Cluster") for kind in KINDS),
    Right("", "secrets", ("get", "create", "patch")),
    Right("", "events", ("create",)),
)


LEASE_RIGHT = Right("coordination.k8s.io", "leases", ("get", "create", "update"))
"""In the namespace of the leader's Lease."""
NAMESPACE_RIGHT = Right("", "namespaces", ("get",))
"""In the same namespace: its uid tells the operators of one cluster from those of another on a host."""


def run(settings: Settings) -> Iterator[Result]:
    """All checks, in the order in which one would mend them.

    Raises:
        NoCluster: there is no Kubernetes API to ask.
    """
    api = kube.connect()
    try:
        version = client.VersionApi(api).get_code(_request_timeout=kube.TIMEOUT)
    except Exception as error:
        raise kube.NoCluster(f"the API does not answer ({type(error).__name__}): check KUBECONFIG") from None
    yield Result(f"kubernetes {version.git_version}", True)
    yield from (_crd(api, kind) for kind in KINDS)
    if settings.leader_election:
        yield from _leader(api, settings)
    places = [""] if settings.all_namespaces else settings.namespaces
    for right in RIGHTS:
        for namespace in [""] if right.cluster else places:
            for verb in right.verbs:
                yield _right(api, right, verb, namespace)


def _leader(api: client.ApiClient, settings: Settings) -> Iterator[Result]:
    name = leader.lease_name(settings)
    for right in (LEASE_RIGHT,) if settings.fencing_domain else (LEASE_RIGHT, NAMESPACE_RIGHT):
        for verb in right.verbs:
            yield _right(api, right, verb, name.namespace)
    leases = KubeLeases(api, name, kube.TIMEOUT[0], settings.fencing_domain)
    try:
        yield Result(f"hosts know these operators as {leases.domain()}", True)
        held = leases.read()
    except LeaseError as error:
        yield Result(f"Lease {name}", False, str(error))
        return
    if held is None or not held.holder:
        yield Result(f"Lease {name}: no operator leads", True)
        return
    age = (datetime.now(UTC) - held.renewed).total_seconds()
    told = f"{held.holder}, number {leader.number_of(held)}, renewed {age:.0f} s ago"
    yield Result(f"Lease {name}: held by {told}" + ("" if age <= held.duration else ": it has run out"), True)


def _crd(api: client.ApiClient, kind: Kind) -> Result:
    name = f"CRD {kind.crd_name}"
    try:
        found: Any = client.CustomObjectsApi(api).get_cluster_custom_object(
            "apiextensions.k8s.io", "v1", "customresourcedefinitions", kind.crd_name
        )
    except ApiException as error:
        if error.status == 403:
            return Result(f"{name} (may not be read, not compared)", True)
        return Result(name, False, "apply it: poetry run dotmac-crds --stdout | kubectl apply --server-side -f -")
    established = any(
        c["type"] == "Established" and c["status"] == "True" for c in found.get("status", {}).get("conditions", [])
    )
    if not established:
        return Result(name, False, "it is not established: kubectl describe crd " + kind.crd_name)
    fields = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].get("properties", {})
    ours = kind.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    if set(fields) != set(ours):
        return Result(name, False, "it is of another version than this operator: apply the CRDs of this version")
    return Result(name, True)


def _right(api: client.ApiClient, right: Right, verb: str, namespace: str) -> Result:
    attributes = client.V1ResourceAttributes(
        group=right.group,
        resource=right.resource,
        subresource=right.subresource or None,
        verb=verb,
        namespace=namespace or None,
    )
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    resource = f"{right.resource}/{right.subresource}" if right.subresource else right.resource
    where = f" in {namespace}" if namespace else ""
    name = f"may {verb} {resource}{where}"
    try:
        answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    except ApiException as error:
        return Result(name, False, f"the API answered {error.status} to an access review")
    allowed = answer.status is not None and bool(answer.status.allowed)
    return Result(name, allowed, "" if allowed else "grant it to the operator's ServiceAccount")
