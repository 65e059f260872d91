"""One instance's account: its two streams, what is published there, and what its workers are told and say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg
from pydantic import BaseModel, ValidationError

from neartime.contract import launch, subjects
from neartime.contract.events import Envelope
from neartime.contract.ids import is_id
from neartime.contract.launch import Answer, Beat, Fetch, NatsAccess
from neartime.errors import NeartimeError
from neartime.stream import Line, Link
from neartime.stream.link import AWAY, Refusal
from neartime_server.bus.accounts import REQUEST_SECONDS, own_access
from neartime_server.bus.keys import Keys
from neartime_server.bus.telling import Telling
from neartime_server.errors import BusError, NoAnswer
from neartime_server.settings import Settings

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

COMMAND_SECONDS: Final = 3.0
"""How long a worker may take to answer a command."""
REMEMBERED: Final = 4096
"""Workers whose newest counter and key are kept in mind, whether they live or not: some 400 bytes each."""
NEARLY_FULL: Final = 0.7
"""Of `BULK`'s bytes: from there on, what is in the store too has to go."""
PURGED_AT_ONCE: Final = 500
"""Jobs; the others have their turn at the next look."""
_NAME_IN_USE: Final = 10058
"""JetStream's code for a stream that is there, and is configured otherwise."""

OnBeat = Callable[[str, Beat], Awaitable[None]]
OnFetch = Callable[[str, str, Fetch], Awaitable[bytes]]


