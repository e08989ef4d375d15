"""The operator's own election, as an API server sees it: what it writes, what it may, who wins."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client
from tests.conformance.target import Target, find_target

from dotmac_operator.leader import Election, Surroundings, Timing, number_of
from dotmac_operator.leases import KubeLeases, LeaseConflict, LeaseError, LeaseForbidden, LeaseName

NAMESPACE = "dotmac-election"
NAME = LeaseName(NAMESPACE, "dotmac-operator")
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
QUICK = Timing(lease=3, renew_deadline=2, retry=0.5)
ROLE = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
]
"""All that the election needs: a Role in the Lease's namespace."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with find_target(tmp_path_factory.mktemp("election")) as found:
        yield found


@pytest.fixture(scope="module")
def admin(target: Target) -> Iterator[httpx.Client]:
    with target.client() as made:
        made.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}})
        yield made


@pytest.fixture(autouse=True)
def _no_lease(admin: httpx.Client) -> None:
    admin.delete(f"{LEASES}/{NAME.name}")


@pytest.fixture
def connect(admin: httpx.Client, target: Target, tmp_path: Path) -> Callable[..., KubeLeases]:
    """Leases as a ServiceAccount reaches them that may do what `rules` say, and nothing else."""

    def make(rules: list[dict[str, Any]] = ROLE, timeout: float = 5.0) -> KubeLeases:
        name = f"operator-{time.time_ns()}"
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
        about = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        for path, body in (
            (accounts, {}),
            (f"{RBAC}/roles", {"rules": rules}),
            (f"{RBAC}/rolebindings", {"roleRef": about, "subjects": [subject]}),
        ):
            answer = admin.post(path, json={"metadata": {"name": name}, **body})
            assert answer.status_code == 201, answer.text
        token = admin.post(f"{accounts}/{name}/token", json={}).json()["status"]["token"]
        (tmp_path / "ca.crt").write_text(target.ca)
        configuration = client.Configuration()
        configuration.host, configuration.ssl_ca_cert = target.url, str(tmp_path / "ca.crt")
        configuration.api_key, configuration.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        leases = KubeLeases(client.ApiClient(configuration), NAME, timeout)
        if any("leases" in rule["resources"] for rule in rules):
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:  # an authorizer learns of a new role a moment later
                try:
                    leases.read()
                    break
                except LeaseForbidden:
                    time.sleep(0.05)
        return leases

    return make


def spec(admin: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = admin.get(f"{LEASES}/{NAME.name}").json()["spec"]
    return found


def test_what_is_written_comes_back(connect, admin):
    leases = connect()
    assert leases.read() is None
    made = leases.create("one", 10.0)
    assert (made.holder, made.duration, made.transitions) == ("one", 10.0, 0)
    assert leases.read() == made
    whole = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)  # no digits after the second
    written = leases.replace(replace(made, holder="two", transitions=1, renewed=whole, acquired=whole))
    assert abs((written.renewed - whole).total_seconds()) < 0.001
    assert (spec(admin)["holderIdentity"], spec(admin)["leaseTransitions"]) == ("two", 1)


def test_only_who_has_read_the_latest_may_write(connect):
    leases = connect()
    made = leases.create("one", 10.0)
    with pytest.raises(LeaseConflict):
        leases.create("two", 10.0)
    leases.replace(replace(made, holder="two"))
    with pytest.raises(LeaseConflict):
        leases.replace(replace(made, holder="three"))


def test_a_lease_that_is_gone_is_no_longer_ours(connect, admin):
    leases = connect()
    made = leases.create("one", 10.0)
    assert admin.delete(f"{LEASES}/{NAME.name}").status_code == 200
    with pytest.raises(LeaseConflict):
        leases.replace(made)


def test_a_namespace_that_is_not_there_is_named(target, tmp_path):
    (tmp_path / "ca.crt").write_text(target.ca)
    configuration = client.Configuration()
    configuration.host, configuration.ssl_ca_cert = target.url, str(tmp_path / "ca.crt")
    configuration.api_key, configuration.api_key_prefix = {"authorization": target.token}, {"authorization": "Bearer"}
    leases = KubeLeases(client.ApiClient(configuration), LeaseName("no-such-place", NAME.name), 5.0)
    assert leases.read() is None
    with pytest.raises(LeaseError, match="no-such-place"):
        leases.create("one", 10.0)


def test_what_others_keep_in_it_stays(connect, admin):
    leases = connect()
    leases.create("one", 10.0)
    patch = {"metadata": {"labels": {"team": "erp"}, "annotations": {"note": "ours"}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    assert admin.patch(f"{LEASES}/{NAME.name}", json=patch, headers=headers).status_code == 200
    found = leases.read()
    leases.replace(replace(found, holder="two"))
    meta = admin.get(f"{LEASES}/{NAME.name}").json()["metadata"]
    assert (meta["labels"], meta["annotations"]) == ({"team": "erp"}, {"note": "ours"})


def test_a_missing_right_is_named(connect):
    leases = connect(ROLE[1:])
    with pytest.raises(LeaseForbidden, match=f"may not get leases in namespace {NAMESPACE}"):
        leases.read()


def test_its_domain_is_the_clusters_where_that_may_be_read_else_the_namespaces(connect, admin):
    own = admin.get(f"/api/v1/namespaces/{NAMESPACE}").json()["metadata"]["uid"]
    assert connect().domain() == f"{NAMESPACE}.dotmac-operator.{own}"
    with pytest.raises(LeaseForbidden, match="FENCING_DOMAIN"):
        connect(ROLE[:2]).domain()


@pytest.mark.slow
def test_two_operators_elect_one_and_the_other_takes_over(connect, admin):
    def operator(name: str) -> Election:
        made = Election(connect(), name, QUICK, Surroundings(ended=lambda holder: False))
        made.start()
        return made

    one = operator("one")
    until(lambda: one.leading)
    two = operator("two")
    time.sleep(1.0)
    assert (one.leading, two.leading) == (True, False)
    first = one.token().number
    one._stopping.set()  # it neither renews nor releases: a crash
    one._wake.set()
    gone = time.monotonic()
    until(lambda: two.leading)
    assert time.monotonic() - gone > QUICK.renew_deadline / 2 and not one.leading
    assert two.token().number == first + 1
    two.stop()
    assert spec(admin)["holderIdentity"] == ""
    three = operator("three")
    until(lambda: three.leading)
    assert three.token().number == first + 2
    three.stop()
    found = connect().read()
    assert number_of(found) == first + 2
    events = admin.get(f"/api/v1/namespaces/{NAMESPACE}/events").json()["items"]
    assert {"two became leader", "three became leader"} <= {event["message"] for event in events}


def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
