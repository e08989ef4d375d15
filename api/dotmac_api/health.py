"""/health (liveness) and /health/ready (every part that requests need)."""

import asyncio
import logging
import time
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from dotmac_api.access import public
from dotmac_api.deps import FacadeDep
from dotmac_api.facade import ReadinessCheck

log = logging.getLogger(__name__)
router = APIRouter(prefix="/health", tags=["health"])
CHECK_SECONDS = 3.0


class Liveness(BaseModel):
    status: str = "ok"


class PartHealth(BaseModel):
    """One part; facts of its own (such as lag_seconds) stand beside these."""

    model_config = ConfigDict(extra="allow")

    ready: bool
    milliseconds: float
    reason: str | None = None


class Readiness(BaseModel):
    status: Annotated[str, Field(description="ready or not_ready")]
    checks: dict[str, PartHealth]


async def _probe(name: str, check: ReadinessCheck) -> PartHealth:
    begun = time.perf_counter()
    reason, facts = None, {}
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            facts = await check()
    except TimeoutError:
        reason = f"no answer within {CHECK_SECONDS:.0f} s"
    except Exception as error:
        # The text may carry addresses and user names; anybody may read this page, so it gets the type only.
        log.warning("%s is not ready: %s", name, error)
        reason = type(error).__name__
    spent = round((time.perf_counter() - begun) * 1000, 1)
    return PartHealth.model_validate({**facts, "ready": reason is None, "milliseconds": spent, "reason": reason})


@router.get("", dependencies=[public()])
async def health() -> Liveness:
    """The process answers; says nothing about its parts, so that a restart is not tried for what it cannot mend."""
    return Liveness()


@router.get("/ready", dependencies=[public()], responses={503: {"model": Readiness}})
async def ready(facade: FacadeDep, response: Response) -> Readiness:
    results = await asyncio.gather(*(_probe(name, check) for name, check in facade.checks.items()))
    checks = dict(zip(facade.checks, results, strict=True))
    good = all(check.ready for check in results)
    if not good:
        response.status_code = 503
    return Readiness(status="ready" if good else "not_ready", checks=checks)
