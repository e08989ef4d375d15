"""The engine's images, networks and volumes."""

import hashlib
import ipaddress
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.simhost.events import Events
from tests.simhost.objects import Container, Endpoint, Image, Json, Network, Refused, Volume

POOLS = tuple(str(net) for net in ipaddress.IPv4Network("172.16.0.0/12").subnets(new_prefix=16))[1:16]
"""Where the engine takes a subnet from when none is given."""


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


class Images:
    """Local images, and what a registry would give."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.all: dict[str, Image] = {}
        self.published: dict[str, str] = {}
        """Reference -> image id, where the registry has something else than the usual one."""
        self.absent: set[str] = set()
        """References, or the beginnings of references, that no registry has."""
        self.disk_full = False
        self.pull_seconds = 0.0

    def find(self, word: str) -> Image | None:
        """By id, tag or digest."""
        full = word if word.startswith("sha256:") else f"sha256:{word}"
        if full in self.all:
            return self.all[full]
        name = tagged(word)
        return next((image for image in self.all.values() if name in image.tags or word in image.digests), None)

    def get(self, word: str) -> Image:
        found = self.find(word)
        if found is None:
            raise Refused(404, f"No such image: {word if '@' in word else tagged(word)}")
        return found

    def id_of(self, reference: str) -> str:
        """Every reference is an image of its own, the same one on all hosts."""
        return self.published.get(reference) or f"sha256:{digest('image', reference)}"

    def add(self, reference: str, config: Json | None = None) -> Image:
        """As a pull leaves it."""
        name = reference if "@" in reference else tagged(reference)
        id_ = self.id_of(name)
        image = self.all.setdefault(id_, Image(id_, created=1_700_000_000.0, config=config or {}))
        stem = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
        repo_digest = name if "@" in name else f"{stem}@sha256:{digest('manifest', id_)}"
        if repo_digest not in image.digests:
            image.digests.append(repo_digest)
        if "@" not in name:
            self.tag(image, name, told=False)
        return image

    def pullable(self, reference: str) -> bool:
        return not any(reference.startswith(prefix) for prefix in self.absent)

    def pulled(self, reference: str) -> Image:
        image = self.add(reference)
        self._events.tell("image", "pull", reference, {"name": reference.partition("@")[0].rpartition(":")[0]})
        return image

    def tag(self, image: Image, name: str, *, told: bool = True) -> None:
        name = tagged(name)
        for other in self.all.values():
            if other is not image and name in other.tags:
                other.tags.remove(name)
        if name not in image.tags:
            image.tags.append(name)
        if told:
            self._events.tell("image", "tag", image.id, {"name": name})

    def remove(self, word: str, users: Iterable[Container], *, force: bool) -> list[Json]:
        image = self.get(word)
        used = next((user for user in users if user.image is image), None)
        by_tag = tagged(word) in image.tags
        if used is not None and not (by_tag and len(image.tags) > 1) and not (force and not used.alive):
            raise Refused(
                409,
                f'conflict: unable to remove repository reference "{word}" (must force) - container '
                f"{used.id[:12]} is using its referenced image {image.id[7:19]}",
            )
        gone: list[Json] = []
        for name in [tagged(word)] if by_tag else list(image.tags):
            image.tags.remove(name)
            gone.append({"Untagged": name})
            self._events.tell("image", "untag", image.id, {"name": image.id})
        if not image.tags:
            self.all.pop(image.id, None)
            gone.append({"Deleted": image.id})
            self._events.tell("image", "delete", image.id, {"name": image.id})
        return gone


def tagged(reference: str) -> str:
    """With the tag that is meant when there is none."""
    if "@" in reference or reference.startswith("sha256:"):
        return reference
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


class Networks:
    """With the three that every engine has."""

    def __init__(self, host: str, events: Events) -> None:
        self._host = host
        self._events = events
        self._serial = 0
        self.all: dict[str, Network] = {}
        for name, driver, subnet in (("bridge", "bridge", "172.17.0.0/16"), ("host", "host", ""), ("none", "null", "")):
            self.all[name] = Network(digest(host, "network", name), name, subnet, time.time(), driver=driver)

    def find(self, word: str) -> Network | None:
        return self.all.get(word) or next((net for net in self.all.values() if net.id == word), None)

    def get(self, word: str) -> Network:
        found = self.find(word)
        if found is None:
            raise Refused(404, f"network {word} not found")
        return found

    def create(self, body: Mapping[str, Json]) -> Network:
        name = str(body["Name"])
        if name in self.all:
            raise Refused(409, f"network with name {name} already exists")
        wanted = ((body.get("IPAM") or {}).get("Config") or [{}])[0].get("Subnet")
        subnet = wanted or next(pool for pool in POOLS if not self._taken(pool))
        if self._taken(subnet):
            raise Refused(403, "Pool overlaps with other one on this address space")
        self._serial += 1
        id_ = digest(self._host, "network", name, self._serial)
        made = Network(id_, name, subnet, time.time(), dict(body.get("Labels") or {}), bool(body.get("Internal")))
        made.options = dict(body.get("Options") or {})
        self.all[name] = made
        self._tell("create", made)
        return made

    def _taken(self, subnet: str) -> bool:
        wanted = ipaddress.IPv4Network(subnet)
        return any(net.range is not None and net.range.overlaps(wanted) for net in self.all.values())

    def remove(self, word: str, containers: Iterable[Container]) -> None:
        network = self.get(word)
        if network.name in ("bridge", "host", "none"):
            raise Refused(403, f"{network.name} is a pre-defined network and cannot be removed")
        if any(c.alive and network.name in c.endpoints for c in containers):
            raise Refused(
                403, f"error while removing network: network {network.name} id {network.id} has active endpoints"
            )
        del self.all[network.name]
        self._tell("destroy", network)

    def attach(self, network: Network, container: Container, others: Iterable[Container]) -> None:
        """Gives a running container its address."""
        endpoint = container.endpoints[network.name]
        endpoint.known = True
        endpoint.id = digest(network.id, container.id, container.started)
        if network.range is not None:
            taken = {other.endpoints[network.name].address for other in others if network.name in other.endpoints}
            endpoint.address = next(found for found in _addresses(network.range) if found not in taken)
        self._tell("connect", network, container)

    def detach(self, network: Network | None, container: Container, endpoint: Endpoint) -> None:
        endpoint.address = endpoint.id = ""
        if network is not None:
            self._tell("disconnect", network, container)

    def _tell(self, action: str, network: Network, container: Container | None = None) -> None:
        attributes = {"name": network.name, "type": network.driver}
        if container is not None:
            attributes["container"] = container.id
        self._events.tell("network", action, network.id, attributes)


def _addresses(subnet: ipaddress.IPv4Network) -> Iterator[str]:
    """The first is the bridge's own."""
    hosts = subnet.hosts()
    next(hosts)
    return (str(address) for address in hosts)


