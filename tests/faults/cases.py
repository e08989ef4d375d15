"""Runs one case and judges its end."""

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.faults.apiproxy import ApiCall, ApiFault
from tests.faults.journeys import Journey
from tests.faults.kinds import KINDS, Kind
from tests.faults.world import Lab, NeverEnded, World, routes
from tests.simhost import Call, Fault, Phase

from dotmac_operator.core import names, proxy


@dataclass(frozen=True)
class Point:
    """A call to the host, or a write to the API: the `nth` of its label in the journey.

    Not by its number among all: calls that do not wait for each other come in another order each time.
    """

    at: str
    label: str
    nth: int


@dataclass(frozen=True)
class Case:
    journey: Journey
    kind: Kind
    point: Point

    def __str__(self) -> str:
        return f"{self.journey.name}/{self.kind.name}@{self.point.at} {self.point.label} #{self.point.nth}"


@dataclass
class Outcome:
    """What came of a case; no problems: all is as it should be."""

    problems: list[str] = field(default_factory=list)
    struck: bool = False
    untaken: list[str] = field(default_factory=list)
    """What shows that the fault, although its moment came, was not taken by anybody."""
    seconds: float = 0.0
    end: Any = None
    log: str = ""

    @property
    def result(self) -> Literal["passed", "failed", "untaken", "unreached"]:
        if self.problems:
            return "failed"
        if not self.struck:
            return "unreached"
        return "untaken" if self.untaken else "passed"


def record(lab: Lab, journey: Journey) -> tuple[list[Point], Any]:
    """The points of a journey without a fault, and its end."""
    points: list[Point] = []
    labels: Counter[str] = Counter()
    since: Counter[str] = Counter()
    """What had happened when the first of them came."""
    with lab.world() as world:
        journey.prepare(world)
        world.settle()

        def note(at: str, label: str) -> None:
            since.update({} if labels else world.counts())
            labels[label] += 1
            points.append(Point(at, label, labels[label]))

        def on_call(call: Call, phase: Phase) -> Fault | None:
            if call.mutating and phase is Phase.BEFORE:
                note("host", _label(call))
            return None

        def on_request(call: ApiCall, phase: Phase) -> ApiFault | None:
            if call.write and phase is Phase.BEFORE:
                note("api", call.label)
            return None

        world.on_call, world.on_request = on_call, on_request
        journey.act(world)
        world.wait(f"{journey.name} without a fault", lambda: journey.done(world))
        world.settle()
        world.on_call = world.on_request = None
        end = picture(world)
        problems = judge(world, journey) + left_over(journey, end)
        now = world.counts()
        problems += [f"{kind.name} seems taken" for kind in KINDS.values() if not kind.untaken(since, now)]
        assert not problems, f"{journey.name} without a fault: {problems}"
        return points, end


def _label(call: Call) -> str:
    # The last part of a container's name is a hash, of secrets too.
    name = re.sub(r"-[0-9a-f]{8}$", "", call.names[0]) if call.names else ""
    return f"{call.method} {call.template} {name}".strip()


def run(lab: Lab, case: Case, wanted: Any) -> Outcome:
    """The journey with the fault; `wanted` is its end without."""
    outcome = Outcome()
    began = time.monotonic()
    with lab.world() as world:
        try:
            case.journey.prepare(world)
            if case.kind.standby:
                world.second()
                time.sleep(1.5)  # until it watches
            world.settle()
            world.remember()
            struck_at = _arm(world, case, outcome)
            case.journey.act(world)
            if case.kind.then is not None:
                world.wait("the fault", lambda: outcome.struck or case.journey.done(world))
                world.settle()
                if outcome.struck:
                    case.kind.then(world)
            world.wait(str(case), lambda: case.journey.done(world))
            world.settle()
            world.wait(f"{case} at rest", lambda: case.journey.done(world), 20)
            world.on_call = world.on_request = None  # what did not come until now is not to strike the judge's own pass
            if not world.leads():
                world.settle()  # it came only when all was at rest: the Server's status is written a second later
            if outcome.struck:
                outcome.untaken = case.kind.untaken(struck_at, world.counts())
            outcome.problems = judge(world, case.journey)
            outcome.end = picture(world)
            if case.kind.leaves in outcome.end["recorded"]:
                outcome.end["recorded"].remove(case.kind.leaves)
            outcome.problems += left_over(case.journey, outcome.end)
            outcome.problems += [f"the end differs: {text}" for text in differences(wanted, outcome.end)]
        except (NeverEnded, AssertionError) as error:
            outcome.problems.append(str(error))
        outcome.problems += sorted(set(world.violations))
        outcome.log = world.operators[0].text()[-20000:] if outcome.problems or outcome.untaken else ""
    outcome.seconds = time.monotonic() - began
    return outcome


