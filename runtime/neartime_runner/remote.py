"""A backend behind a gateway, as a program sees it: a `BackendV2` that hands circuits on, and jobs that wait for it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

from qiskit import QuantumCircuit
from qiskit.providers import BackendV2, JobError, JobStatus, JobTimeoutError, JobV1, Options
from qiskit.result import Result
from qiskit.transpiler import Target

from neartime import codec
from neartime.contract import gateways as protocol
from neartime.contract.backends import BackendSpec
from neartime.contract.gateways import Asked, Step, Told, Verb, pack, unpack
from neartime.contract.ids import new_id
from neartime.errors import DecodeError
from neartime_runner.backend import BackendFailed
from neartime_runner.failures import GatewayLost
from neartime_runner.relay import GatewayAway
from neartime_runner.targets import from_plain

Ask = Callable[[Verb, bytes], bytes]

PATIENCE: Final = 30.0
"""Seconds for which a gateway is asked again that is about to be another one."""
PAUSE: Final = 0.3

_STATUS = {
    Step.WAITING: JobStatus.QUEUED,
    Step.RUNNING: JobStatus.RUNNING,
    Step.DONE: JobStatus.DONE,
    Step.RAISED: JobStatus.ERROR,
    Step.FAILED: JobStatus.ERROR,
    Step.CANCELLED: JobStatus.CANCELLED,
}


class ProviderError(JobError):  # type: ignore[misc]  # Qiskit has no types
    """The provider raised; these are its own words."""

    def __str__(self) -> str:
        return str(self.message)  # Qiskit would quote them


class RemoteBackend(BackendV2):  # type: ignore[misc]
    """What the gateway says of the backend is read once, when this is made."""

    def __init__(self, spec: BackendSpec, ask: Ask) -> None:
        """
        Raises:
            BackendFailed: there is no gateway, or its backend can't be built.
        """
        self._ask, self._gateway_name = ask, spec.name
        try:
            say = functools.partial(_said, ask)
            told = codec.decode(_whole(say, *say(Verb.TARGET, Asked())))
        except (GatewayAway, DecodeError, ValueError) as error:
            raise BackendFailed(f"the backend {spec.name!r} can't be had from its gateway: {error}") from error
        self._told = told
        super().__init__(name=spec.name, description=told["description"], backend_version=told["backend_version"])
        self._target = from_plain(told["target"])
        self._options = Options(**told["options"])
        self._given = dict(told["options"])
        """What the provider's options are where nobody changes them."""

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> int | None:
        found: int | None = self._told["max_circuits"]
        return found

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: QuantumCircuit | list[QuantumCircuit], **options: Any) -> RemoteJob:
        """Hands circuits on to the provider; returns at once.

        Args:
            run_input: one circuit, or several.
            options: of the provider's own run().

        Raises:
            TypeError: it is something else, a schedule for example.
            EncodeError: an option has no wire form.
            GatewayLost: the gateway refuses: another session has the backend, for example.
        """
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        if not all(isinstance(one, QuantumCircuit) for one in circuits):
            raise TypeError(f"the backend {self.name!r} runs circuits, given as a QuantumCircuit or a list of them")
        changed = {name: value for name, value in vars(self.options).items() if value is not self._given.get(name)}
        # One circuit goes as one: there are providers that tell the difference.
        asked = {"circuits": run_input if isinstance(run_input, QuantumCircuit) else circuits}
        theirs = self._told["qpy_version"]
        body = codec.encode({**asked, "options": {**changed, **options}}, qpy_version=theirs, root="run")
        call, parts = new_id(), protocol.parts_of(len(body))
        for number in range(parts if parts > 1 else 0):
            self._say(Verb.PUT, Asked(call=call, part=number), protocol.part_of(body, number))
        told, _ = self._say(Verb.RUN, Asked(call=call, parts=parts if parts > 1 else 0), body if parts == 1 else b"")
        return RemoteJob(self, call, told.gateway)

    def _say(self, verb: Verb, asked: Asked, body: bytes = b"") -> tuple[Told, bytes]:
        """Raises GatewayLost where nobody answers, or nothing was done."""
        try:
            return _said(self._ask, verb, asked, body)
        except (GatewayAway, ValueError) as error:
            raise GatewayLost(f"the backend {self.name!r}: {error}") from error


class RemoteJob(JobV1):  # type: ignore[misc]
    """A call of run(). Several threads may wait for it."""

    def __init__(self, backend: RemoteBackend, call: str, gateway: str) -> None:
        super().__init__(backend, call)
        self._told = Told(step=Step.WAITING, gateway=gateway)
        self._value: Result | None = None

    def submit(self) -> None:
        """It is submitted when it is made."""
        raise NotImplementedError

    def result(self, timeout: float | None = None) -> Result:
        """The provider's result; waits for it, for `timeout` seconds at most.

        Raises:
            ProviderError: the provider raised; with its words.
            GatewayLost: the gateway is gone, or gave up waiting for the provider.
            JobTimeoutError: it is not there yet.
            JobError: the job was cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._value is None:
            left = protocol.LONGEST if deadline is None else deadline - time.monotonic()
            step = self._look(min(max(left, 0.0), protocol.LONGEST))
            if step is Step.RAISED:
                raise ProviderError(self._told.error)
            if step is Step.FAILED:
                raise GatewayLost(f"the backend {self._backend.name!r}: {self._told.error}")
            if step is Step.CANCELLED:
                raise JobError(f"the job {self.job_id()} on {self._backend.name!r} was cancelled")
            if self._value is None and deadline is not None and time.monotonic() >= deadline:
                raise JobTimeoutError(f"there is no result of {self._backend.name!r} after {timeout:g} s")
        return self._value

    def status(self) -> JobStatus:
        return _STATUS[self._told.step or Step.WAITING] if self._over else _STATUS[self._look(0.0)]

    def cancel(self) -> bool:
        """Cancels it at the provider; whether it had not ended before."""
        told, _ = self._backend._say(Verb.CANCEL, Asked(call=self.job_id()))
        return told.step is Step.CANCELLED

    @property
    def _over(self) -> bool:
        return self._told.step not in (Step.WAITING, Step.RUNNING)

    def _look(self, seconds: float) -> Step:
        if self._over and (self._told.step is not Step.DONE or self._value is not None):
            return self._told.step or Step.WAITING
        told, body = self._backend._say(Verb.WAIT, Asked(call=self.job_id(), seconds=seconds))
        if told.step is Step.DONE:
            try:
                self._value = codec.decode(_whole(self._backend._say, told, body, self.job_id()))
            except DecodeError as error:
                raise GatewayLost(f"the result of {self._backend.name!r} can't be read: {error}") from error
        self._told = told
        return told.step or Step.WAITING


def _said(ask: Ask, verb: Verb, asked: Asked, body: bytes = b"") -> tuple[Told, bytes]:
    deadline = time.monotonic() + PATIENCE
    while True:
        told, answer = unpack(Told, ask(verb, pack(asked, body)))
        if told.refused is None:
            return told, answer
        if not told.again or time.monotonic() > deadline:
            raise GatewayAway(told.refused)
        time.sleep(PAUSE)


def _whole(say: Callable[[Verb, Asked], tuple[Told, bytes]], told: Told, first: bytes, call: str = "") -> bytes:
    """An answer's body, with its further parts."""
    return first + b"".join(say(Verb.TAKE, Asked(call=call, part=number))[1] for number in range(1, told.parts))
