"""What the answers of the Kubernetes API mean."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dotmac_operator import kube
from dotmac_operator.core import names, tenancy
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.kube import KubeCluster
from dotmac_operator.reconcile.ports import ClusterError, CredentialsTaken, Gone, ObjectRef, Stale

REF = ObjectRef("Instance", "erp", "acme", "u1", "1")


def refusing(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> KubeCluster:
    """An API that answers 409 to each apply; `found` is what has the name, None for nothing."""

    def conflict(*_: Any, **__: Any) -> Any:
        raise ApiException(409, "Conflict")

    def get(*_: Any, **__: Any) -> Any:
        if found is None:
            raise ApiException(404, "Not Found")
        return found

    monkeypatch.setattr(client.CustomObjectsApi, "patch_namespaced_custom_object_status", conflict)
    monkeypatch.setattr(client.CustomObjectsApi, "get_namespaced_custom_object", get)
    return KubeCluster(client.ApiClient())


def test_a_conflict_over_the_same_object_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it was taken for the end of the object, and nothing was done until somebody woke its pass."""
    cluster = refusing(monkeypatch, {"metadata": {"uid": "u1", "resourceVersion": "1"}})
    with pytest.raises(ClusterError) as told:
        cluster.apply_status(REF, {})
    assert not isinstance(told.value, Gone)


@pytest.mark.parametrize("found", [None, {"metadata": {"uid": "u2"}}])
def test_a_conflict_with_a_namesake_is_the_end_of_the_object(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None
) -> None:
    with pytest.raises(Gone):
        refusing(monkeypatch, found).apply_status(REF, {})


def test_a_field_that_an_older_crd_lacks_is_named_and_nothing_else_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As kube-apiserver 1.36 answers; see deploy/docs/upgrade.md."""
    told = (
        "failed to create typed patch object (a/s3cret; Kind=Instance): .status.repairing: field not declared in schema"
    )

    def refused(*_: Any, **__: Any) -> Any:
        error = ApiException(500, "Internal Server Error")
        error.body = json.dumps({"kind": "Status", "message": told, "code": 500})
        raise error

    monkeypatch.setattr(client.CustomObjectsApi, "patch_namespaced_custom_object_status", refused)
    with pytest.raises(ClusterError, match=r"field \.status\.repairing: its CRDs are older.*kubectl apply") as caught:
        KubeCluster(client.ApiClient()).apply_status(REF, {"repairing": []})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.96.0.1", "443", "https://10.96.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("10.96.0.1", None, "https://10.96.0.1:443"),
        ("", "443", ""),
    ],
)
def test_the_watches_use_the_address_that_the_kubelet_tells(
    monkeypatch: pytest.MonkeyPatch, host: str, port: str | None, url: str
) -> None:
    for name, value in (("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert kube.service_url() == url


def test_a_status_made_from_an_old_version_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"metadata": {"uid": "u1", "resourceVersion": "2"}}
    with pytest.raises(Stale) as told:
        refusing(monkeypatch, now).apply_status(REF, {}, exactly=True)
    assert told.value.body == now


def test_a_conflict_over_the_version_that_was_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError) as told:
        refusing(monkeypatch, {"metadata": {"uid": "u1", "resourceVersion": "1"}}).apply_status(REF, {}, exactly=True)
    assert not isinstance(told.value, Gone | Stale)


def test_which_version_a_status_is_for_is_said_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def note(*args: Any, **_: Any) -> Any:
        sent.append(args[-1]["metadata"].get("resourceVersion"))
        return {}

    monkeypatch.setattr(client.CustomObjectsApi, "patch_namespaced_custom_object_status", note)
    cluster = KubeCluster(client.ApiClient())
    cluster.apply_status(REF, {})
    cluster.apply_status(REF, {}, exactly=True)
    assert sent == [None, "1"]


class Secrets:
    """The API's Secrets, as raw answers; takes merge-patches in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> None:
        self.found = found
        self.patches: list[dict[str, Any]] = []
        self.created: list[client.V1Secret] = []
        monkeypatch.setattr(client.CoreV1Api, "read_namespaced_secret", self._read)
        monkeypatch.setattr(client.CoreV1Api, "patch_namespaced_secret", self._patch)
        monkeypatch.setattr(client.CoreV1Api, "create_namespaced_secret", self._create)
        self.cluster = KubeCluster(client.ApiClient())

    def _read(self, *_: Any, **__: Any) -> Any:
        if self.found is None:
            raise ApiException(404, "Not Found")
        return SimpleNamespace(data=json.dumps(self.found))

    def _patch(self, name: str, namespace: str, body: dict[str, Any], **_: Any) -> None:
        self.patches.append(body)

    def _create(self, namespace: str, body: client.V1Secret, **_: Any) -> None:
        self.created.append(body)


