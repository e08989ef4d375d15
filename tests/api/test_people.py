"""/people: CRUD, list shape, tenancy, ETags."""

import uuid

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Accounts, signed_in

from dotmac_api.access import guards

pytestmark = pytest.mark.services

ADA = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org"}


async def test_a_person_is_made_read_changed_and_deleted(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/api/v1/people", json=ADA)
    assert made.status_code == 201, made.text
    path = f"/api/v1/people/{made.json()['id']}"
    changed = await admin.patch(path, json={"phone": "123"}, headers={"If-Match": made.headers["ETag"]})
    assert (changed.status_code, changed.json()["phone"]) == (200, "123")
    stale = await admin.patch(path, json={"phone": "4"}, headers={"If-Match": made.headers["ETag"]})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert (await admin.delete(path)).status_code == 204
    gone = await admin.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


async def test_a_list_has_the_shape_that_clients_expect(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/api/v1/people", params={"limit": 1, "order_by": "email", "order_dir": "asc"})
    body = answer.json()
    assert set(body) == {"items", "count", "limit", "offset"}
    assert (body["count"], body["limit"], body["offset"], len(body["items"])) == (1, 1, 0, 1)
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "offset=-1", "offset=99999999999999999999", "order_by=notes", "search=%00"]
)
async def test_a_bad_query_is_refused_with_its_field(admin: httpx.AsyncClient, query: str) -> None:
    answer = await admin.get(f"/api/v1/people?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


@pytest.mark.parametrize(
    "body",
    [
        {},
        ADA | {"role": "admin"},
        ADA | {"email": "not an address"},
        ADA | {"first_name": "nul\x00"},
        ADA | {"first_name": ""},
        ADA | {"organisations": ["../etc"]},
    ],
)
async def test_a_bad_body_is_refused(admin: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await admin.post("/api/v1/people", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


async def test_one_email_is_one_person_whatever_its_case(admin: httpx.AsyncClient) -> None:
    await admin.post("/api/v1/people", json=ADA)
    again = await admin.post("/api/v1/people", json=ADA | {"email": "ADA@example.org"})
    assert (again.status_code, again.json()["code"]) == (409, "already_exists")


async def test_a_limited_person_sees_only_its_organisations(app: FastAPI, accounts: Accounts) -> None:
    limited = await accounts.make("admin", organisations=["ACME"])
    theirs = await accounts.make(organisations=["ACME"])
    others = [await accounts.make(organisations=orgs) for orgs in (["OTHER"], ["ACME", "OTHER"], [], None)]
    async with signed_in(app, limited) as client:
        seen = {item["id"] for item in (await client.get("/api/v1/people")).json()["items"]}
        assert seen == {str(limited.person_id), str(theirs.person_id)}
        for other in others:
            path = f"/api/v1/people/{other.person_id}"
            statuses = {(await client.request(m, path, json=b)).status_code for m, b in _ATTEMPTS}
            assert statuses == {404}
        for organisations in (None, ["OTHER"], ["ACME", "OTHER"]):
            refused = await client.post("/api/v1/people", json=ADA | {"organisations": organisations})
            assert refused.status_code == 422
        freed = await client.patch(f"/api/v1/people/{limited.person_id}", json={"organisations": None})
        assert freed.status_code == 403


_ATTEMPTS = (("GET", None), ("PATCH", {"notes": "x"}), ("DELETE", None))


async def test_every_route_refuses_strangers_and_people_without_rights(app: FastAPI, accounts: Accounts) -> None:
    nobody = await accounts.make()
    async with signed_in(app, nobody) as client:
        for (method, path), permission in guards(app).items():
            concrete = path
            while "{" in concrete:
                concrete = concrete[: concrete.index("{")] + str(uuid.uuid4()) + concrete[concrete.index("}") + 1 :]
            if permission == "-":
                continue
            stranger = await client.request(method, concrete, headers={"Authorization": ""})
            assert (stranger.status_code, stranger.json()["code"]) == (401, "unauthorized"), (method, path)
            without = await client.request(method, concrete)
            assert (without.status_code, without.json()["code"]) == (403, "forbidden"), (method, path)
