"""The mirror of Backups and Restores."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def _of_instance(table: str, key: str, *own: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column(key, sa.Uuid(), nullable=False),
        *own,
        *_text("instance_name", "status"),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.Column("org_code", sa.Text(), nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        *_text("namespace", "name"),
        *(
            sa.Column(name, postgresql.JSONB(), nullable=False)
            for name in ("labels", "annotations", "spec", "observed")
        ),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("resource_version", "generation", "observed_generation")
        ),
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
    for column in ("instance_id", "instance_name"):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def upgrade() -> None:
    _of_instance("backups", "backup_id", *_text("type"), sa.Column("size_bytes", sa.BigInteger(), nullable=True))
    _of_instance("restores", "restore_id", *_text("backup_name"), sa.Column("backup_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    for table in ("restores", "backups"):
        op.drop_table(table)
