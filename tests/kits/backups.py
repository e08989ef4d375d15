"""A tenant of the in-memory World with data, its Backups and Restores."""

from typing import Any

from tests.kits.fakes import Crash, World, deployed

from dotmac_operator.core import names

BACKUP, RESTORE = "tenants/monday", "tenants/back"
FILES, STORE = "dotmac-acme-files", "dotmac-acme-backups"


def served(**instance: Any) -> World:
    world = deployed(**instance)
    world.engine.rows, world.engine.data[FILES] = "order 1", "invoice.pdf"
    return world


def asked(world: World, name: str = "monday", type_: str = "Full", instance: str = "acme") -> None:
    world.create("Backup", name, {"instanceRef": {"name": instance}, "type": type_})


def backed_up(**instance: Any) -> World:
    world = served(**instance)
    asked(world)
    world.settle()
    assert world.status(BACKUP, "Backup")["phase"] == "Completed", world.status(BACKUP, "Backup")
    return world


def leftovers(world: World) -> list[str]:
    return [box.name for box in world.engine.containers_.values() if names.JOB in box.labels]


def kill_at_write(world: World, number: int) -> None:
    """The process ends at this status write; then another one comes to its end."""
    seen = 0

    def count(kind: str, key: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number + 1:
            raise Crash(f"{kind} {key}")

    world.cluster.before_write = count
    try:
        world.settle(200)
    except Crash:
        pass
    world.cluster.before_write = None
    world.restart()
    world.settle(200)
