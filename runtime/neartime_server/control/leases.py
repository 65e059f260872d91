"""Who has a backend now: what gateways ask before they run circuits, and while they do.

The schedule has decided it already, and the store says so: a job that a worker was given has the backend of its
session, until it is final or to be cancelled. Nothing of it is what the worker says.
"""

from __future__ import annotations

from sqlalchemy import Connection

from neartime.contract.gateways import Lease, LeaseAsked
from neartime.contract.sessions import SessionMode
from neartime.contract.subjects import backend_token
from neartime_server.backends import Backends
from neartime_server.store import jobs, sessions


def find(connection: Connection, *, backends: Backends, backend: str, question: LeaseAsked) -> Lease:
    """Whether a worker may use a backend, which is named as in subjects."""
    row = jobs.of_worker(connection, question.instance_id, question.worker_id)
    if row is None:
        return Lease(held=False, reason="no job runs that could use the backend now: the job before has ended")
    if row.session_id != question.session_id or backend_token(row.backend) != backend:
        return Lease(held=False, reason="its session does not have this backend")
    if row.cancel_code is not None:
        return Lease(held=False, reason=f"its job is to end: {row.cancel_reason}")
    session = sessions.find(connection, question.instance_id, row.session_id)
    dedicated = session is None or session.mode == SessionMode.DEDICATED.value
    if row.backend not in backends.names():
        return Lease(held=False, reason=f"the backend {row.backend!r} is not offered any more")
    return Lease(held=True, alone=dedicated or backends.get(row.backend).parallelism == 1)
