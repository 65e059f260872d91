"""The tables. Times are UTC, naive in the database; payloads are blobs, never columns."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Id = String(20)
Digest = String(71)

instances = Table(
    "instances",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("weight", Float, nullable=False, default=1.0),  # its part of a backend, beside others'
    # Its own limits: NULL is the server's, NO_LIMIT none.
    Column("running_jobs", Integer),
    Column("live_jobs", Integer),
    Column("open_sessions", Integer),
    Column("seconds_per_day", Integer),
    Column("created", DateTime, nullable=False),
    Column("ended", DateTime),
)

shares = Table(
    "shares",
    metadata,
    Column("instance_id", Id, ForeignKey("instances.id"), primary_key=True),
    Column("backend", String(63), primary_key=True),
    Column("seconds", Float, nullable=False),  # used, decayed until `as_of`
    Column("as_of", DateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id"), nullable=False, index=True),
    Column("name", String(63), nullable=False),
    Column(
        "digest", String(64), nullable=False, unique=True
    ),  # HMAC-SHA-256 of the token, keyed by the operator's secret
    Column("role", String(16), nullable=False),  # user | operator
    Column("created", DateTime, nullable=False),
    Column("expires", DateTime),
    Column("ended", DateTime),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the whole, hexadecimal
    Column("content", Id, nullable=False, unique=True),  # whose chunks these are
    Column("size", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("created", DateTime, nullable=False),  # when it was last put
)

# A value is written chunk by chunk before its digest is known, so chunks hang on an id of their own. Ones whose id no
# blob has are of a value that is being written, or whose writer died.
blob_chunks = Table(
    "blob_chunks",
    metadata,
    Column("content", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

programs = Table(
    "programs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id"), nullable=False),
    Column("name", String(63), nullable=False),
    Column("description", Text, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("created", DateTime, nullable=False),
    Column("updated", DateTime, nullable=False),
    Column("live", Boolean),  # NULL once deleted, so that the name is free again
    Column("version_id", Id),  # the newest that is ready
    UniqueConstraint("instance_id", "name", "live"),
)

program_versions = Table(
    "program_versions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("program_id", Id, ForeignKey("programs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Digest, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("archive", String(64), ForeignKey("blobs.digest"), nullable=False),
    Column("environment", Digest),  # NULL for the server's own
    Column("lock", Text),  # the resolved requirements
    Column("image", Text),  # registry/repository@sha256:…
    Column("build", String(16), nullable=False),
    Column("build_log", Text),
    Column("created", DateTime, nullable=False),
    UniqueConstraint("program_id", "number"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id"), nullable=False),
    Column("backend", String(63), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("max_ttl", Integer, nullable=False),
    Column("interactive_ttl", Integer, nullable=False),
    Column("created", DateTime, nullable=False),
    Column("started", DateTime),
    Column("last_activity", DateTime, nullable=False),
    Column("closed", DateTime),
    Column("reason", Text),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("quantum_seconds", Float, nullable=False, default=0.0),
    Index("ix_sessions_open", "state", "backend"),
    Index("ix_sessions_instance", "instance_id", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id"), nullable=False),
    Column("session_id", Id, ForeignKey("sessions.id"), nullable=False, index=True),
    Column("program_id", Id, ForeignKey("programs.id"), nullable=False),
    Column("version_id", Id, ForeignKey("program_versions.id"), nullable=False),
    Column("backend", String(63), nullable=False),
    # --- asked for
    Column("inputs", String(64), ForeignKey("blobs.digest"), nullable=False),
    Column("tags", Text, nullable=False, default="[]"),  # JSON list; job_tags is for the search
    Column("log_level", String(16), nullable=False),
    Column("max_execution_time", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("qpy_version", Integer),
    # --- folded from events, by the projector alone
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("reason_code", String(32)),
    Column("created", DateTime, nullable=False),
    Column("started", DateTime),
    Column("ended", DateTime),
    Column("interims", Integer, nullable=False, default=0),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("quantum_seconds", Float, nullable=False, default=0.0),
    Column("sequence", BigInteger, nullable=False, default=0),  # position in JOBS that the row reflects
    Column("result", String(64)),  # blob
    Column("interim_archive", String(64)),  # blob, written when the job has ended
    Column("log_archive", String(64)),  # blob, written when the job has ended
    # --- the scheduler's
    Column("attempt", Integer, nullable=False, default=1),
    Column("priority", Integer, nullable=False, default=0, server_default="0"),  # an operator's
    Column("worker_id", Id),  # the worker that was told to start it
    Column("not_before", DateTime),  # of an attempt that waits
    Column("cancel_code", String(32)),  # what was asked for, until the job has ended
    Column("cancel_reason", Text),
    Column("checkpoint", String(64)),  # blob
    Column("checkpoint_interims", Integer, nullable=False, default=0),
    Index("ix_jobs_status", "status", "backend", "id"),
    Index("ix_jobs_instance", "instance_id", "id"),
)

job_tags = Table(
    "job_tags",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(86), primary_key=True),
    Index("ix_job_tags_tag", "tag", "job_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id"), nullable=False),
    Column("session_id", Id, ForeignKey("sessions.id"), nullable=False, index=True),
    Column("version_id", Id, ForeignKey("program_versions.id"), nullable=False),
    Column("state", String(16), nullable=False),  # starting | ready | stopping | gone
    Column("user_key", String(64), nullable=False),  # public key of its NATS user, for the revocation
    Column("expires", DateTime, nullable=False),  # of its NATS credential
    Column("created", DateTime, nullable=False),
    Column("ended", DateTime),
    Column("exit_code", Integer),
    Column("reason_code", String(32)),
    Column("reason", Text),
    Index("ix_workers_state", "state"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("instance_id", Id, ForeignKey("instances.id"), primary_key=True),
    Column("user_key", String(64), primary_key=True),
    Column("revoked", DateTime, nullable=False),
    Column("expires", DateTime, nullable=False),  # the row is pruned then: the credential is dead anyway
)

positions = Table(
    "positions",
    metadata,
    Column("instance_id", Id, ForeignKey("instances.id"), primary_key=True),
    Column("stream", String(8), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("instance_id", Id, ForeignKey("instances.id"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("request", String(64), nullable=False),  # SHA-256 of method, path and body
    Column("status", Integer, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created", DateTime, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", Id, nullable=False),
    Column("expires", DateTime, nullable=False),
)
