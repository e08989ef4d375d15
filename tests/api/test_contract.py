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
from sqlalchemy import select
from tests.api.conftest import Accounts, connect, signed_in
from tests.kits.resources import instance, server

from dotmac_api.access import guards
from dotmac_api.facade import Facade
from dotmac_api.mirror.models import InstanceRow, ServerRow
from dotmac_api.mirror.projection import project
from dotmac_api.rbac.models import Permission, Role, RolePermission

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


async def test_an_api_key_reads_wherever_its_scopes_allow(app: FastAPI, admin: httpx.AsyncClient) -> None:
    permissions = (await admin.get("/api/v1/rbac/permissions", params={"limit": 100})).json()["items"]
    every = [p["key"] for p in permissions]
    readers = {p for (method, _), p in guards(app).items() if method == "GET" and p != "-"}
    for scopes, allowed in ((every, True), (sorted(set(every) - readers), False)):
        body = {"label": "some", "scopes": scopes, "expires_in_days": 1}
        key = (await admin.post("/api/v1/api-keys/generate", json=body)).json()["key"]
        async with connect(app, headers={"X-API-Key": key}) as holder:
            for method, path in guarded(app, "GET"):
                if path != "/api/v1/stream":  # it would not end
                    assert ((await holder.request(method, path)).status_code != 403) == allowed, path


# Parts of an instance that its operators change; what is deleted as a whole wants an administrator.
PARTS = re.compile(r"/instances/[^/]+/(flags|tags|modules|domains|maintenance-windows|restores)/")


async def test_deletions_and_what_rules_the_platform_want_an_administrator(app: FastAPI, accounts: Accounts) -> None:
    """Whatever permissions somebody has."""
    facade: Facade = app.state.facade
    async with facade.sessions.begin() as session:
        role = Role(name="nearly-admin")
        session.add(role)
        await session.flush()
        for permission in await session.scalars(select(Permission.id)):
            session.add(RolePermission(role_id=role.id, permission_id=permission))
    routes = [(m, p) for m, p in guarded(app, "POST", "PUT", "PATCH", "DELETE") if not PARTS.search(p)]
    rules = re.compile(r"/api/v1/(rbac|settings|scheduler|sessions|user-credentials)/?")
    wanted = [(m, p) for m, p in routes if m == "DELETE" or rules.match(p)]
    assert len(wanted) > 25
    async with signed_in(app, await accounts.make("nearly-admin")) as client:
        assert (await client.get("/api/v1/rbac/roles")).status_code == 200
        for method, path in wanted:
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["message"]) == (403, "this needs the role admin"), (method, path)


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


