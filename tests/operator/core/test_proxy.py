"""The proxy's configuration: one tenant's route never touches another's."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kits.tenant import desired_of, fresh_facts, met_facts, proxy_fact, server_of

from dotmac_crds.server import Proxy
from dotmac_operator.core import proxy
from dotmac_operator.core.actions import (
    CreateNetwork,
    CreateVolume,
    LoadProxy,
    PullImage,
    RemoveContainer,
    RunContainer,
    StartContainer,
)
from dotmac_operator.core.facts import HostFacts, ImageFact, NetworkFact, VolumeFact
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.server import plan_proxy

MODES = ("Acme", "Internal", "Off")
SERVERS = tuple(
    Proxy.model_validate({"tls": {"mode": mode}, "httpsPort": port}) for mode in MODES for port in (443, 444)
)

hosts = st.sampled_from([f"{name}.example" for name in "abcdefgh"])
upstreams = st.lists(st.sampled_from(["web-1:8000", "web-2:8000", "x:1"]), min_size=1, max_size=3, unique=True)


@st.composite
def tenants(draw: st.DrawFn) -> tuple[Proxy, list[Route]]:
    """A Server and some Instances on it, each with host names of its own."""
    server = draw(st.sampled_from(SERVERS))
    modes = st.sampled_from(("Off",) if server.tls.mode == "Off" else MODES)
    names = draw(st.lists(hosts, min_size=1, max_size=6, unique=True))
    owners = [draw(st.integers(0, 2)) for _ in names]
    made = []
    for owner in sorted(set(owners)):
        mine = tuple((name, draw(modes)) for name, who in zip(names, owners, strict=True) if who == owner)
        made.append(Route(f"uid-{owner}", mine, tuple(draw(upstreams))))
    return server, made


def loaded(server: Proxy, routes: list[Route]) -> proxy.Config:
    config = proxy.base_config(server)
    for route in routes:
        config = proxy.with_route(config, route, server)
    # Through the wire, as the proxy keeps it.
    again = proxy.parse(proxy.render(config).decode())
    assert again is not None
    return again


@settings(max_examples=60)
@given(tenants())
def test_every_route_is_read_back_as_it_was_written(made: tuple[Proxy, list[Route]]) -> None:
    server, routes = made
    config = loaded(server, routes)
    for route in routes:
        assert proxy.same(proxy.route_of(config, route.owner), route)
        for host, _ in route.hosts:
            assert proxy.owner_of_host(config, host) == route.owner
    assert proxy.rebase(config, server) == config


@settings(max_examples=60)
@given(tenants(), upstreams)
def test_a_change_is_idempotent_and_leaves_the_others_alone(made: tuple[Proxy, list[Route]], new: list[str]) -> None:
    server, routes = made
    config = loaded(server, routes)
    before = json.dumps(config, sort_keys=True)
    changed = Route(routes[0].owner, routes[0].hosts[:1], tuple(new))
    once = proxy.with_route(config, changed, server)
    assert proxy.with_route(once, changed, server) == once
    for other in routes[1:]:
        assert proxy.same(proxy.route_of(once, other.owner), other)
    gone = proxy.without_route(once, changed.owner)
    assert proxy.route_of(gone, changed.owner) is None
    for other in routes[1:]:
        assert proxy.same(proxy.route_of(gone, other.owner), other)
    assert proxy.rebase(gone, server) == gone
    assert json.dumps(config, sort_keys=True) == before, "the given configuration was changed in place"


def test_taking_all_routes_away_leaves_the_base() -> None:
    server = SERVERS[2]
    routes = [
        Route("a", (("a.example", "Acme"), ("b.example", "Off")), ("x:1",)),
        Route("b", (("c.example", "Acme"),), ("y:1",)),
    ]
    config = loaded(server, routes)
    for route in routes:
        config = proxy.without_route(config, route.owner)
    assert config == proxy.base_config(server)


@pytest.mark.parametrize("default", ["Acme", "Internal"])
@pytest.mark.parametrize("mode", ["Acme", "Internal"])
def test_each_host_name_gets_the_certificate_it_asks_for(default: str, mode: str) -> None:
    """Regression: on a Server with the proxy's own CA, a domain with `tls: Acme` was switched without an end."""
    server = Proxy.model_validate({"tls": {"mode": default}})
    route = Route("a", (("a.example", mode),), ("x:1",))
    config = loaded(server, [route])
    assert proxy.same(proxy.route_of(config, "a"), route)
    policies = config["apps"]["tls"]["automation"]["policies"]
    mine = next((p for p in policies if "a.example" in p.get("subjects", [])), policies[-1])
    assert mine["issuers"][0]["module"] == mode.lower()


def test_a_name_that_nobody_has_is_refused_after_all_routes() -> None:
    config = loaded(
        SERVERS[2], [Route("a", (("a.example", "Acme"),), ("x:1",)), Route("b", (("b.example", "Off"),), ("y:1",))]
    )
    for server in config["apps"]["http"]["servers"].values():
        assert server["routes"][-1] == proxy.REFUSAL
        assert server["routes"].count(proxy.REFUSAL) == 1


def test_redirects_go_to_the_published_port() -> None:
    server = Proxy.model_validate(
        {"httpsPort": 8443, "tls": {"email": "a@b.example", "acmeDirectory": "https://ca.example/d"}}
    )
    config = loaded(server, [Route("a", (("a.example", "Acme"),), ("x:1",))])
    plain = config["apps"]["http"]["servers"][proxy.PLAIN]["routes"][1]
    assert plain["handle"][0]["headers"]["Location"] == ["https://{http.request.host}:8443{http.request.uri}"]
    issuer = config["apps"]["tls"]["automation"]["policies"][-1]["issuers"][0]
    assert issuer == {"module": "acme", "email": "a@b.example", "ca": "https://ca.example/d"}


