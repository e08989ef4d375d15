"""/instances/{id}/logs, /usage and /health."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from dotmac_api.access import authenticate
from dotmac_api.auth.standing import Standing
from dotmac_api.deps import FacadeDep
from dotmac_api.diagnostics.operator import TAIL_MOST
from dotmac_api.diagnostics.schemas import HealthRead, HealthTold, UsageRead, UsageTold
from dotmac_api.diagnostics.streams import Events, LogResponse, Ndjson
from dotmac_api.errors import ApiError
from dotmac_api.instances.writing import Readable, reading
from dotmac_api.mirror.models import InstanceRow

router = APIRouter(prefix="/instances", tags=["instances"])

HEALTH_SECONDS = 3.0
"""Health is told without the host when it is slow."""

Word = Annotated[str | None, Query(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
_LINES = {"schema": {"$ref": "#/components/schemas/LogLine"}}
_LOGS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "lines, oldest first; X-Truncated: true when older ones were left out for their size",
        "content": {"application/x-ndjson": _LINES, "text/event-stream": _LINES},
    }
}


@router.get("/{instance_id}/logs", response_class=StreamingResponse, responses=_LOGS)
async def get_logs(
    row: Annotated[InstanceRow, reading("instances:logs")],
    facade: FacadeDep,
    request: Request,
    role: Word = None,
    container: Word = None,
    tail: Annotated[int, Query(ge=1, le=TAIL_MOST, description="the last lines of all containers together")] = 200,
    since: AwareDatetime | None = None,
    follow: Annotated[bool, Query(description="go on with what comes, for up to 15 minutes")] = False,
    accept: Annotated[str, Header(max_length=500)] = "",
) -> LogResponse:
    """The tenant's log: one JSON object in a line, or server-sent events for those who accept text/event-stream.

    To go on after a stream has ended, send the `time` of the last line as `since`.
    """
    asked = {"role": role, "container": container, "since": since and since.isoformat()}
    query = {name: value for name, value in asked.items() if value} | {"tail": str(tail), "follow": str(follow).lower()}
    stream = await facade.operator.logs(row.namespace, row.name, query)
    follower = Standing(facade.identity, await authenticate(request)) if follow else None
    return LogResponse(stream, Events() if "text/event-stream" in accept else Ndjson(), follower)


@router.get("/{instance_id}/usage")
async def get_usage(row: Readable, facade: FacadeDep) -> UsageRead:
    """Asks the host: processor and memory of each container, bytes of each volume."""
    return await facade.operator.ask(
        f"{row.namespace}/{row.name}/usage", lambda told: UsageRead.of(row, UsageTold.model_validate(told))
    )


@router.get("/{instance_id}/health")
async def get_health(row: Readable, facade: FacadeDep) -> HealthRead:
    """Asks the host, and tells what is known when it cannot be asked."""
    where = f"{row.namespace}/{row.name}/health"
    try:
        return await facade.operator.ask(
            where, lambda told: HealthRead.of(row, HealthTold.model_validate(told), None), HEALTH_SECONDS
        )
    except ApiError as error:
        return HealthRead.of(row, None, error.message)
