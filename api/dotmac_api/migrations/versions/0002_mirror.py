"""The mirror, its history and its cursors; webhooks and their deliveries."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def _mirrored(table: str, key: str, *own: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column(key, sa.Uuid(), nullable=False),
        *own,
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("annotations", postgresql.JSONB(), nullable=False),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        sa.Column("observed", postgresql.JSONB(), nullable=False),
        sa.Column("resource_version", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("observed_generation", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deletion_requested_at", TIME, nullable=True),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.Column("mirrored_at", TIME, nullable=False),
        sa.Column("change", sa.BigInteger(), server_default=sa.text("nextval('mirror_changes')"), nullable=False),
        sa.PrimaryKeyConstraint(key, name=op.f(f"pk_{table}")),
    )
    alive = sa.text("deleted_at IS NULL")
    op.create_index(f"ix_{table}_alive", table, ["namespace", "name"], unique=False, postgresql_where=alive)
    op.create_index(f"ix_{table}_change", table, ["change"], unique=False)


def _text(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=null) for name in names]


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("mirror_changes")))
    _mirrored(
        "servers",
        "server_id",
        *_text("hostname", "ssh_user", "status"),
        *_text("ssh_host_key_fingerprint", "base_domain", null=True),
        sa.Column("ssh_port", sa.Integer(), nullable=False),
        sa.Column("last_connected", TIME, nullable=True),
    )
    op.create_index(op.f("ix_servers_status"), "servers", ["status"], unique=False)
    _mirrored(
        "instances",
        "instance_id",
        sa.Column("server_id", sa.Uuid(), nullable=True),
        *_text("org_code", "org_name", "sector_type", "framework", "currency", "admin_email", "admin_username"),
        *_text("status", "plan_id", "release"),
        *_text("server_name", "domain", "app_url", "phase", "deployed_release", "deployed_version", null=True),
    )
    for column in ("org_code", "server_id", "status"):
        op.create_index(op.f(f"ix_instances_{column}"), "instances", [column], unique=False)
    _mirrored("releases", "release_id", *_text("version"), sa.Column("yanked", sa.Boolean(), nullable=False))
    _mirrored(
        "plans", "plan_uid", sa.Column("max_users", sa.Integer(), nullable=True), *_text("max_storage", null=True)
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *_text("event", "namespace", "name", "subject", "reason", "message"),
        *_text("org_code", "before", "after", null=True),
        sa.Column("uid", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("resource_version", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("recorded_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index(op.f("ix_transitions_recorded_at"), "transitions", ["recorded_at"], unique=False)
    op.create_index("ix_transitions_uid_id", "transitions", ["uid", "id"], unique=False)
    op.create_table(
        "mirror_cursors",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("resource_version", sa.BigInteger(), nullable=False),
        sa.Column("current_at", TIME, nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_mirror_cursors")),
    )
    _webhooks()


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.TEXT()), nullable=False),
        sa.Column("organisations", postgresql.ARRAY(sa.TEXT()), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("transition_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["transition_id"],
            ["transitions.id"],
            name=op.f("fk_webhook_deliveries_transition_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    due = sa.text("state = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_due", "webhook_deliveries", ["next_attempt_at"], unique=False, postgresql_where=due
    )
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id", "created_at"], unique=False)


def downgrade() -> None:
    for table in ("webhook_deliveries", "webhooks", "mirror_cursors", "transitions"):
        op.drop_table(table)
    for table in ("plans", "releases", "instances", "servers"):
        op.drop_table(table)
    op.execute(sa.schema.DropSequence(sa.Sequence("mirror_changes")))
