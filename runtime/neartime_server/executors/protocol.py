"""What an executor is: it starts workers, stops them, and says what it sees of them. Jobs are none of its business."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neartime.contract.jobs import ReasonCode
from neartime.contract.launch import Launch


@dataclass(frozen=True)
class Running:
    """This worker runs."""

    worker_id: str


@dataclass(frozen=True)
class Exited:
    """This worker has ended. Said again to whoever observes anew, until it is told to be forgotten."""

    worker_id: str
    exit_code: int | None
    """Negative for the signal that killed it; None where nobody knows."""
    reason_code: ReasonCode | None
    """None where it ended in good order, or because it was stopped."""
    reason: str | None


@dataclass(frozen=True)
class Synced:
    """All that runs, and all that has ended and was not forgotten, was said before this."""

    complete: bool = True
    """False where something that may run workers could not be asked: then who was not named may run all the same."""


Observed = Running | Exited | Synced


class Place(Protocol):
    """What a worker is started in, as an executor sees it; `builder.Built` is one."""

    @property
    def digest(self) -> str | None:
        """Of the environment; None for the server's own."""

    @property
    def image(self) -> str | None:
        """Reference of the image that has all of it; None for one of this machine."""

    @property
    def python(self) -> Path:
        """Its interpreter."""


class Executor(Protocol):
    """Workers live on when an executor is closed, or its server dies; the next one finds them."""

    async def start(self, launch: Launch, environment: Place) -> None:
        """Start a worker; returns when it runs, which is before it is ready. One that runs is not started twice.

        Raises:
            ExecutorError: it can't be started; the message says why.
        """

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        """End a worker and whatever its program has started: SIGTERM, and SIGKILL after `grace` seconds.

        Returns when that has happened, and was said; of one that does not run, it is said that it has ended.

        Raises:
            ExecutorError: it could not be ended.
        """

    def observe(self) -> AsyncIterator[Observed]:
        """What runs and what has ended, then `Synced`, then what changes, for ever.

        Raises:
            ExecutorError: nothing can be seen for now; observe again.
        """

    async def prepare(self, environment: Place) -> None:
        """Have ready what makes the first worker of an environment start fast.

        Raises:
            ExecutorError: no worker can be started there.
        """

    async def stand_by(self, environment: Place) -> None:
        """Prepare what programs without requirements run in, and have workers stand by in it where that is wanted.

        Raises:
            ExecutorError: no worker can be started there.
        """

    async def forget(self, worker_id: str) -> None:
        """The end of this worker has been taken note of."""

    async def close(self) -> None:
        """Stop observing. Workers go on."""
