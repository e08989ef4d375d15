"""Roles, permissions, API keys, credentials and sessions of others: what administrators do, and what nobody may."""

import asyncio
import uuid

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text, update
from tests.api.conftest import Account, Accounts, connect, signed_in

from dotmac_api.auth.models import ApiKey
from dotmac_api.facade import Facade
from dotmac_api.rbac.catalogue import PERMISSIONS
from dotmac_api.settings import Settings

pytestmark = pytest.mark.services

PASSWORD = "violet-anchor-seventeen"


async def _role_id(admin: httpx.AsyncClient, name: str) -> str:
    [role] = (await admin.get("/api/v1/rbac/roles", params={"name": name})).json()["items"]
    return str(role["id"])


async def test_a_grant_counts_at_once_and_so_does_its_withdrawal(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    person = await accounts.make()
    role = (await admin.post("/api/v1/rbac/roles", json={"name": "listers"})).json()
    [permission] = (await admin.get("/api/v1/rbac/permissions", params={"key": "people:read"})).json()["items"]
    async with signed_in(app, person) as client:
        assert (await client.get("/api/v1/people")).status_code == 403
        body = {"role_id": role["id"], "permission_id": permission["id"]}
        grant = await admin.post("/api/v1/rbac/role-permissions", json=body)
        assert grant.status_code == 201
        assert (await admin.post("/api/v1/rbac/role-permissions", json=body)).status_code == 409
        body = {"role_id": role["id"], "person_id": str(person.person_id)}
        given = await admin.post("/api/v1/rbac/person-roles", json=body)
        assert given.status_code == 201
        assert (await client.get("/api/v1/people")).status_code == 200
        await admin.patch(f"/api/v1/rbac/roles/{role['id']}", json={"is_active": False})
        assert (await client.get("/api/v1/people")).status_code == 403
        await admin.patch(f"/api/v1/rbac/roles/{role['id']}", json={"is_active": True})
        assert (await client.get("/api/v1/people")).status_code == 200
        await admin.delete(f"/api/v1/rbac/person-roles/{given.json()['id']}")
        assert (await client.get("/api/v1/people")).status_code == 403


async def test_nobody_can_lock_the_platform_or_promote_themselves(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    me = (await admin.get("/api/v1/auth/me")).json()["id"]
    admin_role = await _role_id(admin, "admin")
    [mine] = (await admin.get("/api/v1/rbac/person-roles", params={"person_id": me})).json()["items"]
    [permission] = (await admin.get("/api/v1/rbac/permissions", params={"key": "rbac:write"})).json()["items"]
    attempts = [
        ("DELETE", f"/api/v1/rbac/roles/{admin_role}", None, 409),
        ("PATCH", f"/api/v1/rbac/roles/{admin_role}", {"is_active": False}, 409),
        ("PATCH", f"/api/v1/rbac/roles/{admin_role}", {"name": "other"}, 409),
        ("DELETE", f"/api/v1/rbac/permissions/{permission['id']}", None, 409),
        ("PATCH", f"/api/v1/rbac/permissions/{permission['id']}", {"is_active": False}, 409),
        ("DELETE", f"/api/v1/rbac/person-roles/{mine['id']}", None, 403),
        ("DELETE", f"/api/v1/people/{me}", None, 403),
        ("PATCH", f"/api/v1/people/{me}", {"status": "inactive"}, 403),
    ]
    for method, path, body, expected in attempts:
        answer = await admin.request(method, path, json=body)
        assert answer.status_code == expected, (method, path, answer.text)
    operator = await accounts.make("operator")
    async with signed_in(app, operator) as client:
        body = {"role_id": admin_role, "person_id": str(operator.person_id)}
        assert (await client.post("/api/v1/rbac/person-roles", json=body)).status_code == 403


async def test_two_administrators_cannot_take_each_other_away_at_once(app: FastAPI, accounts: Accounts) -> None:
    first, second = await accounts.make("admin"), await accounts.make("admin")
    await accounts.make("admin", organisations=["ACME"])  # limited: does not count
    async with signed_in(app, first) as one, signed_in(app, second) as two:
        [held] = (await one.get("/api/v1/rbac/person-roles", params={"person_id": str(second.person_id)})).json()[
            "items"
        ]
        answers = await asyncio.gather(
            one.delete(f"/api/v1/rbac/person-roles/{held['id']}"),
            two.patch(f"/api/v1/people/{first.person_id}", json={"status": "inactive"}),
        )
        assert sorted(a.status_code for a in answers) in ([204, 409], [200, 409]), [a.text for a in answers]
        [refused] = [a for a in answers if a.status_code == 409]
        assert refused.json()["code"] == "last_administrator"


@pytest.mark.parametrize("way", ["role", "other role", "status", "limits", "person", "credential", "off"])
async def test_the_last_administrator_stays(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts, facade: Facade, way: str
) -> None:
    """Even for somebody whose own right to do this was taken away after the request came in."""
    last = await accounts.make("admin")
    [held] = (await admin.get("/api/v1/rbac/person-roles", params={"person_id": str(last.person_id)})).json()["items"]
    support = await _role_id(admin, "support")
    me = (await admin.get("/api/v1/auth/me")).json()["id"]
    async with facade.sessions.begin() as session:
        await session.execute(text("DELETE FROM person_roles WHERE person_id = :me"), {"me": me})
    method, path, body = {
        "role": ("DELETE", f"rbac/person-roles/{held['id']}", None),
        "other role": ("PATCH", f"rbac/person-roles/{held['id']}", {"role_id": support}),
        "status": ("PATCH", f"people/{last.person_id}", {"status": "archived"}),
        "limits": ("PATCH", f"people/{last.person_id}", {"organisations": ["ACME"]}),
        "person": ("DELETE", f"people/{last.person_id}", None),
        "credential": ("DELETE", f"user-credentials/{last.credential_id}", None),
        "off": ("PATCH", f"user-credentials/{last.credential_id}", {"is_active": False}),
    }[way]
    # The cached rights of the caller still hold: no replica was told.
    refused = await admin.request(method, f"/api/v1/{path}", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_administrator"), refused.text
    async with signed_in(app, last) as client:
        assert (await client.get("/api/v1/rbac/roles")).status_code == 200


async def test_a_limited_administrator_stays_within_its_organisations(app: FastAPI, accounts: Accounts) -> None:
    limited = await accounts.make("admin", organisations=["ACME"])
    mine = await accounts.make(organisations=["ACME"])
    other = await accounts.make(organisations=["OTHER"])
    async with signed_in(app, limited) as client:
        admin_role = await _role_id(client, "admin")
        for path in (f"/sessions/{other.session_id}", f"/user-credentials/{other.credential_id}"):
            assert (await client.get(f"/api/v1{path}")).status_code == 404
            assert (await client.delete(f"/api/v1{path}")).status_code == 404
        for path in ("sessions", "user-credentials", "people"):
            seen = (await client.get(f"/api/v1/{path}")).json()
            people = {row.get("person_id", row["id"]) for row in seen["items"]}
            assert people == {str(limited.person_id), str(mine.person_id)}, path
        for person, expected in ((mine, 201), (other, 422)):
            body = {"person_id": str(person.person_id), "role_id": admin_role}
            assert (await client.post("/api/v1/rbac/person-roles", json=body)).status_code == expected
            body = {"person_id": str(person.person_id), "username": f"x{person.username}", "password": PASSWORD}
            assert (await client.post("/api/v1/user-credentials", json=body)).status_code == expected
        assert (await client.post("/api/v1/rbac/roles", json={"name": "mine"})).status_code == 403
        changed = await client.put("/api/v1/settings/audit/enabled", json={"value": False})
        assert changed.status_code == 403


@pytest.fixture
async def reader(app: FastAPI, admin: httpx.AsyncClient) -> str:
    """An API key of the administrator that may read people."""
    body = {"label": "ci", "scopes": ["people:read", "people:write"], "expires_in_days": 1}
    made = await admin.post("/api/v1/api-keys/generate", json=body)
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    return str(made.json()["key"])


async def test_an_api_key_reads_what_its_scopes_allow_and_writes_nothing(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, facade: Facade, reader: str
) -> None:
    key = {"X-API-Key": reader}
    assert (await client.get("/api/v1/people", headers=key)).status_code == 200
    assert (await client.get("/api/v1/audit-events", headers=key)).status_code == 403
    body = {"first_name": "A", "last_name": "B", "email": "a@example.org"}
    assert (await client.post("/api/v1/people", json=body, headers=key)).status_code == 403
    assert (await client.get("/api/v1/auth/me", headers=key)).status_code == 403
    for wrong in (reader[:-1] + "x", "dmk_", "x" * 5000, "dmk_\xff"):
        answer = await client.get("/api/v1/people", headers={"X-API-Key": wrong.encode("latin-1")})  # type: ignore[dict-item]
        assert answer.status_code == 401, wrong
    [listed] = (await admin.get("/api/v1/api-keys")).json()["items"]
    assert "key" not in listed
    assert reader.startswith(listed["prefix"])
    assert listed["last_used_at"] is not None
    async with facade.sessions() as session:
        assert reader not in str((await session.execute(text("SELECT * FROM api_keys"))).all())
    assert (await admin.delete(f"/api/v1/api-keys/{listed['id']}")).status_code == 204
    assert (await client.get("/api/v1/people", headers=key)).status_code == 401
    back = await admin.patch(f"/api/v1/api-keys/{listed['id']}", json={"is_active": True})
    assert (back.status_code, back.json()["code"]) == (409, "key_revoked")


async def test_an_api_key_expires(client: httpx.AsyncClient, facade: Facade, reader: str) -> None:
    async with facade.sessions.begin() as session:
        await session.execute(update(ApiKey).values(expires_at=func.now()))
    assert (await client.get("/api/v1/people", headers={"X-API-Key": reader})).status_code == 401


async def test_a_key_has_no_more_rights_than_its_person_or_its_maker(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    operator = await accounts.make("operator")
    body = {"label": "x", "scopes": ["rbac:write"], "person_id": str(operator.person_id)}
    refused = await admin.post("/api/v1/api-keys", json=body)
    assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, "body.scopes")
    body["scopes"] = ["people:read"]
    made = (await admin.post("/api/v1/api-keys", json=body)).json()
    async with connect(app, headers={"X-API-Key": made["key"]}) as client:
        assert (await client.get("/api/v1/people")).status_code == 200
        [held] = (await admin.get("/api/v1/rbac/person-roles", params={"person_id": body["person_id"]})).json()["items"]
        await admin.delete(f"/api/v1/rbac/person-roles/{held['id']}")
        assert (await client.get("/api/v1/people")).status_code == 403
    more = await admin.patch(f"/api/v1/api-keys/{made['id']}", json={"scopes": ["people:read", "audit:read"]})
    assert more.status_code == 422


async def test_requests_with_a_key_are_limited(settings: Settings, app: FastAPI, reader: str) -> None:
    from dotmac_api.main import create_app

    limited = create_app(settings.model_copy(update={"overrides": {("auth", "api_key_rate_max"): 3}}))
    async with limited.router.lifespan_context(limited), connect(limited, headers={"X-API-Key": reader}) as client:
        statuses = [(await client.get("/api/v1/people")).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


async def test_credentials_never_show_the_hash_and_a_new_password_must_change(
    app: FastAPI, client: httpx.AsyncClient, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    person = await accounts.make("operator")
    path = f"/api/v1/user-credentials/{person.credential_id}"
    assert "password" not in str((await admin.get(path)).json()).replace("must_change_password", "").replace(
        "password_updated_at", ""
    )
    changed = await admin.patch(path, json={"password": PASSWORD})
    assert (changed.status_code, changed.json()["must_change_password"]) == (200, True)
    assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == 401
    answer = await client.post("/api/v1/auth/login", json={"username": person.username, "password": PASSWORD})
    assert answer.json()["must_change_password"] is True
    off = await admin.patch(path, json={"is_active": False})
    assert off.status_code == 200
    login = await client.post("/api/v1/auth/login", json={"username": person.username, "password": PASSWORD})
    assert login.status_code == 401
    assert (await admin.delete(path)).status_code == 204
    assert (await admin.get(path)).status_code == 404


async def test_sessions_of_others_are_revoked_at_once(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    person = await accounts.make("operator")
    assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == 200
    path = f"/api/v1/sessions/{person.session_id}"
    later = await admin.patch(path, json={"expires_at": "2099-01-01T00:00:00Z"})
    assert (later.status_code, later.json()["details"][0]["field"]) == (422, "body.expires_at")
    assert (await admin.delete(path)).status_code == 204
    assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == 401
    shown = (await admin.get(path)).json()
    assert (shown["status"], shown["revoked_reason"]) == ("revoked", "revoked by an administrator")
    listed = await admin.get("/api/v1/sessions", params={"status": "revoked"})
    assert listed.json()["count"] == 1


async def test_a_person_who_is_deactivated_is_out_at_once(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    person = await accounts.make("operator")
    assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == 200
    await admin.patch(f"/api/v1/people/{person.person_id}", json={"status": "inactive"})
    assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == 401


async def test_only_an_administrator_changes_what_gives_access(
    app: FastAPI, accounts: Accounts, facade: Facade
) -> None:
    """Whoever controls the address can reset the password."""
    from dotmac_api.rbac.models import Permission, Role, RolePermission

    async with facade.sessions.begin() as session:
        role = await session.scalar(select(Role.id).where(Role.name == "support"))
        permission = await session.scalar(select(Permission.id).where(Permission.key == "people:write"))
        assert role is not None and permission is not None
        session.add(RolePermission(role_id=role, permission_id=permission))
    victim, attacker = await accounts.make("admin"), await accounts.make("support")
    async with signed_in(app, attacker) as client:
        path = f"/api/v1/people/{victim.person_id}"
        assert (await client.patch(path, json={"phone": "1"})).status_code == 200
        for body in ({"email": "attacker@example.org"}, {"status": "inactive"}, {"organisations": []}):
            assert (await client.patch(path, json=body)).status_code == 403


async def test_every_permission_of_the_catalogue_is_seeded(admin: httpx.AsyncClient) -> None:
    listed = (await admin.get("/api/v1/rbac/permissions", params={"limit": 100})).json()
    assert {row["key"] for row in listed["items"]} == {spec.key for spec in PERMISSIONS}


async def test_concurrent_grants_of_one_role_make_one_row(admin: httpx.AsyncClient, accounts: Accounts) -> None:
    person: Account = await accounts.make()
    body = {"role_id": await _role_id(admin, "support"), "person_id": str(person.person_id)}
    answers = await asyncio.gather(*(admin.post("/api/v1/rbac/person-roles", json=body) for _ in range(5)))
    assert sorted(a.status_code for a in answers) == [201, 409, 409, 409, 409]


async def test_a_reference_to_nothing_is_refused(admin: httpx.AsyncClient) -> None:
    nothing = str(uuid.uuid4())
    for path, body in (
        ("person-roles", {"person_id": nothing, "role_id": nothing}),
        ("role-permissions", {"role_id": nothing, "permission_id": nothing}),
    ):
        answer = await admin.post(f"/api/v1/rbac/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
