"""The process that runs main(): one job after the other, in a Python that stays warm between them."""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import logging
import os
import select
import signal
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from neartime.codec import Decoder
from neartime.contract.jobs import ReasonCode
from neartime.contract.programs import Manifest
from neartime.errors import DecodeError, EncodeError, IncompatibleVersion, InvalidInput, JobCancelled
from neartime_runner import backend, processes, relay, tracebacks
from neartime_runner.backend import BackendFailed
from neartime_runner.failures import GatewayLost
from neartime_runner.frames import HEADER, STOP_SIGNAL, Begin, Done, Frame, Logged, Setup, Stop, mark_bytes
from neartime_runner.load import Program, load
from neartime_runner.messenger import InvalidResult, UserMessenger, Wire

LOGGED_LIMIT: Final = 64 << 10
"""Characters of one record of `logging`; the rest is left out."""
SUPERVISOR_VARIABLE: Final = "NEARTIME_SUPERVISOR_PID"


def run(commands: int, frames: int, stdout: int, stderr: int, gateway: int | None = None) -> None:
    """Serves the supervisor at the other ends of these pipes, until it closes `commands`. `gateway` is where circuits
    go that do not run here."""
    Child(commands, frames, stdout, stderr, gateway).serve()


class Child:
    def __init__(self, commands: int, frames: int, stdout: int, stderr: int, gateway: int | None) -> None:
        self._commands, self._gateway = commands, gateway
        self._wire = Wire(frames)
        self._output = (os.dup(stdout), os.dup(stderr))
        """The pipes, whatever a program makes of descriptors 1 and 2."""
        processes.take_output(stdout, stderr)
        self._streams = (sys.stdout, sys.stderr)
        self._process = os.getpid()
        self._handler = _ToSupervisor(self._wire)
        self._meter = backend.Meter()
        self._program: Program | None = None
        self._backend: Any = None
        self._running = False
        """Whether a STOP raises in the main thread."""
        self._stopped: Stop | None = None

    def serve(self) -> None:
        frame = self._next()
        if frame is None:
            return
        self._setup = setup = Setup.model_validate_json(frame[1])
        self._manifest = Manifest.model_validate(setup.manifest)
        os.environ[SUPERVISOR_VARIABLE] = str(setup.supervisor)
        os.chdir(setup.path)
        if setup.memory is not None:
            processes.limit_memory(setup.memory)
        sys.argv[:] = [""]
        faulthandler.enable()  # a crash in native code says where, in the job's log
        while (frame := self._next()) is not None:
            kind, body = frame
            if kind is Frame.START:  # a STOP here was for a job that has ended meanwhile
                self._run(Begin.model_validate_json(body))

    # --- one job

    def _run(self, begin: Begin) -> None:
        self._prepare(begin)
        threads = set(threading.enumerate())
        done = self._attempt(begin)
        if left := [thread.name for thread in threading.enumerate() if thread not in threads and not _pooled(thread)]:
            self._tell(f"threads that main() left behind run on: {', '.join(left)}")
        processes.flush()
        for descriptor in self._output:
            _write_all(descriptor, mark_bytes(begin.mark))
        self._wire.send(Frame.DONE, done.model_dump_json().encode())

    def _prepare(self, begin: Begin) -> None:
        self._stopped = None
        signal.signal(STOP_SIGNAL, self._hear_stop)
        for descriptor, target in zip(self._output, (1, 2), strict=True):
            os.set_blocking(descriptor, True)
            os.dup2(descriptor, target)
        sys.stdout, sys.stderr = self._streams = _reopened(self._streams)
        root, level = logging.getLogger(), begin.log_level.upper()
        self._handler.setLevel(level)
        root.setLevel(level)
        root.handlers[:] = [self._handler, *(one for one in root.handlers if one is not self._handler)]

    def _attempt(self, begin: Begin) -> Done:
        inputs, state = Decoder(), Decoder()
        damaged: DecodeError | None = None
        while True:
            frame = self._next()
            if frame is None:
                processes.leave(0)
            kind, body = frame
            if kind is Frame.GO:
                break
            if kind is Frame.STOP:
                stop = Stop.model_validate_json(body)
                return Done(code=stop.code, reason=stop.reason)
            try:
                if damaged is None:
                    (state if kind is Frame.STATE else inputs).feed(body)
            except DecodeError as error:
                damaged = error
        messenger = UserMessenger(
            self._wire, self._manifest.schemas, begin.qpy_version, _restorer(state) if begin.resumed else None
        )
        self._meter.reset()
        began = 0.0
        try:
            self._running = True
            try:
                self._heed()
                program, machine = self._load()
                if damaged is not None:
                    raise damaged
                main = program.bound(machine, messenger, self._values(inputs))
                began = time.monotonic()
                value = main()
                if os.getpid() != self._process:
                    processes.leave(0)  # one that the program forked has come back from main()
                messenger.finish(value)
                done = Done()
            finally:
                self._running = False
        except BaseException as error:
            self._wire.forget_interruption()
            done = self._failed(error)
            if os.getpid() != self._process:
                processes.leave(1)
        messenger.close()
        if began:
            done.seconds, done.quantum_seconds = time.monotonic() - began, self._meter.seconds
        return done

    def _load(self) -> tuple[Program, Any]:
        folder = Path(self._setup.path)
        if self._program is None:
            self._program = load(self._manifest, folder)
        if self._backend is None:
            way = self._gateway
            made = backend.build(self._setup.backend) if way is None else self._remote(way)
            self._meter.watch(made)
            self._backend = made
        return self._program, self._backend

    def _remote(self, way: int) -> Any:
        """The backend behind a gateway."""
        if importlib.util.find_spec("qiskit") is None:
            raise BackendFailed(f"the backend {self._setup.backend.name!r} needs Qiskit in the program's environment")
        from neartime_runner.remote import RemoteBackend

        return RemoteBackend(self._setup.backend, functools.partial(relay.ask, way))

    def _values(self, inputs: Decoder) -> dict[str, Any]:
        """The inputs.

        Raises:
            InvalidInput: they can't be read, or are not what the program declares.
        """
        try:
            values = inputs.finish()
        except DecodeError as error:
            raise InvalidInput(f"the inputs can't be read: {error}") from error
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise InvalidInput("the inputs are no dictionary of names and values")
        schema = self._manifest.schemas.inputs
        if schema is not None:
            from neartime.schema import value_faults

            if faults := value_faults(values, schema):
                raise InvalidInput("the inputs are not what the program declares", faults)
        return values

    def _failed(self, error: BaseException) -> Done:
        code, reason, shown = self._verdict(error)
        if shown:
            self._tell(tracebacks.of_program(error, self._setup.path))
        return Done(code=code, reason=tracebacks.printable(reason))

    def _verdict(self, error: BaseException) -> tuple[ReasonCode, str, bool]:
        """Code and reason, and whether the traceback belongs into the log."""
        if self._stopped is not None and isinstance(error, JobCancelled):
            return self._stopped.code, self._stopped.reason, False
        if isinstance(error, InvalidInput | DecodeError) and not _in_program(error, self._setup.path):
            return ReasonCode.INVALID_INPUT, str(error), False
        if isinstance(error, IncompatibleVersion):
            return ReasonCode.INCOMPATIBLE_VERSION, str(error), False
        if isinstance(error, BackendFailed):
            return ReasonCode.START_FAILED, str(error), True
        if isinstance(error, GatewayLost):
            return ReasonCode.BACKEND_LOST, str(error), True
        if isinstance(error, SystemExit):
            return ReasonCode.PROCESS_DIED, f"the program called sys.exit({error.code!r})", True
        reason = tracebacks.reason(error, self._setup.path)
        if isinstance(error, MemoryError):
            return ReasonCode.OUT_OF_MEMORY, reason, True
        if isinstance(error, EncodeError | InvalidResult):
            return ReasonCode.INVALID_RESULT, reason, True
        if isinstance(error, ModuleNotFoundError):
            reason += "\nName the package that has it in `requirements` of program.toml, and upload the program again."
        return ReasonCode.PROGRAM_ERROR, reason, True

    # --- being stopped

    def _hear_stop(self, number: int, frame: types.FrameType | None) -> None:
        if self._running and os.getpid() == self._process:
            self._heed()

    def _heed(self) -> None:
        """Raises JobCancelled where a STOP has come."""
        if not select.select([self._commands], [], [], 0)[0]:
            return
        got = self._next()
        if got is not None and got[0] is Frame.STOP and self._stopped is None:
            self._stopped = stop = Stop.model_validate_json(got[1])
            self._wire.interrupt(JobCancelled(stop.reason, reason_code=stop.code))

    # --- bytes

    def _next(self) -> tuple[Frame, bytes] | None:
        """What the supervisor says next; None where it is gone. Reads no byte beyond it."""
        header = self._read(HEADER.size)
        if header is None:
            return None
        kind, size = HEADER.unpack(header)
        body = self._read(size) if size else b""
        return None if body is None else (Frame(kind), body)

    def _read(self, size: int) -> bytes | None:
        data = os.read(self._commands, size)
        if len(data) == size or not data:
            return data or None
        whole = bytearray(data)
        while len(whole) < size:
            data = os.read(self._commands, size - len(whole))
            if not data:
                return None
            whole += data
        return bytes(whole)

    def _tell(self, text: str) -> None:
        """Into the job's log, as its stderr."""
        processes.flush()
        _write_all(self._output[1], tracebacks.printable(text).encode() + b"\n")


