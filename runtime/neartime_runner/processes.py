"""Processes: what a forked one has to put right, who dies with whom, and why one died."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_IOLBF: Final = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def fork(entry: Callable[[], None]) -> int:
    """Forks a process that leads a session of its own, runs `entry` and ends; returns its pid.

    It dies with this process. It never returns into the code that forked it, whatever `entry` raises.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        _die_with(parent)
        _reset_signals()
        _draw_anew()
        entry()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def leave(code: int) -> NoReturn:
    """Ends this process at once, without running what it inherited to run at its end."""
    flush()
    os._exit(code)


def flush() -> None:
    """Writes out what Python and the C library hold back of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or replaced by something that can't be flushed
            stream.flush()
    _LIBC.fflush(None)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before this was asked for
            os._exit(1)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _draw_anew() -> None:
    """Random numbers of this process's own; without it every child would draw the same ones."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def take_output(stdout: int, stderr: int) -> None:
    """Makes two descriptors this process's stdout and stderr, for C code and for processes that it starts, too.

    Both are written line by line, by Python and by the C library.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    if sys.platform == "linux":
        _LIBC.setvbuf(ctypes.c_void_p.in_dll(_LIBC, "stdout"), None, _IOLBF, 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def widen(pipe: int, size: int) -> None:
    """Lets a pipe hold so many bytes, where the system allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        except OSError:  # this user's pipes hold all that they may together
            return


def adopt_orphans() -> None:
    """Processes that were started below this one become its children when their parents end, not init's."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def keep_private(on: bool) -> None:
    """Whether other processes of this user, the program's above all, can't read this one's memory. Forks inherit it."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_DUMPABLE, not on, 0, 0, 0)


def wait_for(pid: int) -> int:
    """Waits until a child of this process ends, and leaves it a zombie; reaps others meanwhile.

    Returns its exit code, negative for the signal that killed it.
    """
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # it is, with WNOHANG alone
        if ended.si_pid == pid:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        os.waitpid(ended.si_pid, 0)


def give_way() -> None:
    """Lets other processes finish their slice of time when this one wakes up, instead of taking their place at once.

    Where all cores are busy, a supervisor that has an event to publish would else interrupt the very main() it serves.
    """
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def kill_children(spare: Container[int] = ()) -> None:
    """Ends and reaps all children of this process, and those that become its children by that, but not `spare`."""
    while left := [pid for pid in _children() if pid not in spare]:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """Source: proc(5), `/proc/<pid>/stat`; the name in it may hold anything, so it is read from its end."""
    own, found = str(os.getpid()).encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "stat").read_bytes().rpartition(b")")[2].split()[1] == own:
                found.append(int(entry.name))
    return found


def limit_memory(limit: int) -> None:
    """Bytes of address space that this process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def kill_group(leader: int, number: int) -> None:
    """Sends a signal to a process and to those that it started, as far as they stayed in its group."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def out_of_memory_kills() -> int:
    """How many processes of this process's control group the kernel has killed for memory; 0 where it doesn't say.

    Source: cgroup v2, `memory.events`; cgroup v1, `memory.oom_control`.
    """
    for file in _memory_files():
        try:
            text = file.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0


def _memory_files() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files += [root / path.lstrip("/") / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            memory = root / "memory"
            files += [memory / path.lstrip("/") / "memory.oom_control", memory / "memory.oom_control"]
    return files
