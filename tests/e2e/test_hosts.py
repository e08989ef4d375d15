"""What is told while a host cannot be used, and that all goes on by itself afterwards."""

import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.e2e import releases
from tests.e2e.conftest import server
from tests.e2e.platform import Platform, Tenant, condition

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "harbour"


@pytest.fixture(scope="module")
def tenant(platform: Platform, acme: Tenant) -> Iterator[Tenant]:
    """A tenant on host `two`, which the tests below break; the sample ERP deploys on the other one meanwhile."""
    with platform.tenant(releases.instance(NAME, "sample-1", serverRef={"name": "two"})) as made:
        yield made


def test_a_host_that_goes_away_and_comes_back(platform: Platform, tenant: Tenant) -> None:
    host, ids = platform.hosts["two"], tenant.ids()
    host.unreachable()
    try:
        # Nobody uses the connection, so it is the keep-alive that finds out.
        found = platform.wait_condition("Server", "two", "Ready", "False", seconds=60)
        assert condition(found, "Reachable")["status"] == "False"  # type: ignore[index]
        seen = platform.wait_condition("Instance", NAME, "Ready", "Unknown", reason="ServerNotReady")
        assert seen["status"]["phase"] == "Unreachable"
        assert tenant.ids() == ids, "its containers run on"
        platform.apply(
            releases.instance(NAME, "sample-1", serverRef={"name": "two"}, env=[{"name": "X", "value": "1"}])
        )
    finally:
        host.reachable()
    platform.wait_condition("Server", "two", "Ready", "True", seconds=60)
    platform.wait_ready(NAME)
    assert tenant.exec("web", "printenv", "X").strip() == "1", "what was asked for meanwhile is done now"
    assert tenant.ask().status_code == 200


def test_a_host_with_another_key_is_not_talked_to(platform: Platform, tenant: Tenant) -> None:
    host, ids = platform.hosts["two"], tenant.ids()
    old = host.host_key
    new = host.new_host_key()
    assert old != new
    found = platform.wait_condition("Server", "two", "Ready", "False", reason="HostKeyChanged", seconds=60)
    assert condition(found, "HostKeyVerified")["status"] == "False"  # type: ignore[index]
    assert condition(found, "Stalled")["status"] == "True"  # type: ignore[index]
    assert platform.wait_condition("Instance", NAME, "Ready", "Unknown", reason="ServerNotReady")
    platform.apply(server("two", host))  # the new key, pinned by a person
    platform.wait_condition("Server", "two", "Ready", "True")
    platform.wait_ready(NAME)
    assert tenant.ids() == ids


def test_wrong_credentials_are_told_and_replaced_ones_taken(platform: Platform, tenant: Tenant) -> None:
    host = platform.hosts["two"]
    key = Ed25519PrivateKey.generate()
    wrong = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    platform.apply(
        releases.secret("wrong-ssh", **{"ssh-privatekey": wrong}),
        server("two", host, credentialsRef={"name": "wrong-ssh"}),
    )
    found = platform.wait_condition("Server", "two", "Ready", "False", reason="AuthenticationFailed")
    assert host.user in condition(found, "Ready")["message"]  # type: ignore[index]
    assert "PRIVATE KEY" not in str(found["status"])
    platform.apply(server("two", host))
    platform.wait_condition("Server", "two", "Ready", "True")
    platform.wait_ready(NAME)


def test_a_user_who_may_not_use_docker_is_told_apart(platform: Platform, tenant: Tenant) -> None:
    host, ids = platform.hosts["two"], tenant.ids()
    host.deny_docker()
    try:
        found = platform.wait_condition("Server", "two", "Ready", "False", reason="DockerNotPermitted", seconds=60)
        assert condition(found, "Reachable")["status"] == "True"  # type: ignore[index]
        assert condition(found, "DockerReady")["status"] == "False"  # type: ignore[index]
        assert "docker" in condition(found, "Ready")["message"]  # type: ignore[index]
    finally:
        host.allow_docker()
    asked = {"metadata": {"annotations": {"platform.dotmac.io/reconcile-requested-at": str(time.time())}}}
    platform.patch("Server", "two", asked)
    platform.wait_condition("Server", "two", "Ready", "True", seconds=60)
    platform.wait_ready(NAME)
    assert tenant.ids() == ids
