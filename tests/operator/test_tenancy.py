"""The operator as a process, with the embedded control plane's garbage collector: nobody takes another one's Secret."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kits.observed import BASE, Observed, observed
from tests.kits.tenant import INSTANCE

from dotmac_operator.core import names

pytestmark = pytest.mark.slow

SECRETS = "/api/v1/namespaces/default/secrets"
PLANTED = "CANARY-of-the-first-tenant"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(tmp_path_factory.mktemp("tenancy"), hosts=1) as made:
        made.populate(1)
        made.start()
        made.until("it is Ready", lambda: made.ready() == 1, 90)
        yield made


def refused(seen: Observed, name: str) -> tuple[str, str]:
    """(reason, message) of the condition Stalled, once it is True."""

    def look() -> tuple[str, str] | None:
        body = seen.plane.client.get(f"{BASE}/namespaces/default/instances/{name}").json()
        found = {c["type"]: c for c in body.get("status", {}).get("conditions", [])}.get("Stalled", {})
        return (found["reason"], found["message"]) if found.get("status") == "True" else None

    made: tuple[str, str] = seen.until(f"{name} is refused", look)
    return made


def changes(seen: Observed) -> dict[str, int]:
    """How often the host was asked to change something, by template."""
    [host] = seen.fleet.hosts.values()
    return {call: times for call, times in host.calls.items() if call.startswith(("POST ", "PUT ", "DELETE "))}


def gone(seen: Observed, name: str) -> None:
    path = f"{BASE}/namespaces/default/instances/{name}"
    assert seen.plane.client.delete(path).is_success
    seen.until(f"{name} is gone", lambda: seen.plane.client.get(path).status_code == 404)


def tenant(org_code: str, **more: Any) -> dict[str, Any]:
    return INSTANCE | {"orgCode": org_code, "serverRef": {"name": "sim-0"}} | more


def test_a_foreign_secret_reaches_no_container(seen: Observed) -> None:
    before = changes(seen)
    key = seen.fleet.secret("default")["metadata"]["name"]
    for number, secret in enumerate((key, "org-0-credentials")):
        seen.create("Instance", f"evil-{number}", tenant(f"EVIL{number}", envFrom=[{"secretRef": {"name": secret}}]))
        reason, message = refused(seen, f"evil-{number}")
        assert reason == "SecretRefused" and f"spec.envFrom refers to Secret {secret}, " in message
        gone(seen, f"evil-{number}")
    assert changes(seen) == before
    assert seen.ready() == 1


def test_a_retained_secret_is_for_its_organisation_only(seen: Observed) -> None:
    client, place = seen.plane.client, f"{SECRETS}/org-0-credentials"
    merge = {"Content-Type": "application/merge-patch+json"}
    client.patch(place, json={"data": {"own": base64.b64encode(PLANTED.encode()).decode()}}, headers=merge)
    gone(seen, "org-0")
    before = client.get(place).json()
    assert before["metadata"]["labels"][names.ORG] == "ORG0" and "ownerReferences" not in before["metadata"]

    seen.create("Instance", "org-0", tenant("EVIL", deletion={"policy": "Delete"}))
    reason, message = refused(seen, "org-0")
    assert reason == "CredentialsTaken" and "give the Instance another name" in message
    gone(seen, "org-0")
    assert client.get(place).json() == before

    seen.create("Instance", "org-0", tenant("ORG0", deletion={"policy": "Delete"}))
    seen.until("it is served again", lambda: seen.ready() == 1, 90)
    again = client.get(place).json()
    assert again["data"] == before["data"] and len(again["metadata"]["ownerReferences"]) == 1
    gone(seen, "org-0")
    seen.until("its Secret is collected", lambda: client.get(place).status_code == 404)
    assert PLANTED not in seen.log
