"""The facade over the embedded control plane: every test has a database of its own and an empty cluster."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tests.kits.controlplane import ControlPlane
from tests.kits.mirrored import Objects, cluster, engine, objects, until
from tests.kits.rights import facade_kubeconfig
from tests.kits.unprivileged import free_port

from dotmac_api.facade import build_facade
from dotmac_api.settings import Settings

__all__ = ["cluster", "engine", "objects"]


@pytest.fixture(scope="session")
def rights(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the facade's account, with the rights that deploy/kustomize grants and no others, enforced."""
    return facade_kubeconfig(cluster, tmp_path_factory.mktemp("facade-rights") / "kubeconfig", "default")


@pytest.fixture
def fleet_settings(settings: Settings, rights: Path) -> Settings:
    return settings.model_copy(update={"kubeconfig": rights, "mirror_enabled": True, "webhooks_enabled": True})


@pytest.fixture
async def app(built: FastAPI, fleet_settings: Settings, objects: Objects) -> AsyncIterator[FastAPI]:
    """The application with its projector, streams and webhooks running."""
    built.state.facade = build_facade(fleet_settings)
    async with built.router.lifespan_context(built):
        yield built


@pytest.fixture
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The application behind a real HTTP server, for streams; gives its base URL."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


@pytest.fixture
async def ready(app: FastAPI, admin: httpx.AsyncClient) -> httpx.AsyncClient:
    """An administrator of a facade whose mirror has read everything once."""

    async def mirrored() -> bool:
        return (await admin.get("/health/ready")).status_code == 200

    await until(mirrored)
    return admin
