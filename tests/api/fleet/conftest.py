"""The facade over the embedded control plane: every test has a database of its own and an empty cluster."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from tests.kits.controlplane import ControlPlane
from tests.kits.mirrored import Objects, cluster, engine, objects, until

from dotmac_api.main import create_app
from dotmac_api.settings import Settings

__all__ = ["cluster", "engine", "objects"]


@pytest.fixture
def fleet_settings(settings: Settings, cluster: ControlPlane) -> Settings:
    return settings.model_copy(
        update={"kubeconfig": cluster.kubeconfig, "mirror_enabled": True, "webhooks_enabled": True}
    )


@pytest.fixture
async def app(fleet_settings: Settings, objects: Objects) -> AsyncIterator[FastAPI]:
    """The application with its projector, streams and webhooks running."""
    made = create_app(fleet_settings)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def ready(app: FastAPI, admin: httpx.AsyncClient) -> httpx.AsyncClient:
    """An administrator of a facade whose mirror has read everything once."""

    async def mirrored() -> bool:
        return (await admin.get("/health/ready")).status_code == 200

    await until(mirrored)
    return admin
