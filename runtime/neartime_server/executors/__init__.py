"""Executors start workers where they can run: as processes of this machine, for now."""

from neartime_server.executors.process import ProcessExecutor
from neartime_server.executors.protocol import Executor, Exited, Observed, Place, Running, Synced

__all__ = ["Executor", "Exited", "Observed", "Place", "ProcessExecutor", "Running", "Synced"]
