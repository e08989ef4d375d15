"""Whose a Secret is: which ones an Instance may refer to, and whether the one of its credentials is its own (ADR 0030).

Only what is beside the values is judged: names, labels, owners, the type, and the names of keys.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dotmac_operator.core import names
from dotmac_operator.core.secret import SecretStr

CREDENTIALS = "-credentials"
"""What the name of an Instance's own Secret ends with."""
KEPT_TYPES = ("kubernetes.io/ssh-auth", "kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token")
"""Types of Secrets that open hosts or the cluster."""
HELM = "helm.sh/"
"""How the type of Helm's Secrets begins, which hold the values of a whole installation."""
HOST_KEY = "ssh-privatekey"
PLATFORM_KEYS = ("DOTMAC_API_", "DOTMAC_OPERATOR_")
"""How settings of the facade and the operator begin."""
REMEDY = "refer to a Secret that holds only what this tenant may have"


@dataclass(frozen=True)
class Owner:
    """An Instance among a Secret's ownerReferences."""

    name: str
    uid: str


@dataclass(frozen=True)
class Secret:
    """A Secret of Kubernetes."""

    name: str
    values: Mapping[str, SecretStr]
    """Key -> value; one that is not UTF-8 is left out."""
    type: str = "Opaque"
    labels: Mapping[str, str] = field(default_factory=dict)
    owners: tuple[Owner, ...] = ()
    """The Instances in its ownerReferences."""
    kept_by_others: bool = False
    """Whether something that is no Instance owns it, such as an operator that makes Secrets from a vault."""


@dataclass(frozen=True)
class Claims:
    """What living objects of a Secret's namespace say of it."""

    server: str = ""
    """A Server that signs in with it."""
    instance: str = ""
    """An Instance that it holds the credentials of, by its owners or by that Instance's status."""


@dataclass(frozen=True)
class Claimant:
    """The Instance that wants a Secret."""

    name: str
    uid: str
    org_code: str

    @property
    def credentials(self) -> str:
        return credentials_of(self.name)

    def same_org(self, org_code: str) -> bool:
        """Without case, as on a host: names of volumes are in lower case."""
        return org_code.lower() == self.org_code.lower()


def credentials_of(instance: str) -> str:
    """Name of the Secret with the generated secrets of an Instance."""
    return instance + CREDENTIALS


def holder(secret: str) -> str:
    """The Instance whose credentials a Secret of this name would hold; empty: nobody's."""
    return secret.removesuffix(CREDENTIALS) if secret.endswith(CREDENTIALS) else ""


def labels(org_code: str, instance: str) -> dict[str, str]:
    """Of a Secret with credentials. They outlive the Instance, and say whose data the passwords open."""
    return {names.MANAGED_BY: names.OPERATOR, names.INSTANCE: instance, names.ORG: org_code}


def refused(secret: Secret, by: Claimant, claims: Claims) -> str:
    """Why an Instance must not refer to a Secret, and what to do; empty: it may. Its own credentials are judged by
    `taken`."""
    return next(_objections(secret, by, claims), "")


def _objections(secret: Secret, by: Claimant, claims: Claims) -> Iterator[str]:
    if claims.server:
        yield f"with which Server {claims.server} signs in to its host: {REMEDY}"
    if claims.instance and claims.instance != by.name:
        yield f"with the credentials of Instance {claims.instance}: {REMEDY}"
    found = secret.labels
    if any(owner.uid != by.uid for owner in secret.owners):
        yield f"which belongs to Instance {secret.owners[0].name}: {REMEDY}"
    if found.get(names.MANAGED_BY) == names.OPERATOR:
        yield f"with the credentials of Instance {found.get(names.INSTANCE, '')}: {REMEDY}"
    if names.ORG in found and not by.same_org(found[names.ORG]):
        yield f"whose label {names.ORG} names another orgCode: {REMEDY}"
    allowed = found.get(names.FOR_INSTANCES)
    if allowed is not None and allowed.lower() != "true":
        yield f"whose label {names.FOR_INSTANCES} keeps it from Instances: {REMEDY}"
    if allowed is None and (kind := _kept_kind(secret)):
        yield f"{kind}: {REMEDY}; or, if it is meant for tenants, label it {names.FOR_INSTANCES}=true"


def _kept_kind(secret: Secret) -> str:
    if secret.type in KEPT_TYPES or secret.type.startswith(HELM):
        return f"of type {secret.type}, which opens more than a tenant's own"
    if HOST_KEY in secret.values:
        return f"with a key {HOST_KEY}, which opens a host"
    if any(key.startswith(PLATFORM_KEYS) for key in secret.values):
        return "with settings of the platform itself"
    return ""


def taken(secret: Secret, by: Claimant, claims: Claims) -> str:
    """Why the Secret that has the name of an Instance's credentials is not its own, and what to do; empty: it is."""
    if claims.server:
        return f"Server {claims.server} signs in to its host with it: give the Instance another name"
    if claims.instance and claims.instance != by.name:
        return f"Instance {claims.instance} owns it: give this one another name"
    org_code = secret.labels.get(names.ORG)
    if org_code is None and any(owner.uid == by.uid for owner in secret.owners):
        return ""
    if org_code is None:
        return (
            f"nothing says whose it is: if it was made for orgCode {by.org_code}, label it {names.ORG}={by.org_code}; "
            "else give the Instance another name"
        )
    if not by.same_org(org_code):
        return (
            f"its label {names.ORG} names another orgCode, an earlier tenant's: give the Instance another name; or, if "
            "nobody needs that tenant's data any more, remove its volumes from the host and delete the Secret"
        )
    return ""


def claimed(secret: Secret, by: Claimant) -> bool:
    """Whether a Secret that is not taken says so: by its label, and by an owner that it goes with."""
    owned = secret.kept_by_others or any(owner.uid == by.uid for owner in secret.owners)
    return owned and by.same_org(secret.labels.get(names.ORG, ""))
