import pytest
from tests.kits.mirrored import projecting, until_equal
from tests.kits.resources import instance, plan, release, server

pytestmark = pytest.mark.services


async def test_it_follows_every_kind_and_every_change(engine, cluster, objects):
    objects.create(server())
    objects.create(release())
    objects.create(instance())
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
        objects.create(plan())
        objects.create(instance("beta"))
        objects.merge("Instance", "acme", {"spec": {"orgName": "Acme Inc"}})
        objects.delete("Release", "erp-1")
        await until_equal(engine, objects)
        objects.delete("Instance", "acme")
        objects.delete("Server", "host-1")
        await until_equal(engine, objects)