class Tenant:
    """`beat` and `fetch` hear what the instance's workers say, once it is known to be theirs."""

    def __init__(
        self, settings: Settings, keys: Keys, url: str, instance_id: str, *, beat: OnBeat, fetch: OnFetch
    ) -> None:
        self._settings, self._keys, self._instance_id = settings, keys, instance_id
        self._url, self._beat, self._fetch = url, beat, fetch
        self._heard: dict[str, int] = {}
        self._control_keys: dict[str, str] = {}
        self._counter = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._line = Line(self._access, name="neartime control", opened=self._opened)
        self._telling = Telling()

    async def _access(self) -> NatsAccess:
        return own_access(self._keys.account(self._instance_id), self._url)

    async def open(self) -> None:
        """Connects, makes the streams where they are not there, and begins to listen.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._line.link()
        except (TimeoutError, NeartimeError) as error:
            raise BusError(f"the account of instance {self._instance_id} can't be reached: {error!r}") from error

    async def close(self) -> None:
        self._telling.cancel()
        await self._line.close()
        for task in self._tasks:
            task.cancel()

    async def link(self) -> Link:
        """The connection; waits for as long as NATS is away."""
        return await self._line.link()

    async def _opened(self, link: Link) -> None:
        link.listen(lambda: self._returned(link))
        await self._ensure_streams(link)
        await link.client.subscribe(subjects.beat("*"), cb=self._hear_beat)
        await link.client.subscribe(subjects.fetch("*"), queue="control", cb=self._hear_fetch)

    def _returned(self, link: Link) -> None:
        if link.client.is_connected:
            self._telling.spawn(lambda: self._ensure_streams(link), link)

    async def _ensure_streams(self, link: Link) -> None:
        for config in stream_configs(self._settings):
            await _ensure_stream(link, config)

    async def delete_streams(self) -> None:
        """Raises BusError where NATS does not answer, or refuses."""
        for name in subjects.STREAM_SUBJECTS:
            await self._api(f"STREAM.DELETE.{name}")

    # --- what is said to the instance

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        """Stores an event; its sequence in the stream.

        Raises:
            BusError: it was not stored, or not acknowledged.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                link = await self._line.link()
                stored = await link.client.jetstream(timeout=REQUEST_SECONDS).publish(subject, body, headers=headers)
        except (*AWAY, NeartimeError) as error:
            raise BusError(f"an event could not be stored on {subject}: {error!r}") from error
        return int(stored.seq)

    async def command(self, worker_id: str, command: BaseModel, body: bytes) -> Answer:
        """Says it to a worker, signed, and hears its signed answer.

        Raises:
            NoAnswer: it did not answer, or somebody else did.
        """
        subject, key = subjects.control(worker_id), self._keys.control_key(worker_id)
        # Above every counter of a server before this one; a worker never hears the same one twice.
        self._counter = counter = max(self._counter + 1, time.time_ns())
        headers = launch.signed_headers(key, subject, counter, launch.encode_command(command), body)
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                link = await self._line.link()
                reply = await link.client.request(subject, body, timeout=COMMAND_SECONDS, headers=headers)
        except (*AWAY, NeartimeError) as error:
            raise NoAnswer(f"worker {worker_id} does not answer: {error!r}") from error
        valid = launch.verify(key, subject, reply.headers, reply.data, counter - 1)
        if valid is None or valid[1] != counter:
            raise NoAnswer(f"what answered for worker {worker_id} was not that worker")
        try:
            return Answer.model_validate_json(valid[0])
        except ValidationError as error:
            raise NoAnswer(f"worker {worker_id} gave an answer that is none: {error}") from error

    async def last_sequence(self, stream: str) -> int:
        """Of the newest message in a stream."""
        return int((await self._api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])

    async def nearly_full(self) -> bool:
        """Whether old logs and large values had better go."""
        state = (await self._api(f"STREAM.INFO.{subjects.BULK}"))["state"]
        return int(state["bytes"]) > NEARLY_FULL * self._settings.bulk_stream_bytes

    async def make_room(self, needed: Collection[tuple[str, str]]) -> int:
        """Lets go of logs and large values of all jobs but these (session id, job id): all at once of those before the
        first one's, then job by job until there is room. How many messages went."""
        keep = await self.last_sequence(subjects.BULK) + 1
        for session_id, job_id in needed:
            keep = min(keep, await self._first(f"job.{session_id}.{job_id}.>") or keep)
        purged = await self._purge({"seq": keep})
        if needed and await self.nearly_full():
            spared = {f"job.{session_id}.{job_id}" for session_id, job_id in needed}
            info = await self._api(f"STREAM.INFO.{subjects.BULK}", {"subjects_filter": "job.>"})
            found = {".".join(subject.split(".")[:3]) for subject in info["state"].get("subjects") or {}}
            for job in sorted(found - spared)[:PURGED_AT_ONCE]:
                purged += await self._purge({"filter": f"{job}.>"})
        return purged

    async def _purge(self, what: dict[str, Any]) -> int:
        return int((await self._api(f"STREAM.PURGE.{subjects.BULK}", what))["purged"])

    async def _first(self, subject: str) -> int | None:
        """Sequence of the first message on subjects that match, in `BULK`."""
        try:
            found = await self._api(f"STREAM.MSG.GET.{subjects.BULK}", {"seq": 1, "next_by_subj": subject})
        except BusError as error:
            if isinstance(error.__cause__, Refusal) and error.__cause__.status == 404:
                return None
            raise
        return int(found["message"]["seq"])

    async def _api(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises BusError where NATS does not answer, or refuses."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await (await self._line.link()).api(call, body)
        except (*AWAY, NeartimeError) as error:
            raise BusError(f"{call} of instance {self._instance_id} failed: {error!r}") from error

    # --- what the instance's workers say

    async def _hear_beat(self, message: Msg) -> None:
        beat = self._said(message, Beat)
        if beat is not None and beat.worker_id == message.subject.rpartition(".")[2]:
            await self._beat(self._instance_id, beat)

    async def _hear_fetch(self, message: Msg) -> None:
        fetch = self._said(message, Fetch)
        worker_id = message.subject.rpartition(".")[2]
        # A reply subject of its choosing would let a worker store what it fetched as an event of another job.
        if fetch is not None and message.reply.startswith(f"{subjects.inbox(worker_id)}."):
            task = asyncio.create_task(self._answer(message, worker_id, fetch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg, worker_id: str, fetch: Fetch) -> None:
        try:
            body = await self._fetch(self._instance_id, worker_id, fetch)
            await message.respond(body)
        except Exception as error:  # the worker asks again
            log.warning("a chunk for worker %s could not be had: %r", worker_id, error)

    def _said(self, message: Msg, kind: type[M]) -> M | None:
        """What a worker said; None where it was not that worker, or was said before."""
        worker_id = message.subject.rpartition(".")[2]
        if not is_id(worker_id):
            return None
        key = self._control_keys.get(worker_id) or self._keys.control_key(worker_id)
        headers: Any = message.headers
        valid = launch.verify(key, message.subject, headers, message.data, self._heard.get(worker_id, 0))
        if valid is None:
            log.debug("a message on %s was not signed by its worker, or not new", message.subject)
            return None
        self._heard.pop(worker_id, None)
        self._heard[worker_id], self._control_keys[worker_id] = valid[1], key
        if len(self._heard) > REMEMBERED:
            oldest = next(iter(self._heard))
            del self._heard[oldest], self._control_keys[oldest]
        try:
            return kind.model_validate_json(valid[0])
        except ValidationError as error:
            log.warning("worker %s said what is no %s: %s", worker_id, kind.__name__, error)
            return None


def stream_configs(settings: Settings) -> list[dict[str, Any]]:
    """What an instance's streams are.

    `JOBS` lets go of the oldest when it is full: by then the store has folded them. `BULK` refuses what is new, so that
    a job that writes too much hears of it and can say so in `JOBS`.
    """
    sizes = {subjects.JOBS: (settings.jobs_stream_bytes, "old"), subjects.BULK: (settings.bulk_stream_bytes, "new")}
    return [
        {
            "name": name,
            "subjects": subjects.STREAM_SUBJECTS[name],
            "storage": "file",
            "retention": "limits",
            "discard": discard,
            "max_bytes": size,
            "max_age": int(settings.stream_max_age * 1e9),
            "max_msgs": -1,
            "max_consumers": -1,
            "num_replicas": settings.stream_replicas,
            "duplicate_window": int(min(120.0, settings.stream_max_age) * 1e9),
            "deny_delete": True,
            "allow_direct": False,
        }
        for name, (size, discard) in sizes.items()
    ]


async def _ensure_stream(link: Link, config: dict[str, Any]) -> None:
    try:
        await link.api(f"STREAM.CREATE.{config['name']}", config)
    except Refusal as error:
        if error.code != _NAME_IN_USE:
            raise
        await link.api(f"STREAM.UPDATE.{config['name']}", config)


def event_headers(envelope: Envelope, job_id: str, kind: str) -> dict[str, str]:
    """The headers of an event, with the stream that its kind goes to."""
    return envelope.headers(job_id, subjects.BULK if kind == "log" else subjects.JOBS)
