"""Sends what is due. Any number may run: each delivery is claimed by one, for the time that one attempt may take."""

import asyncio
import json
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
from prometheus_client import Counter
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from dotmac_api.database import Sessions
from dotmac_api.mirror.models import TransitionRow
from dotmac_api.vault import EncryptionKeyMissing, Undecryptable, Vault
from dotmac_api.webhooks.destination import DestinationRefused, Network, PublicResolver, check_url, guarded_socket
from dotmac_api.webhooks.models import DEAD, DELIVERED, PENDING, DeliveryRow, WebhookRow
from dotmac_api.webhooks.signature import HEADER, sign

log = logging.getLogger(__name__)
SENT = Counter("dotmac_webhook_attempts_total", "Attempts to deliver a webhook.", ["outcome"])

TIMEOUT = 10.0
CLAIM = timedelta(seconds=TIMEOUT + 20)
BATCH = 16
DELAYS = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds before the second, third ... attempt, each with up to a half more by chance; then the delivery is dead."""
KEPT = timedelta(days=14)
POLL = 5.0


@dataclass(frozen=True)
class Claimed:
    """One delivery to try now."""

    id: uuid.UUID
    attempts: int
    url: str
    sealed: str
    body: bytes
    event: str


class Dispatcher:
    """`run` never returns; `deliver_due` is one round of it."""

    def __init__(
        self, sessions: Sessions, vault: Vault, networks: Sequence[Network], delays: Sequence[float] = DELAYS
    ) -> None:
        self._sessions = sessions
        self._vault = vault
        self._networks = networks
        self._delays = delays
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be something due now."""
        self._wake.set()

    async def run(self) -> None:
        """Delivers when woken, and every few seconds what has become due."""
        while True:
            try:
                while await self.deliver_due() == BATCH:
                    pass
            except (SQLAlchemyError, OSError) as failure:
                log.warning("webhooks wait for the database: %s", type(failure).__name__)
            try:
                async with asyncio.timeout(POLL * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def deliver_due(self) -> int:
        """Tries what is due, at most a batch; returns how many that were."""
        claimed = await self._claim()
        if claimed:
            async with self._session() as session:
                await asyncio.gather(*(self._attempt(session, delivery) for delivery in claimed))
        return len(claimed)

    async def prune(self) -> int:
        """Drops deliveries that ended long ago; returns how many."""
        async with self._sessions.begin() as session:
            old = DeliveryRow.finished_at < func.now() - KEPT
            done = await session.execute(delete(DeliveryRow).where(old).returning(DeliveryRow.id))
            return len(done.all())

    async def _claim(self) -> list[Claimed]:
        due = (
            select(DeliveryRow.id)
            .where(DeliveryRow.state == PENDING, DeliveryRow.next_attempt_at <= func.now())
            .order_by(DeliveryRow.next_attempt_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._sessions.begin() as session:
            taken = await session.scalars(
                update(DeliveryRow)
                .where(DeliveryRow.id.in_(due.scalar_subquery()))
                .values(attempts=DeliveryRow.attempts + 1, next_attempt_at=func.now() + CLAIM)
                .returning(DeliveryRow.id)
            )
            query = (
                select(DeliveryRow, WebhookRow, TransitionRow)
                .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
                .join(TransitionRow, TransitionRow.id == DeliveryRow.transition_id)
                .where(DeliveryRow.id.in_(taken.all()))
            )
            return [self._claimed(*row) for row in await session.execute(query)]

    def _claimed(self, delivery: DeliveryRow, webhook: WebhookRow, transition: TransitionRow) -> Claimed:
        body = json.dumps(payload(delivery.id, transition), separators=(",", ":")).encode()
        return Claimed(delivery.id, delivery.attempts, webhook.url, webhook.secret, body, transition.event)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(
            resolver=PublicResolver(self._networks),
            socket_factory=guarded_socket(self._networks),
            use_dns_cache=False,
            force_close=True,
        )
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
            yield session

    async def _attempt(self, session: aiohttp.ClientSession, delivery: Claimed) -> None:
        status, error = None, ""
        try:
            check_url(delivery.url, self._networks)
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "dotmac-webhooks/1",
                "X-DotMac-Event": delivery.event,
                "X-DotMac-Delivery": str(delivery.id),
                HEADER: sign(self._vault.decrypt(delivery.sealed), delivery.body, int(time.time())),
            }
            # A redirect could lead anywhere; the receiver's answer itself is of no interest and is not read.
            async with session.post(delivery.url, data=delivery.body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
            error = "" if 200 <= status < 300 else f"answered {status}"
        except (
            DestinationRefused,
            EncryptionKeyMissing,
            Undecryptable,
            aiohttp.ClientError,
            OSError,
            TimeoutError,
            ValueError,
        ) as failure:
            error = _reason(failure)
        await self._settle(delivery, status, error)

    async def _settle(self, delivery: Claimed, status: int | None, error: str) -> None:
        values: dict[str, object] = {"last_status": status, "last_error": error[:500] or None}
        if not error:
            values |= {"state": DELIVERED, "finished_at": func.now()}
        elif delivery.attempts > len(self._delays):
            values |= {"state": DEAD, "finished_at": func.now()}
        else:
            pause = self._delays[delivery.attempts - 1] * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
            values["next_attempt_at"] = func.now() + timedelta(seconds=pause)
        SENT.labels("delivered" if not error else "failed").inc()
        async with self._sessions.begin() as session:
            # Only if it is still this attempt: a replay, or another taker after a stall, has its own.
            mine = (DeliveryRow.id == delivery.id, DeliveryRow.attempts == delivery.attempts)
            await session.execute(update(DeliveryRow).where(*mine, DeliveryRow.state == PENDING).values(values))


def _reason(failure: Exception) -> str:
    # aiohttp's own text of a failed connection leaves out what a resolver had to say.
    cause = failure.os_error if isinstance(failure, aiohttp.ClientConnectorError) else failure
    return str(cause) or str(failure) or type(failure).__name__


def payload(delivery: uuid.UUID, transition: TransitionRow) -> dict[str, object]:
    """What a receiver gets. `id` is the same in every attempt, so that it can tell a repetition."""
    return {
        "id": str(delivery),
        "sequence": transition.id,
        "event": transition.event,
        "at": transition.at.isoformat(),
        "uid": str(transition.uid),
        "namespace": transition.namespace,
        "name": transition.name,
        "org_code": transition.org_code,
        "subject": transition.subject,
        "before": transition.before,
        "after": transition.after,
        "reason": transition.reason,
        "message": transition.message,
        "generation": transition.generation,
    }