class _ToSupervisor(logging.Handler):
    """Sends records of `logging` to the supervisor."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = tracebacks.printable(self.format(record))
            if os.getpid() != self._process:  # one that the program forked: the pipe of frames is not its own
                print(text, file=sys.stderr)
                return
            if len(text) > LOGGED_LIMIT:
                text = f"{text[:LOGGED_LIMIT]} … ({len(text) - LOGGED_LIMIT} characters more)"
            logged = Logged(level=record.levelname, text=text, time=record.created)
            self._wire.send(Frame.LOG, logged.model_dump_json().encode())
        except JobCancelled:
            raise
        except Exception:
            self.handleError(record)


def _pooled(thread: threading.Thread) -> bool:
    """Whether it waits for work in a pool: Aer keeps one, and a program's own does no harm."""
    return thread.name.startswith("ThreadPoolExecutor-")


def _restorer(state: Decoder) -> Any:
    held: list[Any] = []

    def restore() -> Any:
        if not held:
            held.append(state.finish())
        return held[0]

    return restore


def _in_program(error: BaseException, folder: str) -> bool:
    """Whether the program's own code raised it, or passed it on."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(folder.rstrip("/") + "/"):
            return True
        trace = trace.tb_next
    return False


def _reopened(streams: tuple[Any, Any]) -> tuple[Any, Any]:
    """stdout and stderr; new ones in place of those that a program has closed."""
    return tuple(  # type: ignore[return-value]
        open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        if stream.closed
        else stream
        for number, stream in enumerate(streams, 1)
    )


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        with suppress(BlockingIOError):  # a process that the program started has made the pipe so
            rest = rest[os.write(descriptor, rest) :]
            continue
        select.select([], [descriptor], [])