def secret(labels: dict[str, str] | None = None, *owners: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": "acme-credentials", "resourceVersion": "7", "labels": labels, "ownerReferences": list(owners)}
    return {"metadata": meta, "data": {"kept": "b2xk"}}


def owner(uid: str, kind: str = "Instance", group: str = "platform.dotmac.io", **more: Any) -> dict[str, Any]:
    return {"apiVersion": f"{group}/v1alpha1", "kind": kind, "name": "acme", "uid": uid, **more}


ORG = {names.ORG: "ACME"}
NEW = {"kept": SecretStr("new"), "more": SecretStr("new")}


def test_credentials_are_made_with_the_word_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Secrets(monkeypatch, None)
    api.cluster.write_credentials(REF, "acme-credentials", "ACME", NEW)
    [made] = api.created
    assert made.metadata is not None
    assert made.metadata.labels == tenancy.labels("ACME", "acme") and made.metadata.labels[names.ORG] == "ACME"


@pytest.mark.parametrize("found", [secret(ORG), secret({**ORG, "mine": "x"}, owner("dead")), secret({}, owner("u1"))])
def test_what_is_its_own_gets_what_is_missing(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    api = Secrets(monkeypatch, found)
    api.cluster.write_credentials(REF, "acme-credentials", "ACME", NEW)
    api.cluster.claim_credentials(REF, "acme-credentials", "ACME")
    for patch in api.patches:
        meta = patch["metadata"]
        assert meta["labels"] == tenancy.labels("ACME", "acme") and meta["resourceVersion"] == "7"
        assert [reference["uid"] for reference in meta["ownerReferences"]] == ["u1"]
    assert [patch.get("data") for patch in api.patches] == [{"more": "bmV3"}, None]


@pytest.mark.parametrize("found", [secret(), secret({names.ORG: "BETA"}), secret({names.ORG: "BETA"}, owner("u1"))])
def test_what_became_somebody_elses_meanwhile_is_not_written(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    api = Secrets(monkeypatch, found)
    with pytest.raises(CredentialsTaken):
        api.cluster.write_credentials(REF, "acme-credentials", "ACME", NEW)
    with pytest.raises(CredentialsTaken):
        api.cluster.claim_credentials(REF, "acme-credentials", "ACME")
    assert api.patches == [] and api.created == []


def test_whoever_else_keeps_a_secret_stays_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that makes Secrets from a vault; there is one controller at most."""
    vault = owner("v", "ExternalSecret", "external-secrets.io", controller=True)
    api = Secrets(monkeypatch, secret(ORG, vault, owner("namesake", group="example.com")))
    found = api.cluster.secret("erp", "acme-credentials")
    assert found is not None and found.owners == () and found.kept_by_others
    api.cluster.write_credentials(REF, "acme-credentials", "ACME", NEW)
    references = api.patches[0]["metadata"]["ownerReferences"]
    assert [(o["uid"], bool(o.get("controller"))) for o in references] == [
        ("v", True), ("namesake", False), ("u1", False),
    ]  # fmt: skip


def test_letting_go_takes_its_own_claim_back_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Secrets(monkeypatch, secret(ORG, owner("u1"), owner("v", "ExternalSecret", "external-secrets.io")))
    api.cluster.release_credentials(REF, "acme-credentials")
    assert [o["uid"] for o in api.patches[0]["metadata"]["ownerReferences"]] == ["v"]
    foreign = Secrets(monkeypatch, secret(ORG, owner("another")))
    foreign.cluster.release_credentials(REF, "acme-credentials")
    Secrets(monkeypatch, None).cluster.release_credentials(REF, "acme-credentials")
    assert foreign.patches == []
