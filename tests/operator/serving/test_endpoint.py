"""The internal endpoint: who may ask, what is told and masked, what it costs, and that nobody is kept waiting."""

import asyncio
import json
import threading

import pytest
from tests.kits.diagnosed import BASE, Site, line
from tests.kits.fakes import unreachable

from dotmac_operator.core import names
from dotmac_operator.hosts.diagnostics import LINE_LIMIT
from dotmac_operator.hosts.port import HostUnreachable
from dotmac_operator.reconcile.ports import ClusterError
from dotmac_operator.serving import diagnostics as module
from dotmac_operator.serving import endpoint as web


async def ndjson(answer: object) -> list[dict[str, str]]:
    assert answer.status == 200, await answer.text()  # type: ignore[attr-defined]
    return [json.loads(text) for text in (await answer.text()).splitlines()]  # type: ignore[attr-defined]


async def refused(answer: object, status: int) -> dict[str, str]:
    assert answer.status == status, await answer.text()  # type: ignore[attr-defined]
    body: dict[str, str] = await answer.json()  # type: ignore[attr-defined]
    assert set(body) == {"code", "message"}
    return body


# -- who may ask


@pytest.mark.parametrize("what", ["logs", "usage", "health"])
@pytest.mark.parametrize("token", ["", "wrong", "t" * 39, "t" * 41, "T" * 40])
async def test_nothing_is_told_without_the_token(site: Site, what: str, token: str) -> None:
    answer = await site.get(f"{BASE}/{what}", token=token)
    assert (await refused(answer, 401))["code"] == "Unauthorized"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert site.pool.addresses == []


@pytest.mark.parametrize("header", ["", "Basic dDp0", "bearer " + "t" * 40, "t" * 40])
async def test_only_a_bearer_token_counts(site: Site, header: str) -> None:
    await refused(await site.client.get(f"{BASE}/health", headers={"Authorization": header}), 401)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(site: Site, method: str) -> None:
    answer = await site.client.request(method, f"{BASE}/logs", headers={"Authorization": "Bearer " + "t" * 40})
    assert answer.status == 405


# -- logs


async def test_lines_of_all_containers_come_oldest_first(site: Site) -> None:
    site.engine.lines = {"web": [line(1), line(3)], "worker": [line(2, "job done", "stderr")]}
    lines = await ndjson(await site.get(f"{BASE}/logs"))
    assert [(made["role"], made["stream"], made["line"]) for made in lines] == [
        ("web", "stdout", "line 1"),
        ("worker", "stderr", "job done"),
        ("web", "stdout", "line 3"),
    ]
    assert set(lines[0]) == {"container", "role", "time", "stream", "line"}
    assert lines[0]["container"].startswith("dotmac-acme-web-")


async def test_tail_counts_the_answer_not_each_container(site: Site) -> None:
    site.engine.lines = {role: [line(n) for n in range(50)] for role in ("web", "worker")}
    assert len(await ndjson(await site.get(f"{BASE}/logs", tail="10"))) == 10
    assert await ndjson(await site.get(f"{BASE}/logs", tail="0")) == []


async def test_a_role_or_a_container_can_be_chosen(site: Site) -> None:
    site.engine.lines = {role: [line(1, role)] for role in ("web", "worker", "database")}
    assert [made["line"] for made in await ndjson(await site.get(f"{BASE}/logs", role="database"))] == ["database"]
    name = site.world.engine.of("worker")[0].name
    assert [made["line"] for made in await ndjson(await site.get(f"{BASE}/logs", container=name))] == ["worker"]


