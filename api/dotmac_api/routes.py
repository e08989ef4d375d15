"""The template of the route that a request matched, which holds no data of the request."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Scope


def index_templates(app: FastAPI) -> None:
    """Remember the whole template of each endpoint: the scope of a request holds it without the router's prefix."""
    templates: dict[Any, str] = {route.endpoint: str(route.path) for route in iter_route_contexts(app.routes)}
    app.state.templates = templates


def route_template(scope: Scope) -> str:
    """Such as /api/v1/people/{person_id}; `-` where no route matched."""
    templates: dict[Any, str] = scope["app"].state.templates
    return templates.get(scope.get("endpoint"), "-")