def _arm(world: World, case: Case, outcome: Outcome) -> Counter[str]:
    """Has the fault strike once, at the case's point; gives what the world counts then."""
    came: list[int] = []
    counts: Counter[str] = Counter()

    def strike(number: int, label: str, phase: Phase) -> Any:
        if outcome.struck or label != case.point.label:
            return None
        if number not in came:
            came.append(number)
        if phase is not case.kind.phase or came.index(number) + 1 != case.point.nth:
            return None
        counts.update(world.counts())
        outcome.struck = True
        return case.kind.strike(world)

    if case.kind.at == "host":
        world.on_call = lambda call, phase: strike(call.mutation, _label(call), phase) if call.mutating else None
    else:
        world.on_request = lambda call, phase: strike(call.write, call.label, phase) if call.write else None
    return counts


# ---- judging


def judge(world: World, journey: Journey) -> list[str]:
    """The invariants that hold at the end of every case."""
    found = list(world.violations)
    found += world.overlaps()
    for where, text in world.said():
        found += [f"a secret is in {where}" for value in world.secrets() if len(value) >= 8 and value in text]
    if journey.rests:
        found += _does_nothing_again(world)
    return sorted(set(found))


def _does_nothing_again(world: World) -> list[str]:
    """A pass on demand changes nothing on the host, and tells only that it was."""
    before, written, told = world.host.mutations, world.api.writes, _events(world)
    token = f"again-{before}"
    world.patch(annotations={names.RECONCILE_REQUESTED_AT: token})
    world.wait(
        "a second pass", lambda: ((world.get() or {}).get("status") or {}).get("lastHandledReconcileAt") == token, 20
    )
    world.settle()
    changes, events = world.host.mutations - before, _events(world) - told
    writes = [label for label in world.api.written[written:] if label != "POST events"]
    found = [f"a second pass made {changes} changes on the host"] if changes else []
    found += [f"a second pass wrote more than that it was: {writes}"] if len(writes) > 1 else []
    return found + ([f"a second pass told {events} Events"] if events else [])


def _events(world: World) -> int:
    """Events that were told, but for those of a leader's election."""
    return sum(event["involvedObject"]["kind"] != "Lease" for event in world.listed("events", "/api/v1"))


def picture(world: World) -> dict[str, Any]:
    """The end, without what differs from run to run: ids, hashes, times."""

    def look() -> dict[str, Any]:
        engine = world.host.engine
        containers = []
        for container in engine.containers.values():
            labels = container.body.get("Labels") or {}
            role = labels.get(names.ROLE, container.name)
            # How long a one-shot stays on its network is nobody's concern.
            at = [] if role in names.ONE_SHOTS else sorted(container.endpoints)
            containers.append((role, labels.get(names.INDEX), container.body["Image"], container.state, at))
        config = proxy.parse((engine.read(engine.get(names.PROXY_CONTAINER), proxy.AUTOSAVE) or b"").decode())
        return {
            "containers": sorted(containers, key=str),
            "networks": sorted(engine.networks.all),
            "volumes": sorted(engine.volumes.all),
            "routes": sorted(routes(config).elements()),
        }

    made: dict[str, Any] = world.lab.fleet.call(look)
    found = world.get()
    status = (found or {}).get("status") or {}
    made["conditions"] = {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", [])}
    made["phase"] = status.get("phase")
    made["release"] = status.get("release")
    made["steps"] = {step["name"]: step["state"] for step in status.get("steps") or []}
    made["planned"] = len((status.get("plan") or {}).get("actions") or [])
    made["recorded"] = sorted(
        key for key in ("appliedHash", "lastBackup", "drift", "rollback", "failure") if status.get(key)
    )
    made["one-shots"] = sorted(shot["name"] for shot in status.get("oneShots") or [])
    made["secrets"] = sorted(secret["metadata"]["name"] for secret in world.listed("secrets", "/api/v1"))
    return made


def left_over(journey: Journey, end: dict[str, Any]) -> list[str]:
    """What is there and should not be, or the other way round."""
    return [f"on the host or in the namespace, {text}" for text in differences(journey.end(), end)]


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{key}: {wanted[key]} became {found.get(key)}" for key in wanted if wanted[key] != found.get(key)]
