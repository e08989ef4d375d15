"""Every table, imported in one place so that migrations and tests see the whole metadata."""

from dotmac_api.audit import models as audit
from dotmac_api.auth import models as auth
from dotmac_api.database import Base
from dotmac_api.domains import models as domains
from dotmac_api.idempotency import models as idempotency
from dotmac_api.mirror import models as mirror
from dotmac_api.people import models as people
from dotmac_api.rbac import models as rbac
from dotmac_api.scheduler import models as scheduler
from dotmac_api.webhooks import models as webhooks

METADATA = Base.metadata

__all__ = ["METADATA", "audit", "auth", "domains", "idempotency", "mirror", "people", "rbac", "scheduler", "webhooks"]
