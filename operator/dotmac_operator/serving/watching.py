"""A canary for the watches: has what the Kubernetes API tells anybody else come by our own watch?

A watch that delivers nothing looks like a cluster in which nothing happens. So now and then a second, short watch asks
for what is newer than the newest version that ours has told. It costs one GET for each kind and place, writes nothing,
and carries nothing while all is well. See ADR 0014.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dotmac_crds.kinds import KINDS
from dotmac_operator.reconcile.ports import Body, ClusterError

log = logging.getLogger(__name__)

_PLURALS = {kind.name: kind.plural for kind in KINDS}

GRACE = 2 / 3
"""Of the time between two probes: from the moment the canary saw a change to the moment our watch must have told it.
Kopf handles at most one version of an object in a tenth of a second, and may be busy with a burst of them."""
PATIENCE = 3
"""Probes without an answer of the API until this process counts as blind."""


class VersionGone(ClusterError):
    """The API does not remember what happened since that version (410)."""


@dataclass(frozen=True)
class Listed:
    """What a list of one object tells."""

    version: int
    """Of the list; 0 when the API's versions are no numbers."""
    empty: bool


class Versions(Protocol):
    """What the canary asks the Kubernetes API."""

    def newer(self, plural: str, namespace: str, version: str) -> Iterable[str]:
        """Versions of the objects of a kind that changed after `version`, oldest first; does not wait for more.

        Raises:
            VersionGone, ClusterError
        """

    def current(self, plural: str, namespace: str) -> Listed:
        """A list of at most one object. Raises ClusterError."""


class Seen:
    """The newest version of each kind and place that our own watch has told. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str], int] = {}
        self.told = False
        """Whether a handler has run: Kopf calls none before the first list of every kind is taken in."""

    def take(self, body: Body, told: bool) -> None:
        """A version came by the watch. Versions of one kind are ordered numbers. Source: KEP-5504."""
        self.told = self.told or told
        plural = _PLURALS.get(body["kind"], "")
        meta = body.get("metadata") or {}
        version = str(meta.get("resourceVersion") or "")
        if not version.isdecimal():
            return
        with self._lock:
            for namespace in {"", str(meta.get("namespace") or "")}:
                place = (plural, namespace)
                self._newest[place] = max(self._newest.get(place, 0), int(version))

    def newest(self, plural: str, namespace: str) -> int:
        with self._lock:
            return self._newest.get((plural, namespace), 0)


@dataclass
class _Place:
    """One watch of ours."""

    plural: str
    namespace: str
    """Empty for all of them."""
    base: int = 0
    """Up to here nothing is owed; 0: not known yet."""
    empty: bool = False
    owed: int = 0
    owed_since: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.plural} in {self.namespace}" if self.namespace else self.plural


class WatchCanary:
    """Probes in a thread of its own; the checks only look at what it found."""

    def __init__(
        self,
        versions: Versions,
        seen: Seen,
        places: Sequence[tuple[str, str]],
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` are (plural, namespace) of each watch, with an empty namespace for all; `every` is in seconds."""
        self._every = every
        self._versions = versions
        self._seen = seen
        self._places = [_Place(plural, namespace) for plural, namespace in places]
        self._clock = clock
        self._answered = clock()
        self._failure = ""
        self._listed = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="watch-canary", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._every if self._listed else 0.5):
            try:
                self.probe()
            except Exception:
                log.exception("the canary of the watches failed")

    # ---- probing

    def probe(self) -> None:
        """Asks once for each watch."""
        for place in self._places:
            try:
                self._probe(place)
            except ClusterError as error:
                self._failure = f"{place.name}: {error}"
                return
            self._answered, self._failure = self._clock(), ""
        # Where there is no object at all no handler ever runs, and there is nothing to wait for.
        self._listed = self._listed or self._seen.told or all(place.empty for place in self._places)

    def _probe(self, place: _Place) -> None:
        seen = self._seen.newest(place.plural, place.namespace)
        since = max(seen, place.base)
        if since == 0:
            self._rebase(place)
            return
        try:
            newer = self._versions.newer(place.plural, place.namespace, str(since))
        except VersionGone:
            # The API has forgotten what was before, also for our watch, which lists anew. From here on all is owed.
            self._rebase(place)
            return
        newest = max((int(version) for version in newer if version.isdecimal()), default=0)
        if newest > place.owed:
            if place.owed <= seen:
                place.owed_since = self._clock()
            place.owed = newest

    def _rebase(self, place: _Place) -> None:
        listed = self._versions.current(place.plural, place.namespace)
        place.base, place.empty = listed.version, listed.empty

    # ---- what was found

    def check_lists(self) -> str:
        if self._listed or self._seen.told:
            return ""
        return "the first lists of all kinds are not done" + (f": {self._failure}" if self._failure else "")

    def check_api(self) -> str:
        silent = self._clock() - self._answered
        if silent <= PATIENCE * self._every:
            return ""
        return f"the Kubernetes API has not answered for {silent:.0f} s ({self._failure or 'no answer yet'})"

    def check_watches(self) -> str:
        """Names the watches that have not told a change in time after the canary saw it."""
        now, grace = self._clock(), GRACE * self._every
        silent = [
            f"{place.name} (version {place.owed} owed for {now - place.owed_since:.0f} s)"
            for place in self._places
            if place.owed > self._seen.newest(place.plural, place.namespace) and now - place.owed_since > grace
        ]
        return f"silent watches: {', '.join(silent)}" if silent else ""


def places_of(namespaces: Iterable[str]) -> list[tuple[str, str]]:
    """(plural, namespace) of each watch; no namespaces: all of them."""
    chosen = sorted(namespaces) or [""]
    return [
        (kind.plural, namespace) for kind in KINDS for namespace in (chosen if kind.scope == "Namespaced" else [""])
    ]
