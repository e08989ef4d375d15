"""Pages of instances that are kept: never older than the question, never another's."""

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.api.conftest import Accounts, signed_in
from tests.kits.mirrored import Objects, until_equal
from tests.kits.resources import instance, plan, release, server

from dotmac_api.facade import Facade
from dotmac_api.mirror.models import InstanceRow

pytestmark = pytest.mark.services
LIST = "/api/v1/instances?order_by=name&order_dir=asc"


async def codes(client: httpx.AsyncClient, path: str = LIST) -> list[str]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return [item["org_code"] for item in answer.json()["items"]]


async def test_a_kept_page_holds_until_something_changes(
    app: FastAPI, ready: httpx.AsyncClient, facade: Facade, engine: AsyncEngine, objects: Objects, accounts: Accounts
) -> None:
    for obj in (server(), release(), plan(), instance("aa"), instance("bb")):
        objects.create(obj)
    await until_equal(engine, objects)
    assert await codes(ready) == await codes(ready) == ["AA", "BB"]

    async with signed_in(app, await accounts.make("admin", organisations=["BB"])) as limited:
        assert await codes(limited) == ["BB"]
        assert await codes(ready) == ["AA", "BB"]
        assert await codes(limited, "/api/v1/instances?org_code=AA") == []

    objects.merge("Instance", "aa", {"spec": {"orgName": "New name"}})
    objects.delete("Instance", "bb")
    await until_equal(engine, objects)
    (left,) = (await ready.get(LIST)).json()["items"]
    assert left["org_name"] == "New name"

    # A database that was set back: the numbers of changes go back too.
    async with facade.sessions.begin() as session:
        await session.execute(delete(InstanceRow))
    assert await codes(ready) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query.limit"),
        ("offset=-1", "query.offset"),
        ("order_dir=up", "query.order_dir"),
        ("order_by=secret", "query.order_by"),
        ("status=flying", "query.status"),
        ("server_id=1", "query.server_id"),
        ("search=%00", "query.search"),
    ],
)
async def test_a_wrong_query_is_refused_with_its_field(admin: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await admin.get(f"/api/v1/instances?{query}")
    assert answer.status_code == 422
    assert [detail["field"] for detail in answer.json()["details"]] == [field]
