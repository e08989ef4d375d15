"""The Lease that operators elect their leader with (coordination.k8s.io/v1), by the official client."""

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

log = logging.getLogger(__name__)

CLUSTER_NAMESPACE = "kube-system"
"""Its uid stands for the cluster, as is the custom: it is made once and cannot be deleted."""


class LeaseError(Exception):
    """The Kubernetes API refused or did not answer."""


class LeaseConflict(LeaseError):
    """Somebody else has written the Lease meanwhile, or deleted it."""


class LeaseForbidden(LeaseError):
    """The ServiceAccount lacks a right; the text says which."""


@dataclass(frozen=True)
class Lease:
    """What a Lease says."""

    holder: str
    """Empty: released."""
    duration: float
    """Seconds after which others may take it, from its last renewal."""
    renewed: datetime
    acquired: datetime
    transitions: int
    """How often its holder has changed."""
    created: datetime
    raw: Any = field(default=None, compare=False, repr=False)
    """The object as it was read: its version, and what others keep in it."""


class Leases(Protocol):
    """One Lease. Blocking; every call may raise LeaseError."""

    def read(self) -> Lease | None: ...

    def create(self, holder: str, duration: float) -> Lease:
        """LeaseConflict when it exists."""

    def replace(self, lease: Lease) -> Lease:
        """Writes holder, duration, times and transitions. LeaseConflict unless it still is as `lease.raw` was read."""

    def domain(self) -> str:
        """Names this Lease among those of all clusters."""

    def announce(self, lease: Lease, message: str) -> None:
        """An Event about the Lease; best effort."""


@dataclass(frozen=True)
class LeaseName:
    """Which Lease."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class KubeLeases:
    """Implements `Leases`. The client has a connection of its own, so that nothing else holds a renewal up."""

    def __init__(self, api: client.ApiClient, name: LeaseName, timeout: float, domain: str = "") -> None:
        """`timeout` in seconds, to connect and to read. `domain`: as configured; "" to ask the cluster for it."""
        self._api = client.CoordinationV1Api(api)
        self._core = client.CoreV1Api(api)
        self._name = name
        self._timeout = (timeout, timeout)
        self._domain = domain

    def read(self) -> Lease | None:
        return self._ask("get leases", lambda: _lease(self._api.read_namespaced_lease(**self._place())), absent=None)

    def create(self, holder: str, duration: float) -> Lease:
        now = datetime.now(UTC)
        meta = client.V1ObjectMeta(name=self._name.name, namespace=self._name.namespace)
        body = client.V1Lease(metadata=meta, spec=_spec(holder, duration, now, now, 0))
        call = self._api.create_namespaced_lease
        return self._ask(
            "create leases", lambda: _lease(call(self._name.namespace, body, _request_timeout=self._timeout))
        )

    def replace(self, lease: Lease) -> Lease:
        body = deepcopy(lease.raw)
        body.spec = _spec(lease.holder, lease.duration, lease.renewed, lease.acquired, lease.transitions)
        call = self._api.replace_namespaced_lease
        gone = LeaseConflict(f"Lease {self._name} is gone")
        return self._ask("update leases", lambda: _lease(call(body=body, **self._place())), absent=gone)

    def domain(self) -> str:
        if not self._domain:
            uid = self._uid(CLUSTER_NAMESPACE) or self._uid(self._name.namespace)
            if uid is None:
                raise LeaseForbidden(
                    f"may neither get namespace {CLUSTER_NAMESPACE} nor namespace {self._name.namespace}, which tell "
                    "one cluster's operators from another's: grant it, or set DOTMAC_OPERATOR_FENCING_DOMAIN"
                )
            self._domain = f"{self._name.namespace}.{self._name.name}.{uid}".lower()
        return self._domain

    def announce(self, lease: Lease, message: str) -> None:
        now = datetime.now(UTC)
        place = {"name": self._name.name, "namespace": self._name.namespace}
        about = client.V1ObjectReference(
            api_version="coordination.k8s.io/v1", kind="Lease", uid=lease.raw.metadata.uid, **place
        )
        body = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{self._name.name[:50]}.", namespace=self._name.namespace),
            involved_object=about,
            type="Normal",
            reason="LeaderElection",
            message=message,
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            source=client.V1EventSource(component="dotmac-operator"),
        )
        try:
            self._core.create_namespaced_event(self._name.namespace, body, _request_timeout=self._timeout)
        except (ApiException, HTTPError) as error:
            log.debug("an Event about Lease %s was lost: %s", self._name, type(error).__name__)

    def _uid(self, namespace: str) -> str | None:
        """None when it may not be read, or is not there."""
        try:
            found: Any = self._core.read_namespace(namespace, _request_timeout=self._timeout)
            return str(found.metadata.uid)
        except ApiException as error:
            if error.status in (403, 404):
                return None
            raise LeaseError(f"the Kubernetes API answered {error.status} {error.reason}") from None
        except HTTPError as error:
            raise LeaseError(f"the Kubernetes API did not answer: {type(error).__name__}") from None

    def _place(self) -> dict[str, Any]:
        return {"name": self._name.name, "namespace": self._name.namespace, "_request_timeout": self._timeout}

    def _ask[T](self, right: str, call: Callable[[], T], absent: T | LeaseError | None = None) -> T:
        try:
            return call()
        except ApiException as error:
            if error.status == 404 and right != "create leases":
                if isinstance(absent, LeaseError):
                    raise absent from None
                return absent  # type: ignore[return-value]
            if error.status == 404:
                raise LeaseError(f"namespace {self._name.namespace} of the leader's Lease does not exist") from None
            if error.status == 409:
                raise LeaseConflict(f"Lease {self._name} was written by somebody else") from None
            if error.status == 403:
                message = f"may not {right} in namespace {self._name.namespace}: grant it to the operator's account"
                raise LeaseForbidden(message) from None
            raise LeaseError(f"the Kubernetes API answered {error.status} {error.reason}") from None
        except HTTPError as error:
            raise LeaseError(f"the Kubernetes API did not answer: {type(error).__name__}") from None


def _spec(holder: str, duration: float, renewed: datetime, acquired: datetime, transitions: int) -> client.V1LeaseSpec:
    return client.V1LeaseSpec(
        holder_identity=holder,
        lease_duration_seconds=max(1, math.ceil(duration)),  # never sooner than the holder means
        renew_time=_micro(renewed),
        acquire_time=_micro(acquired),
        lease_transitions=transitions,
    )


def _micro(time: datetime) -> datetime:
    """The API wants six digits after the seconds (MicroTime), and isoformat leaves them out when they are zeros."""
    return time.replace(microsecond=time.microsecond or 1)


def _lease(found: Any) -> Lease:
    spec = found.spec or client.V1LeaseSpec()
    created = found.metadata.creation_timestamp
    return Lease(
        holder=spec.holder_identity or "",
        duration=float(spec.lease_duration_seconds or 1),
        renewed=spec.renew_time or created,
        acquired=spec.acquire_time or created,
        transitions=spec.lease_transitions or 0,
        created=created,
        raw=found,
    )
