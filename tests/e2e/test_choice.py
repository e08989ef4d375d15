"""Which host a tenant goes to: the least loaded one that its selector matches, once and for all."""

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

POOL = {"selector": {"matchLabels": {"pool": "e2e"}}}


@pytest.fixture(scope="module", autouse=True)
def empty(platform: Platform) -> None:
    """What earlier tests let go of counts as load until it is gone."""
    platform.assert_clean()


def test_each_goes_to_the_less_loaded_host_and_stays_there(platform: Platform) -> None:
    names = ["first", "second"]
    try:
        for name in names:
            load = {host: allocated(platform, host) for host in ("one", "two")}
            platform.apply(releases.instance(name, "sample-1", placement=POOL))
            chosen = placed(platform, name)
            assert load[chosen] == min(load.values()), load
        before = {name: placed(platform, name) for name in names}
        assert set(before.values()) == {"one", "two"}
        platform.operator.restart()
        for name in names:
            platform.wait_ready(name)
        assert {name: placed(platform, name) for name in names} == before
        for name, host in before.items():
            other = platform.hosts["one" if host == "two" else "two"]
            assert Tenant(platform, name).containers("web")
            assert other.docker("ps", "--all", "--quiet", "--filter", f"name=dotmac-{name}-").split() == []
    finally:
        for name in names:
            platform.let_go(name)


def test_a_selector_that_only_one_host_matches_wins_over_load(platform: Platform) -> None:
    zone = {"selector": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["two"]}]}}
    names = ["third", "fourth", "fifth"]
    try:
        for name in names:
            platform.apply(releases.instance(name, "sample-1", placement=zone))
        assert [placed(platform, name) for name in names] == ["two", "two", "two"]
    finally:
        for name in names:
            platform.let_go(name)


def test_a_selector_that_no_host_matches_waits_and_says_so(platform: Platform) -> None:
    nowhere = {"selector": {"matchLabels": {"zone": "moon"}}}
    try:
        platform.apply(releases.instance("sixth", "sample-1", placement=nowhere))
        found = platform.wait_condition("Instance", "sixth", "Ready", "False", reason="NoServerFits")
        assert "none of 2 Servers" in condition(found, "Ready")["message"]  # type: ignore[index]
    finally:
        platform.let_go("sixth")


def allocated(platform: Platform, name: str) -> int:
    """Mebibytes that a Server has given away, when its status has caught up with the Instances on it."""
    found = platform.get("Server", name)
    assert found is not None
    memory: str = found["status"]["allocated"]["memory"]
    return int(memory.removesuffix("Mi"))


def placed(platform: Platform, name: str) -> str:
    def look() -> str:
        found = platform.get("Instance", name) or {}
        chosen = str(found.get("status", {}).get("server", ""))
        here = platform.get("Server", chosen) if chosen else None
        instances = [i for i in listed(platform) if i.get("status", {}).get("server") == chosen]
        return chosen if here and here["status"]["allocated"]["instances"] == len(instances) else ""

    return platform.wait(f"{name} has a Server, which counts it", look, about=name)


def listed(platform: Platform) -> list[releases.Object]:
    found: list[releases.Object] = platform.plane.client.get(platform.path("Instance")).json()["items"]
    return found
