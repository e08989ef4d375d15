"""The faults, each of which strikes at one point of a journey."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.faults.apiproxy import ApiFault, Lose, Refuse
from tests.faults.world import World
from tests.simhost import Error, Fault, Phase, Reset, Run

BLACKHOLE_SECONDS = 2.0
DOWN_SECONDS = 1.5


@dataclass(frozen=True)
class Kind:
    """One way of going wrong at a call to the host or a write to the API."""

    name: str
    at: Literal["host", "api"]
    phase: Phase
    strike: Callable[[World], Fault | ApiFault | None]
    everywhere: bool = False
    """At every point; others only at the first of each step."""
    journeys: tuple[str, ...] = ()
    """Only in these; empty: in all."""
    standby: bool = False
    """A second operator waits."""


def _run(work: Callable[[World], object], then: Fault | None = None) -> Callable[[World], Fault]:
    def strike(world: World) -> Fault:
        def function() -> None:
            work(world)

        return Run(function, then)

    return strike


def _blackhole(world: World) -> None:
    world.host.blackhole()
    asyncio.get_running_loop().call_later(BLACKHOLE_SECONDS, world.host.blackhole, False)


def _restart_engine(world: World) -> None:
    task = asyncio.ensure_future(world.host.restart_engine(0.5))
    task.add_done_callback(lambda _: None)


def _kill_with_old_news(world: World) -> None:
    world.api.stale = dict(world.remembered)
    world.kill()


def _there_and_back(world: World) -> None:
    def there() -> None:
        world.patch({"env": [{"name": "MODE", "value": "B"}]})
        world.later(0.3, lambda: world.patch({"env": None}))

    world.later(0.0, there)


def _again_under_the_same_name(world: World) -> None:
    def again() -> None:
        world.delete()
        world.wait("the deletion", lambda: world.get() is None)
        world.create()

    world.later(0.0, again)


def _zombie(world: World) -> None:
    """The leader stops in the middle, another takes over, then the first wakes up."""
    world.freeze()
    world.later(9.0, world.thaw)


def _replaced(world: World) -> None:
    world.operators[0].kill()


def _dies(fault: ApiFault | None) -> Callable[[World], ApiFault | None]:
    def strike(world: World) -> ApiFault | None:
        world.kill()
        return fault

    return strike


BEFORE, AFTER = Phase.BEFORE, Phase.AFTER
KINDS = {
    kind.name: kind
    for kind in (
        Kind("killed-before", "host", BEFORE, _run(World.kill, Reset()), everywhere=True),
        Kind("killed-during", "host", BEFORE, _run(World.kill), everywhere=True),
        Kind("killed-after", "host", AFTER, _run(World.kill), everywhere=True),
        Kind("reset-before", "host", BEFORE, lambda _: Reset()),
        Kind("reset-after", "host", AFTER, lambda _: Reset()),
        Kind("blackhole", "host", BEFORE, _run(_blackhole)),
        Kind("dockerd-restart", "host", BEFORE, _run(_restart_engine)),
        Kind("error-500", "host", BEFORE, lambda _: Error(500)),
        Kind("disk-full", "host", BEFORE, lambda _: Error(500, "write /var/lib/docker: no space left on device")),
        Kind("api-gone", "host", BEFORE, _run(lambda w: w.api.go_down(DOWN_SECONDS))),
        Kind("watch-expired", "host", BEFORE, _run(lambda w: w.api.expire_watches())),
        Kind("stale-restart", "host", AFTER, _run(_kill_with_old_news)),
        Kind("edit-aba", "host", AFTER, _run(_there_and_back), journeys=("deploy", "upgrade", "repair")),
        Kind("recreated", "host", AFTER, _run(_again_under_the_same_name), journeys=("deploy",)),
        Kind("taken-over", "host", AFTER, _run(_replaced), standby=True, journeys=("deploy", "upgrade", "delete")),
        Kind("zombie", "host", BEFORE, _run(_zombie), standby=True, journeys=("deploy", "upgrade")),
        Kind("killed-before-record", "api", BEFORE, _dies(Lose()), everywhere=True),
        Kind("killed-after-record", "api", AFTER, _dies(Lose()), everywhere=True),
        Kind("answer-lost", "api", AFTER, lambda _: Lose()),
        Kind("too-many-requests", "api", BEFORE, lambda _: Refuse(429, "TooManyRequests", 1)),
        Kind("conflict", "api", BEFORE, lambda _: Refuse(409, "Conflict")),
        Kind("server-error", "api", BEFORE, lambda _: Refuse(500, "InternalError")),
    )
}
