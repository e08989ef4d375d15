"""Makes the generated OpenAPI document complete and true: each operation tells the statuses and headers it can have."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from dotmac_api.diagnostics.schemas import LogLine
from dotmac_api.errors import error_schemas

Operation = dict[str, Any]

_IF_MATCH = "If-Match"
_HEADERS = {
    "RequestId": {"description": "in the logs and the audit trail", "schema": {"type": "string"}},
    "ETag": {"description": "the version, for If-Match", "schema": {"type": "string"}},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "a request that is repeated with its key is answered from the first answer, and not done again",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[\\x21-\\x7e]+$"},
}


def complete(app: FastAPI) -> None:
    """Amend the document when it is first asked for."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        if "headers" not in document["components"]:
            _amend(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _amend(document: dict[str, Any]) -> None:
    document["components"]["schemas"].update(error_schemas())
    line = LogLine.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"]["LogLine"] = line
    document["components"]["headers"] = _HEADERS
    versioned = {path for path, operations in document["paths"].items() if any(map(_matches, operations.values()))}
    for path, method, operation in _operations(document):
        for status in set(operation["responses"]) - _possible(path, method, operation):
            del operation["responses"][status]
        if method == "post" and operation.get("security"):
            operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
        for status, response in operation["responses"].items():
            # The answers are shared between the operations.
            headers = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
            if status.startswith("2") and response.get("content") and path in versioned:
                headers["ETag"] = {"$ref": "#/components/headers/ETag"}
            operation["responses"][status] = {**response, "headers": headers}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _matches(operation: Operation) -> bool:
    return any(parameter["name"] == _IF_MATCH for parameter in operation.get("parameters", ()))


def _possible(path: str, method: str, operation: Operation) -> set[str]:
    """The statuses that an operation can answer, of all that are declared for every route."""
    made = {status for status in operation["responses"] if status.startswith("2") or status == "423"} | {"500"}
    if path == "/health":
        return made
    made.add("503")
    if path.startswith("/health"):
        return made
    made |= {"401", "404"} if path == "/metrics" else {"401", "403", "429"}
    if operation.get("parameters") or operation.get("requestBody"):
        made |= {"404", "422"}
    if method != "get":
        made |= {"400", "404", "409", "413", "422"}
    return made | ({"412"} if _matches(operation) else set())
