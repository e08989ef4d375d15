"""Server: a Docker host reached over SSH."""

from typing import Annotated, Literal

from pydantic import Field

from dotmac_crds.base import (
    LIST_ATOMIC,
    LIST_SET,
    Conditions,
    DriftRecord,
    Email,
    Hostname,
    ImageReference,
    LocalSecretRef,
    Memory,
    Model,
    ObjectName,
    ObservedGeneration,
    Port,
    Repairing,
    Text,
    Timestamp,
    Word,
    list_map,
    rule,
    schema,
)

HostKey = Annotated[
    str,
    Field(
        min_length=8,
        max_length=2048,
        pattern=r"^(SHA256:[A-Za-z0-9+/]{43}=?"
        r"|(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\x00-\x1f]*)?)$",
    ),
]
PROOF_DETAILS = 20
"""Instances that a proof tells about one by one."""

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
Address4 = Annotated[str, Field(max_length=15, pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}$")]
Pool4 = Annotated[str, Field(max_length=18, pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}/([89]|1[0-9]|2[0-4])$")]


class Capacity(Model):
    """How much of the host may be given to Instances."""

    max_instances: Annotated[int, Field(ge=0, le=1000, json_schema_extra={"format": "int32"})] = 100
    """Most Instances that are placed here."""
    reserved_memory: Memory = "512Mi"
    """Memory kept for the host itself; what remains is given to Instances by their class's limits."""
    network_pool: Pool4 = "10.210.0.0/16"
    """Private IPv4 range (prefix /8 to /24); each tenant network takes a /27 of it that nothing on the host uses."""


class ProxyTls(Model):
    """How the proxy gets its certificates."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "!has(self.mode) || self.mode == 'Acme' || (!has(self.email) && !has(self.acmeDirectory))",
                    "email and acmeDirectory are used with mode Acme only; remove them or set mode: Acme",
                )
            ]
        ),
    }

    mode: Literal["Acme", "Internal", "Off"] = "Acme"
    """Acme: public certificates; Internal: the proxy's own CA; Off: plain HTTP. Quote "Off": bare, YAML reads false."""
    email: Email | None = None
    """Account address given to the ACME authority."""
    acme_directory: Annotated[str, Field(max_length=512, pattern=r"^https://[^\s\x00-\x1f]+$")] | None = None
    """Directory URL of the ACME authority; the proxy's default (Let's Encrypt) when absent."""


class Proxy(Model):
    """The reverse proxy, the only container on the host with published ports."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                # A default is judged before the fields' own defaults are in it, hence `has`.
                rule(
                    "!has(self.httpPort) || !has(self.httpsPort) || self.httpPort != self.httpsPort",
                    "httpPort and httpsPort must differ",
                    path=".httpsPort",
                )
            ]
        ),
    }

    image: ImageReference = "dotmac/caddy:2.6"
    """Image of Caddy 2 with its admin API on a UNIX socket; see deploy/images."""
    bind_address: Address4 = "0.0.0.0"  # noqa: S104
    """IPv4 address of the host on which the proxy's ports are published."""
    http_port: Port = 80
    """Published port for HTTP."""
    https_port: Port = 443
    """Published port for HTTPS."""
    tls: ProxyTls = ProxyTls()
    """Certificates."""


class ServerSpec(Model):
    """The Docker host as it should be used."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "self.hostKeyPolicy == 'TrustOnFirstUse' || (has(self.hostKeys) && size(self.hostKeys) > 0)",
                    "hostKeys needs at least one key or SHA256 fingerprint (ssh-keyscan HOST, checked by other means), "
                    "unless hostKeyPolicy is TrustOnFirstUse",
                )
            ]
        ),
    }

    address: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
    """DNS name or IP address of the host."""
    port: Port = 22
    """Port of its SSH server."""
    user: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z_][a-z0-9_-]*\$?$")] = "root"
    """SSH user; it must be allowed to use the Docker socket (group docker, or root)."""
    credentials_ref: LocalSecretRef
    """Secret of type kubernetes.io/ssh-auth: `ssh-privatekey`, and `passphrase` where the key has one."""
    host_keys: Annotated[list[HostKey], Field(max_length=16, json_schema_extra=LIST_SET)] = []
    """Pinned host keys: OpenSSH public key lines, or SHA256 fingerprints. Any one of them must match."""
    host_key_policy: Literal["Pinned", "TrustOnFirstUse"] = "Pinned"
    """TrustOnFirstUse pins the first key seen into status.hostKeys and never accepts another; safer is Pinned."""
    capacity: Capacity = Capacity()
    """Limits for placement."""
    proxy: Proxy = Proxy()
    """The host's reverse proxy."""
    base_domain: Hostname | None = None
    """Domain under which an Instance without domains is served: `<orgcode>.<baseDomain>`."""
    schedulable: bool = True
    """False: no new Instance is placed here; those that live here stay."""
    max_concurrent_operations: Annotated[int, Field(ge=1, le=16, json_schema_extra={"format": "int32"})] = 4
    """Calls to the host that may run at the same time."""


class ServerFacts(Model):
    """What was found on the host."""

    os: Word | None = None
    """Operating system, as the engine names it."""
    kernel: Word | None = None
    """Kernel release."""
    arch: Word | None = None
    """Machine architecture."""
    cpus: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] | None = None
    """Processors."""
    memory: Word | None = None
    """Total memory, a quantity."""
    disk: Word | None = None
    """Size of the file system that holds Docker's data, a quantity."""
    disk_free: Word | None = None
    """Free space on it, a quantity rounded down so that it does not change with every write."""
    docker_version: Word | None = None
    """Version of the Docker engine."""


class Allocated(Model):
    """What Instances take of the host."""

    instances: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] = 0
    """Instances that live here."""
    memory: Word = "0"
    """Sum of their memory limits, a quantity."""
    memory_capacity: Word | None = None
    """Memory that may be given to Instances, a quantity."""


