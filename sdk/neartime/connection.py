"""What a service, its sessions and its jobs share: loop, HTTP transport, event stream, known programs."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx

from neartime.codec.versions import OLDEST_QPY
from neartime.config import Account
from neartime.contract.jobs import JobAccepted
from neartime.contract.problem import ErrorCode, Fault
from neartime.contract.programs import Manifest, ProgramView
from neartime.contract.streams import StreamAccess
from neartime.errors import EncodeError, InvalidInput, InvalidRequest
from neartime.feed import Callback, Decode, Feed, SessionFeed, Watch
from neartime.loop import shared
from neartime.stream import EventStream
from neartime.transport import Body, Sink, Transport, segment

T = TypeVar("T")
SMALL = 1 << 20
"""Bytes of encoded inputs up to which they are checked against the schema here and sent in one piece."""
FRESH_SECONDS = 60.0
"""How long a program's declaration is taken as known. Only the server refuses on an old one."""


def new_sink() -> Sink[Any]:
    """A sink that decodes a value as it comes."""
    from neartime.codec import Decoder

    return Decoder()


def decode(data: bytes) -> Any:
    from neartime import codec

    return codec.decode(data)


class Connection:
    """One account's way to its server. Made without a word on the network."""

    def __init__(
        self,
        account: Account,
        *,
        verify: bool | str | ssl.SSLContext = True,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.account = account
        self.loop = shared()
        self.transport = Transport(account, verify=verify, http=http)
        self.feed = Feed(EventStream(self._access), self.loop, new_sink, decode, self._saw)
        self.sessions: dict[str, SessionFeed] = {}
        """Readers of the sessions that were opened here."""
        self._programs: dict[str, tuple[float, ProgramView]] = {}
        self.loop.at_exit(self, self._close)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """What the coroutine returns; it runs on the background loop."""
        return self.loop.run(work, timeout)

    def json(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """`Transport.json`, waited for."""
        return self.run(self.transport.json(method, path, body, **options))

    # --- programs

    def program(self, name_or_id: str, *, refresh: bool = False) -> ProgramView:
        """A program's declaration, at most `FRESH_SECONDS` old."""
        known = self._programs.get(name_or_id)
        if known and not refresh and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]
        view = ProgramView.model_validate(self.json("GET", f"/programs/{segment(name_or_id)}"))
        self._programs[name_or_id] = (time.monotonic(), view)
        return view

    def forget_program(self, view: ProgramView) -> None:
        for name in (view.id, view.name):
            self._programs.pop(name, None)

    # --- jobs

    def submit(
        self,
        head: dict[str, Any],
        inputs: dict[str, Any],
        *,
        key: str | None,
        callback: Callback | None,
        interim_decode: Decode | None,
    ) -> tuple[JobAccepted, ProgramView, Watch | None]:
        """Checks the inputs, then sends the job; the watch stands where its events are read already.

        Raises:
            InvalidInput: the inputs are not what the program declares. Nothing was sent, or nothing queued.
        """
        name = head["program_id"]
        params = Params(inputs)
        program = self.program(name)
        if params.faults(program) and (faults := params.faults(program := self.program(name, refresh=True))):
            raise InvalidInput(f"The inputs do not fit program {program.name!r}; nothing was sent.", faults)
        check_pickle(program)
        from neartime import codec

        if (readable := codec.readable_qpy_version()) is not None:
            head["qpy_version"] = readable
        try:
            accepted, watch = self.run(self._submit(head, params, key, callback, interim_decode))
        except InvalidRequest as error:
            self.forget_program(program)
            if all(problem.code is ErrorCode.INVALID_INPUT for problem in error.problems):
                raise InvalidInput(
                    f"The inputs do not fit program {program.name!r}; nothing was queued.",
                    [_fault(problem.path or "inputs", problem.message) for problem in error.problems],
                ) from error
            raise
        return accepted, program, watch

    async def _submit(
        self,
        head: dict[str, Any],
        params: Params,
        key: str | None,
        callback: Callback | None,
        interim_decode: Decode | None,
    ) -> tuple[JobAccepted, Watch | None]:
        session = self.sessions.get(head.get("session_id", ""))
        body = params.body(head)
        if session is None:
            accepted = JobAccepted.model_validate_json(await self.transport.request("POST", "/jobs", body, key=key))
            if callback is None:
                return accepted, None  # most are waited for later, some never
            watch = Watch(accepted.id, accepted.session_id, callback, interim_decode)
            self.feed.follow(watch)
            return accepted, watch
        with session.submission() as add:
            accepted = JobAccepted.model_validate_json(await self.transport.request("POST", "/jobs", body, key=key))
            watch = Watch(accepted.id, accepted.session_id, callback, interim_decode)
            add(watch)
        return accepted, watch

    # --- the stream

    async def _access(self) -> StreamAccess:
        return StreamAccess.model_validate(await self.transport.json("POST", "/streams/token"))

    def _saw(self, sequence: int) -> None:
        self.transport.seen = max(self.transport.seen, sequence)

    async def _close(self) -> None:
        await self.feed.close()
        await self.transport.close()

    def close(self) -> None:
        """Ends all reading and waiting; jobs go on."""
        self.loop.forget(self)
        self.run(self._close())


class Params:
    """A job's inputs on their way: checked, encoded, sent as they were encoded."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._inputs = inputs
        self._qpy_version: int | None = OLDEST_QPY
        """Of circuits: any Qiskit that a program may ask for reads the oldest."""
        try:
            self._whole = self._encode_small()
        except EncodeError:
            self._qpy_version = None  # what the oldest can't hold, the newest may
            self._whole = self._encode_small()

    def _encode_small(self) -> bytes | None:
        """The encoded inputs where they are small."""
        chunks, size = [], 0
        for chunk in self._chunks():
            chunks.append(chunk)
            size += len(chunk)
            if size > SMALL:
                return None
        return b"".join(chunks)

    def _chunks(self) -> Iterator[bytes]:
        from neartime import codec

        return codec.encode_chunks(self._inputs, qpy_version=self._qpy_version, root="inputs")

    def faults(self, program: ProgramView) -> list[Fault]:
        """What is wrong with the inputs: the encoded JSON, as the server sees it, and what is inside opaque values."""
        declared = Manifest.model_validate(program.version.manifest).schemas.inputs
        if declared is None:
            return []
        from neartime import schema

        faults = schema.value_faults(self._inputs, declared)
        if self._whole is not None:
            seen = {fault.path for fault in faults}
            faults = [
                *faults,
                *(one for one in schema.faults(json.loads(self._whole), declared) if one.path not in seen),
            ]
        return faults

    def body(self, head: dict[str, Any]) -> Body:
        """The request: `head` with the inputs as its last field, byte for byte as encoded."""
        start = json.dumps(head).encode()[:-1] + b',"params":'
        if self._whole is not None:
            return start + self._whole + b"}"

        async def pieces() -> AsyncIterator[bytes]:
            yield start
            chunks = self._chunks()
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                yield chunk
            yield b"}"

        return pieces


def check_pickle(program: ProgramView) -> None:
    """Raises IncompatibleVersion where a pickled function is declared to run on a Python that can't read it."""
    manifest = Manifest.model_validate(program.version.manifest)
    if manifest.pickled_with is None or manifest.python is None:
        return
    from packaging.specifiers import SpecifierSet

    from neartime.errors import IncompatibleVersion

    written = manifest.pickled_with.python
    if not SpecifierSet(manifest.python).contains(written):
        raise IncompatibleVersion(
            f"program {program.name!r} is a function pickled by Python {written} and asks for Python "
            f"{manifest.python}: a pickle does not cross minor versions; upload it from that Python, or as a file"
        )


def _fault(path: str, message: str) -> Fault:
    return Fault(path=path, message=message.removeprefix(f"{path}: "))


Maker = Callable[[], Connection]
