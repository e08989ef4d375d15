"""What users do, each with the state before, the deed, and how its end is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.world import BAD, NAME, NEW, World, condition

from dotmac_operator.core import names

RIVAL, DOMAIN = "rival", "acme.erp.example"


@dataclass(frozen=True)
class Journey:
    name: str
    prepare: Callable[[World], None]
    act: Callable[[World], None]
    done: Callable[[World], bool]
    app: str = "example/app:1"
    """The image that web and worker have in the end; empty: nothing of the tenant is left."""
    migrated: str = "example/app:1"
    """The image whose migrate has run last."""
    state: str = "running"
    """Of the tenant's containers in the end."""
    tenant: str = NAME
    """Who has it all in the end."""
    kinds: tuple[str, ...] = ()
    """Only these faults; empty: all of them."""
    rests: bool = True
    """Whether a pass on demand does nothing; after a rollback it tries the failed change once more, as it should."""

    def end(self) -> dict[str, Any]:
        """All that may be on the host and in the namespace in the end, in the shape of `cases.picture`.

        Said by hand: what an operator always forgets to take away is in the end without a fault, too.
        """
        proxy = ("proxy", "0", "dotmac/caddy:2.6", "running")
        made: dict[str, Any] = {
            "containers": [(*proxy, ["dotmac-proxy"])],
            "networks": ["bridge", "dotmac-proxy", "host", "none"],
            "volumes": ["dotmac-proxy-config", "dotmac-proxy-data"],
            "routes": [],
            "secrets": ["sim-ssh"],
        }
        if self.app:
            place, running = [f"dotmac-{self.tenant}"], (self.app, self.state, [f"dotmac-{self.tenant}"])
            made["containers"] = [
                ("bootstrap", "0", "example/app:1", "exited", []),
                ("cache", "0", "example/redis:7", self.state, place),
                ("database", "0", "example/postgres:15", self.state, place),
                ("migrate", "0", self.migrated, "exited", []),
                (*proxy, sorted([*place, "dotmac-proxy"])),
                ("web", "0", *running),
                ("worker", "0", *running),
            ]
            made["networks"] = sorted([*made["networks"], *place])
            made["volumes"] = sorted([*made["volumes"], *(f"{place[0]}-{v}" for v in ("backups", "database", "files"))])
            made["routes"], made["secrets"] = [DOMAIN], sorted([f"{self.tenant}-credentials", "sim-ssh"])
        return made


def _nothing(world: World) -> None:
    pass


def _deployed(world: World) -> None:
    world.create()
    world.wait("the first deploy", lambda: ready(world))


def _deployed_for_deletion(world: World) -> None:
    world.create(deletion={"policy": "Delete"})
    world.wait("the first deploy", lambda: ready(world))


def _suspended(world: World) -> None:
    _deployed(world)
    world.patch({"state": "Suspended"})
    world.wait("the suspension", lambda: suspended(world))


def ready(world: World) -> bool:
    return condition(world.get(), "Ready") == "True" and condition(world.get(), "Reconciling") == "False"


def suspended(world: World) -> bool:
    return condition(world.get(), "Suspended") == "True" and condition(world.get(), "Reconciling") == "False"


def _serves(world: World, release: str) -> bool:
    found = world.get()
    progress = ((found or {}).get("status") or {}).get("release") or {}
    return ready(world) and progress.get("current") == release and not progress.get("target")


def _rolled_back(world: World) -> bool:
    found = world.get()
    if condition(found, "Stalled") != "True" or found is None:
        return False
    images = [
        c.body["Image"] for c in list(world.host.engine.containers.values()) if names.is_app(c.body.get("Labels") or {})
    ]
    return found["status"]["release"]["current"] == "erp-1" and not any("bad" in image for image in images)


def _claim(world: World) -> None:
    """Another tenant wants the first one's domain, is told so while that one serves, and gets it when that one goes."""
    world.create(RIVAL, orgCode=RIVAL.upper(), domains=[{"host": DOMAIN}])
    world.wait("the claim to be refused", lambda: _refused(world))
    if condition(world.get(name=NAME), "Ready") != "True" or world.hosts() != {DOMAIN: NAME}:
        world.violations.append(f"{NAME} does not serve any more: another tenant wants its domain")
    world.may_remove_volumes = True
    world.tenant = RIVAL
    world.delete()


def _refused(world: World) -> bool:
    found = [
        c for c in ((world.get(name=RIVAL) or {}).get("status") or {}).get("conditions", []) if c["type"] == "Stalled"
    ]
    return [(c["status"], c["reason"]) for c in found] == [("True", "DomainTaken")]


def _claimed(world: World) -> bool:
    return world.get(name=NAME) is None and ready(world) and world.hosts() == {DOMAIN: RIVAL}


def _break(world: World) -> None:
    def remove() -> None:
        engine = world.host.engine
        web = next(c for c in engine.containers.values() if (c.body.get("Labels") or {}).get(names.ROLE) == "web")
        engine.remove(web, force=True, volumes=False)

    world.lab.fleet.call(remove)


def _repaired(world: World) -> bool:
    found = world.get()
    running = [
        c for c in list(world.host.engine.containers.values()) if (c.body.get("Labels") or {}).get(names.ROLE) == "web"
    ]
    return (
        ready(world)
        and bool(((found or {}).get("status") or {}).get("drift"))
        and [c.state for c in running] == ["running"]
    )


def _delete(world: World) -> None:
    world.may_remove_volumes = True
    world.delete()


def _gone(world: World) -> bool:
    engine = world.host.engine
    containers = [c for c in list(engine.containers.values()) if names.INSTANCE_UID in (c.body.get("Labels") or {})]
    return world.get() is None and not containers


JOURNEYS = {
    journey.name: journey
    for journey in (
        Journey("deploy", _nothing, World.create, ready),
        Journey(
            "upgrade",
            _deployed,
            lambda w: w.patch({"releaseRef": {"name": NEW}}),
            lambda w: _serves(w, NEW),
            app="example/app:2",
            migrated="example/app:2",
        ),
        Journey(
            "rollback",
            _deployed,
            lambda w: w.patch({"releaseRef": {"name": BAD}}),
            _rolled_back,
            migrated="example/app:bad",
            rests=False,
        ),
        Journey("repair", _deployed, _break, _repaired),
        Journey("suspend", _deployed, lambda w: w.patch({"state": "Suspended"}), suspended, state="exited"),
        Journey("resume", _suspended, lambda w: w.patch({"state": "Running"}), ready),
        Journey(
            "claim",
            _deployed_for_deletion,
            _claim,
            _claimed,
            tenant=RIVAL,
            kinds=("killed-during", "killed-after-record", "stale-restart", "conflict"),
        ),
        Journey("delete", _deployed_for_deletion, _delete, _gone, app="", rests=False),
    )  # fmt: skip
}
