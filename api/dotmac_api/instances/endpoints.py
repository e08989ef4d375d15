"""/instances."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response, status
from fastapi import Path as UrlPath
from pydantic import Field

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.facade import Facade
from dotmac_api.gateway.edge import intent_of
from dotmac_api.instances import service
from dotmac_api.instances.clone import Clone, CloneRead, like, not_copied
from dotmac_api.instances.schemas import (
    Deploy,
    DomainBody,
    DomainRead,
    DriftRead,
    FlagChange,
    InstanceCreate,
    InstanceRead,
    InstanceUpdate,
    PlanChange,
    PlanRead,
    StatusWord,
    StepsRead,
    TransitionRead,
    VersionChange,
)
from dotmac_api.instances.writer import Defaults, InstanceWriter, wire_domain
from dotmac_api.instances.writing import Changing, Deploying, Readable, Reader, Write, answer, writing
from dotmac_api.mirror.transitions import InstanceEvent
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListQuery, ListSlice, Page, Slice, page_of, page_of_list
from dotmac_crds.base import SUBDOMAIN

router = APIRouter(prefix="/instances", tags=["instances"])

Name = Annotated[str | None, Field(max_length=253, pattern=r"^[^\x00]*$")]
FlagKey = Annotated[str, UrlPath(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Host = Annotated[str, UrlPath(min_length=1, max_length=253, pattern=SUBDOMAIN)]


class InstanceQuery(Slice):
    """The query of the list."""

    status: StatusWord | None = None
    org_code: Name = None
    server_id: uuid.UUID | None = None
    plan: Name = None
    release: Name = None
    sector_type: Literal["PRIVATE", "PUBLIC", "NGO"] | None = None
    search: Annotated[str | None, Field(max_length=120, pattern=r"^[^\x00]*$")] = None


LIST_QUERY = ListQuery(InstanceQuery)


@router.get("", response_model=Page[InstanceRead], openapi_extra=LIST_QUERY.documented)
async def list_instances(
    principal: Reader, facade: FacadeDep, query: Annotated[InstanceQuery, Depends(LIST_QUERY)]
) -> Response:
    wanted = service.InstanceFilter(
        query.status, query.org_code, query.server_id, query.plan, query.release, query.sector_type, query.search
    )
    body = await facade.fleet.pages.page(
        (principal.organisations, wanted),
        lambda: service.visible_instances(principal, wanted),
        query,
        service.ORDERABLE,
    )
    return Response(body, media_type="application/json")


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def create_instance(
    principal: Annotated[Principal, require("instances:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    note: Note,
    body: InstanceCreate,
    response: Response,
) -> InstanceRead:
    """Accepted by Kubernetes; the operator then deploys it. Follow it at /instances/{id}/stream or /steps."""
    writer = InstanceWriter(facade.fleet.gateway, intent_of(principal, None), principal)
    row = await writer.create(session, body, await _defaults(facade, facade.settings.namespace))
    note.on("instances", row.instance_id, row.org_code)
    return answer(response, row)


async def _defaults(facade: Facade, namespace: str) -> Defaults:
    base_domain = await facade.domains.text("platform", "base_domain")
    return Defaults(namespace, base_domain, await facade.domains.text("platform", "default_server_strategy"))


@router.get("/{instance_id}")
async def get_instance(row: Readable, response: Response) -> InstanceRead:
    return answer(response, row)


@router.patch("/{instance_id}", status_code=status.HTTP_202_ACCEPTED)
async def update_instance(write: Changing, body: InstanceUpdate, response: Response) -> InstanceRead:
    return answer(response, await write.writer.update(write.row, body))


@router.delete("/{instance_id}", status_code=status.HTTP_202_ACCEPTED)
async def delete_instance(
    write: Annotated[Write, writing("instances:delete", admin=True)], response: Response
) -> InstanceRead:
    """The operator removes it from its host; its data as `deletion_policy` says. Waits while `deletion_protected`."""
    return answer(response, await write.writer.delete(write.row))


@router.post("/{instance_id}/deploy", status_code=status.HTTP_202_ACCEPTED)
async def deploy(write: Deploying, response: Response, body: Deploy | None = None) -> InstanceRead:
    """Deploys `release`, or what is set already; a change that had failed is tried again."""
    return answer(response, await write.writer.deploy(write.row, body or Deploy()))


@router.post("/{instance_id}/reconfigure", status_code=status.HTTP_202_ACCEPTED)
async def reconfigure(write: Deploying, body: InstanceUpdate, response: Response) -> InstanceRead:
    """Changes the fields that are sent, and has the operator act at once, also on what had failed before."""
    return answer(response, await write.writer.update(write.row, body, reconcile=True))


@router.post("/{instance_id}/restart", status_code=status.HTTP_202_ACCEPTED)
async def restart(write: Annotated[Write, writing("instances:restart")], response: Response) -> InstanceRead:
    """Replaces the application's containers; the old ones serve until the new ones are healthy."""
    return answer(response, await write.writer.restart(write.row))


