"""Typed errors of the services, and the one shape in which they reach a client: {code, message, details}."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """One thing that is wrong: `field` is a dotted path such as `body.hostname`, empty when it is no single field."""

    field: str = ""
    message: str
    type: str = ""


class ErrorBody(BaseModel):
    """What every refusal and failure answers."""

    code: str = Field(description="stable, snake_case, for programs")
    message: str = Field(description="what is wrong and what to do, for people")
    details: list[ErrorDetail] = Field(default_factory=list)


class ApiError(RuntimeError):
    """Base of what a service raises. Subclasses set `status` and `code`; the message names the remedy."""

    status: HTTPStatus = HTTPStatus.BAD_REQUEST
    code: str = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        details: Sequence[ErrorDetail] = (),
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        self.headers = dict(headers or {})
        self.code = code or self.code


class BadRequest(ApiError):
    pass


class Unauthorized(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"

    def __init__(self, message: str, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.headers.setdefault("WWW-Authenticate", "Bearer")


class Forbidden(ApiError):
    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(ApiError):
    """The row is absent, or belongs to an organisation that the caller may not see: the two look the same."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class NotAllowed(ApiError):
    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"


class Conflict(ApiError):
    status = HTTPStatus.CONFLICT
    code = "conflict"


class PreconditionFailed(ApiError):
    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"


class Invalid(ApiError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "validation_error"

    @classmethod
    def field(cls, field: str, message: str) -> "Invalid":
        """The refusal of one field, `field` being its dotted path (`body.password`)."""
        return cls(f"{field}: {message}", details=[ErrorDetail(field=field, message=message, type="value_error")])


class Locked(ApiError):
    status = HTTPStatus.LOCKED
    code = "account_locked"


class BodyTooLarge(ApiError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class TooManyRequests(ApiError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"


class Unavailable(ApiError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"


def error_response(error: ApiError) -> JSONResponse:
    body = ErrorBody(code=error.code, message=error.message, details=error.details)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=error.headers)


def _field_path(loc: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in loc)


async def _on_api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class only
    return error_response(error)


async def _on_validation(_request: Request, error: Exception) -> JSONResponse:
    # The input is left out on purpose: it may be a password.
    assert isinstance(error, RequestValidationError)  # noqa: S101
    details = [
        ErrorDetail(field=_field_path(e["loc"]), message=e["msg"], type=e["type"]) for e in list(error.errors())[:50]
    ]
    first = f"{details[0].field}: {details[0].message}" if details else "the request is not valid"
    return error_response(Invalid(first, details=details))


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    status = HTTPStatus(error.status_code)
    code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(status, status.name.lower())
    body = ErrorBody(code=code, message=str(error.detail))
    return JSONResponse(body.model_dump(), status_code=status, headers=error.headers)


# undefined_table, undefined_column
_NOT_MIGRATED = ("42P01", "42703")
_UNIQUE, _FOREIGN_KEY, _CHECK, _NOT_NULL = "23505", "23503", "23514", "23502"


def _from_integrity(error: IntegrityError) -> ApiError:
    diagnostics = getattr(error.orig, "diag", None)
    state = getattr(error.orig, "sqlstate", None)
    name = getattr(diagnostics, "constraint_name", None) or "a constraint"
    table = getattr(diagnostics, "table_name", None) or "a table"
    if state == _UNIQUE:
        return Conflict(f"such a row exists already in {table} ({name})", code="already_exists")
    if state == _FOREIGN_KEY:
        return Conflict(f"the row is referred to, or refers to one that does not exist ({name})", code="reference")
    return Invalid(f"the value is refused by {name} of {table}")


def from_database(error: Exception) -> ApiError:
    """What a failure of the database means for a client; raises `error` itself when it is not one."""
    if isinstance(error, IntegrityError):
        return _from_integrity(error)
    if isinstance(error, DataError) or (isinstance(error, StatementError) and not isinstance(error, DBAPIError)):
        # A NUL in a text, a number beyond its column: the client's doing.
        return Invalid("a value cannot be stored: a NUL character or a number out of range")
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        log.error("the database is not available", exc_info=error)
        return Unavailable("the database is not available; try again", headers={"Retry-After": "2"})
    if getattr(getattr(error, "orig", None), "sqlstate", None) in _NOT_MIGRATED:
        log.error("the tables are not those of this version: run `dotmac-api migrate`", exc_info=error)
        text = "the database is not at the version of this program; its operators run `dotmac-api migrate`"
        return Unavailable(text, code="not_migrated", headers={"Retry-After": "30"})
    raise error


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    try:
        return error_response(from_database(error))
    except Exception:
        return await _on_unexpected(request, error)


async def _on_redis(_request: Request, error: Exception) -> JSONResponse:
    log.error("Redis is not available: %s", type(error).__name__)
    return error_response(Unavailable("Redis is not available; try again", headers={"Retry-After": "2"}))


async def _on_unexpected(_request: Request, error: Exception) -> JSONResponse:
    return unexpected(error)


def unexpected(error: Exception) -> JSONResponse:
    """Log what nobody foresaw, and say no more of it than that."""
    log.error("unexpected failure", exc_info=error)
    body = ErrorBody(code="internal", message="an unexpected failure; quote X-Request-ID to the operators")
    return JSONResponse(body.model_dump(), status_code=500)


def install_handlers(app: FastAPI) -> None:
    """Turn every exception into the one error shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(StatementError, _on_database)
    app.add_exception_handler(PoolTimeout, _on_database)
    app.add_exception_handler(RedisError, _on_redis)


# By reference and not as models: nine models on each route would take most of the time that the application starts in.
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"content": _ERROR_CONTENT, "description": text}
    for status, text in {
        400: "the request cannot be read",
        401: "no valid credentials",
        403: "not permitted",
        404: "absent, or of another organisation",
        409: "conflicts with what is stored",
        412: "If-Match names another version",
        413: "the body is too large",
        422: "a field is refused",
        429: "rate limited",
        500: "not foreseen; the log has the request id",
        503: "a part is not available",
    }.items()
}


# Of the endpoints that take a password.
LOCKED_RESPONSE: dict[int | str, dict[str, Any]] = {423: {"content": _ERROR_CONTENT, "description": "account locked"}}


def error_schemas() -> dict[str, Any]:
    """The OpenAPI components that ERROR_RESPONSES refers to."""
    schema = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    nested: dict[str, Any] = schema.pop("$defs", {})
    return {**nested, "ErrorBody": schema}