@pytest.mark.parametrize(
    ("query", "names_it"),
    [
        ({"tail": "2001"}, "tail"),
        ({"tail": "-1"}, "tail"),
        ({"tail": "x"}, "tail"),
        ({"tail": "٣"}, "tail"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-22T10:00:00"}, "since"),
        ({"follow": "maybe"}, "follow"),
        ({"lines": "4"}, "lines"),
    ],
)
async def test_a_wrong_parameter_is_named(site: Site, query: dict[str, str], names_it: str) -> None:
    body = await refused(await site.get(f"{BASE}/logs", **query), 400)
    assert body["code"] == "InvalidQuery" and names_it in body["message"]


@pytest.mark.parametrize(
    ("since", "asked"), [("1790000000", "1790000000"), ("2026-11-22T10:00:00Z", "1795341600.000000"), ("", "")]
)
async def test_since_reaches_the_engine_as_unix_seconds(site: Site, since: str, asked: str) -> None:
    await site.get(f"{BASE}/logs", since=since, role="web")
    assert site.engine.queries[-1].since == asked


async def test_only_containers_of_this_instance_are_found(site: Site) -> None:
    site.world.create(
        "Instance", "rival", {**site.world.cluster.get("Instance", "tenants/acme")["spec"], "orgCode": "RIVAL"}
    )
    site.world.settle()
    rival = site.world.engine.of("web", "RIVAL")[0]
    for place in (rival.name, rival.id, names.PROXY_CONTAINER):
        body = await refused(await site.get(f"{BASE}/logs", container=place), 404)
        assert body["code"] == "ContainerNotFound" and "dotmac-acme-web-" in body["message"]
        assert "rival" not in body["message"].replace(place, "")
    assert site.engine.queries == []


async def test_a_namesake_that_was_created_anew_does_not_see_its_predecessors_lines(site: Site) -> None:
    web_ = site.world.engine.of("web")[0]
    web_.labels[names.INSTANCE_UID] = "uid-of-before"
    await refused(await site.get(f"{BASE}/logs", container=web_.name), 404)


async def test_secrets_are_masked_in_every_form_that_programs_print(site: Site) -> None:
    secrets = site.world.cluster.secrets["tenants/acme-credentials"]
    secrets["admin-password"] = 'p"ss/w&rd'
    secrets["signing-key"] = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END KEY-----\n"
    password = secrets["database-password"]
    site.engine.lines = {
        "web": [
            line(1, f"postgresql://erp:{password}@database/erp"),
            line(2, "login p%22ss%2Fw%26rd"),
            line(3, json.dumps({"password": 'p"ss/w&rd'})),
            line(4, "MIIEvQIBADANBgkqhkiG9w0BAQ"),
            line(5, "x" * (LINE_LIMIT - 5) + password),
        ]
    }
    answer = await site.get(f"{BASE}/logs")
    told = await answer.text()
    assert told.count("***") >= 4
    for secret in (password, password[:5] + password[5:], "p%22ss", 'p\\"ss', "MIIEvQ", "x" * 100 + password[:5]):
        assert secret not in told
    assert max(len(made["line"]) for made in (json.loads(text) for text in told.splitlines())) <= LINE_LIMIT


async def test_no_line_is_told_when_the_secrets_cannot_be_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> None:
        raise ClusterError("the Kubernetes API answered 403 Forbidden")

    monkeypatch.setattr(site.world.cluster, "secret", fail)
    site.engine.lines = {"web": [line(1)]}
    assert (await refused(await site.get(f"{BASE}/logs"), 503))["code"] == "SecretsUnavailable"


async def test_an_answer_is_bounded_and_keeps_the_newest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_MOST", 1000)
    site.engine.lines = {role: [line(n, f"{n:03d}" + "x" * 97) for n in range(40)] for role in ("web", "worker")}
    answer = await site.get(f"{BASE}/logs")
    lines = await ndjson(answer)
    assert answer.headers["X-Truncated"] == "true"
    assert sum(len(made["line"]) for made in lines) <= 1000
    assert {made["line"][:3] for made in lines} == {f"{n:03d}" for n in range(35, 40)}


# -- following


async def test_a_followed_log_goes_on_until_the_client_leaves(site: Site) -> None:
    site.engine.lines = {"web": [line(1), line(2), line(3)]}
    answer = await site.get(f"{BASE}/logs", role="web", follow="true", tail="2")
    assert answer.content_type == "application/x-ndjson"
    assert json.loads(await answer.content.readline())["line"] == "line 2"
    assert json.loads(await answer.content.readline())["line"] == "line 3"
    stream = site.engine.streams[-1]
    secret = site.world.cluster.secrets["tenants/acme-credentials"]["database-password"]
    stream.add(line(4, f"again {secret}"))
    assert json.loads(await answer.content.readline())["line"] == "again ***"
    answer.close()
    await site.until(stream.closed.is_set)


async def test_the_end_of_a_container_ends_its_stream(site: Site) -> None:
    site.engine.lines = {"web": [line(1)]}
    answer = await site.get(f"{BASE}/logs", role="web", follow="1")
    await answer.content.readline()
    site.engine.streams[-1].close()
    assert await asyncio.wait_for(answer.content.read(), 5) == b""


async def test_streams_of_one_host_are_few_and_come_back(site: Site) -> None:
    answers = [await site.get(f"{BASE}/logs", role="web", follow="true") for _ in range(module.FOLLOWS_PER_HOST)]
    body = await refused(await site.get(f"{BASE}/logs", role="web", follow="true"), 429)
    assert body["code"] == "TooManyStreams"
    assert (await site.get(f"{BASE}/logs", role="web")).status == 200  # reading is something else
    for answer in answers:
        answer.close()
    await site.until(lambda: site.diagnostics._follows["tenants/host-1"] == 0)
    again = await site.get(f"{BASE}/logs", role="web", follow="true")
    assert again.status == 200
    again.close()


async def test_a_client_that_leaves_before_the_answer_leaves_nothing_open(site: Site) -> None:
    site.engine.hold = threading.Event()
    asking = asyncio.create_task(site.get(f"{BASE}/logs", role="web", follow="true"))
    await site.until(lambda: bool(site.pool.addresses))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0.1)
    site.engine.hold.set()
    await site.until(lambda: bool(site.engine.streams) and site.engine.streams[-1].closed.is_set())
    assert site.diagnostics._follows == {"tenants/host-1": 0}


