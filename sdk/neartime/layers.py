"""What the layers of gates of a circuit do wrong, as a noise learner finds it.

The classes have the names and attributes of Qiskit Runtime's, and its wire form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import PauliLindbladMap, PauliList


class PauliLindbladError:
    """The channel exp(Σ r (P · P − ·)) with a rate r for each of some Paulis P, its generators."""

    def __init__(self, generators: PauliList, rates: Iterable[float]) -> None:
        """Raises ValueError where there is not one rate for each generator."""
        import numpy as np

        self.generators = generators
        self.rates: NDArray[np.float64] = np.asarray(rates, dtype=float)
        if self.rates.shape != (len(generators),):
            raise ValueError(f"there are {len(generators)} generators, and rates of the shape {self.rates.shape}")

    @classmethod
    def of_map(cls, channel: PauliLindbladMap) -> PauliLindbladError:
        """The same channel, given as Qiskit's map."""
        return cls(channel.get_qubit_sparse_pauli_list_copy().to_pauli_list(), channel.rates)

    def to_map(self) -> PauliLindbladMap:
        """The same channel as Qiskit's map, which composes, inverts and samples."""
        from qiskit.quantum_info import PauliLindbladMap

        terms = zip(self.generators.to_labels(), self.rates.tolist(), strict=True)
        return PauliLindbladMap.from_list(list(terms), num_qubits=self.num_qubits)

    @property
    def num_qubits(self) -> int:
        return int(self.generators.num_qubits)

    def __repr__(self) -> str:
        return f"PauliLindbladError({self.generators.to_labels()}, {self.rates.tolist()})"


class LayerError:
    """A layer of gates, the qubits of the backend that it is on, and its error; None where that was not learnt."""

    def __init__(self, circuit: QuantumCircuit, qubits: Sequence[int], error: PauliLindbladError | None = None) -> None:
        """Raises ValueError where circuit, qubits and error are not equally wide."""
        self.circuit = circuit
        self.qubits = [int(qubit) for qubit in qubits]
        self.error = error
        widths = {circuit.num_qubits, len(self.qubits), *(() if error is None else (error.num_qubits,))}
        if len(widths) > 1:
            raise ValueError("circuit, qubits and error of a layer are not equally wide")

    @property
    def num_qubits(self) -> int:
        return len(self.qubits)

    def __repr__(self) -> str:
        gates = [step.operation.name for step in self.circuit.data]
        return f"LayerError({gates}, qubits={self.qubits}, error={self.error})"


class NoiseLearnerResult(Sequence[LayerError]):
    """The errors of some layers."""

    def __init__(self, data: Iterable[LayerError], metadata: Mapping[str, Any] | None = None) -> None:
        self.data = list(data)
        self.metadata = dict(metadata or {})

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[LayerError]:
        return iter(self.data)

    def __repr__(self) -> str:
        return f"NoiseLearnerResult({self.data}, metadata={self.metadata})"
