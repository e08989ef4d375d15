"""The operator's passes over objects of the embedded control plane, with hosts of fakes: what users asked for there is
taken in, the operator works until it has nothing to do, and what it tells is written back.
"""

import copy
from typing import Any

from tests.kits.fakes import SSH_KEY, World
from tests.kits.mirrored import PLURALS, Objects

from dotmac_crds.kinds import KINDS

_NAMESPACED = {kind.name for kind in KINDS if kind.scope == "Namespaced"}


class Operated:
    """An operator of the namespace `default`. Nothing runs but in `settle`."""

    def __init__(self, objects: Objects) -> None:
        self.world = World()
        self.world.cluster.secrets["default/ssh-key"] = {"ssh-privatekey": SSH_KEY}
        self._objects = objects
        self._seen: dict[tuple[str, str], dict[str, Any]] = {}

    def settle(self) -> None:
        """Passes until nobody is woken and nobody waits for less than a minute."""
        self._take()
        self.world.settle()
        self._tell()

    def _take(self) -> None:
        """What is new, changed, being deleted or gone."""
        cluster, store = self.world.cluster, self.world.store
        live = self._live()
        for key, obj in live.items():
            if self._seen.get(key) != obj:
                cluster.objects[key] = copy.deepcopy(obj)
                self.world._changed(cluster.objects[key])
        for key in self._seen.keys() - live.keys():
            cluster.objects.pop(key, None)
            store.drop(*key, self._seen[key]["metadata"]["uid"])
        self._seen = live

    def _tell(self) -> None:
        """Status and finalizers, as the operator left them."""
        for key, old in self._seen.items():
            made = self.world.cluster.objects.get(key)
            name = old["metadata"]["name"]
            if made is not None and made.get("status", {}) != old.get("status", {}):
                path = self._objects.path(key[0], name) + "/status"
                answer = self._objects.cluster.client.put(path, json=old | {"status": made["status"]})
                assert answer.status_code == 200, answer.text
            kept = made["metadata"].get("finalizers", []) if made is not None else []
            if kept != old["metadata"].get("finalizers", []):
                self._objects.merge(key[0], name, {"metadata": {"finalizers": kept or None}})
        self._seen = self._live()

    def _live(self) -> dict[tuple[str, str], dict[str, Any]]:
        found = [obj | {"kind": kind} for kind in PLURALS for obj in self._objects.list(kind)]
        return {_key(obj): obj for obj in found}


def _key(obj: dict[str, Any]) -> tuple[str, str]:
    meta = obj["metadata"]
    return obj["kind"], f"{meta['namespace']}/{meta['name']}" if obj["kind"] in _NAMESPACED else meta["name"]