async def test_the_server_ends_while_logs_are_followed(site: Site) -> None:
    await site.get(f"{BASE}/logs", role="web", follow="true")
    await site.until(lambda: bool(site.engine.streams))
    await asyncio.wait_for(site.client.server.close(), 5)
    assert site.engine.streams[-1].closed.is_set()


# -- usage and health


async def test_usage_tells_what_each_container_takes(site: Site) -> None:
    site.engine.sizes = {"dotmac-acme-database": 7_000_000, "dotmac-rival-database": 1}
    body = await (await site.get(f"{BASE}/usage")).json()
    # The cache's container went between the list and the look: it is left out and spoils nothing.
    assert [made["role"] for made in body["containers"]] == ["database", "web", "worker"]
    made = body["containers"][0]
    assert made.pop("container").startswith("dotmac-acme-database-")
    assert made == {
        "role": "database",
        "cpu_percent": 25.0,
        "memory_bytes": 50 << 20,
        "memory_limit_bytes": 512 << 20,
        "pids": 7,
    }
    sizes = {volume["name"]: volume["bytes"] for volume in body["volumes"]}
    assert sizes == {"dotmac-acme-backups": None, "dotmac-acme-database": 7_000_000, "dotmac-acme-files": None}


async def test_volumes_are_measured_once_for_many_and_nobody_waits_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIZES_PATIENCE", 0.05)
    site.engine.slow = threading.Event()
    site.engine.sizes = {"dotmac-acme-files": 9}
    bodies = [await (await site.get(f"{BASE}/usage")).json() for _ in range(3)]
    assert all(volume["bytes"] is None for body in bodies for volume in body["volumes"])
    site.engine.slow.set()
    await site.until(lambda: site.diagnostics._sizes["tenants/host-1"].measuring is None)
    body = await (await site.get(f"{BASE}/usage")).json()
    assert {"name": "dotmac-acme-files", "bytes": 9} in body["volumes"]
    assert site.engine.sizings == 1


