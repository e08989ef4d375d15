"""The engine's event stream: a short memory, and whoever listens."""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.simhost.objects import Json

REMEMBERED = 256
"""As many as dockerd keeps. Source: moby, daemon/events/events.go."""


@dataclass(frozen=True)
class Filters:
    """The `filters` of a list or of the event stream: of one key any value, of different keys all."""

    values: Mapping[str, tuple[str, ...]]

    @staticmethod
    def parse(text: str | None) -> "Filters":
        """`{"label": ["a"]}` and the older `{"label": {"a": true}}`."""
        given = json.loads(text) if text else {}
        return Filters({key: tuple(values) for key, values in given.items()})

    def get(self, key: str) -> tuple[str, ...]:
        return self.values.get(key, ())

    def labels(self, labels: Mapping[str, str]) -> bool:
        """All of the wanted labels, each `key` or `key=value`."""
        pairs = (word.partition("=") for word in self.get("label"))
        return all(key in labels and (not equal or labels[key] == value) for key, equal, value in pairs)

    def event(self, event: Json) -> bool:
        action, kind, attributes = event["Action"], event["Type"], event["Actor"]["Attributes"]
        wanted = self.get("event")
        # Source: moby, daemon/events/filter.go: beginnings are compared as soon as one of these is among them.
        fuzzy = {"health_status", "exec_create", "exec_start"} & set(wanted)
        if wanted and not (action.startswith(wanted) if fuzzy else action in wanted):
            return False
        if self.get("type") and kind not in self.get("type"):
            return False
        for key in ("container", "image", "volume", "network"):
            subject = (event["Actor"]["ID"], attributes.get("name", ""), attributes.get(key, ""))
            if self.get(key) and not set(self.get(key)) & set(subject):
                return False
        return self.labels(attributes)


class Events:
    """One host's."""

    def __init__(self) -> None:
        self._kept: deque[Json] = deque(maxlen=REMEMBERED)
        self._listeners: dict[int, Callable[[Json | None], None]] = {}
        self._serial = 0
        self._last = 0

    def tell(self, kind: str, action: str, actor: str, attributes: Mapping[str, str]) -> None:
        self._last = max(time.time_ns(), self._last + 1)
        event: dict[str, Any] = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": dict(attributes)},
            "scope": "local",
            "time": self._last // 10**9,
            "timeNano": self._last,
        }
        if kind == "container":  # What was there before actors, and still is.
            event |= {"status": action, "id": actor, "from": attributes.get("image", "")}
        self._kept.append(event)
        for listener in list(self._listeners.values()):
            listener(event)

    def listen(self, listener: Callable[[Json | None], None]) -> Callable[[], None]:
        """`listener` gets each event, and None when the engine stops. Returns what ends it."""
        self._serial += 1
        number = self._serial
        self._listeners[number] = listener
        return lambda: self._listeners.pop(number, None) and None

    def since(self, nano: int) -> list[Json]:
        return [event for event in self._kept if event["timeNano"] >= nano]

    def forget(self) -> None:
        self._kept.clear()

    def restart(self) -> None:
        """Nothing is remembered across a restart of the engine."""
        self._kept.clear()
        listeners, self._listeners = list(self._listeners.values()), {}
        for listener in listeners:
            listener(None)

    @property
    def listeners(self) -> int:
        return len(self._listeners)
