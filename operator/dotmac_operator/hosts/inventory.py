"""What is on a host, read by a few list calls for all of its Instances and kept fresh by the host's event stream."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dotmac_operator.core import names, proxy
from dotmac_operator.core.facts import ContainerFact, DockerEvent, HostFacts, ImageFact, Inspected
from dotmac_operator.hosts.enginefacts import inspected
from dotmac_operator.hosts.port import EventStream, Host, HostError, NotFound, NotLeading, Sent, nothing

log = logging.getLogger(__name__)

IGNORED_ACTIONS = ("exec_create", "exec_start", "exec_die", "top", "attach", "resize", "archive-path", "extract-to-dir")
"""Health checks run as execs every few seconds in every container; they say nothing about what exists."""
OPEN_SECONDS = 5.0
"""How long to wait for the event stream; longer ones open while their host is read already."""
STALE_AFTER = 300.0
"""Seconds after which even a quiet host is read again."""


_PROXY_FILE = (names.PROXY_CONTAINER, proxy.AUTOSAVE)


class Same:
    """Makes equal texts and labels of one read one object: a tenant's containers, networks and volumes say the same ten
    labels over and over, and the read is kept."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._labels: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}

    def text(self, value: str) -> str:
        return self._texts.setdefault(value, value)

    def labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        key = tuple(labels.items())
        known = self._labels.get(key)
        if known is None:
            known = self._labels[key] = {self.text(name): self.text(value) for name, value in key}
        return known


@dataclass(frozen=True)
class _Kept:
    facts: HostFacts
    at: float


