"""The Kubernetes API for reconciliation, by the official client. Blocking; called from worker threads."""

import base64
import binascii
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dotmac_crds.base import API_VERSION, FINALIZER, GROUP, VERSION
from dotmac_crds.kinds import KINDS
from dotmac_operator.core import tenancy
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.tenancy import Owner, Secret
from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.reconcile.ports import Body, ClusterError, CredentialsTaken, Gone, ObjectRef, Stale

log = logging.getLogger(__name__)

FIELD_MANAGER = "dotmac-operator"
TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and to read."""
_PLURALS = {kind.name: kind.plural for kind in KINDS}


class NoCluster(RuntimeError):
    """There is no usable way to a Kubernetes API."""


def connect(pool_size: int = 32) -> client.ApiClient:
    """The API of the pod's service account, else of the kubeconfig.

    Raises:
        NoCluster: neither is there, with what to set.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            message = f"no Kubernetes API: not in a pod, and no usable kubeconfig ({error}); set KUBECONFIG"
            raise NoCluster(message) from None
    configuration.connection_pool_maxsize = pool_size
    return client.ApiClient(configuration)


def service_url() -> str:
    """The API as the kubelet tells a pod where it is; "" outside of one."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else ""


def current_namespace() -> str:
    """The namespace of the pod, else of the kubeconfig's current context, else `default`; as kubectl chooses."""
    if namespace := pod_namespace():
        return namespace
    try:
        _, active = config.list_kube_config_contexts()
    except (config.ConfigException, OSError):
        return "default"
    return str(active.get("context", {}).get("namespace") or "default")


def pod_namespace() -> str:
    """The namespace of the pod; "" outside of one."""
    try:
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _typed[F: Callable[..., Any]](call: F) -> F:
    """Errors of the client library leave as ours; 404 means that the object is gone."""

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ApiException as error:
            kind = Gone if error.status == 404 else ClusterError
            raise kind(_told(error)) from None
        except HTTPError as error:
            raise ClusterError(f"the Kubernetes API did not answer: {type(error).__name__}") from None

    return wrapped  # type: ignore[return-value]


_UNKNOWN = re.compile(r"(\.[A-Za-z0-9_.]+): field not declared in schema")


def _told(error: ApiException) -> str:
    """The answer without its body, which may repeat what was sent; but the name of a field that the CRD lacks."""
    if found := _UNKNOWN.search(str(error.body)):
        return (
            f"the Kubernetes API does not know the field {found[1]}: its CRDs are older than this operator; "
            "apply those of this version (kubectl apply --server-side -k crds)"
        )
    return f"the Kubernetes API answered {error.status} {error.reason}"