@dataclass
class Volumes:
    events: Events
    all: dict[str, Volume] = field(default_factory=dict)
    births: int = 0

    def get(self, name: str) -> Volume:
        found = self.all.get(name)
        if found is None:
            raise Refused(404, f"get {name}: no such volume")
        return found

    def create(self, name: str, labels: Mapping[str, str], driver: str = "local") -> Volume:
        """The one of that name if there is one, as it is; the engine tells that it was created even so."""
        made = self.all.get(name)
        if made is None:
            self.births += 1
            made = self.all[name] = Volume(name, dict(labels), time.time(), driver, birth=self.births)
        self.tell("create", made)
        return made

    def remove(self, name: str, containers: Iterable[Container], *, force: bool = False) -> None:
        if name not in self.all and force:
            return
        volume = self.get(name)
        users = [c.id for c in containers if any(m.kind == "volume" and m.source == name for m in c.mounts)]
        if users:
            raise Refused(409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self.all[name]
        self.tell("destroy", volume)

    def tell(self, action: str, volume: Volume, container: Container | None = None) -> None:
        attributes = {"driver": volume.driver}
        if container is not None:
            attributes["container"] = container.id
        if container is not None and action == "mount":
            target = next((m.target for m in container.mounts if m.source == volume.name), "")
            attributes |= {"destination": target, "propagation": "", "read/write": "true"}
        self.events.tell("volume", action, volume.name, attributes)
