"""/instances: states, tags, maintenance windows, approvals."""

from typing import Annotated

from fastapi import APIRouter, Response, status
from fastapi import Path as UrlPath
from sqlalchemy import select

from dotmac_api.database import DatabaseSession
from dotmac_api.instances import life
from dotmac_api.instances.schemas import InstanceRead, TagChange, TagKey
from dotmac_api.instances.windows import WindowBody, WindowRead
from dotmac_api.instances.writing import Changing, Deploying, Readable, Write, answer, writing
from dotmac_api.mirror.models import PlanRow
from dotmac_api.schemas import ListSlice, Page, page_of_list

router = APIRouter(prefix="/instances", tags=["instances"])

WindowId = Annotated[str, UrlPath(pattern=r"^[0-9a-f]{12}$")]
PlanHash = Annotated[str, UrlPath(pattern=r"^[0-9a-f]{1,64}$", description="of GET .../plan")]
Approving = Annotated[Write, writing("instances:approve")]


@router.post("/{instance_id}/suspend", status_code=status.HTTP_202_ACCEPTED)
async def suspend(write: Deploying, response: Response) -> InstanceRead:
    """Stops the containers; visitors get a 503 page. Data is kept."""
    return answer(response, await life.set_state(write.writer, write.row, "Suspended"))


@router.post("/{instance_id}/reactivate", status_code=status.HTTP_202_ACCEPTED)
async def reactivate(write: Deploying, response: Response) -> InstanceRead:
    """Serves again what was suspended or archived."""
    return answer(response, await life.set_state(write.writer, write.row, "Running"))


@router.post("/{instance_id}/archive", status_code=status.HTTP_202_ACCEPTED)
async def archive(write: Deploying, response: Response) -> InstanceRead:
    """Dumps the database, then removes the containers. Data is kept."""
    return answer(response, await life.set_state(write.writer, write.row, "Archived"))


@router.put("/{instance_id}/tags/{key}", status_code=status.HTTP_202_ACCEPTED)
async def set_tag(
    write: Changing, key: Annotated[TagKey, UrlPath()], body: TagChange, response: Response
) -> InstanceRead:
    """A note of your own. The tag `requires_approval` also has disruptive work wait for an approval."""
    return answer(response, await life.set_tag(write.writer, write.row, key, body.value))


@router.delete("/{instance_id}/tags/{key}", status_code=status.HTTP_202_ACCEPTED)
async def remove_tag(write: Changing, key: Annotated[TagKey, UrlPath()], response: Response) -> InstanceRead:
    return answer(response, await life.set_tag(write.writer, write.row, key, None))


@router.get("/{instance_id}/maintenance-windows")
async def list_windows(row: Readable, session: DatabaseSession, page: ListSlice) -> Page[WindowRead]:
    """When disruptive work may be done: the instance's own windows, else those of its plan; any time if none."""
    own = row.spec.get("maintenanceWindows")
    found = [WindowRead.of(window) for window in own or []]
    if own is None:
        plan = select(PlanRow).where(PlanRow.name == row.plan_id, PlanRow.deleted_at.is_(None))
        defaults = ((await session.scalars(plan)).first() or PlanRow(spec={})).spec.get("defaults") or {}
        found = [WindowRead.of(window, inherited=True) for window in defaults.get("maintenanceWindows") or []]
    return page_of_list(found, page, "start", "duration")


@router.post("/{instance_id}/maintenance-windows", status_code=status.HTTP_202_ACCEPTED)
async def add_window(write: Changing, body: WindowBody, response: Response) -> InstanceRead:
    """With its first own window, an instance no longer has those of its plan."""
    return answer(response, await life.add_window(write.writer, write.row, body))


@router.delete("/{instance_id}/maintenance-windows/{window_id}", status_code=status.HTTP_202_ACCEPTED)
async def remove_window(write: Changing, window_id: WindowId, response: Response) -> InstanceRead:
    return answer(response, await life.remove_window(write.writer, write.row, window_id))


@router.post("/{instance_id}/approvals/{hash}/approve", status_code=status.HTTP_202_ACCEPTED)
async def approve(write: Approving, hash: PlanHash, response: Response) -> InstanceRead:
    """Lets the plan that waits be carried out. Nobody approves what they asked for themselves."""
    return answer(response, await life.approve(write.writer, write.row, hash))
