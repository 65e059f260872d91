"""A backend as the server describes it. Circuits run on it inside jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neartime.connection import Connection
from neartime.contract.backends import BackendDevice, BackendList, BackendStatus
from neartime.transport import segment

if TYPE_CHECKING:
    from neartime.client import RuntimeService


class RuntimeBackend:
    """A backend of the server. Made by `RuntimeService.backend` and `backends`."""

    def __init__(
        self, connection: Callable[[], Connection], device: BackendDevice, service: RuntimeService | None = None
    ) -> None:
        self._connect = connection
        self._device = device
        self.service = service
        """Where it was found; None of a job's backend."""
        self._configuration: dict[str, Any] | None = None

    @classmethod
    def all(cls, connection: Callable[[], Connection], service: RuntimeService | None = None) -> list[RuntimeBackend]:
        listed = BackendList.model_validate(connection().json("GET", "/backends"))
        return [cls(connection, device, service) for device in listed.backends]

    @classmethod
    def read(
        cls, connection: Callable[[], Connection], name: str, service: RuntimeService | None = None
    ) -> RuntimeBackend:
        """The backend of that name.

        Raises:
            NotFound: there is none.
        """
        for backend in cls.all(connection, service):
            if backend.name == name:
                return backend
        connection().json("GET", f"/backends/{segment(name)}/status")  # the server says what there is
        raise LookupError(name)

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def description(self) -> str:
        return self._device.description

    @property
    def simulator(self) -> bool | None:
        """None where the server has not looked yet; `configuration()` makes it look."""
        return self._device.simulator

    @property
    def num_qubits(self) -> int:
        """0 of a backend that can't be built."""
        if self._device.num_qubits is not None:
            return self._device.num_qubits
        if not self.operational:
            return 0
        return int(self.configuration()["num_qubits"])

    @property
    def parallelism(self) -> int:
        """How many jobs may run on it at once."""
        return self._device.parallelism

    @property
    def pending_jobs(self) -> int:
        """Jobs that waited for it when it was read."""
        return self._device.status.length_queue

    @property
    def operational(self) -> bool:
        return self._device.status.state

    def configuration(self) -> dict[str, Any]:
        """Number of qubits, basis gates, coupling map and more, as the worker sees them."""
        if self._configuration is None:
            self._configuration = dict(self._connect().json("GET", f"/backends/{self.name}/configuration"))
        return self._configuration

    def properties(self) -> dict[str, Any]:
        """What is known of its errors and times."""
        return dict(self._connect().json("GET", f"/backends/{self.name}/properties") or {})

    def status(self) -> BackendStatus:
        """Whether it takes jobs, and how many wait, now."""
        return BackendStatus.model_validate(self._connect().json("GET", f"/backends/{self.name}/status"))

    def to_dict(self) -> dict[str, Any]:
        return self._device.model_dump(mode="json")

    def __repr__(self) -> str:
        return f"<RuntimeBackend {self.name!r}>"
