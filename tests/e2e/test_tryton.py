"""The sample ERP itself: from one Instance to a login, and what is left of it after each way of deleting it."""

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import HTTP_PORT, Platform, Tenant
from tests.e2e.releases import ERP as NAME
from tests.e2e.releases import sample_erp

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


@pytest.fixture(scope="module")
def tenant(platform: Platform, acme: Tenant) -> Tenant:
    """Ready; its deploy began with the tests of another file, so that it costs less time."""
    platform.wait_ready(NAME, seconds=180)
    return acme


def log_in(tenant: Tenant, password: str) -> int:
    """The status of a login as the admin, through the proxy; 200 comes with a session."""
    parameters = ["admin", {"password": password}, "en"]
    body = {"id": 0, "method": "common.db.login", "params": parameters}
    answer = tenant.ask("/erp/", method="POST", json=body)
    if answer.status_code == 200:
        user, session = answer.json()["result"]
        assert user > 0 and len(session) >= 16
    return answer.status_code


def test_a_fresh_deploy_serves_the_erp(tenant: Tenant) -> None:
    assert tenant.status["step"] == "10/10"
    assert tenant.status["phase"] == "Running"
    assert tenant.status["release"]["current"] == releases.example("Release")["metadata"]["name"]
    assert {c["health"] for c in tenant.status["components"]} == {"healthy"}
    assert tenant.status["url"] == f"http://{tenant.domain}:8080/"
    assert "<title" in tenant.ask("/").text


def test_the_admin_logs_in_with_the_generated_password_and_with_no_other(tenant: Tenant) -> None:
    assert log_in(tenant, tenant.credentials()["admin-password"]) == 200
    assert log_in(tenant, "guessed-it") == 401


def test_containers_are_locked_up(tenant: Tenant) -> None:
    containers = tenant.containers()
    assert {c["Config"]["Labels"]["platform.dotmac.io/role"] for c in containers} >= {
        "web", "worker", "beat", "database", "cache",
    }  # fmt: skip
    for container in containers:
        limits = container["HostConfig"]
        assert limits["CapDrop"] == ["ALL"] and not limits["CapAdd"], container["Name"]
        assert "no-new-privileges" in limits["SecurityOpt"]
        assert not limits["PortBindings"] and not limits["Privileged"]
        assert limits["Memory"] > 0 and limits["PidsLimit"] > 0 and limits["NanoCpus"] > 0
        assert list(container["NetworkSettings"]["Networks"]) == ["dotmac-acme"]


def test_retain_keeps_data_and_secret_and_a_new_instance_takes_them_over(platform: Platform, tenant: Tenant) -> None:
    host = tenant.host
    volumes, credentials = tenant.volumes(), tenant.credentials()
    assert len(volumes) >= 3
    platform.delete("Instance", NAME)
    platform.wait_gone(NAME)
    assert platform.get("Secret", f"{NAME}-credentials") is not None
    mine = ("--filter", f"label=platform.dotmac.io/instance={NAME}")
    assert host.docker("ps", "--all", "--quiet", *mine).split() == []
    assert host.docker("network", "ls", "--quiet", *mine).split() == []

    platform.apply(sample_erp())
    platform.wait_ready(NAME, seconds=90)
    assert tenant.volumes() == volumes
    assert tenant.credentials() == credentials
    assert log_in(tenant, credentials["admin-password"]) == 200


def test_delete_removes_all(platform: Platform, tenant: Tenant) -> None:
    host = tenant.host
    platform.patch("Instance", NAME, {"spec": {"deletion": {"policy": "Delete"}}})
    platform.delete("Instance", NAME)
    platform.wait_gone(NAME)
    mine = ("--filter", f"label=platform.dotmac.io/instance={NAME}")
    assert host.docker("ps", "--all", "--quiet", *mine).split() == []
    assert host.docker("network", "ls", "--quiet", *mine).split() == []
    assert host.docker("volume", "ls", "--quiet", *mine).split() == []
    platform.wait("its Secret is collected", lambda: platform.get("Secret", f"{NAME}-credentials") is None)
    answer = httpx.get(f"http://{host.address}:{HTTP_PORT}/", headers={"Host": f"{NAME}.one.example"}, trust_env=False)
    assert answer.status_code == 404, "the proxy still has the tenant's route"
