"""Starts API servers that kill themselves: at a line of their own code that was drawn for them, with SIGKILL.

    python doomed.py    reads orders from standard input, a JSON object a line, and carries out one after the other

A server is forked from this process, which has imported everything, so that it takes requests within a moment. It is
the ordinary server in all but one thing: its interpreter counts the lines that it runs in the rooms named in `ROOMS`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import neartime_server
from neartime_server.app import serve
from neartime_server.settings import Settings

ROOMS = ("control", "store", "executors", "bus", "builder")
_SERVER = Path(neartime_server.__file__).parent
_PATIENCE = 1500
"""Lines that a server which has run its own may still run before it comes to a function where none has died yet."""


@dataclass
class Order:
    """A server to start."""

    ready: str
    """File that says when it takes requests."""
    place: str
    """File that says where it died, or how many lines it had run when it ended by itself."""
    port: int = 0
    lines: int = 0
    """At which line it dies; 0 for one that lives."""
    wait: bool = False
    """Whether lines count from SIGUSR2 on, rather than from the start."""
    rooms: list[str] = field(default_factory=lambda: list(ROOMS))
    """Where lines count."""
    spared: list[str] = field(default_factory=list)
    """Functions where others have died: it goes on until it is elsewhere, for a while."""


class Doom:
    """Counts the lines that are run, in every thread, and kills this process at the one that was ordered."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folders = tuple(f"{_SERVER / room}{os.sep}" for room in order.rooms)
        self._spared = set(order.spared)
        self._watched: dict[CodeType, bool] = {}
        self._counts = not order.wait
        self._dying = threading.Lock()
        self.run = 0

    def begin(self) -> None:
        signal.signal(signal.SIGUSR2, self._count)
        threading.settrace(self._called)
        sys.settrace(self._called)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._counts = True

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        watched = self._watched.get(code)
        if watched is None:
            watched = self._watched[code] = code.co_filename.startswith(self._folders)
        return self._ran if watched else None

    def _ran(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and self._counts:
            self.run += 1
            late = self.run - self._order.lines
            if self._order.lines and late >= 0 and (late > _PATIENCE or name_of(frame.f_code) not in self._spared):
                self._die(frame)
        return self._ran

    def _die(self, frame: FrameType) -> None:
        if self._dying.acquire(blocking=False):
            died = {"function": name_of(frame.f_code), "line": frame.f_lineno, "run": self.run}
            Path(self._order.place).write_text(json.dumps(died))
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # another thread dies with the first, and runs no further line


def name_of(code: CodeType) -> str:
    """`control/workers.py Workers._launch`"""
    return f"{Path(code.co_filename).relative_to(_SERVER)} {code.co_qualname}"


def _serve(order: Order) -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    doom = Doom(order)
    doom.begin()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # where uvicorn hands it on, when it has ended
    try:
        serve(Settings.read(port=order.port), Path(order.ready))
    finally:
        Path(order.place).write_text(json.dumps({"run": doom.run}))


def main() -> None:
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(2, 1)  # what this process says on standard output is the orders' answer alone
            os.close(0)
            try:
                _serve(order)
                os._exit(0)
            except SystemExit:
                os._exit(0)
            except BaseException:
                logging.exception("the server failed")
            os._exit(1)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def encode(order: Order) -> str:
    return json.dumps(asdict(order))


if __name__ == "__main__":
    main()
