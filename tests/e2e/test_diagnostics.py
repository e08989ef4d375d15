"""Logs, consumption and health of a real tenant, by the door that the facade uses; and what is counted meanwhile."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import DIAGNOSTICS_TOKEN, Platform, Tenant

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

CANARY = "canary-Printed-4c1e8"
PRINT = ("python3", "-c", "import sys; open('/proc/1/fd/1', 'w').write(sys.argv[1] + '\\n')")
"""A line in the container's log, as the application itself prints one."""


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    platform.apply(releases.secret("diag-env", KEY=CANARY))
    env = [{"name": "KEY", "secretKeyRef": {"name": "diag-env", "key": "KEY"}}]
    with platform.tenant(releases.instance("diag", "sample-1", env=env)) as made:
        yield made


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    base = f"{platform.operator.url('diagnostics')}/internal/v1/instances/{releases.NAMESPACE}/"
    headers = {"Authorization": f"Bearer {DIAGNOSTICS_TOKEN}"}
    with httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False) as made:
        yield made


def lines(client: httpx.Client, place: str, **query: Any) -> list[dict[str, str]]:
    answer = client.get(f"{place}/logs", params=query)
    assert answer.status_code == 200, answer.text
    return [json.loads(text) for text in answer.text.splitlines()]


def test_logs_are_those_of_the_tenant_without_its_secrets(client: httpx.Client, tenant: Tenant) -> None:
    password = tenant.credentials()["database-password"]
    tenant.exec("web", *PRINT, f"connecting to postgresql://erp:{password}@database with {CANARY}, done")
    found = lines(client, "diag", tail=2000)
    assert {line["role"] for line in found} >= {"web", "database", "migrate"}
    assert {line["container"] for line in found} <= {c["Name"].lstrip("/") for c in tenant.containers()}
    (printed,) = [line for line in found if "connecting to" in line["line"]]
    assert printed["line"] == "connecting to postgresql://erp:***@database with ***, done"
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)
    text = json.dumps(found)
    assert CANARY not in text and not [key for key, value in tenant.credentials().items() if value in text]


def test_a_container_of_the_host_that_is_not_the_tenants_is_not_found(client: httpx.Client, tenant: Tenant) -> None:
    proxy = tenant.host.docker("inspect", "--format", "{{.Id}}", "dotmac-proxy").strip()
    for container in (proxy, "dotmac-proxy"):
        answer = client.get("diag/logs", params={"container": container})
        assert (answer.status_code, answer.json()["code"]) == (404, "ContainerNotFound")


def test_lines_are_followed_until_the_container_goes(client: httpx.Client, tenant: Tenant) -> None:
    found: list[str] = []
    arrived = threading.Event()

    def read() -> None:
        with client.stream("GET", "diag/logs", params={"role": "worker", "follow": "true", "tail": 0}) as answer:
            for text in answer.iter_lines():
                found.append(json.loads(text)["line"])
                arrived.set()

    reader = threading.Thread(target=read)
    reader.start()
    deadline = 50
    while not arrived.wait(0.2) and deadline:
        tenant.exec("worker", *PRINT, f"hello {CANARY}")
        deadline -= 1
    assert found[0] == "hello ***"
    tenant.host.docker("rm", "--force", tenant.containers("worker")[0]["Id"])
    reader.join(20)
    assert not reader.is_alive()
    tenant.platform.wait("another worker runs", lambda: any(c["State"]["Running"] for c in tenant.containers("worker")))
    tenant.platform.wait_ready("diag")


def test_consumption_and_health(client: httpx.Client, tenant: Tenant) -> None:
    usage = client.get("diag/usage").json()
    used = {made["role"]: made for made in usage["containers"]}
    assert set(used) == {"database", "web", "worker"}
    assert all(made["pids"] >= 1 and made["cpu_percent"] >= 0 for made in used.values())
    limits = {c["Config"]["Labels"]["platform.dotmac.io/role"]: c["HostConfig"]["Memory"] for c in tenant.containers()}
    assert {role: made["memory_limit_bytes"] for role, made in used.items()} in (
        {role: limits[role] for role in used},
        dict.fromkeys(used, 0),  # without the memory controller
    )
    assert {volume["name"] for volume in usage["volumes"]} == set(tenant.volumes())
    sizes = tenant.platform.wait("the volumes are measured", lambda: measured(client), 60)
    assert sizes["dotmac-diag-database"] > 1_000_000
    states = {made["role"]: (made["state"], made["health"]) for made in client.get("diag/health").json()["components"]}
    assert states["database"] == states["web"] == ("running", "healthy")
    assert states["migrate"][0] == "exited"


def measured(client: httpx.Client) -> dict[str, int] | None:
    volumes = client.get("diag/usage").json()["volumes"]
    return {v["name"]: v["bytes"] for v in volumes} if all(v["bytes"] is not None for v in volumes) else None


def test_steps_drift_and_hosts_are_counted(platform: Platform, tenant: Tenant) -> None:
    text = httpx.get(platform.operator.url("metrics and health") + "/metrics", trust_env=False).text
    assert 'dotmac_step_duration_seconds_count{outcome="succeeded",step="start"}' in text
    assert "dotmac_drift_repaired_total{kind=" in text  # the worker that was taken away
    assert f'dotmac_event_stream_up{{server="{releases.NAMESPACE}/one"}} 1.0' in text
    assert CANARY not in text
    answer = httpx.get(platform.operator.url("metrics and health") + "/readyz?verbose", trust_env=False)
    assert answer.status_code == 200, answer.text
