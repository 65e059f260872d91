"""The backends that this server offers: built in, or as the operator's file says.

The server never imports Qiskit: a helper process builds the backends once and tells what they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomllib
from pydantic import ValidationError

from neartime.contract.backends import BackendConfig, BackendHome, BackendSpec
from neartime.contract.problem import ErrorCode, Fault
from neartime.contract.programs import BackendRequirements
from neartime_server import variables
from neartime_server.errors import ConfigurationError, Refused, ServerError
from neartime_server.settings import Settings

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 60.0
"""How long a backend may take to be built, the import of Qiskit included."""
HEARD_SECONDS: Final = 2.0
"""How long it stands what a gateway has said of its backend."""
RETRY_SECONDS: Final = 30.0
"""How long it stands that a backend can't be built."""
_LINE_BYTES: Final = 64 << 20
"""Of one configuration: a backend of a thousand qubits has megabytes."""

_SIMULATED_AT_ONCE: Final = min(8, max(2, os.cpu_count() or 1))
_LINE: Final = [pair for left in range(4) for pair in ([left, left + 1], [left + 1, left])]
BUILT_IN: Final = (
    BackendConfig(
        name="aer",
        factory="qiskit_aer:AerSimulator",
        description="Aer: an ideal simulator, on this machine",
        parallelism=_SIMULATED_AT_ONCE,
    ),
    BackendConfig(
        name="generic_5q",
        factory="qiskit.providers.fake_provider:GenericBackendV2",
        options={"num_qubits": 5, "coupling_map": _LINE, "seed": 5},
        description="a made-up device of five qubits on a line, with noise; simulated on this machine",
        parallelism=_SIMULATED_AT_ONCE,
    ),
)