@pytest.fixture
async def nested(admin: httpx.AsyncClient, facade: Facade) -> dict[str, str]:
    """Name in a path -> what is there, so that the lists below it can be asked for."""
    stamp = {"namespace": "default", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    found = {"domain": "auth"}
    async with facade.sessions.begin() as session:
        for name, row, made in (("server_id", ServerRow, server()), ("instance_id", InstanceRow, instance())):
            found[name] = str(uuid.uuid4())
            obj = {**made, "metadata": made["metadata"] | stamp | {"uid": found[name]}}
            session.add(row(**project(obj), mirrored_at=datetime.now(UTC)))
    hook = await admin.post("/api/v1/webhooks", json={"url": "https://hooks.example.org/x"})
    return found | {"webhook_id": hook.json()["id"]}


def _lists(document: dict[str, Any]) -> Iterator[str]:
    """The paths of operations that answer a page."""
    for path, operations in document["paths"].items():
        schema = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        reference = schema.get("application/json", {}).get("schema", {}).get("$ref", "")
        if "/Page_" in reference:
            yield path


async def test_every_list_has_the_shape_and_the_bounds_that_clients_expect(
    app: FastAPI, admin: httpx.AsyncClient, nested: dict[str, str]
) -> None:
    paths = [path.format(**nested) for path in _lists(app.openapi())]
    assert len(paths) >= 20
    wrong = ["limit=0", "limit=101", "limit=-1", "limit=x", "offset=-1", f"offset={2**63}", "order_dir=up"]
    for path in paths:
        answer = await admin.get(path)
        assert answer.status_code == 200, (path, answer.text)
        page = answer.json()
        assert list(page) == ["items", "count", "limit", "offset"], path
        assert (page["limit"], page["offset"]) == (25, 0) and page["count"] >= len(page["items"]), path
        assert (await admin.get(path, params={"limit": 100, "offset": 7})).json()["offset"] == 7, path
        for query in (*wrong, "order_by=nothing"):
            refused = await admin.get(f"{path}?{query}")
            told = refused.json()
            assert (refused.status_code, told["code"]) == (422, "validation_error"), (path, query)
            assert told["details"][0]["field"] == f"query.{query.partition('=')[0]}", (path, query)


async def test_the_orders_that_a_list_names_are_taken(
    app: FastAPI, admin: httpx.AsyncClient, nested: dict[str, str]
) -> None:
    for path in _lists(app.openapi()):
        path = path.format(**nested)
        names = (await admin.get(path, params={"order_by": "-"})).json()["message"].partition("must be one of ")[2]
        for name in names.split(", "):
            assert (await admin.get(path, params={"order_by": name})).status_code == 200, (path, name)
    keys = [s["key"] for s in (await admin.get("/api/v1/settings/audit?order_by=key&order_dir=desc")).json()["items"]]
    assert keys == sorted(keys, reverse=True) and len(keys) > 3


# What is no row of its own: my sessions are ended as a whole, or one by one, whatever happened to them since.
UNVERSIONED = {"/api/v1/auth/me/sessions", "/api/v1/auth/me/sessions/{session_id}"}


def test_whatever_changes_a_row_takes_if_match(built: FastAPI) -> None:
    for path, operations in built.openapi()["paths"].items():
        for method in operations.keys() & {"put", "patch", "delete"}:
            names = [parameter["name"] for parameter in operations[method].get("parameters", ())]
            assert ("If-Match" in names) == (path not in UNVERSIONED), (method, path)


def test_every_body_refuses_what_it_does_not_know(built: FastAPI) -> None:
    document = built.openapi()
    schemas = document["components"]["schemas"]

    def check(schema: dict[str, Any], where: str) -> None:
        for part in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
            if "$ref" in part:
                check(schemas[part["$ref"].rpartition("/")[2]], where)
            elif part.get("type") == "array":
                check(part["items"], where)
            elif part.get("type") == "object" and "properties" in part:
                assert part.get("additionalProperties") is False, (where, part.get("title"))
                for field in part.get("properties", {}).values():
                    check(field, where)

    bodies = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                bodies += 1
                check(content["schema"], f"{method} {path}")
    assert bodies > 40


async def test_a_nul_is_refused_with_its_field(admin: httpx.AsyncClient) -> None:
    cases = [
        ("people", {"first_name": "a\0b", "last_name": "B", "email": "a@example.org"}, "body.first_name"),
        ("people", {"first_name": "A", "last_name": "B", "email": "a@example.org", "notes": "\0"}, "body.notes"),
        ("rbac/roles", {"name": "listers", "description": "\0"}, "body.description"),
        ("api-keys/generate", {"label": "x", "scopes": ["people:read\0"]}, "body.scopes"),
    ]
    for path, body, field in cases:
        refused = await admin.post(f"/api/v1/{path}", json=body)
        assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, field), refused.text
    assert (await admin.get("/api/v1/people", params={"search": "\0"})).status_code == 422


async def test_nobody_opens_a_session_but_by_signing_in(app: FastAPI, admin: httpx.AsyncClient) -> None:
    refused = await admin.post("/api/v1/sessions", json={"person_id": NOBODY})
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
    assert "/api/v1/auth/login" in refused.json()["message"] and refused.headers["allow"] == "GET"
    assert "post" not in app.openapi()["paths"]["/api/v1/sessions"]


HOSTILE = {
    "broken": b"{",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "a huge number": b'{"first_name": ' + b"9" * 5_000 + b"}",
    "no UTF-8": b'{"first_name": "\xff"}',
    "half a character": b'{"first_name": "\\ud800"}',
    "not a number": b'{"first_name": NaN}',
    "a list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data", ""])
async def test_a_body_that_is_none_is_refused_in_the_one_shape(admin: httpx.AsyncClient, content_type: str) -> None:
    for name, content in HOSTILE.items():
        answer = await admin.post("/api/v1/people", content=content, headers={"Content-Type": content_type})
        assert answer.status_code in (400, 422), (name, answer.text)
        assert set(answer.json()) == {"code", "message", "details"}, name
        assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "forged", ["x" * 10_000, "abc", "<script>alert(1)", "a b c d e", "\u00e9" * 10, "abcdefgh\u0085"]
)
async def test_a_hostile_request_id_is_replaced(client: httpx.AsyncClient, forged: str) -> None:
    for path in ("/health", "/nowhere", "/api/v1/people"):
        answer = await client.get(path, headers={b"X-Request-ID": forged.encode("latin-1")})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"]), path


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
