"""Errors of the runner that reach programs and do not need Qiskit to be told apart."""

from __future__ import annotations

from neartime.errors import NeartimeError


class GatewayLost(NeartimeError):
    """A gateway refused, gave up on its provider, or is gone: the circuits were not at fault."""