class KubeCluster:
    """Implements `reconcile.ports.Cluster`."""

    def __init__(self, api: client.ApiClient, may_write: Callable[[], object] = lambda: None) -> None:
        """`may_write` raises NotLeading when another operator leads."""
        self._may_write = may_write
        self._api = api
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self.writes = 0
        """Writes so far, for tests and metrics: a steady fleet makes none."""

    def _before_write(self) -> None:
        self._may_write()
        self.writes += 1

    @_typed
    def count(self, namespaces: Sequence[str]) -> int:
        """Objects of all our kinds; `namespaces` are those that are watched, none for all of them."""
        total = 0
        for kind in KINDS:
            for namespace in namespaces if kind.scope == "Namespaced" and namespaces else [""]:
                place = (GROUP, VERSION, namespace) if namespace else (GROUP, VERSION)
                scope = "namespaced" if namespace else "cluster"
                listing = getattr(self._custom, f"list_{scope}_custom_object")
                page = listing(*place, kind.plural, limit=1, _request_timeout=TIMEOUT)
                total += len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)
        return total

    @_typed
    def secret(self, namespace: str, name: str) -> Secret | None:
        found = self._read_secret(namespace, name)
        return None if found is None else _secret(name, found)

    @_typed
    def write_credentials(self, owner: ObjectRef, name: str, org_code: str, values: Mapping[str, SecretStr]) -> None:
        encoded = {key: base64.b64encode(value.reveal().encode()).decode() for key, value in values.items()}
        self._before_write()
        found = self._read_secret(owner.namespace, name)
        if found is None:
            labels = tenancy.labels(org_code, owner.name)
            owned = _owner_reference(owner)
            meta = client.V1ObjectMeta(name=name, namespace=owner.namespace, labels=labels, owner_references=[owned])
            body = client.V1Secret(metadata=meta, type="Opaque", data=encoded)
            self._core.create_namespaced_secret(
                owner.namespace, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT
            )
            return
        claim = _claim(found, owner, org_code)
        missing = {key: value for key, value in encoded.items() if key not in (found.get("data") or {})}
        self._patch_secret(owner.namespace, name, {"metadata": claim, "data": missing})

    @_typed
    def release_credentials(self, owner: ObjectRef, name: str) -> None:
        found = self._read_secret(owner.namespace, name)
        owners = (found or {}).get("metadata", {}).get("ownerReferences") or []
        kept = [reference for reference in owners if reference["uid"] != owner.uid]
        if kept != owners:
            self._before_write()
            self._patch_secret(owner.namespace, name, {"metadata": {"ownerReferences": kept or None}})

    @_typed
    def claim_credentials(self, owner: ObjectRef, name: str, org_code: str) -> None:
        found = self._read_secret(owner.namespace, name)
        if found is not None:
            claim = _claim(found, owner, org_code)
            self._before_write()
            self._patch_secret(owner.namespace, name, {"metadata": claim})

    def _read_secret(self, namespace: str, name: str) -> Body | None:
        try:
            return self._ask("GET", f"/api/v1/namespaces/{_part(namespace)}/secrets/{_part(name)}")
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _ask(self, method: str, path: str, content_type: str = "", body: Body | None = None) -> Body:
        """For what is asked most often: the client's connections, credentials and errors without the checks and models
        of its generated methods, which take as much processor time as the request itself."""
        headers = {"Accept": "application/json", **self._api.default_headers}
        if content_type:
            headers["Content-Type"] = content_type
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._api.configuration.host + path
        answer = self._api.call_api(method, url, headers, body, _request_timeout=TIMEOUT)
        text: bytes = answer.read()  # type: ignore[no-untyped-call]
        if not 200 <= answer.status <= 299:
            raise ApiException.from_response(http_resp=answer, body=text.decode(errors="replace"), data=None)
        found: Body = json.loads(text)
        return found

    def _patch_secret(self, namespace: str, name: str, body: Body) -> None:
        self._core.patch_namespaced_secret(
            name,
            namespace,
            body,
            field_manager=FIELD_MANAGER,
            _content_type="application/merge-patch+json",
            _request_timeout=TIMEOUT,
        )

    @_typed
    def apply_status(self, ref: ObjectRef, status: Body, exactly: bool = False) -> Body:
        meta = {"name": ref.name, "uid": ref.uid}  # the uid keeps it from a namesake that was created meanwhile
        if exactly:
            meta["resourceVersion"] = ref.resource_version
        if ref.namespace:
            meta["namespace"] = ref.namespace
        body = {"apiVersion": API_VERSION, "kind": ref.kind, "metadata": meta, "status": status}
        self._before_write()
        scope = f"/namespaces/{_part(ref.namespace)}" if ref.namespace else ""
        path = f"/apis/{GROUP}/{VERSION}{scope}/{_PLURALS[ref.kind]}/{_part(ref.name)}/status"
        options = f"?fieldManager={FIELD_MANAGER}&force=true"
        try:
            return self._ask("PATCH", path + options, "application/apply-patch+yaml", body)
        except ApiException as error:
            if error.status == 409:
                self._tell_conflict(ref, exactly)
            raise

    def _tell_conflict(self, ref: ObjectRef, exactly: bool) -> None:
        """Raises what a 409 means; returns when the object is as it was: an API server that was overtaken too often by
        other writes answers so, too."""
        place = (GROUP, VERSION, ref.namespace) if ref.namespace else (GROUP, VERSION)
        scope = "namespaced" if ref.namespace else "cluster"
        read = getattr(self._custom, f"get_{scope}_custom_object")
        found: Body = read(*place, _PLURALS[ref.kind], ref.name, _request_timeout=TIMEOUT)
        if found["metadata"]["uid"] != ref.uid:
            raise Gone(f"{ref.kind} {ref.key} was replaced by another one")
        if exactly and found["metadata"]["resourceVersion"] != ref.resource_version:
            raise Stale(f"{ref.kind} {ref.key} has changed since it was read", found)

    @_typed
    def set_finalizer(self, ref: ObjectRef, present: bool, finalizers: list[str]) -> Body | None:
        wanted = [name for name in finalizers if name != FINALIZER] + ([FINALIZER] if present else [])
        # With the version that the list was read from, so that somebody else's finalizer is never lost.
        body = {"metadata": {"resourceVersion": ref.resource_version, "uid": ref.uid, "finalizers": wanted}}
        self._before_write()
        options = {
            "field_manager": FIELD_MANAGER,
            "_content_type": "application/merge-patch+json",
            "_request_timeout": TIMEOUT,
        }
        try:
            return self._write("patch", "", ref, body, options)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def event(self, ref: ObjectRef, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        now = datetime.now(UTC)
        namespace = ref.namespace or "default"
        body = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{ref.name[:50]}.", namespace=namespace),
            involved_object=client.V1ObjectReference(
                api_version=API_VERSION, kind=ref.kind, name=ref.name, uid=ref.uid, namespace=ref.namespace or None
            ),
            type=type_,
            reason=reason,
            message=message[:1024],
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            source=client.V1EventSource(component=FIELD_MANAGER),
            reporting_component=FIELD_MANAGER,
            reporting_instance=FIELD_MANAGER,
            action="Reconcile",
        )
        try:
            self._before_write()
            self._core.create_namespaced_event(namespace, body, _request_timeout=TIMEOUT)
        except (ApiException, HTTPError, NotLeading) as error:
            log.warning("event %s of %s was lost: %s", reason, ref.key, type(error).__name__)

    def _write(self, verb: str, suffix: str, ref: ObjectRef, body: Body, options: dict[str, Any]) -> Body:
        place = (GROUP, VERSION, ref.namespace) if ref.namespace else (GROUP, VERSION)
        scope = "namespaced" if ref.namespace else "cluster"
        call = getattr(self._custom, f"{verb}_{scope}_custom_object{suffix}")
        made: Body = call(*place, _PLURALS[ref.kind], ref.name, body, **options)
        return made


