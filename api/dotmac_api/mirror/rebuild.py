"""The commands `dotmac-api mirror` and `dotmac-api rebuild-mirror`."""

import asyncio
import time

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from dotmac_api.gateway.client import ClusterAddress, KubernetesClient
from dotmac_api.mirror.models import MODELS, CursorRow
from dotmac_api.mirror.projector import Projector, collections, mirror_engine
from dotmac_api.mirror.store import order_rebuild
from dotmac_api.settings import Settings


class RebuildFailed(RuntimeError):
    """The mirror was not rebuilt in time; the message says what is known."""


async def run_mirror(settings: Settings) -> None:
    """A projector, until the process is ended."""
    engine = mirror_engine(settings)
    async with KubernetesClient(ClusterAddress(settings.kubeconfig, settings.kube_context)) as client:
        await Projector(engine, client, _scope(settings)).run()


async def rebuild(settings: Settings, timeout: float) -> tuple[float, int]:
    """Orders a rebuild and waits for it; returns (seconds, objects). Raises RebuildFailed.

    Works beside a running facade, whose projector then does it, and without one: a projector runs here as well.
    """
    engine = mirror_engine(settings)
    begun = time.monotonic()
    wanted = [collection.path for collection in collections(_scope(settings))]
    async with KubernetesClient(ClusterAddress(settings.kubeconfig, settings.kube_context)) as client:
        try:
            async with engine.begin() as connection:
                await order_rebuild(connection)
        except (SQLAlchemyError, OSError) as failure:
            raise RebuildFailed(f"the database refuses: {type(failure).__name__}; is it up and migrated?") from failure
        task = asyncio.create_task(Projector(engine, client, _scope(settings)).run())
        try:
            async with asyncio.timeout(timeout):
                while not await _listed(engine, wanted):
                    await asyncio.sleep(0.1)
            return time.monotonic() - begun, await _objects(engine)
        except TimeoutError:
            raise RebuildFailed(f"not done after {timeout:.0f} s: {await _problem(engine)}") from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await engine.dispose()


def _scope(settings: Settings) -> str | None:
    return None if settings.all_namespaces else settings.namespace


async def _listed(engine: AsyncEngine, paths: list[str]) -> bool:
    done = select(func.count()).where(CursorRow.path.in_(paths), CursorRow.resource_version > 0)
    async with engine.connect() as connection:
        return await connection.scalar(done) == len(paths)


async def _objects(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        queries = (select(func.count()).where(model.deleted_at.is_(None)) for model in MODELS.values())
        return sum([await connection.scalar(query) or 0 for query in queries])


async def _problem(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        found = await connection.scalar(select(func.min(CursorRow.problem)))
    return found or "no problem is known; look at the log of the projector"
