"""Why a worker ended, from what its system says of the end."""

from __future__ import annotations

import signal
from pathlib import Path

from neartime.contract.jobs import ReasonCode
from neartime_server.executors.protocol import Exited


def of_exit(worker_id: str, exit_code: int, *, stopped: bool, out_of_memory: bool) -> Exited:
    """What is to be said of a worker that ended with this code, negative for a signal.

    Args:
        stopped: whether the executor was asked to end it.
        out_of_memory: whether the kernel has killed a process of this control group for memory meanwhile.
    """
    if exit_code == 0:
        return Exited(worker_id, 0, None, None)
    if stopped:
        return Exited(worker_id, exit_code, None, "it was stopped")
    if exit_code == -signal.SIGKILL and out_of_memory:
        reason = "its worker was killed by the system, which had no memory left for it"
        return Exited(worker_id, exit_code, ReasonCode.OUT_OF_MEMORY, reason)
    return Exited(worker_id, exit_code, ReasonCode.WORKER_LOST, f"its worker {how(exit_code)}")


def of_zygote(worker_id: str, exit_code: int | None) -> Exited:
    """What is to be said of a worker that went with its zygote; None where it is not known how that ended."""
    ended = "is gone" if exit_code is None else how(exit_code)
    reason = f"the zygote that its worker was forked from {ended}, and its worker with it"
    return Exited(worker_id, None, ReasonCode.WORKER_LOST, reason)


def of_container(exit_code: int) -> int:
    """A container's exit code as that of its first process, negative for the signal that killed it.

    An engine says 128 and the signal's number for those, too. A worker itself ends with such a code for SIGTERM alone.
    """
    killed = 128 < exit_code <= 128 + signal.SIGRTMAX and exit_code != 128 + signal.SIGTERM
    return 128 - exit_code if killed else exit_code


def how(exit_code: int) -> str:
    """`was killed by SIGKILL`, `ended by SIGTERM`, `ended with exit code 3`."""
    number = -exit_code if exit_code < 0 else exit_code - 128  # above 128 it ended by itself when it was told to
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"was killed by signal {number}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return f"was killed by {name}" if exit_code < 0 else f"ended by {name}"


def memory_kills() -> int:
    """How many processes of this process's control group the kernel has killed for memory; 0 where it doesn't say.

    Source: cgroup v2, `memory.events`; cgroup v1, `memory.oom_control`.
    """
    root, total = Path("/sys/fs/cgroup"), 0
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return 0
    for _, controllers, path in groups:
        if not controllers:
            file = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            file = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
