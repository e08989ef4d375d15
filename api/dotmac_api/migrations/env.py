"""Alembic's entry: runs on the connection that dotmac_api.migrations hands over."""

from alembic import context

from dotmac_api.models import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
