"""Who may do what: tokens, RBAC, reviews, impersonation, and attempts to get round them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from tests.kits.controlplane import ControlPlane
from tests.local import widgets
from tests.local.widgets import PATH, make

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
WRITING = ["get", "create", "update", "patch"]


@pytest.fixture(scope="module", autouse=True)
def _widgets(control_plane: ControlPlane) -> None:
    widgets.install(control_plane)
    make(control_plane, "w")


class Robot:
    """A service account with a role of its own and a client that uses its token."""

    def __init__(self, server: ControlPlane, name: str, rules: list[dict[str, Any]]) -> None:
        self.name = name
        meta = {"name": name}
        created = server.client.post(ACCOUNTS, json={"metadata": meta})
        assert created.status_code == 201, created.text
        role = {"metadata": meta, "rules": rules}
        assert server.client.post(f"{RBAC}/namespaces/default/roles", json=role).status_code == 201
        binding = {
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        }
        assert server.client.post(f"{RBAC}/namespaces/default/rolebindings", json=binding).status_code == 201
        self.token = server.client.post(f"{ACCOUNTS}/{name}/token", json={}).json()["status"]["token"]
        self.client = server.connect(self.token)


@pytest.fixture
def robot(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Robot]:
    """A robot that may get and watch widgets."""
    rules = [{"apiGroups": ["widgets.example.com"], "resources": ["widgets"], "verbs": ["get", "watch"]}]
    made = Robot(control_plane, "robot", rules)
    yield made
    for path in (
        f"{ACCOUNTS}/robot",
        f"{RBAC}/namespaces/default/roles/robot",
        f"{RBAC}/namespaces/default/rolebindings/robot",
    ):
        control_plane.client.delete(path)


def refused(answer: httpx.Response, code: int = 403) -> str:
    assert answer.status_code == code, answer.text
    message: str = answer.json()["message"]
    return message


def test_what_the_role_says_and_no_more(robot: Robot) -> None:
    assert robot.client.get(f"{PATH}/w").status_code == 200
    assert robot.client.get(PATH, params={"watch": "true", "timeoutSeconds": "1"}).status_code == 200
    assert 'cannot list resource "widgets"' in refused(robot.client.get(PATH))
    assert 'cannot delete resource "widgets"' in refused(robot.client.delete(f"{PATH}/w"))
    assert 'cannot deletecollection resource "widgets"' in refused(robot.client.delete(PATH))
    merge = {"Content-Type": "application/merge-patch+json"}
    assert 'cannot patch resource "widgets/status"' in refused(
        robot.client.patch(f"{PATH}/w/status", json={}, headers=merge)
    )
    assert 'in the namespace "kube-system"' in refused(robot.client.get(f"{PATH.replace('default', 'kube-system')}/w"))
    assert "at the cluster scope" in refused(robot.client.get("/apis/widgets.example.com/v1/widgets?watch=true"))


def test_what_is_not_allowed_does_not_even_say_what_exists(robot: Robot) -> None:
    assert refused(robot.client.get("/api/v1/namespaces/default/secrets/there"))
    assert refused(robot.client.get("/apis/unknown.example.com/v1/namespaces/default/things"))
    assert refused(robot.client.post(PATH, content=b"{not even json"))


def test_a_role_taken_back_counts_at_once(control_plane: ControlPlane, robot: Robot) -> None:
    control_plane.client.delete(f"{RBAC}/namespaces/default/rolebindings/robot")
    refused(robot.client.get(f"{PATH}/w"))


def test_a_token_dies_with_its_account(control_plane: ControlPlane, robot: Robot) -> None:
    control_plane.client.delete(f"{ACCOUNTS}/robot")
    assert refused(robot.client.get(f"{PATH}/w"), 401) == "Unauthorized"
    control_plane.client.post(ACCOUNTS, json={"metadata": {"name": "robot"}})
    assert refused(robot.client.get(f"{PATH}/w"), 401) == "Unauthorized"


def test_forged_tokens(control_plane: ControlPlane, robot: Robot) -> None:
    claims = jwt.decode(robot.token, options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none")
    other_key = jwt.encode(claims, "x" * 32, algorithm="HS256")
    head, body, signature = robot.token.split(".")
    raised = {**claims, "sub": "system:serviceaccount:kube-system:default"}
    altered = base64.urlsafe_b64encode(json.dumps(raised).encode()).decode().rstrip("=")
    for token in (unsigned, other_key, f"{head}.{altered}.{signature}", f"{head}.{body}.", "x", "Bearer", "a.b.c"):
        assert control_plane.connect(token).get(f"{PATH}/w").status_code == 401, token


def test_a_token_for_another_audience(control_plane: ControlPlane, robot: Robot) -> None:
    asked = {"spec": {"audiences": ["vault"], "expirationSeconds": 600}}
    token = control_plane.client.post(f"{ACCOUNTS}/robot/token", json=asked).json()["status"]["token"]
    assert control_plane.connect(token).get(f"{PATH}/w").status_code == 401
    review = "/apis/authentication.k8s.io/v1/tokenreviews"
    spec = {"token": token, "audiences": ["vault"]}
    status = control_plane.client.post(review, json={"spec": spec}).json()["status"]
    assert status["authenticated"] and status["user"]["username"] == "system:serviceaccount:default:robot"
    wrong = control_plane.client.post(review, json={"spec": {"token": token}}).json()["status"]
    assert not wrong.get("authenticated")


def test_short_lived_tokens_only_within_limits(control_plane: ControlPlane, robot: Robot) -> None:
    asked = {"spec": {"expirationSeconds": 5}}
    assert control_plane.client.post(f"{ACCOUNTS}/robot/token", json=asked).status_code == 422
    assert control_plane.client.post(f"{ACCOUNTS}/nobody/token", json={}).status_code == 404


def test_nobody_may_read_nothing_but_discovery(control_plane: ControlPlane) -> None:
    nobody = control_plane.connect("")
    assert nobody.get("/version").status_code == 200 and nobody.get("/readyz").status_code == 200
    assert 'User "system:anonymous"' in refused(nobody.get(f"{PATH}/w"))
    refused(nobody.get("/apis"))
    refused(nobody.get("/openapi/v2"))


def test_a_role_cannot_be_raised_by_its_holder(control_plane: ControlPlane) -> None:
    rules = [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": WRITING},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]},
    ]
    climber = Robot(control_plane, "climber", rules)
    roles = f"{RBAC}/namespaces/default/roles"
    everything = {"metadata": {"name": "all"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    assert "not currently held" in refused(climber.client.post(roles, json=everything))
    merge = {"Content-Type": "application/merge-patch+json"}
    assert "not currently held" in refused(
        climber.client.patch(f"{roles}/climber", json={"rules": everything["rules"]}, headers=merge)
    )
    json_patch = [
        {"op": "add", "path": "/rules/-", "value": {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}}
    ]
    patch = {"Content-Type": "application/json-patch+json"}
    assert "not currently held" in refused(climber.client.patch(f"{roles}/climber", json=json_patch, headers=patch))
    changed = {**control_plane.client.get(f"{roles}/climber").json(), "rules": everything["rules"]}
    assert "not currently held" in refused(climber.client.put(f"{roles}/climber", json=changed))
    binding = {
        "metadata": {"name": "admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "climber", "namespace": "default"}],
    }
    bindings = f"{RBAC}/namespaces/default/rolebindings"
    assert "not currently held" in refused(climber.client.post(bindings, json=binding))
    apply = {"Content-Type": "application/apply-patch+yaml"}
    query = {"fieldManager": "me", "force": "true"}
    whole = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        **everything,
        "metadata": {"name": "climber"},
    }
    assert "not currently held" in refused(
        climber.client.patch(f"{roles}/climber", params=query, content=json.dumps(whole), headers=apply)
    )
    assert climber.client.patch(f"{roles}/climber", json={"metadata": {"labels": {"a": "b"}}}, headers=merge).is_success
    own = {"metadata": {"name": "less"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}
    assert climber.client.post(roles, json=own).status_code == 201


def test_only_the_administrator_acts_as_others(control_plane: ControlPlane, robot: Robot) -> None:
    as_admin = {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"}
    assert 'cannot impersonate resource "users"' in refused(robot.client.get(f"{PATH}/w", headers=as_admin))
    as_robot = {"Impersonate-User": "system:serviceaccount:default:robot"}
    assert control_plane.client.get(f"{PATH}/w", headers=as_robot).status_code == 200
    refused(control_plane.client.get(PATH, headers=as_robot))
    assert control_plane.client.get(f"{PATH}/w", headers={"Impersonate-Group": "system:masters"}).status_code == 400


def test_access_reviews_agree_with_what_happens(control_plane: ControlPlane, robot: Robot) -> None:
    def may(client: httpx.Client, kind: str, verb: str, **more: str) -> bool:
        attributes = {"group": "widgets.example.com", "resource": "widgets", "verb": verb, "namespace": "default"}
        spec = {"resourceAttributes": attributes, **more}
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        answer = client.post(path, json={"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
        assert answer.status_code == 201, answer.text
        allowed: bool = answer.json()["status"]["allowed"]
        return allowed

    assert may(robot.client, "SelfSubjectAccessReview", "get") and not may(
        robot.client, "SelfSubjectAccessReview", "list"
    )
    who = {"user": "system:serviceaccount:default:robot"}
    assert may(control_plane.client, "SubjectAccessReview", "get", **who)
    assert not may(control_plane.client, "SubjectAccessReview", "delete", **who)
    refused(robot.client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json={"spec": who}))


def test_the_log_holds_no_secrets(control_plane: ControlPlane, robot: Robot) -> None:
    control_plane.client.post("/api/v1/namespaces/default/secrets", content=b'{"stringData": {"a": "canary-1234"')
    secret = {"metadata": {"name": "x"}, "data": {"a": "canary-1234"}}
    answer = control_plane.client.post("/api/v1/namespaces/default/secrets", json=secret)
    assert answer.status_code == 400 and "canary" not in answer.text
    log = control_plane.log
    assert control_plane.token not in log and robot.token not in log and "canary" not in log
    for name in ("state.db", "kubeconfig", "tls/token", "tls/signing.key", "tls/ca.key", "tls/server.key"):
        assert (control_plane.directory / name).stat().st_mode & 0o077 == 0, name
