"""`user_messenger`: what main() is given to say something while it runs."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from neartime.codec import encode_chunks
from neartime.contract.events import CHUNK_SIZE, INLINE_LIMIT
from neartime.contract.programs import Schemas
from neartime.errors import EncodeError, FaultyInput
from neartime_runner.frames import Frame, pack

CHECKED: Final = INLINE_LIMIT
"""Bytes of an encoded value up to which it is checked against its schema; a larger one goes unchecked."""


class InvalidResult(FaultyInput):
    """A result or an interim result is not what the program declares."""


class Wire:
    """The child's way to its supervisor. A frame is whole, whichever thread writes it and whatever signal comes."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.RLock()
        self._interruption: BaseException | None = None
        self.foreign = False
        """Whether this is a process that the program forked: the pipe is not its own."""
        os.register_at_fork(after_in_child=self._disown)

    def send(self, kind: Frame, body: bytes = b"") -> None:
        try:
            with self._lock:
                self._write(pack(kind, body))
        finally:
            if self._interruption is not None and not self._busy():
                self._interrupt()

    def send_value(self, kind: Frame, chunks: Iterator[bytes], check: Callable[[], None] = lambda: None) -> None:
        """An encoded value, chunk by chunk; a small one in one frame. Values of several threads do not mix.

        `check` raises where the value's job has ended while another one was sent.
        """
        if self.foreign:
            raise RuntimeError("user_messenger works in the process that runs main() alone; hand the value back to it")
        try:
            with self._lock:
                check()
                first = next(chunks)
                second = next(chunks, None)
                if second is None and len(first) <= INLINE_LIMIT:
                    self._write(pack(kind, first))
                else:
                    self._write_large(kind, first, second, chunks)
        finally:
            if self._interruption is not None:
                self._interrupt()

    def settle(self) -> None:
        """Returns when no thread is in the middle of a value."""
        with self._lock:
            return

    def interrupt(self, error: BaseException) -> None:
        """Raises `error` in the main thread: here, or when the frame that it is writing is complete.

        Called by a signal's handler, and so in the main thread.
        """
        if self._busy():
            self._interruption = error
        else:
            raise error

    def forget_interruption(self) -> None:
        self._interruption = None

    def _interrupt(self) -> None:
        """Between two frames: what came in the middle of one is raised now, if this is the main thread."""
        error = self._interruption
        if error is not None and threading.current_thread() is threading.main_thread():
            self._interruption = None
            raise error

    def _busy(self) -> bool:
        """Whether this thread is in the middle of something."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # as threading.Condition asks it

    def _write_large(self, kind: Frame, first: bytes, second: bytes | None, rest: Iterator[bytes]) -> None:
        try:
            self._write(pack(Frame.CHUNK, first))
            while second is not None:
                self._write(pack(Frame.CHUNK, second))
                self._interrupt()
                second = next(rest, None)
        except BaseException:
            self._write(pack(Frame.DISCARD))
            raise
        self._write(pack(kind))

    def _write(self, data: bytes) -> None:
        written = os.write(self._pipe, data)
        if written < len(data):
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[os.write(self._pipe, rest) :]

    def _disown(self) -> None:
        self.foreign = True


class UserMessenger:
    """Sends interim results and checkpoints. Any thread of the program may use it while the job runs."""

    def __init__(
        self, wire: Wire, schemas: Schemas, qpy_version: int | None, restore: Callable[[], Any] | None = None
    ) -> None:
        self._wire = wire
        self._schemas = schemas
        self._qpy_version = qpy_version
        self._restore = restore
        self._open = True
        self._final: IO[bytes] | None = None

    def publish(self, message: Any, encoder: type[json.JSONEncoder] | None = None, final: bool = False) -> None:
        """Send an interim result; what it holds may change afterwards, and does not change what was sent.

        Args:
            message: any value of docs/reference/codec.md.
            encoder: a JSON encoder class for what is not listed there; the client then reads plain JSON.
            final: this is the job's result, unless main() returns one. The last one counts.

        Raises:
            EncodeError: something in the value has no wire form; the message gives its path and its type.
            InvalidResult: it is not what the program's schema of interim results declares.
        """
        if not final:
            self._wire.send_value(Frame.INTERIM, self._encoded(message, "interim", encoder), self._check_open)
            return
        self._check_open()
        chunks = self._encoded(message, "result", encoder)
        held = tempfile.SpooledTemporaryFile(max_size=CHUNK_SIZE)  # noqa: SIM115  # until main() returns
        held.writelines(chunks)
        if self._final is not None:
            self._final.close()
        self._final = held

    def checkpoint(self, state: Any) -> None:
        """Save a state from which `restore` lets another attempt go on, should this one's machine be lost.

        Interim results that were published before it are not repeated then.

        Raises:
            EncodeError: something in it has no wire form.
        """
        chunks = encode_chunks(state, qpy_version=self._qpy_version, root="checkpoint")
        self._wire.send_value(Frame.CHECKPOINT, chunks, self._check_open)

    def restore(self) -> Any:
        """The state that an earlier attempt of this job saved last, or None."""
        return self._restore() if self._restore is not None else None

    def finish(self, value: Any) -> None:
        """Sends the job's result: what main() returned, or else what it published as final.

        Raises:
            EncodeError, InvalidResult: as for `publish`.
        """
        self._open = False
        if value is None and self._final is not None:
            held = self._final
            held.seek(0)
            self._wire.send_value(Frame.RESULT, iter(lambda: held.read(CHUNK_SIZE), b""))
        else:
            self._wire.send_value(Frame.RESULT, self._encoded(value, "result", None))

    def close(self) -> None:
        """From now on it sends nothing; returns when no thread is in the middle of a value."""
        self._open = False
        self._wire.settle()
        if self._final is not None:
            self._final.close()

    def _encoded(self, value: Any, what: str, encoder: type[json.JSONEncoder] | None) -> Iterator[bytes]:
        try:
            chunks = encode_chunks(value, qpy_version=self._qpy_version, root=what)
        except EncodeError:
            if encoder is None:
                raise
            chunks = encode_chunks(json.loads(json.dumps(value, cls=encoder)), root=what)
        schema = getattr(self._schemas, what)
        return chunks if schema is None else _checked(chunks, schema, what)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("its job has ended; join the program's threads before main() returns")


def _checked(chunks: Iterator[bytes], schema: dict[str, Any], what: str) -> Iterator[bytes]:
    from neartime.schema import faults

    first = next(chunks)
    second = next(chunks, None)
    if second is None and len(first) <= CHECKED and (found := faults(json.loads(first), schema, root=what)):
        raise InvalidResult(f"the {what} is not what the program declares", found)
    yield first
    if second is not None:
        yield second
        yield from chunks