@pytest.mark.parametrize("mode", MODES)
def test_a_switch_that_takes_leave_listens_to_another_socket_and_changes_nothing_else(mode: str) -> None:
    server = Proxy.model_validate({"tls": {"mode": mode}})
    route = Route("a", (("a.example", mode),), ("x:1",), since=1_800_000_000)
    config = loaded(server, [route])
    once, twice = proxy.turned(config), proxy.turned(proxy.turned(config))
    assert (proxy.turn_of(config), proxy.turn_of(once), twice) == (0, 1, config)
    before, after = (made["apps"]["http"]["servers"] for made in (config, once))
    for name in before:
        assert before[name]["listen"][0] == after[name]["listen"][0]
        assert set(before[name]["listen"]) - set(after[name]["listen"]), "an address that goes makes Caddy wait"
        assert before[name]["routes"] == after[name]["routes"]
    assert proxy.rebase(once, server) == once, "the other socket is no drift"
    assert proxy.with_route(once, route, server) == once


def test_the_moment_of_the_switch_is_kept_and_is_no_difference() -> None:
    route = Route("uid-a", (("a.example", "Off"), ("b.example", "Off")), ("x:1",), since=1_800_000_000)
    config = loaded(SERVERS[-1], [route])
    found = proxy.route_of(config, "uid-a")
    assert found is not None and found.since == 1_800_000_000
    assert proxy.same(found, Route("uid-a", route.hosts, ("x:1",), since=5))


def test_a_route_of_an_older_operator_is_understood_and_replaced() -> None:
    config = loaded(SERVERS[-1], [Route("uid-a", (("a.example", "Off"),), ("x:1",), since=7)])
    plain = config["apps"]["http"]["servers"][proxy.PLAIN]
    plain["listen"], plain["routes"] = [":80"], plain["routes"][1:]
    plain["routes"][0]["group"] = "dotmac-uid-a"
    found = proxy.route_of(config, "uid-a")
    assert found is not None and (found.since, found.upstreams) == (0, ("x:1",))
    made = proxy.rebase(config, SERVERS[-1])
    assert made != config
    assert proxy.same(proxy.route_of(made, "uid-a"), found)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", "{}", '{"apps": null}', '{"apps": {"http": {"servers": []}}}']
)
def test_what_is_not_ours_to_understand_is_no_configuration(text: str | None) -> None:
    assert proxy.parse(text) is None


def test_a_foreign_route_belongs_to_nobody() -> None:
    config = proxy.base_config(SERVERS[0])
    config["apps"]["http"]["servers"][proxy.PLAIN]["routes"].append({"match": [{"host": ["z.example"]}], "handle": []})
    assert proxy.owner_of_host(config, "z.example") == ""
    assert proxy.route_of(config, "uid") is None
    assert proxy.route_of(None, "uid") is None
    assert proxy.owner_of_host(None, "z.example") is None
    assert proxy.rebase(config, SERVERS[0]) == proxy.base_config(SERVERS[0])


# -- the host's own part ---------------------------------------------------------------------------------------

SPEC = server_of()
IMAGE = {SPEC.proxy.image: ImageFact("sha256:1", SPEC.proxy.image)}
VOLUMES = tuple(VolumeFact(name) for name in ("dotmac-proxy-config", "dotmac-proxy-data"))


def ready_host(**changes: Any) -> HostFacts:
    made: dict[str, Any] = {
        "containers": (proxy_fact(),),
        "networks": fresh_facts().networks,
        "volumes": VOLUMES,
        "images": IMAGE,
        "proxy_config": fresh_facts().proxy_config,
    }
    return HostFacts(1, **(made | changes))


def kinds(facts: HostFacts, **changes: Any) -> list[type]:
    return [type(action) for action in plan_proxy(server_of(**changes), "uid-server", facts)]


def test_a_host_gets_its_proxy_in_order() -> None:
    assert kinds(HostFacts(1)) == [PullImage, CreateNetwork, CreateVolume, CreateVolume, RunContainer]
    assert kinds(ready_host()) == []
    assert kinds(ready_host(containers=(proxy_fact(state="exited"),))) == [StartContainer]
    assert kinds(ready_host(containers=(proxy_fact(state="restarting"),))) == []
    assert kinds(ready_host(proxy_config=None)) == [LoadProxy]
    assert kinds(ready_host(proxy_config="garbage")) == [LoadProxy]


def test_a_changed_proxy_is_replaced_and_keeps_every_route() -> None:
    other = {"image": "other/caddy:9", "tls": {"mode": "Off"}}
    assert kinds(ready_host(), proxy=other) == [PullImage, RemoveContainer, RunContainer]
    desired = desired_of()
    facts = ready_host(proxy_config=met_facts(desired).proxy_config)
    tls = server_of(proxy={"tls": {"mode": "Internal"}})
    changed = ready_host(containers=(proxy_fact(labels=proxy.container(tls, "u").body()["Labels"]),))
    (load,) = plan_proxy(tls, "u", HostFacts(1, changed.containers, facts.networks, VOLUMES, IMAGE, facts.proxy_config))
    assert isinstance(load, LoadProxy)
    assert proxy.route_of(load.config, "uid-acme") == desired.route


def test_a_used_up_pool_makes_no_network() -> None:
    full = (NetworkFact("x", "other", subnets=("10.0.0.0/8",)),)
    assert CreateNetwork not in kinds(ready_host(networks=full))
