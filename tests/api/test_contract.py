"""What holds for every route, whichever it is: walked from the routes themselves, so that a new one is covered."""

import asyncio
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Accounts, connect, signed_in

from dotmac_api.access import guards

pytestmark = pytest.mark.services

NOBODY = str(uuid.UUID(int=1))
EXAMPLES = {"host": "a.example", "domain": "auth", "key": "totp_issuer", "name": "gl", "hash": "ab12"}


def guarded(app: FastAPI, *methods: str) -> Iterator[tuple[str, str]]:
    """(method, a path that could be) of every route that wants a permission."""
    for (method, path), permission in guards(app).items():
        if permission != "-" and (not methods or method in methods):
            yield method, re.sub(r"\{(\w+)\}", lambda found: EXAMPLES.get(found[1], NOBODY), path)


async def test_every_route_is_closed_to_strangers_and_to_people_without_its_permission(
    app: FastAPI, client: httpx.AsyncClient, accounts: Accounts
) -> None:
    routes = list(guarded(app))
    assert len(routes) > 70
    async with signed_in(app, await accounts.make()) as nobody:
        for method, path in routes:
            assert (await client.request(method, path)).status_code == 401, (method, path)
            assert (await nobody.request(method, path)).status_code == 403, (method, path)


async def test_an_api_key_changes_nothing(app: FastAPI, admin: httpx.AsyncClient) -> None:
    permissions = (await admin.get("/api/v1/rbac/permissions", params={"limit": 100})).json()["items"]
    body = {"label": "all", "scopes": [p["key"] for p in permissions], "expires_in_days": 1}
    key = (await admin.post("/api/v1/api-keys/generate", json=body)).json()["key"]
    async with connect(app, headers={"X-API-Key": key}) as holder:
        assert (await holder.get("/api/v1/people")).status_code == 200
        for method, path in guarded(app, "POST", "PUT", "PATCH", "DELETE"):
            assert (await holder.request(method, path)).status_code == 403, (method, path)


async def test_every_post_heeds_idempotency_keys(app: FastAPI, admin: httpx.AsyncClient) -> None:
    for method, path in guarded(app, "POST"):
        answer = await admin.request(method, path, headers={"Idempotency-Key": "not a key"})
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key"), path


async def _rows(admin: httpx.AsyncClient, accounts: Accounts) -> dict[str, dict[str, Any]]:
    """A row of each noun that PostgreSQL holds -> a change of it."""

    async def made(path: str, **body: Any) -> str:
        answer = await admin.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text
        return f"{path.removesuffix('/generate')}/{answer.json()['id']}"

    person = await accounts.make()
    ada = await made("people", first_name="A", last_name="B", email="ab@example.org")
    role = await made("rbac/roles", name="listers")
    permissions = (await admin.get("/api/v1/rbac/permissions", params={"limit": 2})).json()["items"]
    first, second = (row["id"] for row in permissions)
    [support] = (await admin.get("/api/v1/rbac/roles", params={"name": "support"})).json()["items"]
    sooner = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    grant = {"role_id": role.rpartition("/")[2], "permission_id": first}
    url = "https://hooks.example.org/x"
    return {
        ada: {"phone": "1"},
        await made("rbac/permissions", key="own:thing"): {"description": "x"},
        await made("rbac/role-permissions", **grant): {"permission_id": second},
        await made("rbac/person-roles", person_id=str(person.person_id), role_id=grant["role_id"]): {
            "role_id": support["id"]
        },
        role: {"description": "x"},
        f"sessions/{person.session_id}": {"expires_at": sooner},
        f"user-credentials/{person.credential_id}": {"must_change_password": True},
        await made("api-keys/generate", label="x", scopes=["people:read"], expires_in_days=1): {"label": "y"},
        await made("webhooks", url=url, events=["instance.created"]): {"active": False},
    }


async def test_every_row_has_a_version_that_changes_can_name(admin: httpx.AsyncClient, accounts: Accounts) -> None:
    for name, change in (await _rows(admin, accounts)).items():
        path = f"/api/v1/{name}"
        old = (await admin.get(path)).headers["etag"]
        for method, body in (("PATCH", change), ("DELETE", None)):
            stale = await admin.request(method, path, json=body, headers={"If-Match": '"1"'})
            assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed"), (method, name)
        weak = await admin.patch(path, json=change, headers={"If-Match": f"W/{old}"})
        assert weak.status_code == 412, name
        changed = await admin.patch(path, json=change, headers={"If-Match": f'"1", {old}'})
        assert changed.status_code == 200, (name, changed.text)
        new = changed.headers["etag"]
        assert (await admin.get(path)).headers["etag"] == new
        assert new != old, name
        assert (await admin.delete(path, headers={"If-Match": old})).status_code == 412, name
        assert (await admin.delete(path, headers={"If-Match": new})).status_code == 204, name


async def test_of_two_changes_of_one_version_one_wins(admin: httpx.AsyncClient) -> None:
    body = {"first_name": "A", "last_name": "B", "email": "ab@example.org"}
    made = await admin.post("/api/v1/people", json=body)
    path = f"/api/v1/people/{made.json()['id']}"
    headers = {"If-Match": made.headers["etag"]}
    answers = await asyncio.gather(*(admin.patch(path, json={"phone": str(n)}, headers=headers) for n in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_settings_and_my_account_have_versions_too(admin: httpx.AsyncClient) -> None:
    path = "/api/v1/settings/auth/totp_issuer"
    first = (await admin.get(path)).headers["etag"]
    writes = (admin.put(path, json={"value": f"Issuer {n}"}, headers={"If-Match": first}) for n in range(5))
    answers = await asyncio.gather(*writes)
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 4
    [winner] = [answer for answer in answers if answer.status_code == 200]
    assert winner.headers["etag"] == (await admin.get(path)).headers["etag"] != first

    me = "/api/v1/auth/me"
    old = (await admin.get(me)).headers["etag"]
    changed = await admin.patch(me, json={"phone": "1"}, headers={"If-Match": old})
    assert changed.status_code == 200 and changed.headers["etag"] != old
    assert (await admin.patch(me, json={"phone": "2"}, headers={"If-Match": old})).status_code == 412


def test_the_document_tells_what_an_operation_can_answer(built: FastAPI) -> None:
    paths = built.openapi()["paths"]
    health, person = paths["/health"]["get"], paths["/api/v1/people/{person_id}"]
    assert set(health["responses"]) == {"200", "500"}
    assert "412" in person["patch"]["responses"] and "412" not in person["get"]["responses"]
    assert set(person["get"]["responses"]["200"]["headers"]) == {"X-Request-ID", "ETag"}
    for path, operations in paths.items():
        for method, operation in operations.items():
            names = [parameter["name"] for parameter in operation.get("parameters", ())]
            assert ("Idempotency-Key" in names) == (method == "post" and bool(operation.get("security"))), path
            assert all("X-Request-ID" in response["headers"] for response in operation["responses"].values()), path