def _part(name: str) -> str:
    """One part of a path, whatever somebody wrote as a name."""
    return quote(name, safe="")


def _secret(name: str, body: Body) -> Secret:
    meta = body.get("metadata") or {}
    references = meta.get("ownerReferences") or []
    owners = tuple(Owner(found["name"], found["uid"]) for found in references if _is_instance(found))
    return Secret(
        name=name,
        values=_decode(body.get("data") or {}),
        type=body.get("type") or "Opaque",
        labels=meta.get("labels") or {},
        owners=owners,
        kept_by_others=len(owners) < len(references),
    )


def _is_instance(reference: Body) -> bool:
    return bool(reference["kind"] == "Instance" and reference["apiVersion"].partition("/")[0] == GROUP)


def _claim(found: Body, owner: ObjectRef, org_code: str) -> Body:
    """The metadata of a Secret that says whose it is.

    With the version that was read: a key that somebody adds meanwhile is not overwritten.

    Raises:
        CredentialsTaken: it says that it is another one's.
    """
    meta = found["metadata"]
    claimant = tenancy.Claimant(owner.name, owner.uid, org_code)
    if why := tenancy.taken(_secret(meta["name"], found), claimant, tenancy.Claims()):
        raise CredentialsTaken(f"Secret {meta['name']} is not that of {owner.kind} {owner.key}: {why}")
    others = [reference for reference in meta.get("ownerReferences") or [] if not _is_instance(reference)]
    owned = _plain(_owner_reference(owner, controller=not any(reference.get("controller") for reference in others)))
    labels = tenancy.labels(org_code, owner.name)
    return {"resourceVersion": meta.get("resourceVersion"), "labels": labels, "ownerReferences": [*others, owned]}


def _decode(data: Mapping[str, str | bytes]) -> dict[str, SecretStr]:
    made = {}
    for key, value in data.items():
        try:
            made[key] = SecretStr(base64.b64decode(value, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            log.warning("key %s of a Secret is not UTF-8 text and is left out", key)
    return made


def _owner_reference(owner: ObjectRef, controller: bool = True) -> client.V1OwnerReference:
    return client.V1OwnerReference(
        api_version=API_VERSION,
        kind=owner.kind,
        name=owner.name,
        uid=owner.uid,
        controller=controller,
        block_owner_deletion=False,
    )


def _plain(reference: client.V1OwnerReference) -> Body:
    return {
        "apiVersion": reference.api_version,
        "kind": reference.kind,
        "name": reference.name,
        "uid": reference.uid,
        "controller": reference.controller,
        "blockOwnerDeletion": reference.block_owner_deletion,
    }