class ProofDetail(Model):
    """An Instance that was not found in sync."""

    name: ObjectName
    """Name of the Instance."""
    result: Literal["Differs", "NotProven"]
    """Differs: the host or the Instance's status is not as its spec asks; NotProven: it could not be compared."""
    reason: Word
    """Why, in one CamelCase word for programs."""
    message: Text = ""
    """Why, for people."""


class Proof(Model):
    """What the host was found to be, when somebody asked to prove all of its Instances."""

    at: Timestamp
    """When the host was read; all that is said here was compared after that."""
    result: Word
    """Instances in sync, of all that live here: "5/5"."""
    instances: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] = 0
    """Instances that live here."""
    in_sync: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] = 0
    """Those whose containers, networks, volumes, routes and Secrets are as asked, and whose status says so."""
    differing: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] = 0
    """Those that differ; each was given to its own reconciliation at once."""
    not_proven: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] = 0
    """Those that could not be compared: paused, being deployed, the host is away."""
    details: Annotated[list[ProofDetail], Field(max_length=PROOF_DETAILS, json_schema_extra=list_map("name"))] = []
    """The first of those that were not found in sync, what differs first."""


class ServerStatus(Model):
    """The Docker host as it was last seen."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about; -1 until it was first looked at."""
    conditions: Conditions = []
    """Ready, Reachable, HostKeyVerified, DockerReady, ProxyReady, DiskPressure, Reconciling, Stalled."""
    facts: ServerFacts | None = None
    """What was found on the host."""
    allocated: Allocated | None = None
    """What Instances take of it."""
    host_keys: Annotated[list[HostKey], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] | None = None
    """The key pinned by TrustOnFirstUse; to accept a new one, put it into spec.hostKeys."""
    drift: DriftRecord | None = None
    """The last difference of the host's proxy that was repaired."""
    repairing: Repairing | None = None
    """What of the proxy is being repaired; told in `drift` once it is, by another operator too."""
    last_probe_time: Timestamp | None = None
    """When the facts or a condition last changed."""
    last_handled_reconcile_at: Text | None = None
    """The last value of the reconcile-requested-at annotation whose answer is in `proof`."""
    proof: Proof | None = None
    """The answer to the last reconcile-requested-at annotation."""
