"""`dotmac-api`: serve, migrate, and look after the facade."""

import asyncio
import gc
import json
import re
import secrets
import sys
from typing import Annotated

import typer
import uvicorn
import uvloop
from cryptography.fernet import Fernet
from email_validator import EmailNotValidError, validate_email
from sqlalchemy.exc import SQLAlchemyError

from dotmac_api.checks import check_everything
from dotmac_api.credentials.schemas import USERNAME
from dotmac_api.errors import ApiError
from dotmac_api.facade import build_facade
from dotmac_api.logs import configure_logs
from dotmac_api.main import create_app
from dotmac_api.migrations import upgrade
from dotmac_api.mirror.rebuild import RebuildFailed, rebuild, run_mirror
from dotmac_api.people.admin import EmailTaken, NewAdmin, NotMigrated, UsernameTaken, create_admin
from dotmac_api.protocol import Protocol
from dotmac_api.rotation import rotate_everything
from dotmac_api.settings import Settings, SettingsRefused, load_settings, random_key
from dotmac_api.vault import EncryptionKeyMissing, Undecryptable

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
    app = create_app(settings)
    # What was made up to here lives as long as the process: it need not be searched for garbage again and again.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=Protocol,
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
    try:
        asyncio.run(upgrade(settings, revision))
    except (SQLAlchemyError, OSError) as error:
        raise _failure(f"the database cannot be migrated: {_reason(error)}") from None
    typer.echo(f"the database is at {revision}")


_UNDEFINED_TABLE = "42P01"


def _reason(error: Exception) -> str:
    """The first line of an error of a part, without statements or parameters."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == _UNDEFINED_TABLE:
        return "its tables are missing: run `dotmac-api migrate`"
    return str(cause).strip().splitlines()[0]


def _failure(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


@app.command("create-admin")
def create_admin_command(
    username: Annotated[str, typer.Option(help="Name to sign in with.")],
    email: Annotated[str, typer.Option(help="Address for resets of the password.")],
    first_name: Annotated[str, typer.Option(help="Given name.")] = "Platform",
    last_name: Annotated[str, typer.Option(help="Family name.")] = "Administrator",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Succeed when the user exists already.")] = False,
) -> None:
    """Make an administrator. Without --password-stdin a password is generated and must be changed at first sign-in."""
    settings = settings_or_exit()
    try:
        address = validate_email(email, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise _failure(f"--email: {error}") from None
    if not re.fullmatch(USERNAME, username):
        raise _failure("--username: must be 1 to 254 characters without spaces")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else secrets.token_urlsafe(18)
    new = NewAdmin(username, address, first_name, last_name, password, must_change_password=not password_stdin)
    try:
        asyncio.run(_create_admin(settings, new))
    except UsernameTaken as error:
        if not if_absent:
            raise _failure(str(error)) from None
        typer.echo(f"{error}; nothing was changed")
        return
    except (ApiError, EmailTaken, NotMigrated) as error:
        raise _failure(str(error)) from None
    except (SQLAlchemyError, OSError) as error:
        raise _failure(f"the administrator cannot be made: {_reason(error)}") from None
    typer.echo(f"administrator {username} made" + ("" if password_stdin else f", password: {password}"))


async def _create_admin(settings: Settings, new: NewAdmin) -> None:
    facade = build_facade(settings)
    try:
        await create_admin(facade.sessions, facade.passwords, new)
    finally:
        await facade.close()


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Re-encrypt stored secrets under the first of DOTMAC_API_ENCRYPTION_KEYS, so that the older keys can go."""
    settings = settings_or_exit()
    try:
        counts = asyncio.run(_rotate(settings))
    except (EncryptionKeyMissing, Undecryptable) as error:
        raise _failure(f"nothing was changed: {error}") from None
    except (SQLAlchemyError, OSError) as error:
        raise _failure(f"nothing was changed: {_reason(error)}") from None
    for table, count in counts.items():
        typer.echo(f"{table}: {count} re-encrypted")


async def _rotate(settings: Settings) -> dict[str, int]:
    facade = build_facade(settings)
    try:
        return await rotate_everything(facade.sessions, facade.vault)
    finally:
        await facade.close()


@app.command()
def check() -> None:
    """Check the settings and every part by name; exit 1 when one is not fit."""
    settings = settings_or_exit()
    results = asyncio.run(check_everything(settings))
    for result in results:
        typer.echo(f"{'ok    ' if result.reason is None else 'FAILED'} {result.name}: {result.reason or result.fact}")
    if any(result.reason for result in results):
        raise typer.Exit(1)


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
    uvloop.run(run_mirror(settings))


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
