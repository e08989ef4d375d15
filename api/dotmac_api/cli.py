"""`dotmac-api`: serve, migrate, and look after the facade."""

import asyncio
import json
from typing import Annotated

import typer
import uvicorn
from cryptography.fernet import Fernet

from dotmac_api.logs import configure_logs
from dotmac_api.main import create_app
from dotmac_api.migrations import upgrade
from dotmac_api.mirror.rebuild import RebuildFailed, rebuild, run_mirror
from dotmac_api.settings import Settings, SettingsRefused, load_settings, random_key

app = typer.Typer(add_completion=True, no_args_is_help=True, help=__doc__)


def settings_or_exit() -> Settings:
    """The settings, or exit 2 with one clear message."""
    try:
        return load_settings()
    except SettingsRefused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve the REST API; run as many replicas as you like."""
    settings = settings_or_exit()
    configure_logs(settings)
    uvicorn.run(
        create_app(settings),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_graceful_shutdown=20,
    )


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="Alembic revision.")] = "head") -> None:
    """Bring the database to a revision, and seed roles and permissions that are missing."""
    settings = settings_or_exit()
    configure_logs(settings)
    asyncio.run(upgrade(settings, revision))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document; needs no environment."""
    throwaway = Settings.model_validate(
        {
            "database_url": "postgresql://localhost/none",
            "redis_url": "redis://localhost",
            "jwt_keys": json.dumps({"none": random_key()}),
            "api_key_pepper": random_key(),
        }
    )
    typer.echo(json.dumps(create_app(throwaway).openapi(), indent=2))


@app.command()
def mirror() -> None:
    """Run the mirror's projector alone, without serving requests; one of all that run leads."""
    settings = settings_or_exit()
    configure_logs(settings)
    asyncio.run(run_mirror(settings))


@app.command("rebuild-mirror")
def rebuild_mirror(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 120.0,
) -> None:
    """Read everything anew from Kubernetes into the mirror; readers keep what is there until it is replaced."""
    settings = settings_or_exit()
    configure_logs(settings)
    try:
        seconds, objects = asyncio.run(rebuild(settings, timeout))
    except RebuildFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"rebuilt {objects} objects in {seconds:.1f} s")


@app.command("generate-key")
def generate_key(
    fernet: Annotated[bool, typer.Option("--fernet", help="A Fernet key, for ENCRYPTION_KEYS.")] = False,
) -> None:
    """Print a random key fit for JWT_KEYS and API_KEY_PEPPER, or with --fernet for ENCRYPTION_KEYS."""
    typer.echo(Fernet.generate_key().decode() if fernet else random_key())