Ask = Callable[[str, bool], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class _Failure:
    """Why a backend could not be described, and when that was; monotonic clock."""

    message: str
    at: float


class Backends:
    """They never change while the server runs."""

    def __init__(self, configs: Sequence[BackendConfig], log_file: Path, *, elsewhere: bool = False) -> None:
        """`elsewhere`: workers run on other machines, whose devices are not this one's."""
        self._arguments = ["backends", *(["--elsewhere"] if elsewhere else [])]
        self._configs = {config.name: config for config in configs}
        self._log_file = log_file
        self._answers: dict[str, asyncio.Future[dict[str, Any] | _Failure]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.subprocess.Process] = set()
        self._ask_gateway: Ask | None = None
        self._heard: dict[str, tuple[float, dict[str, Any] | _Failure]] = {}
        """What gateways said, and when; monotonic clock."""

    @classmethod
    def load(cls, settings: Settings) -> Backends:
        """The backends of the operator's file, where the settings name one.

        Raises:
            ConfigurationError: the file can't be read, or has faults: all of them are named.
        """
        configs = BUILT_IN if settings.backends_file is None else _read(settings.backends_file)
        elsewhere = settings.executor == "kubernetes"
        return cls(configs, settings.home / "logs" / "backends.log", elsewhere=elsewhere)

    @property
    def default(self) -> str:
        """The one that is taken where a request names none: the first of them."""
        return next(iter(self._configs))

    def names(self) -> list[str]:
        return list(self._configs)

    def gateways(self) -> list[BackendConfig]:
        """Those behind a gateway."""
        return [config for config in self._configs.values() if config.home is BackendHome.GATEWAY]

    def gateway_of(self, name: str) -> str | None:
        """The name again, where it is of a backend behind a gateway."""
        config = self._configs.get(name)
        return name if config is not None and config.home is BackendHome.GATEWAY else None

    def ask_gateways(self, ask: Ask) -> None:
        """From now on, `ask` (name, whether to wait for it) says what a backend behind a gateway is. Raises ServerError
        where it can't."""
        self._ask_gateway = ask

    def get(self, name: str, *, status: int = 422) -> BackendConfig:
        """The backend of that name.

        Raises:
            Refused: there is none; 422, since a request names it, unless it is the path that does: then 404.
        """
        if (found := self._configs.get(name)) is not None:
            return found
        raise Refused.of(
            status,
            ErrorCode.UNKNOWN_BACKEND,
            f"there is no backend {name!r} here; there are {', '.join(self._configs)}",
            path="backend" if status == 422 else None,
        )

    async def learn(self, wanted: BackendRequirements) -> None:
        """Returns when `check` knows what it has to, of every backend that can be described."""
        if wanted.min_num_qubits is not None or wanted.simulator is not None:
            await asyncio.gather(*(self._described(name, wait=False) for name in self._configs))

    def check(self, name: str, wanted: BackendRequirements) -> None:
        """That a program which wants this of its backend can run on the one of that name, as far as it is known.

        A backend that could not be described is let through: its own worker says why it can't be built.

        Raises:
            Refused: 422, there is no such backend, or with every requirement that it does not meet.
        """
        config = self.get(name)
        faults = []
        if wanted.names and name not in wanted.names:
            faults.append(f"the program is meant for {', '.join(wanted.names)}, not for {name!r}")
        answer = self._answers.get(name)
        known = answer.result() if answer is not None and answer.done() else None
        if config.home is BackendHome.GATEWAY:
            known = self._heard.get(name, (0.0, None))[1]
        if isinstance(known, dict):
            faults += _unmet(name, known, wanted)
        if faults:
            raise Refused.faults(ErrorCode.INVALID_REQUEST, [Fault(path="backend", message=text) for text in faults])

    async def simulates(self, name: str | None) -> bool:
        """Whether the backend of that name says that it is a simulator."""
        if name not in self._configs:
            return False
        known = await self._described(name)
        return isinstance(known, dict) and known.get("simulator") is True

    async def configuration(self, name: str, *, wait: bool = True) -> dict[str, Any]:
        """Number of qubits, basis gates, coupling map and more, as the backend itself states them. `wait` says whether
        a gateway that is being started is waited for.

        Raises:
            Refused: 404, there is no such backend; 409, it can't be built.
        """
        self.get(name, status=404)
        known = await self._described(name, wait=wait)
        if isinstance(known, _Failure):
            raise Refused.of(
                409, ErrorCode.UNAVAILABLE, known.message, solution=f"the operator finds more in {self._log_of(name)}"
            )
        return known

    def _log_of(self, name: str) -> str:
        return self._log_file.name if self.gateway_of(name) is None else f"gateway-{name}.log"

    async def close(self) -> None:
        """End the helper, where one is at work."""
        for helper in self._helpers:
            _kill(helper)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- the helper

    async def _described(self, name: str, *, wait: bool = True) -> dict[str, Any] | _Failure:
        gateway = self.gateway_of(name) is not None
        known = await (self._of_gateway(name, wait) if gateway else self._of_helper(name))
        said = self._configs[name].simulator
        if isinstance(known, dict) and said is not None:
            known["simulator"] = said
        return known

    async def _of_helper(self, name: str) -> dict[str, Any] | _Failure:
        answer = self._answers.get(name)
        if answer is not None and answer.done():
            known = answer.result()
            if isinstance(known, dict) or time.monotonic() - known.at < RETRY_SECONDS:
                return known
            answer = None
        if answer is None:
            # Importing Qiskit is most of the work, so one helper describes all that nobody has asked for yet.
            others = [other for other in self._configs if other not in self._answers and not self.gateway_of(other)]
            names = [name, *(other for other in others if other != name)]
            for one in names:
                self._answers[one] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._ask(names))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            answer = self._answers[name]
        return await asyncio.shield(answer)

    async def _of_gateway(self, name: str, wait: bool) -> dict[str, Any] | _Failure:
        """What a gateway says of its backend: asked again after a moment, since calibrations change."""
        at, known = self._heard.get(name, (0.0, None))
        fresh = time.monotonic() - at < HEARD_SECONDS
        if known is not None and fresh and (isinstance(known, dict) or not wait):
            return known
        asking = asyncio.create_task(self._hear_gateway(name, wait))
        if not wait:
            await asyncio.wait({asking}, timeout=HEARD_SECONDS)
            if not asking.done():  # what it says is there for the next one
                return known or _Failure(f"the gateway of the backend {name!r} has not answered yet", time.monotonic())
        return await asking

    async def _hear_gateway(self, name: str, wait: bool) -> dict[str, Any] | _Failure:
        known: dict[str, Any] | _Failure
        if self._ask_gateway is None:
            return _Failure(f"the backend {name!r} can't be described: the server is starting", time.monotonic())
        try:
            known = {**await self._ask_gateway(name, wait), "backend_name": name, "name": name}
        except ServerError as error:
            known = _Failure(str(error), time.monotonic())
        self._heard[name] = (time.monotonic(), known)
        return known

    async def _ask(self, names: list[str]) -> None:
        left = list(names)
        try:
            async for known in self._answered([self._configs[name] for name in names]):
                self._answers[left.pop(0)].set_result(known)
            reason = f"the helper that describes backends ended: {_last_line(self._log_file)}"
        except asyncio.TimeoutError:
            reason = f"it was not built within {ANSWER_SECONDS:g} s"
        except OSError as error:
            reason = f"the helper that describes backends could not be started: {error}"
        except ValueError as error:
            reason = f"the helper that describes backends said what it must not: {error}"
        except asyncio.CancelledError:
            self._fail(left, "the server is being ended")
            raise
        self._fail(left[:1], reason)
        for name in left[1:]:  # they were not asked: whoever wants to know begins again
            self._answers.pop(name).set_result(_Failure("another backend stood in the way; ask again", 0.0))

    def _fail(self, names: list[str], reason: str) -> None:
        for name in names:
            message = f"the backend {name!r} can't be described: {reason}"
            log.warning("%s", message)
            self._answers[name].set_result(_Failure(message, time.monotonic()))

    async def _answered(self, configs: list[BackendConfig]) -> AsyncIterator[dict[str, Any] | _Failure]:
        """What the helper says, one backend after the other."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._log_file.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "neartime_runner", *self._arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                env=variables.of_worker(own=True), cwd=self._log_file.parent, limit=_LINE_BYTES,
            )  # fmt: skip
        self._helpers.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for config in configs:
                spec = BackendSpec(name=config.name, factory=config.factory, options=config.options)
                process.stdin.write(spec.model_dump_json().encode() + b"\n")
            process.stdin.close()  # when it has answered all of them, it ends
            for config in configs:
                line = await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS)
                if not line:
                    return
                known = json.loads(line)
                error = str(known["error"]) if len(known) == 1 and "error" in known else None
                if error is not None and repr(config.name) not in error:
                    error = f"the backend {config.name!r} can't be described: {error}"
                yield known if error is None else _Failure(error, time.monotonic())
        finally:
            _kill(process)
            await process.wait()
            self._helpers.discard(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass


def _unmet(name: str, known: dict[str, Any], wanted: BackendRequirements) -> list[str]:
    found = []
    qubits = known.get("num_qubits")
    if wanted.min_num_qubits is not None and qubits is not None and qubits < wanted.min_num_qubits:
        found.append(f"the program wants {wanted.min_num_qubits} qubits or more, {name!r} has {qubits}")
    simulator = known.get("simulator")
    if wanted.simulator is not None and simulator is not None and simulator != wanted.simulator:
        kinds = {True: "a simulator", False: "a device that is no simulator"}
        found.append(f"the program wants {kinds[wanted.simulator]}, {name!r} is {kinds[simulator]}")
    return found


def _last_line(file: Path) -> str:
    try:
        lines = file.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


# --- the operator's file


def _read(file: Path) -> list[BackendConfig]:
    try:
        document = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: is not TOML: {error}") from error
    faults = [f"{key}: is not known here; is it misspelt?" for key in document if key != "backends"]
    entries = document.get("backends")
    if not isinstance(entries, list) or not entries:
        faults.append("backends: expected one or more tables [[backends]]")
        entries = []
    configs: list[BackendConfig] = []
    for number, entry in enumerate(entries):
        where = f"backends[{number}]"
        try:
            config = BackendConfig.model_validate(entry)
        except ValidationError as error:
            faults += [_fault(where, one) for one in error.errors()]
            continue
        made = config.gateway
        if made is not None and made.interpreter is not None and (made.requirements or made.python is not None):
            faults.append(f"{where}.gateway.interpreter: it is of an environment that is there, and others make one")
        if any(config.name == other.name for other in configs):
            faults.append(f"{where}.name: there are two backends {config.name!r}")
        faults += [f"{where}.options.{path}: has no form in JSON" for path in _beyond_json(config.options)]
        configs.append(config)
    if faults:
        raise ConfigurationError("\n".join(f"{file}: {fault}" for fault in faults))
    return configs


def _fault(where: str, error: Any) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    messages = {"missing": "is missing", "extra_forbidden": "is not known here; is it misspelt?"}
    message = messages.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return f"{where}{path}: {message[:1].lower()}{message[1:]}"


def _beyond_json(value: Any, path: str = "") -> list[str]:
    """Where a TOML value holds what a launch document can't: dates and times."""
    if isinstance(value, dict):
        return [found for key, one in value.items() for found in _beyond_json(one, f"{path}.{key}" if path else key)]
    if isinstance(value, list):
        return [found for number, one in enumerate(value) for found in _beyond_json(one, f"{path}[{number}]")]
    return [] if isinstance(value, (str, int, float, bool)) else [path]
