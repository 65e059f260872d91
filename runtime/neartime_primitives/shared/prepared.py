"""What Aer makes anew in each call, made once: the jobs of a session come to the same process and backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from qiskit_aer.noise import NoiseModel

_PARALLEL_FROM = 14
"""Qubits from which on Aer spreads a state over threads; below, they only wait for each other."""


class Written(NoiseModel):  # type: ignore[misc]
    """A noise model whose form for the simulator is written once, and of which it is told no more than it needs.

    Aer has it written for each call, and reads all of it: of a device of 27 qubits that is five times as much work as a
    circuit on four of them. The noise must not change any more.
    """

    def __init__(self, noise: NoiseModel) -> None:
        self.__dict__.update(noise.__dict__)
        self._whole = self._told = noise.to_dict(serializable=True)

    def restrict(self, qubits: Iterable[int] | None) -> None:
        """The next runs have gates and measurements on these qubits of the device alone; None: on any."""
        self._told = self._whole
        if qubits is None:
            return
        there = set(qubits)
        self._told = {
            **self._whole,
            "errors": [
                error
                for error in self._whole["errors"]
                if "gate_qubits" not in error or any(there.issuperset(place) for place in error["gate_qubits"])
            ],
        }

    def to_dict(self, serializable: bool = False) -> Any:
        return self._told if serializable else super().to_dict()


@contextmanager
def noise_on(backend: Any, pub: Any) -> Iterator[None]:
    """While it lasts, the backend's noise model, if it has one by now, is told as far as a PUB has to do with it.

    A simulated device makes its noise model in its first run. It uses one thread where the PUB is small.
    """
    noise = getattr(getattr(backend, "options", None), "noise_model", None)
    if not isinstance(noise, NoiseModel):
        yield
        return
    if not isinstance(noise, Written):
        noise = Written(noise)
        backend.set_options(noise_model=noise)
    circuit = pub.circuit
    qubits = {circuit.find_bit(qubit).index for one in circuit.data for qubit in one.qubits}
    if (observables := getattr(pub, "observables", None)) is not None:
        # Qubits that an observable looks at are measured, also those without a gate.
        for observable in observables.ravel():
            for term in observable:
                qubits.update(place for place, letter in enumerate(reversed(term)) if letter != "I")
    # With noise, a state is a matrix: as large as one of twice as many qubits.
    alone = hasattr(backend.options, "max_parallel_threads") and _alone(circuit, 2 * len(qubits))
    several = backend.options.max_parallel_threads if alone else None
    noise.restrict(qubits)
    if alone:
        backend.set_options(max_parallel_threads=1)
    try:
        yield
    finally:
        noise.restrict(None)
        if alone:
            backend.set_options(max_parallel_threads=several)


def threads(circuit: Any) -> dict[str, int]:
    """Options of a run without noise: one thread where more would have nothing to do, and would still be waited for."""
    return {"max_parallel_threads": 1} if _alone(circuit, circuit.num_qubits) else {}


def _alone(circuit: Any, qubits: int) -> bool:
    """Whether Aer simulates a circuit once, in a state that is too small for several threads.

    One that goes on after a measurement is run shot by shot, and those can be shared among threads.
    """
    if qubits >= _PARALLEL_FROM:
        return False
    measured: set[Any] = set()
    for one in circuit.data:
        operation = one.operation
        if operation.name == "measure":
            measured.update(one.qubits)
        elif operation.name == "barrier":
            continue
        elif operation.name == "reset" or hasattr(operation, "blocks") or not measured.isdisjoint(one.qubits):
            return False
    return True