@router.post("/{instance_id}/clone", status_code=status.HTTP_202_ACCEPTED)
async def clone_instance(
    write: Annotated[Write, writing("backups:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    body: Clone,
) -> CloneRead:
    """Makes a new instance with this one's configuration, flags, modules and tags, for another organisation code.

    Its data is not copied, nor are domains, the trial and credentials: `not_copied` tells so.
    """
    write.writer.check_version(write.row)
    made = await write.writer.create(
        session, like(write.row, body), await _defaults(facade, write.row.namespace), write.row
    )
    return CloneRead(instance=InstanceRead.of(made), not_copied=not_copied(write.row))


@router.put("/{instance_id}/version", status_code=status.HTTP_202_ACCEPTED)
async def change_version(write: Deploying, body: VersionChange, response: Response) -> InstanceRead:
    return answer(response, await write.writer.release(write.row, body.release))


@router.put("/{instance_id}/plan", status_code=status.HTTP_202_ACCEPTED)
async def change_plan(write: Changing, body: PlanChange, response: Response) -> InstanceRead:
    return answer(response, await write.writer.plan(write.row, body.plan))


@router.get("/{instance_id}/steps")
async def get_steps(row: Readable) -> StepsRead:
    """The ten steps as they are; how they came to be so is in /events?event=instance.step_changed."""
    return StepsRead.of(row)


@router.get("/{instance_id}/plan")
async def get_plan(row: Readable) -> PlanRead:
    return PlanRead.of(row)


@router.get("/{instance_id}/drift")
async def get_drift(row: Readable) -> DriftRead:
    return DriftRead.of(row)


@router.get("/{instance_id}/events")
async def list_events(
    row: Readable, session: DatabaseSession, page: ListSlice, event: InstanceEvent | None = None
) -> Page[TransitionRead]:
    """What changed on it, as history: conditions, steps, releases, repairs. Newest first unless asked otherwise."""
    return page_of(await service.list_events(session, row, page, event), page, TransitionRead.of)


@router.put("/{instance_id}/flags/{key}", status_code=status.HTTP_202_ACCEPTED)
async def set_flag(write: Changing, key: FlagKey, body: FlagChange, response: Response) -> InstanceRead:
    return answer(response, await write.writer.flag(write.row, key, body.enabled))


@router.delete("/{instance_id}/flags/{key}", status_code=status.HTTP_202_ACCEPTED)
async def remove_flag(write: Changing, key: FlagKey, response: Response) -> InstanceRead:
    return answer(response, await write.writer.flag(write.row, key, None))


@router.put("/{instance_id}/modules/{name}", status_code=status.HTTP_202_ACCEPTED)
async def activate_module(write: Changing, name: FlagKey, response: Response) -> InstanceRead:
    return answer(response, await write.writer.module(write.row, name, True))


@router.delete("/{instance_id}/modules/{name}", status_code=status.HTTP_202_ACCEPTED)
async def deactivate_module(write: Changing, name: FlagKey, response: Response) -> InstanceRead:
    return answer(response, await write.writer.module(write.row, name, False))


@router.get("/{instance_id}/domains")
async def list_domains(row: Readable, page: ListSlice) -> Page[DomainRead]:
    """The names that the instance asks for, in their order: the first one is its main one."""
    found = [DomainRead(host=d["host"], tls=d.get("tls")) for d in row.spec.get("domains") or []]
    return page_of_list(found, page, "host")


@router.post("/{instance_id}/domains", status_code=status.HTTP_202_ACCEPTED)
async def add_domain(write: Changing, body: DomainBody, response: Response) -> InstanceRead:
    return answer(response, await write.writer.add_domain(write.row, wire_domain(body.host, body.tls)))


@router.delete("/{instance_id}/domains/{host}", status_code=status.HTTP_202_ACCEPTED)
async def remove_domain(write: Changing, host: Host, response: Response) -> InstanceRead:
    return answer(response, await write.writer.remove_domain(write.row, host))
