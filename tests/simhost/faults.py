"""What can go wrong on a simulated host, and where: every call passes a hook twice, before and after its effect."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any


class Phase(Enum):
    BEFORE = "before"
    """Nothing has been done yet."""
    AFTER = "after"
    """The effect is there, the answer is not."""


@dataclass(frozen=True)
class Call:
    """One thing that a client asks of a host."""

    host: str
    number: int
    """Of this host's calls, from 1. Calls of several channels at once are numbered as they arrive."""
    method: str
    """Of the Engine API; `SSH` for what the host itself is asked: a program, a TCP connection."""
    template: str
    """Path with the names left out, such as `/containers/{name}/start`; for SSH `dial`, `df`, `tcp` or `run`."""
    names: tuple[str, ...] = ()
    """Names (not ids) of the objects concerned; for an image its reference."""
    mutating: bool = False
    mutation: int = 0
    """Number among the mutating calls of this host, from 1; 0 for a read."""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Error:
    """The engine answers with this status. Before the effect there is then none; after it, it stays."""

    status: int = 500
    message: str = "injected by the test"


@dataclass(frozen=True)
class Reset:
    """The whole SSH connection is reset."""


@dataclass(frozen=True)
class HangUp:
    """This channel ends without an answer, as when `docker system dial-stdio` is killed."""


@dataclass(frozen=True)
class Hang:
    """No answer, ever; the channel stays open."""


@dataclass(frozen=True)
class Delay:
    seconds: float


@dataclass(frozen=True)
class Run:
    """Calls `function` in the loop of the host, then goes on, with `then` if it is given."""

    function: Callable[[], None]
    then: "Fault | None" = None


type Fault = Error | Reset | HangUp | Hang | Delay | Run
type Hook = Callable[[Call, Phase], Fault | None]


@dataclass
class Rule:
    """A fault for the calls that match, so many times. For hosts in another process, where no hook can be set."""

    fault: Fault
    method: str = "*"
    template: str = "*"
    """Patterns as in fnmatch; so is `name`, which any name of the call may match."""
    name: str = "*"
    phase: Phase = Phase.BEFORE
    times: int = 1
    """-1: always."""

    def matches(self, call: Call, phase: Phase) -> bool:
        named = self.name == "*" or any(fnmatchcase(name, self.name) for name in call.names)
        fits = fnmatchcase(call.method, self.method) and fnmatchcase(call.template, self.template)
        return self.times != 0 and phase is self.phase and named and fits


class Rules:
    """A hook made of rules; the first that matches is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def __call__(self, call: Call, phase: Phase) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.matches(call, phase):
                    rule.times -= 1 if rule.times > 0 else 0
                    return rule.fault
        return None


_NAMED: dict[str, Callable[..., Fault]] = {
    "error": Error,
    "reset": Reset,
    "hang-up": HangUp,
    "hang": Hang,
    "delay": Delay,
}


def rule_of(values: Mapping[str, Any]) -> Rule:
    """From JSON: `{"fault": "error", "status": 500, "template": "/containers/create", "times": 2}`."""
    given = dict(values)
    make = _NAMED[given.pop("fault")]
    own = {key: given.pop(key) for key in ("status", "message", "seconds") if key in given}
    if "phase" in given:
        given["phase"] = Phase(given["phase"])
    return Rule(make(**own), **given)
