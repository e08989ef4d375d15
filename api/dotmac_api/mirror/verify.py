"""Compares the mirror with Kubernetes, object by object."""

import asyncio
import uuid

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from dotmac_api.gateway.client import KubernetesClient
from dotmac_api.mirror.models import MODELS
from dotmac_api.mirror.projector import collections
from dotmac_api.mirror.store import CATCH_UP_SECONDS


async def differing(engine: AsyncEngine, client: KubernetesClient, namespace: str | None) -> list[str]:
    """`Kind uid` of what is missing, too many, or at another version, twice in a row.

    What changes during the comparison may differ once; it counts when it still does, at the same version, after the
    projector had time to catch up. Raises Refused and Unreachable as the client does.
    """
    first = await _once(engine, client, namespace)
    if not first:
        return []
    await asyncio.sleep(CATCH_UP_SECONDS)
    second = await _once(engine, client, namespace)
    return sorted(
        f"{kind} {uid}" for kind, uid in first.keys() & second.keys() if first[kind, uid] == second[kind, uid]
    )


async def _once(
    engine: AsyncEngine, client: KubernetesClient, namespace: str | None
) -> dict[tuple[str, uuid.UUID], tuple[int | None, int | None]]:
    """What differs: (kind, uid) -> (version in Kubernetes, version in the mirror)."""
    found = {}
    for collection in collections(namespace):
        kind = collection.kind.name
        model = MODELS[kind]
        theirs = {
            uuid.UUID(item["metadata"]["uid"]): int(item["metadata"]["resourceVersion"])
            async for page in client.pages(collection.path)
            for item in page["items"]
        }
        query = select(getattr(model, model.UID), model.resource_version).where(model.deleted_at.is_(None))
        async with engine.connect() as connection:
            ours = {uid: version for uid, version in await connection.execute(query)}
        for uid in theirs.keys() | ours.keys():
            if theirs.get(uid) != ours.get(uid):
                found[kind, uid] = (theirs.get(uid), ours.get(uid))
    return found
