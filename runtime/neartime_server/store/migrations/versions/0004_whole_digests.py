"""Digests of environments with what they begin with: PostgreSQL refuses a text that is longer than its column."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("program_versions") as table:
        table.alter_column("environment", type_=sa.String(length=71), existing_type=sa.String(length=64))
