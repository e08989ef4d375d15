"""The images step against a real registry: it pulls what is missing, and says plainly what cannot be had."""

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, condition
from tests.e2e.registry import Registry

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


def test_what_the_host_does_not_have_is_pulled(platform: Platform, registry: Registry) -> None:
    reference = registry.push(releases.SAMPLE_1, "pulled/sample-web:1")
    host = platform.hosts["two"]
    assert host.docker("image", "ls", "--quiet", reference).split() == []
    platform.apply(releases.sample("pulled", "1.0", reference))
    with platform.tenant(releases.instance("pulled", "pulled", serverRef={"name": "two"})) as tenant:
        assert tenant.ask().json()["version"] == "1"
        assert tenant.containers("web")[0]["Config"]["Image"] == reference
        assert host.docker("image", "ls", "--quiet", reference).split() != []


def test_a_reference_that_does_not_exist_is_named(platform: Platform, registry: Registry) -> None:
    reference = f"{registry.address}/pulled/no-such-image:7"
    platform.apply(releases.sample("unpullable", "1.0", reference))
    try:
        platform.apply(releases.instance("unpullable", "unpullable", serverRef={"name": "two"}))
        found = platform.wait("the failure is told", lambda: told_of(platform, reference), about="unpullable")
        assert found["status"] == "False"
        assert "manifest unknown" in found["message"] or "not found" in found["message"], found["message"]
        # Nothing is stopped, and nothing is made, for an image that is not there.
        host = platform.hosts["two"]
        assert host.docker("ps", "--all", "--quiet", "--filter", "name=dotmac-unpullable").split() == []
    finally:
        platform.let_go("unpullable")


def told_of(platform: Platform, reference: str) -> releases.Object | None:
    """Ready, once it says of this reference more than that it is being pulled."""
    ready = condition(platform.get("Instance", "unpullable") or {}, "Ready")
    return ready if ready and reference in ready["message"] and ready["reason"] != "Progressing" else None
