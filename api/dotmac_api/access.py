"""The guards of endpoints: each route carries exactly one, or the application does not start (deny by default)."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import APIKeyHeader, HTTPBearer

from dotmac_api import context
from dotmac_api.auth.opaque import API_KEY_PREFIX
from dotmac_api.errors import Forbidden, Unauthorized
from dotmac_api.principal import Principal
from dotmac_api.rbac.catalogue import PERMISSION_KEYS

Guard = Callable[..., Awaitable[Any]]

# Only for OpenAPI: they declare the schemes; authenticate() reads the headers.
BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", bearerFormat="JWT")
API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="apiKey")

_READS = ("GET", "HEAD")


async def authenticate(request: Request) -> Principal:
    """The Principal of a request, looked up once. Raises Unauthorized when there are no valid credentials."""
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    facade = request.app.state.facade
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        claims = facade.tokens.verify(token.strip())
        principal: Principal = await facade.identity.of_session(claims.session_id)
        if principal.person_id != claims.person_id:
            raise Unauthorized("the access token is not valid", code="invalid_token")
    elif key := request.headers.get("x-api-key"):
        if not key.startswith(API_KEY_PREFIX) or len(key) > 100:
            raise Unauthorized("the API key is not valid", code="invalid_api_key")
        principal = await facade.identity.of_api_key(facade.hashes.of("api-key", key))
    else:
        raise Unauthorized("send an access token (Authorization: Bearer ...) or, to read, an X-API-Key")
    request.state.principal = principal
    context.person.set(principal.name)
    return principal


def mark_guard(guard: Guard, permission: str | None = None) -> Guard:
    """Declare that a dependency is the guard of its route, for rules that none of those below covers."""
    guard.__dict__["dotmac_guard"] = permission or "-"
    return guard


def public() -> Any:
    """A dependency that says: this endpoint is for everybody."""

    async def guard() -> None:
        return None

    return Depends(mark_guard(guard, None))


def signed_in(*, password_change: bool = False) -> Any:
    """A dependency that wants a session (not an API key). `password_change`: also while the password must change."""

    async def guard(request: Request, _bearer: Annotated[Any, Depends(BEARER)]) -> Principal:
        principal = await authenticate(request)
        if principal.session_id is None:
            raise Forbidden("an API key cannot do this; sign in")
        if principal.must_change_password and not password_change:
            raise _must_change()
        return principal

    return Depends(mark_guard(guard, None))


def require(permission: str, *, admin: bool = False) -> Any:
    """A dependency that wants `permission`, and the admin role besides if `admin`; gives the Principal.

    Reads take an API key whose scopes allow the permission; writes want a session.
    Use: `async def list_people(who: Annotated[Principal, require("people:read")], ...)`.
    """
    if permission not in PERMISSION_KEYS:
        raise ValueError(f"{permission} is not in rbac/catalogue.py")

    async def guard(
        request: Request, _bearer: Annotated[Any, Depends(BEARER)], _key: Annotated[Any, Depends(API_KEY)]
    ) -> Principal:
        principal = await authenticate(request)
        if principal.api_key_id is not None and request.method not in _READS:
            raise Forbidden("an API key may only read; sign in to change things")
        if principal.must_change_password:
            raise _must_change()
        if permission not in principal.permissions:
            raise Forbidden(f"this needs the permission {permission}")
        if admin and not principal.is_admin:
            raise Forbidden("this needs the role admin")
        return principal

    return Depends(mark_guard(guard, permission))


def _must_change() -> Forbidden:
    return Forbidden("change your password first: POST /api/v1/auth/me/password", code="password_change_required")


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def guards(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """(method, path) -> the permission asked for, "-" for a guard without one, None where there is no single guard."""
    found: dict[tuple[str, str], str | None] = {}
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        marks = [call.__dict__["dotmac_guard"] for call in _calls(route.dependant) if _is_guard(call)]
        for method in route.methods or ():
            found[method, str(route.path)] = marks[0] if len(marks) == 1 else None
    return found


def _is_guard(call: Any) -> bool:
    return "dotmac_guard" in getattr(call, "__dict__", {})


def assert_guarded(app: FastAPI) -> None:
    """Raises RuntimeError naming the routes that have no guard, or more than one."""
    bare = [f"{method} {path}" for (method, path), guard in guards(app).items() if guard is None]
    if bare:
        raise RuntimeError(f"routes without exactly one guard (require, signed_in, public): {', '.join(bare)}")