class Inventory:
    """The facts of one host. Thread-safe; concurrent readers share one read."""

    def __init__(self, host: Host, on_event: Callable[[DockerEvent | None], None]) -> None:
        """`on_event` is called from the event thread for every relevant event, and with None when the stream broke."""
        self.host = host
        self._on_event = on_event
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._marking = threading.Lock()
        self._dirty = 0
        self._touched: set[str] = set()
        self._revision = 0
        self._streaming = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._opened = threading.Event()
        self._stream: EventStream | None = None
        self._images: dict[str, ImageFact] = {}
        self._inspected: dict[str, Inspected] = {}
        self._config: tuple[str, str] | None = None
        """(version, content) of the proxy's file."""
        self._began = time.monotonic()
        """When the stream was opened: what happened before was not told."""
        self.breaks = 0
        """Times that the event stream ended or fell silent."""

    def start(self) -> None:
        """Begins to listen for events; call it once the host has answered.

        Returns when the stream is open, or does not open: what is read before that would have to be read again.
        """
        if self._thread is None:
            name = f"events-{self.host.address.name}"
            self._thread = threading.Thread(target=self._listen, name=name, daemon=True)
            self._thread.start()
            self._opened.wait(OPEN_SECONDS)

    @property
    def started(self) -> bool:
        """Whether the host has answered in this process."""
        return self._thread is not None

    def close(self) -> None:
        """Ends the event thread, also while it waits for an event: a successor needs the host's one event channel."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    @property
    def streaming(self) -> bool:
        """Whether the event stream is open, as far as this process knows."""
        return self._streaming

    def silent_for(self) -> float:
        """Seconds since the open stream last proved to be alive; 0 where the stream does not tell."""
        alive_at: float | None = getattr(self._stream, "alive_at", None)
        return 0.0 if alive_at is None else time.monotonic() - alive_at

    def invalidate(self, container: str = "") -> None:
        """The next read goes to the host: somebody has just changed something there, perhaps this very container."""
        self._mark(container)

    def read_anew(self, sent: Sent = nothing) -> HostFacts:
        """The host as it is now, with every image that was asked for so far: nothing that was read before counts.

        `sent` as in `Engine.survey`.

        Raises:
            HostError: the host could not be read.
        """
        with self._lock:
            known, self._images = self._images, {}
            named = _named(known, self._kept.facts.containers) if self._kept is not None else {}
            self._mark("")
            facts = self._read([reference for reference in known if reference not in named], sent).facts
            images = {**facts.images, **_named(named, facts.containers)}
            for reference in named.keys() - images.keys():
                if (image := self.host.engine.image(reference)) is not None:
                    images[reference] = image
            if facts.revision == self._dirty:  # else an image may have gone since
                self._images.update(images)
            return replace(facts, images=images)

    def _mark(self, container: str) -> None:
        with self._marking:
            self._dirty += 1
            if container:
                self._touched.add(container)

    def _settled(self) -> int:
        """The revision that a read from now on may claim.

        The engine tells that a container died before its list shows it, both under the container's lock; an inspect
        takes that lock, so after it the list is as new as the event. Source: moby, daemon/monitor.go.
        """
        with self._marking:
            revision, touched = self._dirty, self._touched
            self._touched = set()
        for container in touched:
            self._inspect(container)
        return revision

    def _inspect(self, container: str) -> None:
        with contextlib.suppress(NotFound):
            found = self.host.engine.inspect_container(container)
            self._inspected[str(found.get("Id", container))] = inspected(found)

    def _inspect_the_rest(self, containers: Iterable[ContainerFact]) -> None:
        """Those that have been quiet since this process began, once, when there is time: see ADR 0012.

        While the event stream lasts, each later change of a container is told and it is inspected then.
        """
        if not self._streaming or time.monotonic() - self._began < STALE_AFTER:
            return
        for container in containers:
            if container.id not in self._inspected:
                self._inspect(container.id)

    def facts(self, images: Iterable[str] = ()) -> HostFacts:
        """The host as it is; `images` are the references to look for.

        Raises:
            HostError: the host could not be read.
        """
        with self._lock:
            kept = self._kept
            if kept is None or self._must_read(kept):
                kept = self._read()
            wanted = self._wanted_images(images)
        return replace(kept.facts, images=wanted)

    def image(self, reference: str) -> ImageFact | None:
        """An image by its reference or id, None when the host does not have it. Raises HostError."""
        with self._lock:
            return self._wanted_images([reference]).get(reference)

    def _must_read(self, kept: _Kept) -> bool:
        changed = kept.facts.revision != self._dirty
        return changed or not self._streaming or time.monotonic() - kept.at > STALE_AFTER

    def _read(self, images: Sequence[str] = (), sent: Sent = nothing) -> _Kept:
        revision = self._settled()  # before the lists: what changes meanwhile makes the next read go to the host again
        read = self._lists(images, sent)
        containers = read.containers
        self._inspect_the_rest(containers)
        ids = {container.id for container in containers}
        self._inspected = {id_: found for id_, found in self._inspected.items() if id_ in ids}
        ids_of = {network.name: network.id for network in read.networks}
        same = Same()
        containers = tuple(self._complete(c, ids_of, same) for c in containers)
        config = read.proxy_config if _runs_proxy(containers) else None
        facts = replace(
            read,
            revision=revision,
            containers=containers,
            networks=tuple(replace(each, labels=same.labels(each.labels)) for each in read.networks),
            volumes=tuple(replace(each, labels=same.labels(each.labels)) for each in read.volumes),
            proxy_config=config,
            proxy_parsed=proxy.parse(config),
        )
        self._kept = _Kept(facts, time.monotonic())
        return self._kept

    def _complete(self, container: ContainerFact, ids: Mapping[str, str], same: Same) -> ContainerFact:
        """With what was inspected, and without networks that were removed while it was stopped: Docker lists those on,
        by the id of one that is no more, although another network may have the name by now."""
        there = {
            same.text(name): address
            for name, address in container.networks.items()
            if container.network_ids.get(name, "") in ("", ids.get(name))
        }
        return replace(
            container,
            image=same.text(container.image),
            image_id=same.text(container.image_id),
            state=same.text(container.state),
            labels=same.labels(container.labels),
            networks=there,
            network_ids=same.labels(container.network_ids),
            inspected=self._inspected.get(container.id),
        )

    def _lists(self, images: Sequence[str], sent: Sent) -> HostFacts:
        # All networks and volumes: one of our names may be somebody else's.
        found = self.host.engine.survey([names.MANAGED], images, _PROXY_FILE, sent)
        return HostFacts(
            revision=0,
            containers=found.containers,
            networks=found.networks,
            volumes=found.volumes,
            images=found.images,
            proxy_config=self._content(found.file_version),
        )

    def proxy_config(self) -> str | None:
        """What the proxy runs, as it is on the host now; None when it has no configuration.

        The host is asked each time, but the file is sent again only when it was written since: Docker 20.10 starts a
        process to read it, 50 ms of processor time. The proxy writes it once for each load, and a load takes longer
        than the clock of a file system needs to move on. See ADR 0023.
        """
        try:
            return self._content(self.host.engine.file_version(*_PROXY_FILE))
        except NotFound:
            return None

    def _content(self, version: str | None) -> str | None:
        """The file's, of which this is the version."""
        if version is None:
            return None
        known = self._config
        if known is None or not version or known[0] != version:
            try:
                # The content may be newer than the version, never older: then the next look reads it again.
                known = (version, self.host.engine.read_file(*_PROXY_FILE).decode())
            except NotFound:
                return None
            self._config = known
        return known[1]

    def _wanted_images(self, references: Iterable[str]) -> Mapping[str, ImageFact]:
        found: dict[str, ImageFact] = {}
        for reference in references:
            # Without the stream nobody tells that an image was removed.
            known = self._images.get(reference) if self._streaming else None
            image = known or self.host.engine.image(reference)
            if image is not None:
                self._images[reference] = found[reference] = image
        return found

    def _listen(self) -> None:
        since, delay = 0, 1.0
        while not self._closed.is_set():
            try:
                self._stream = self.host.engine.events(since)
                # Only now, with the stream open: what was read before may have missed what happened meanwhile.
                self._images.clear()
                self._began = time.monotonic()
                self._streaming = True
                self.invalidate()
                self._opened.set()
                if self._closed.is_set():
                    self._stream.close()  # close() came before there was a stream to close
                for event in self._stream:
                    delay = 1.0
                    since = event.time_nano or since
                    self._take(event)
                    if self._closed.is_set():
                        return
                if self._closed.is_set():
                    return
            except (HostError, NotLeading) as error:
                log.info("event stream of %s broke: %s", self.host.address.name, error)
            except Exception:
                log.exception("event stream of %s failed", self.host.address.name)
            self._streaming = False
            self._opened.set()
            self.breaks += 1
            self.invalidate()
            self._on_event(None)
            self._closed.wait(delay)
            delay = min(delay * 2, 30.0)

    def _take(self, event: DockerEvent) -> None:
        if _on_proxy(event):
            threading.Thread(target=self._after_exec, args=(event,), name="proxy-exec", daemon=True).start()
        if event.action.split(":", 1)[0] in IGNORED_ACTIONS:
            return
        if event.type == "image":
            self._images.clear()
        if event.type in ("container", "network", "volume", "image"):
            self._mark(_touched(event))
            self._on_event(self._labelled(event))

    def _after_exec(self, event: DockerEvent) -> None:
        """Somebody runs the proxy's own program in it, perhaps to change its routes: look once that has ended."""
        pause = 0.1
        try:
            while self.host.engine.exec_runs(event.attributes.get("execID", "")) and not self._closed.wait(pause):
                pause = min(2 * pause, 10.0)
        except HostError as error:
            log.info("%s: a program in the proxy is not watched: %s", self.host.address.name, error)
        self.invalidate()
        self._on_event(event)

    def _labelled(self, event: DockerEvent) -> DockerEvent:
        """A network's event names the container that came or went, but not whose it is."""
        kept, container = self._kept, event.attributes.get("container")
        if kept is None or event.type != "network" or container is None:
            return event
        labels = next((c.labels for c in kept.facts.containers if c.id == container), {})
        return replace(event, attributes={**labels, **event.attributes})


def _on_proxy(event: DockerEvent) -> bool:
    """Whether a program was started in the proxy by somebody else: our own reload is known already."""
    ours = f"exec_start: {' '.join(proxy.RELOAD_ARGV)}"
    inside = event.type == "container" and event.attributes.get("name") == names.PROXY_CONTAINER
    return inside and event.action.startswith("exec_start: ") and event.action.strip() != ours


def _named(images: Mapping[str, ImageFact], containers: Iterable[ContainerFact]) -> dict[str, ImageFact]:
    """Those whose reference a container is listed by. They need no question of their own: Docker lists a container by
    the reference that it was made from only while that still means the same image, else by the image's id.
    Source: moby, daemon/list.go."""
    found = {(container.image, container.image_id) for container in containers}
    return {reference: image for reference, image in images.items() if (reference, image.id) in found}


def _runs_proxy(containers: Iterable[ContainerFact]) -> bool:
    return any(c.name == names.PROXY_CONTAINER and c.running for c in containers)


def _touched(event: DockerEvent) -> str:
    """The container whose facts an event has changed; empty: none that still exists."""
    if event.type == "network":
        return event.attributes.get("container", "")
    return event.actor_id if event.type == "container" and event.action != "destroy" else ""
