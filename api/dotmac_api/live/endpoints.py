"""GET /stream and GET /instances/{id}/stream."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from dotmac_api.access import require
from dotmac_api.auth.standing import LOOK_SECONDS, Standing
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.facade import Facade
from dotmac_api.instances.service import find_instance
from dotmac_api.live.hub import Change, Subscription, changes_after, newest, of_instance
from dotmac_api.principal import Principal

router = APIRouter(tags=["live"])

SECONDS = 900.0
"""A stream ends after the lifetime of an access token; the client comes back and is authenticated again."""
RETRY_MILLISECONDS = 1000
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,18}$", description="resume after")]
Sees = Callable[[Change], bool]


@router.get("/stream", response_class=EventSourceResponse)
async def stream(
    principal: Annotated[Principal, require("instances:read")], facade: FacadeDep, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Every change of what the caller may see of instances, backups, restores and servers, as the mirror gets it.

    `event` is instance, backup, restore or server, or that with `.deleted`; `data` is the object as GET answers it.
    With Last-Event-ID, what changed since comes first (each object once, as it is now). The stream ends with the
    session, and when the caller's rights change; it also ends by itself after 15 minutes.
    """
    servers = not principal.limited and "servers:read" in principal.permissions
    backups = "backups:read" in principal.permissions

    def sees(change: Change) -> bool:
        if change.event.startswith("server"):
            return servers
        return principal.sees(change.org_code) and (backups or change.event.startswith("instance"))

    standing = Standing(facade.identity, principal)
    async for event in _events(facade, standing, sees, int(last_event_id) if last_event_id else None):
        yield event


@dataclass(frozen=True)
class Followed:
    """An instance as it is when its stream begins, and who follows it."""

    now: Change
    newest: int
    """The number of the newest change of anything, not later than that."""
    principal: Principal


async def _followed(
    principal: Annotated[Principal, require("instances:read")], session: DatabaseSession, instance_id: uuid.UUID
) -> Followed:
    # A dependency, so that the 404 is answered before the stream begins.
    number = await newest(session)
    return Followed(of_instance(await find_instance(session, principal, instance_id)), number, principal)


@router.get("/instances/{instance_id}/stream", response_class=EventSourceResponse)
async def stream_instance(
    facade: FacadeDep, followed: Annotated[Followed, Depends(_followed)], last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """The instance as it is, then every change of it: a deployment can be followed step by step to its end.

    Changes of its backups and restores come as the events `backup` and `restore`. With Last-Event-ID, what changed
    since comes first instead.
    """
    first = followed.now
    standing = Standing(facade.identity, followed.principal)
    backups = "backups:read" in followed.principal.permissions

    def sees(change: Change) -> bool:
        return change.uid == first.uid or (backups and change.instance == first.uid)

    if last_event_id is None:
        yield _sse(first)
    after = followed.newest if last_event_id is None else int(last_event_id)
    async for event in _events(facade, standing, sees, after):
        yield event
        if event.event == "instance.deleted":
            return


async def _events(facade: Facade, standing: Standing, sees: Sees, after: int | None) -> AsyncIterator[ServerSentEvent]:
    """What is newer than `after` (None: than now), then what comes, for as long as the caller may see it."""
    deadline = time.monotonic() + SECONDS
    subscription = facade.fleet.hub.subscribe()
    try:
        async with facade.sessions() as session:
            last = await newest(session) if after is None else after
        yield ServerSentEvent(comment=f"after {last}", retry=RETRY_MILLISECONDS)
        while page := await _page(facade, last):
            if not await standing.holds():
                return
            for change in page:
                last = change.number
                if sees(change):
                    yield _sse(change)
        async for change in _coming(subscription, standing, deadline):
            if change.number > last and sees(change):
                yield _sse(change)
    finally:
        facade.fleet.hub.leave(subscription)


async def _page(facade: Facade, after: int) -> list[Change]:
    async with facade.sessions() as session:
        return list(await changes_after(session, after))


async def _coming(subscription: Subscription, standing: Standing, deadline: float) -> AsyncIterator[Change]:
    """What is offered until the deadline; asks, after it was offered, whether the caller may still have it."""
    queue = subscription.queue
    while (left := deadline - time.monotonic()) > 0:
        waiting: list[Change | None] = []
        with contextlib.suppress(TimeoutError):
            waiting.append(await asyncio.wait_for(queue.get(), min(left, LOOK_SECONDS)))
        while not queue.empty():
            waiting.append(queue.get_nowait())
        if not await standing.holds():
            return
        for change in waiting:
            if change is None:
                return
            yield change


def _sse(change: Change) -> ServerSentEvent:
    return ServerSentEvent(raw_data=change.data, event=change.event, id=str(change.number))
