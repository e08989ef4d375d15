"""What becomes true by the clock alone: a trial is over, a certificate nears its end. Told once, as history is.

Kubernetes stays the source: the operator suspends a tenant whose trial is over, and renews certificates. Nothing here
changes a resource.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.audit.models import AuditEvent
from dotmac_api.mirror.models import InstanceRow, TransitionRow
from dotmac_api.mirror.projection import optional_time
from dotmac_api.mirror.transitions import Transition
from dotmac_api.webhooks.outbox import enqueue

TRIAL_EXPIRED = "instance.trial_expired"
CERTIFICATE_EXPIRING = "instance.certificate_expiring"


def trial_notices(row: InstanceRow, now: datetime) -> Iterator[Transition]:
    """One when the trial is over; a new end of the trial is a new notice."""
    ends = optional_time((row.spec.get("trial") or {}).get("expiresAt"))
    if ends is not None and ends <= now:
        text = ends.astimezone(UTC).isoformat()
        yield Transition(TRIAL_EXPIRED, ends, after=text, reason="TrialExpired", message=f"the trial ended at {text}")


def certificate_notices(row: InstanceRow, now: datetime, ahead: timedelta) -> Iterator[Transition]:
    """One for each certificate that ends within `ahead`, and another once it has ended."""
    for certificate in row.observed.get("certificates") or ():
        ends = optional_time(certificate.get("notAfter"))
        if ends is None or ends > now + ahead:
            continue
        host, text = certificate["host"], ends.astimezone(UTC).isoformat()
        over = ends <= now
        yield Transition(
            CERTIFICATE_EXPIRING,
            None,
            subject=host,
            after=text,
            reason="CertificateExpired" if over else "CertificateExpiring",
            message=f"the certificate of {host} {'ended' if over else 'ends'} at {text} and was not renewed",
        )


async def with_clocks(session: AsyncSession) -> Sequence[InstanceRow]:
    """The instances that have a trial or certificates."""
    clocks = or_(InstanceRow.spec.has_key("trial"), InstanceRow.observed.has_key("certificates"))
    return (await session.scalars(select(InstanceRow).where(InstanceRow.deleted_at.is_(None), clocks))).all()


async def tell(session: AsyncSession, row: InstanceRow, notices: Iterator[Transition]) -> int:
    """Adds those to the history and the audit trail that are not there yet, with their webhooks; how many."""
    fresh = [notice for notice in notices if not await _told(session, row, notice)]
    if fresh:
        values = [
            {
                "event": notice.event,
                "uid": row.instance_id,
                "namespace": row.namespace,
                "name": row.name,
                "org_code": row.org_code,
                "subject": notice.subject,
                "before": notice.before,
                "after": notice.after,
                "reason": notice.reason,
                "message": notice.message,
                "generation": row.generation,
                "resource_version": row.resource_version,
                "at": notice.at or datetime.now(UTC),
            }
            for notice in fresh
        ]
        made = await session.scalars(insert(TransitionRow).returning(TransitionRow.id), values)
        await enqueue(await session.connection(), list(made))
        session.add_all(_audited(row, notice) for notice in fresh)
    return len(fresh)


async def _told(session: AsyncSession, row: InstanceRow, notice: Transition) -> bool:
    same = select(func.count()).where(
        TransitionRow.uid == row.instance_id,
        TransitionRow.event == notice.event,
        TransitionRow.subject == notice.subject,
        TransitionRow.after == notice.after,
        TransitionRow.reason == notice.reason,
    )
    return bool(await session.scalar(same))


def _audited(row: InstanceRow, notice: Transition) -> AuditEvent:
    return AuditEvent(
        actor_type="system",
        action=notice.event,
        entity_type="instances",
        entity_id=str(row.instance_id),
        organisation=row.org_code,
        is_success=True,
        details={"reason": notice.reason, "message": notice.message},
    )
