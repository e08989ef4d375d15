"""The table of idempotency keys; the kept answer is encrypted, since it may hold a key that is shown once."""

import uuid
from datetime import datetime

from sqlalchemy import LargeBinary, func
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base


class IdempotencyKey(Base):
    """A key of one person. `status` is None while the first request runs."""

    __tablename__ = "idempotency_keys"

    person_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    status: Mapped[int | None]
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
