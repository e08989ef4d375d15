"""The template of the route that a request matched, which holds no data of the request."""

from starlette.types import Scope


def route_template(scope: Scope) -> str:
    """Such as /api/v1/people/{person_id}; `-` where no route matched."""
    path: str | None = getattr(scope.get("route"), "path_format", None)
    return path or "-"
