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

APPLIED = "?fieldManager=dotmac-operator&force=true"
REF = ObjectRef("Instance", "erp", "acme", "u1", "1")


class Answers:
    """Stands where the client sends: notes each request, and gives one answer to all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int, body: Any) -> None:
        self.status, self.body = status, body
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        monkeypatch.setattr(client.ApiClient, "call_api", self._answer)

    def _answer(self, method: str, url: str, headers: dict[str, str], body: Any = None, **_: Any) -> Any:
        self.asked.append((method, url))
        self.headers.append(headers)
        self.bodies.append(body)
        text = json.dumps(self.body).encode()
        return SimpleNamespace(status=self.status, reason="as told", headers={}, data=text, read=lambda: text)


def refusing(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> KubeCluster:
    """An API that answers 409 to each apply; `found` is what has the name, None for nothing."""

    def get(*_: Any, **__: Any) -> Any:
        if found is None:
            raise ApiException(404, "Not Found")
        return found

    Answers(monkeypatch, 409, {"kind": "Status", "code": 409})
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

    Answers(monkeypatch, 500, {"kind": "Status", "message": told, "code": 500})
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
    api = Answers(monkeypatch, 200, {})
    cluster = KubeCluster(client.ApiClient())
    cluster.apply_status(REF, {})
    cluster.apply_status(REF, {}, exactly=True)
    assert [body["metadata"].get("resourceVersion") for body in api.bodies] == [None, "1"]


def test_a_status_is_applied_as_this_manager_and_a_secret_is_read_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Answers(monkeypatch, 200, {"metadata": {}})
    configuration = client.Configuration(host="https://api.example:6443", api_key={"authorization": "Bearer t0ken"})
    cluster = KubeCluster(client.ApiClient(configuration))
    cluster.apply_status(REF, {"state": "Running"})
    cluster.apply_status(ObjectRef("InstanceClass", "", "small", "u2"), {})
    cluster.secret("erp", "a/../b?c")
    base = "https://api.example:6443"
    assert api.asked == [
        ("PATCH", f"{base}/apis/platform.dotmac.io/v1alpha1/namespaces/erp/instances/acme/status{APPLIED}"),
        ("PATCH", f"{base}/apis/platform.dotmac.io/v1alpha1/instanceclasses/small/status{APPLIED}"),
        ("GET", f"{base}/api/v1/namespaces/erp/secrets/a%2F..%2Fb%3Fc"),
    ]
    assert all(headers["authorization"] == "Bearer t0ken" for headers in api.headers)
    assert [headers.get("Content-Type") for headers in api.headers] == ["application/apply-patch+yaml"] * 2 + [None]
    assert api.bodies[0]["status"] == {"state": "Running"} and api.bodies[0]["metadata"]["uid"] == "u1"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_answer_that_is_none_is_told_without_its_body(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    Answers(monkeypatch, status, {"message": "s3cret"})
    cluster = KubeCluster(client.ApiClient())
    for ask in (lambda: cluster.secret("erp", "acme"), lambda: cluster.apply_status(REF, {})):
        with pytest.raises(ClusterError, match=f"answered {status}") as told:
            ask()
        assert "s3cret" not in str(told.value)
        assert not isinstance(told.value, Gone)


class Secrets:
    """The API's Secrets, as raw answers; takes merge-patches in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> None:
        self.patches: list[dict[str, Any]] = []
        self.created: list[client.V1Secret] = []
        Answers(monkeypatch, 404 if found is None else 200, found)
        monkeypatch.setattr(client.CoreV1Api, "patch_namespaced_secret", self._patch)
        monkeypatch.setattr(client.CoreV1Api, "create_namespaced_secret", self._create)
        self.cluster = KubeCluster(client.ApiClient())

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
