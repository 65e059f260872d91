"""Processes by pid and start time: a pid alone may be another process by the time one reads it.

Source of the fields: proc(5), `/proc/<pid>/stat`; where there is no /proc, ps(1).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neartime_server.executors import addresses

RUNNERS = ({"neartime_runner"}, {"neartime_server", "door"})
"""What the command lines of zygotes and workers, and of doors, name."""
_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, which no later one can be mistaken for."""

    pid: int
    start: str
    """When it began, as the system counts it."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None where none has, or it is a zombie."""
        row = _row(pid)
        return None if row is None else cls(pid, row.start)

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal, if it is still this process. Returns whether it was sent."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


@dataclass(frozen=True)
class _Row:
    """What the system's table of processes says of one."""

    pid: int
    parent: int
    group: int
    """Its session where the system tells, else its process group."""
    start: str
    arguments: tuple[str, ...]


def wait(processes: Iterable[Process], timeout: float) -> list[Process]:
    """Wait until all have ended, or for `timeout` seconds. Returns those that live on."""
    deadline = time.monotonic() + timeout
    left = [process for process in processes if process.alive]
    for process in left:
        _wait_for(process, deadline)
    return [process for process in left if process.alive]


def _wait_for(process: Process, deadline: float) -> None:
    if hasattr(os, "pidfd_open"):
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            return
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if process.alive:  # it is this process that the handle was opened for
                poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(handle)
        return
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.02)


def end(processes: Iterable[Process], grace: float) -> list[Process]:
    """SIGTERM, and SIGKILL for those that live on after `grace` seconds. Returns those that were alive."""
    asked = [process for process in processes if process.signal(signal.SIGTERM)]
    for process in wait(asked, grace):
        process.signal(signal.SIGKILL)
    wait(asked, grace)
    return asked


def runners_of(home: Path) -> list[Process]:
    """Zygotes, workers and doors of a home, and whatever the programs in them have started."""
    rows = {row.pid: row for row in _table()}
    folder = str(home.resolve())
    own = {
        row.pid
        for row in rows.values()
        if any(named.issubset(row.arguments) for named in RUNNERS)
        and any(folder in argument for argument in row.arguments)
    }
    groups = {rows[pid].group for pid in own} & own  # only groups that one of them leads
    grown = True
    while grown:
        more = {row.pid for row in rows.values() if row.pid not in own and (row.parent in own or row.group in groups)}
        own |= more
        grown = bool(more)
    return [Process(pid, rows[pid].start) for pid in sorted(own - {os.getpid()})]


def end_runners(home: Path, grace: float) -> list[Process]:
    """End every zygote and worker of a home. A zygote may fork while it is being ended, so it is looked twice. What
    they left among temporary files goes with them."""
    ended = end(runners_of(home), grace)
    ended += end(runners_of(home), 0.5)
    addresses.remove_folder(home)
    return ended


def _table() -> list[_Row]:
    """This user's processes."""
    if _PROC.joinpath("self", "stat").exists():
        rows = (_row(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
        return [row for row in rows if row is not None]
    return _ps("-axww")


def _row(pid: int) -> _Row | None:
    if not _PROC.joinpath("self", "stat").exists():
        return next(iter(_ps("-ww", "-p", str(pid))), None)
    try:
        if _PROC.joinpath(str(pid)).stat().st_uid != os.geteuid():
            return None
        text = _PROC.joinpath(str(pid), "stat").read_text()
        arguments = _PROC.joinpath(str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    state, parent, session, start = fields[0], int(fields[1]), int(fields[3]), fields[19]
    return None if state in "ZX" else _Row(pid, parent, session, start, tuple(arguments))


def _ps(*options: str) -> list[_Row]:
    columns = "pid=,ppid=,pgid=,uid=,stat=,lstart=,command="
    output = subprocess.run(["ps", *options, "-o", columns], capture_output=True, text=True, check=False).stdout
    rows = []
    for line in output.splitlines():
        pid, parent, group, uid, state, *rest = line.split()
        if int(uid) == os.geteuid() and not state.startswith("Z"):
            rows.append(_Row(int(pid), int(parent), int(group), " ".join(rest[:5]), tuple(rest[5:])))
    return rows
