"""Alembic migrations, run in the process of `dotmac-api migrate`; no alembic.ini is needed."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from dotmac_api.database import make_engine, make_sessions
from dotmac_api.rbac.seed import seed
from dotmac_api.settings import Settings

# Two `migrate` jobs at once must not both run a step; any constant does, all replicas share it.
_LOCK = 0x446F744D61631


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.set_main_option("path_separator", "os")
    return made


def _upgrade(connection: Connection, revision: str) -> None:
    made = config()
    made.attributes["connection"] = connection
    command.upgrade(made, revision)


def _downgrade(connection: Connection, revision: str) -> None:
    made = config()
    made.attributes["connection"] = connection
    command.downgrade(made, revision)


async def upgrade(settings: Settings, revision: str = "head") -> None:
    """Bring the database up to `revision`; at head also seed roles and permissions. Safe to run twice at once."""
    engine = make_engine(settings)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.run_sync(_upgrade, revision)
        if revision == "head":
            async with make_sessions(engine).begin() as session:
                await seed(session)
    finally:
        await engine.dispose()


async def downgrade(settings: Settings, revision: str = "base") -> None:
    """Take the database back to `revision`; tables made later are dropped with their rows."""
    engine = make_engine(settings)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.run_sync(_downgrade, revision)
    finally:
        await engine.dispose()
