"""The faults, each of which strikes at one point of a journey."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.apiproxy import ApiFault, Lose, Refuse
from tests.faults.world import LISTED, OLD, World, condition
from tests.simhost import Behaviour, Error, Fault, Match, Phase, Reset, Run

from dotmac_operator.core import names

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
    then: Callable[[World], None] | None = None
    """What to wait for, or to do, once it has struck."""
    leaves: str = ""
    """The record in the status that rightly tells of it in the end."""
    on: str = ""
    """Only at points whose label has this in it."""
    shows: Mapping[str, int] = field(kw_only=True)
    """By how much which of `World.counts` must grow from the strike to the end, or the fault was not taken. Not all of
    them do so in a journey without a fault (`cases.record` looks)."""

    def untaken(self, since: Counter[str], now: Counter[str]) -> list[str]:
        """What shows that the fault was not taken; empty: it was."""
        grown = {name: now[name] - since[name] for name in self.shows}
        return [f"{name}: {grown[name]}, not {least}" for name, least in self.shows.items() if grown[name] < least]


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


def _until_the_old_news_end(world: World) -> None:
    world.wait("the old lists to be watched from", lambda: not world.api.stale)


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


def _dump_fails(world: World) -> None:
    """The disk is full until the dump's container has ended, and then has room again."""
    rules = world.host.engine.rules
    full = "pg_dump: error: could not write to output file: No space left on device\n"
    world.host.engine.behave(Match(role=names.BACKUP), Behaviour.one_shot(0.05, 1, full))
    asyncio.get_running_loop().call_later(0.3, rules.pop)


def _ask_again(world: World) -> None:
    """After a dump that failed nothing may have changed but the status, until somebody asks for another try."""
    world.wait("the failure to be told", lambda: condition(world.get(), "Stalled") == "True")
    status = (world.get() or {})["status"]
    assert status["release"]["current"] == OLD, f"Release {status['release']} serves without a dump"
    assert "No space left on device" in str(status["conditions"]), "nobody is told why the dump failed"
    world.patch(annotations={names.RECONCILE_REQUESTED_AT: "there is room again"})
    world.api.counts["asked again"] += 1


def _wait(seconds: float) -> Callable[[World], None]:
    return lambda _: time.sleep(seconds)


def _zombie(world: World) -> None:
    """The leader stops in the middle, another takes over, then the first wakes up."""

    def thaw() -> None:
        world.thaw()
        world.api.counts["thawed"] += 1

    world.freeze()
    world.later(9.0, thaw)


def _replaced(world: World) -> None:
    world.operators[0].kill()


def _dies(fault: ApiFault | None) -> Callable[[World], ApiFault | None]:
    def strike(world: World) -> ApiFault | None:
        world.kill()
        return fault

    return strike


KILLED = {"operators killed": 1, "leaders": 1}
RESET = {"SSH connections": 1}
FULL = "write /var/lib/docker: no space left on device"
DUMP = "start dotmac-acme-backup"
BEFORE, AFTER = Phase.BEFORE, Phase.AFTER
KINDS = {
    kind.name: kind
    for kind in (
        Kind("killed-before", "host", BEFORE, _run(World.kill, Reset()), everywhere=True, shows=KILLED),
        Kind("killed-during", "host", BEFORE, _run(World.kill), everywhere=True, shows=KILLED),
        Kind("killed-after", "host", AFTER, _run(World.kill), everywhere=True, shows=KILLED),
        Kind("reset-before", "host", BEFORE, lambda _: Reset(), shows=RESET),
        Kind("reset-after", "host", AFTER, lambda _: Reset(), shows=RESET),
        Kind("blackhole", "host", BEFORE, _run(_blackhole), shows={"lost on the way": 1, "SSH connections": 1}),
        Kind(
            "dockerd-restart",
            "host",
            BEFORE,
            _run(_restart_engine),
            shows={"engine's starts": 1, "engine's channels": 1},
        ),
        Kind("error-500", "host", BEFORE, lambda _: Error(500), shows={"engine's errors": 1}),
        Kind(
            "disk-full", "host", BEFORE, lambda _: Error(500, FULL), on="/images/create", shows={"engine's errors": 1}
        ),
        Kind(
            "dump-disk-full",
            "host",
            BEFORE,
            _run(_dump_fails),
            journeys=("upgrade",),
            then=_ask_again,
            on=DUMP,
            leaves="rollback",
            shows={"asked again": 1},
        ),
        Kind("api-gone", "host", BEFORE, _run(lambda w: w.api.go_down(DOWN_SECONDS)), shows={"turned away": 1}),
        Kind(
            "watch-expired",
            "host",
            BEFORE,
            _run(lambda w: w.api.expire_watches()),
            shows={"watches expired": 1, "watches": 1},
        ),
        Kind(
            "stale-restart",
            "host",
            AFTER,
            _run(_kill_with_old_news),
            then=_until_the_old_news_end,
            shows={**KILLED, "watches from the past": len(LISTED)},
        ),
        Kind(
            "edit-aba",
            "host",
            AFTER,
            _run(_there_and_back),
            journeys=("deploy", "upgrade", "repair"),
            then=_wait(1),
            shows={"edits": 2},
        ),
        Kind(
            "recreated",
            "host",
            AFTER,
            _run(_again_under_the_same_name),
            journeys=("deploy",),
            then=_wait(1),
            shows={"creations": 1},
        ),
        Kind(
            "taken-over",
            "host",
            AFTER,
            _run(_replaced),
            standby=True,
            journeys=("deploy", "upgrade", "delete"),
            shows={"operators killed": 1, "leaders of the second": 1},
        ),
        Kind(
            "zombie",
            "host",
            BEFORE,
            _run(_zombie),
            standby=True,
            journeys=("deploy", "upgrade"),
            then=_wait(10),
            shows={"leaders of the second": 1, "thawed": 1},
        ),
        Kind("killed-before-record", "api", BEFORE, _dies(Lose()), everywhere=True, shows={**KILLED, "lost": 1}),
        Kind("killed-after-record", "api", AFTER, _dies(Lose()), everywhere=True, shows={**KILLED, "lost": 1}),
        Kind("answer-lost", "api", AFTER, lambda _: Lose(), shows={"lost": 1}),
        Kind("too-many-requests", "api", BEFORE, lambda _: Refuse(429, "TooManyRequests", 1), shows={"refused 429": 1}),
        Kind("conflict", "api", BEFORE, lambda _: Refuse(409, "Conflict"), shows={"refused 409": 1}),
        Kind("server-error", "api", BEFORE, lambda _: Refuse(500, "InternalError"), shows={"refused 500": 1}),
    )
}
