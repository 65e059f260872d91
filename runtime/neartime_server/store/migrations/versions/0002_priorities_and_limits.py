"""Priorities of jobs, and limits of an instance's own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("running_jobs", "live_jobs", "open_sessions", "seconds_per_day"):
        op.add_column("instances", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
