"""What reconciliation needs of the Kubernetes API, and what it tells its caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.tenancy import Secret

type Body = dict[str, Any]


class ClusterError(Exception):
    """The Kubernetes API refused or did not answer; the call is repeated with the next pass."""


class Gone(ClusterError):
    """The object does not exist any more, or another one has its name."""


class CredentialsTaken(ClusterError):
    """The Secret with the name of an Instance's credentials is not its own; the next pass says so in the status."""


class Stale(ClusterError):
    """What was read of an object is old; `body` is what it is now. Nothing was written."""

    def __init__(self, message: str, body: Body) -> None:
        super().__init__(message)
        self.body = body


@dataclass(frozen=True)
class ObjectRef:
    """Which object: enough to write to it and to blame it in an Event."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str
    uid: str
    resource_version: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Cluster(Protocol):
    """The Kubernetes API, as much as reconciliation needs. Calls block; run them in a worker thread."""

    def secret(self, namespace: str, name: str) -> Secret | None:
        """A Secret, or None. A value that is not UTF-8 is left out."""

    def write_credentials(self, owner: ObjectRef, name: str, org_code: str, values: Mapping[str, SecretStr]) -> None:
        """Adds keys to the owner's Secret, creating it; a key that exists is never changed.

        Raises:
            CredentialsTaken: there is one by now that is not the owner's.
        """

    def release_credentials(self, owner: ObjectRef, name: str) -> None:
        """Makes the Secret outlive its owner."""

    def claim_credentials(self, owner: ObjectRef, name: str, org_code: str) -> None:
        """Makes the Secret, if there is one, say whose it is and go with its owner: one that was retained, or restored
        from an export, belongs to nobody yet.

        Raises:
            CredentialsTaken: it is not the owner's.
        """

    def apply_status(self, ref: ObjectRef, status: Body, exactly: bool = False) -> Body:
        """Server-side apply on `/status`; returns the object. `Gone` when it is not there any more.

        `exactly`: only to the version that `ref` names, else `Stale`.
        """

    def set_finalizer(self, ref: ObjectRef, present: bool, finalizers: list[str]) -> Body | None:
        """Adds or removes our finalizer; returns the object, or None when it went with that."""

    def event(self, ref: ObjectRef, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Best effort: a lost Event is no error."""


class Meter(Protocol):
    """What is counted while things are done. Calls are cheap and never fail."""

    def step_finished(self, step: str, outcome: Literal["succeeded", "failed"], seconds: float) -> None:
        """One of the ten steps came to an end after it had something to do."""

    def drift_repaired(self, kind: str) -> None:
        """A difference that no change of a spec explains was repaired; kinds are in `core.drift`."""

    def job_finished(self, kind: str, outcome: Literal["succeeded", "failed"], seconds: float, size: int) -> None:
        """A Backup or Restore has ended; `size` in bytes of a Backup that is complete, else 0."""


class Unmetered:
    """Counts nothing."""

    def step_finished(self, step: str, outcome: Literal["succeeded", "failed"], seconds: float) -> None: ...

    def drift_repaired(self, kind: str) -> None: ...

    def job_finished(self, kind: str, outcome: Literal["succeeded", "failed"], seconds: float, size: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """When to look again, if nothing wakes the reconciler before."""

    after: float | None = None
    """Seconds; None: with the next resync."""
    failed: bool = False
    """True: `after` is left to the caller's backoff."""
    gone: bool = False
    """True: there is nothing left to reconcile under this key."""


DONE = Outcome()
GONE = Outcome(gone=True)
AGAIN = Outcome(after=0.0)
