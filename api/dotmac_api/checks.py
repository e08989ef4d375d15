"""`dotmac-api check`: is everything there that the facade needs?"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from dotmac_api.errors import NotFound
from dotmac_api.facade import Facade, build_facade
from dotmac_api.gateway.client import Refused
from dotmac_api.mail import smtp_client
from dotmac_api.migrations import config
from dotmac_api.mirror.projector import collections
from dotmac_api.rbac.administrators import counted
from dotmac_api.rotation import unreadable
from dotmac_api.settings import Settings, misspelt


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One part: a fact when it is fit, else the reason, which says what to do."""

    name: str
    fact: str = ""
    reason: str | None = None


class Unfit(RuntimeError):
    """A part answers, but is not as the facade needs it; the message says what to do."""


async def _migrations(facade: Facade) -> str:
    def revision(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with facade.engine.connect() as connection:
        current = await connection.run_sync(revision)
    head = ScriptDirectory.from_config(config()).get_current_head()
    if current != head:
        raise Unfit(f"the database is at {current or 'nothing'}, not at {head}: run `dotmac-api migrate`")
    return f"at {head}"


async def _redis(facade: Facade) -> str:
    info = await facade.redis.info("server")
    return f"version {info['redis_version']}"


async def _admin(facade: Facade) -> str:
    async with facade.sessions() as session:
        count = await session.scalar(counted())
    if not count:
        raise Unfit("nobody can administer it: run `dotmac-api create-admin`")
    return f"{count} can sign in"


async def _encryption(facade: Facade) -> str:
    if not facade.vault.ready:
        raise Unfit("no secrets can be stored: set DOTMAC_API_ENCRYPTION_KEYS (`dotmac-api generate-key --fernet`)")
    async with facade.sessions() as session:
        stored, lost = await unreadable(session, facade.vault)
    if lost:
        text = f"{lost} of {stored} stored secrets fit none of DOTMAC_API_ENCRYPTION_KEYS: add the key that they"
        raise Unfit(f"{text} were stored under, or store them again")
    return f"{len(facade.settings.encryption_keys)} key(s), {stored} stored secrets"


async def _kubernetes(facade: Facade) -> str:
    """Every collection that is mirrored can be listed: the CRDs are there, and the service account may."""
    async with facade.fleet.client as client:
        for collection in collections(facade.fleet.namespace):
            try:
                await client.request("GET", collection.path, params={"limit": "1"})
            except Refused as refusal:
                remedy = "apply crds/*.yaml" if refusal.missing else "give the service account list and watch"
                raise Unfit(f"{collection.kind.plural}: {refusal.message}; {remedy}") from refusal
        version = await client.get("/version")
    return f"version {version['gitVersion']}"


async def _environment(_facade: Facade) -> str:
    if found := misspelt():
        raise Unfit("; ".join(f"{name} is no setting, {meant} is" for name, meant in found.items()))
    return "no name is misspelt"


async def _operator(facade: Facade) -> str:
    """The operator takes the facade's token: it says that it does not know this instance."""
    url, token = facade.settings.operator_url, facade.settings.operator_token
    if bool(url) != bool(token):
        missing = "DOTMAC_API_OPERATOR_TOKEN" if url else "DOTMAC_API_OPERATOR_URL"
        raise Unfit(f"{missing} is not set, so there are no logs and no usage")
    if not url:
        return "not set: no logs and no usage"
    try:
        await facade.operator.ask(f"{facade.settings.namespace}/dotmac-api-check/health", lambda told: told, 5.0)
    except NotFound as told:
        if told.code != "instance_not_found":
            raise Unfit(f"DOTMAC_API_OPERATOR_URL is not the operator's diagnostics endpoint: {told.message}") from told
    return "answers"


async def _mail(facade: Facade) -> str:
    """The mail server takes a connection and, where there is one, the sign-in."""
    client = await smtp_client(facade.domains)
    if client is None:
        return "not set: no password can be reset by e-mail"
    async with client:
        await client.noop()
    return f"{client.hostname} answers"


Check = Callable[[Facade], Awaitable[str]]

CHECKS: dict[str, Check] = {
    "database": _migrations,
    "redis": _redis,
    "encryption": _encryption,
    "administrators": _admin,
    "kubernetes": _kubernetes,
    "operator": _operator,
    "mail": _mail,
    "environment": _environment,
}


async def check_everything(settings: Settings) -> list[CheckResult]:
    """Run every check; a failure of one hides no other."""
    facade = build_facade(settings)
    results = [CheckResult("settings", "complete")]
    try:
        for name, check in CHECKS.items():
            try:
                results.append(CheckResult(name, await check(facade)))
            except Exception as error:
                text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
                results.append(CheckResult(name, reason=text.splitlines()[0]))
    finally:
        await facade.close()
    return results
