"""An operator for test_kopf.py: every kind of handler writes down that it ran, one JSON line each."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import kopf

RECORD = os.environ.get("RECORD", os.devnull)
WIDGETS: Any = ("widgets.example.com", "v1", "widgets")


def note(kind: str, name: str, **more: Any) -> None:
    with open(RECORD, "a") as file:
        file.write(json.dumps({"kind": kind, "name": name, **more}) + "\n")


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.level = 20
    settings.watching.server_timeout = 30


@kopf.index(*WIDGETS)
def sizes(spec: Any, name: str, **_: Any) -> dict[str, int]:
    return {name: spec["size"]}


@kopf.on.create(*WIDGETS)
def created(body: Any, name: str, patch: Any, sizes: Any, **_: Any) -> None:
    patch.status["phase"] = "Created"
    kopf.info(body, reason="Made", message=f"made {name}")
    note("create", name, indexed=name in sizes)


@kopf.on.update(*WIDGETS, field="spec.size")
def updated(name: str, old: Any, new: Any, **_: Any) -> None:
    note("update", name, old=old, new=new)


@kopf.on.resume(*WIDGETS)
def resumed(name: str, **_: Any) -> None:
    note("resume", name)


@kopf.on.delete(*WIDGETS)
def deleted(name: str, **_: Any) -> None:
    note("delete", name)


@kopf.daemon(*WIDGETS, cancellation_timeout=1)
async def daemon(name: str, stopped: Any, **_: Any) -> None:
    note("daemon", name)
    await stopped.wait()
    note("daemon-stopped", name)


@kopf.timer(*WIDGETS, interval=0.5)
async def timer(name: str, **_: Any) -> None:
    note("timer", name)
    await asyncio.sleep(0)