async def test_health_tells_restarts_and_nothing_of_the_environment(site: Site) -> None:
    site.world.engine.of("worker")[0].state = "exited"
    answer = await site.get(f"{BASE}/health")
    body = await answer.json()
    assert (body["instance"], body["server"], body["phase"]) == ("tenants/acme", "tenants/host-1", "Running")
    found = {made["role"]: made for made in body["components"]}
    assert found["database"]["health"] == "healthy" and found["database"]["restarts"] == 3
    assert found["web"]["health"] == "healthy"  # the operator's own check, from the status
    assert found["worker"]["state"] == "exited" and found["worker"]["health"] == ""
    for secret in site.world.cluster.secrets["tenants/acme-credentials"].values():
        assert secret not in await answer.text()


# -- what goes wrong


@pytest.mark.parametrize("what", ["logs", "usage", "health"])
@pytest.mark.parametrize("place", ["tenants/nobody", "other/acme", "tenants/%2e%2e%2facme", "tenants/acme%00"])
async def test_an_unknown_instance_is_not_found(site: Site, what: str, place: str) -> None:
    answer = await site.client.get(
        f"/internal/v1/instances/{place}/{what}", headers={"Authorization": "Bearer " + "t" * 40}
    )
    assert answer.status == 404
    assert "code" in await answer.json()


async def test_an_instance_without_a_server_says_so(site: Site) -> None:
    spec = site.world.cluster.get("Instance", "tenants/acme")["spec"] | {"orgCode": "NEW"}
    del spec["serverRef"]
    site.world.create("Instance", "new", {**spec, "placement": {"selector": {}}})
    body = await refused(await site.get("/internal/v1/instances/tenants/new/logs"), 409)
    assert body["code"] == "NotPlaced"


@pytest.mark.parametrize("what", ["logs", "usage", "health"])
async def test_a_host_that_is_away_is_503_with_the_reason(site: Site, what: str) -> None:
    site.engine.failure = unreachable()
    answer = await site.get(f"{BASE}/{what}")
    body = await refused(answer, 503)
    assert body["code"] == HostUnreachable.reason and "no route to host" in body["message"]
    assert answer.headers["Retry-After"]


async def test_a_stand_by_answers_with_what_the_server_says(site: Site) -> None:
    site.world.hosts.detach("tenants/host-1")
    assert (await site.get(f"{BASE}/logs")).status == 200
    address = site.pool.addresses[-1]
    assert (address.address, address.name, address.trust_on_first_use) == ("192.0.2.1", "tenants/host-1", False)
    del site.world.cluster.secrets["tenants/ssh-key"]
    assert (await refused(await site.get(f"{BASE}/logs"), 503))["code"] == "SecretMissing"


async def test_too_many_requests_are_refused_not_queued(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "THREADS", 1)
    go_on = threading.Event()
    monkeypatch.setattr(site.diagnostics, "health", lambda *_: go_on.wait(10) and {})
    waiting = [asyncio.create_task(site.get(f"{BASE}/health")) for _ in range(2)]
    await asyncio.sleep(0.1)
    body = await refused(await site.get(f"{BASE}/health"), 429)
    assert body["code"] == "TooManyRequests"
    go_on.set()
    assert [(await answer).status for answer in waiting] == [200, 200]


async def test_requests_are_limited_in_rate(site: Site) -> None:
    statuses = [(await site.get(f"{BASE}/nothing")).status for _ in range(int(web.BURST) + 10)]
    assert statuses[0] == 404 and 429 in statuses


def test_the_bucket_fills_up_again() -> None:
    now = [0.0]
    bucket = web.Bucket(2.0, 2.0, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]


# -- connections


async def test_the_connection_trusts_what_the_passes_have_proven(site: Site) -> None:
    await site.get(f"{BASE}/health")
    assert site.pool.addresses[-1].host_keys and not site.pool.addresses[-1].trust_on_first_use


async def test_idle_connections_are_closed_and_used_ones_are_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
    site.engine.lines = {"web": [line(1)]}
    followed = await site.get(f"{BASE}/logs", role="web", follow="true")
    site.diagnostics.close_idle()
    assert site.pool.forgotten == []
    followed.close()
    await site.until(lambda: site.diagnostics._follows["tenants/host-1"] == 0)
    site.diagnostics.close_idle()
    assert site.pool.forgotten == ["tenants/host-1"]
