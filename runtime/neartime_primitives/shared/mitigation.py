"""Expectation values with mitigation: Qiskit Runtime's preparation and post-processing around a run on the backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jackknife
import learning
import numpy as np
import quantum_programs
from backends import seed_of
from qiskit.primitives.containers import DataBin
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit_ibm_runtime.decoders.executor_estimator.decoder import ClientSideEstimatorDecoder
from qiskit_ibm_runtime.executor_estimator.finalize_options import finalize_estimator_options
from qiskit_ibm_runtime.executor_estimator.prepare import choose_task_class, prepare
from qiskit_ibm_runtime.options_models import EstimatorOptions
from qiskit_mitigation import PEA, PEC
from qiskit_mitigation.zne import gate_folding

from neartime.layers import LayerError, NoiseLearnerResult

log = logging.getLogger(__name__)
_TOLD = "neartime"
"""Under which a program carries what its result will tell of mitigation."""


class Estimator:
    """PUBs of one job, with the same options."""

    def __init__(self, backend: Any, options: dict[str, Any]) -> None:
        """
        Args:
            options: as a client sends them. `resilience.layer_noise_model` has `LayerError`s, and
                `resilience.layer_noise_learning` says how others are learnt.

        Raises:
            ValueError: an option is none, or can't be that.
        """
        resilience = dict(options.get("resilience") or {})
        given: Iterable[LayerError] | None = resilience.pop("layer_noise_model", None)
        self._learning: dict[str, Any] = resilience.pop("layer_noise_learning", None) or {}
        self._backend = backend
        self._seed = seed_of(options)
        self._options = EstimatorOptions(**{**options, "resilience": resilience})
        finished = finalize_estimator_options(self._options)
        self._task = choose_task_class(finished.resilience)
        self._boxing = learning.boxing(finished.twirling, bool(finished.resilience.measure_mitigation))
        self._known = None if given is None else {learning.key(one): one for one in given}

    def learn(self, circuits: Iterable[Any]) -> NoiseLearnerResult | None:
        """Learns what the options need and do not give: the noise of the circuits' layers, which is returned.

        Layers beyond `max_layers_to_learn`, and those that a given model does not have, are taken to be without noise.
        """
        if self._task not in (PEC, PEA) or self._known is not None:
            return None
        layers = [layer for circuit in circuits for layer in learning.layers_of(circuit, self._boxing)]
        self._known = {}
        for number, layer in enumerate(learning.to_learn(layers, self._learning)):
            log.info("learning the noise of the layer %s", layer.gates)
            seed = None if self._seed is None else self._seed + number
            noise = learning.learn(self._backend, layer.instruction, layer.qubits, self._learning, seed)
            self._known[layer.key] = layer.learnt(noise)
        return NoiseLearnerResult(self._known.values(), {"num_layers": len({layer.key for layer in layers})})

    def run(self, pub: EstimatorPub, number: int) -> Any:
        """The result of the job's PUB of that number."""
        measured = self.measured(pub, number)
        result = finished(measured)
        if self._task is PEC:
            # A randomization's sign is common to all terms, which the post-processing takes for independent.
            fields = {**result.data, "stds": np.sqrt(squared_errors(measured, result.data.evs))}
            result = type(result)(DataBin(**fields, shape=result.data.shape), result.metadata)
        return result

    def measured(self, pub: EstimatorPub, number: int) -> Any:
        """What was measured of the job's PUB of that number, a `QuantumProgramResult`."""
        # Two equal PUBs of a job are two samples, also where a seed makes the job repeatable.
        seed = None if self._seed is None else self._seed + number
        rates = self._amplify(pub.circuit) if self._task in (PEC, PEA) else 0.0
        with _folding_by(seed):
            program, _ = prepare([pub], self._options, backend=self._backend)
        if self._task is PEC:
            program.passthrough_data[_TOLD] = {"pec": self._overhead(program, rates)}
        result = quantum_programs.run(self._backend, program, seed)
        if self._task is PEC and "pauli_signs" not in result[0]:  # no layer, so nothing to cancel; signs are missed
            result[0]["pauli_signs"] = np.zeros((*result[0]["_meas"].shape[:2], 0), dtype=bool)
        return result

    def _amplify(self, circuit: Any) -> float:
        """Puts the noise of the circuit's layers into the options; returns the sum of all rates in the circuit."""
        assert self._known is not None
        layers = learning.layers_of(circuit, self._boxing)
        noise = {}
        for layer in layers:
            known = self._known.get(layer.key)
            noise[layer.key] = learning.noise_of(layer.gates if known is None else known)
        self._options.resilience.layer_noise_model = [(layer.instruction, noise[layer.key]) for layer in layers]
        return float(sum(noise[layer.key].rates.sum() for layer in layers))

    def _overhead(self, program: Any, rates: float) -> dict[str, Any]:
        """What cancelling the noise has cost: so many times the randomizations, and shots, of no cancelling."""
        gamma = float(program.passthrough_data["qiskit_mitigation"][0]["pec_gamma"])
        bound = self._options.resilience.pec.max_overhead
        return {
            "gamma": gamma,
            "sampling_overhead": gamma**2 if bound is None else min(gamma**2, bound),
            "max_overhead": bound,
            "noise_gain": max(0.0, 1.0 - float(np.log(gamma)) / (2 * rates)) if rates else 1.0,
            "num_randomizations": int(program.items[0].shape[0]),
        }


def squared_errors(measured: Any, values: Any) -> Any:
    """The squared standard error of each expectation value of a PUB, from what was measured of it.

    Where noise is cancelled it is not below what the signs alone add. Of few randomizations none may have been
    negative: what was measured scatters less then than it might have. Signs are independent, with mean 1/gamma, so the
    variance of gamma times a sign is gamma² - 1.
    """
    found = jackknife.squared_errors(measured)
    if (told := measured.passthrough_data.get(_TOLD)) is None:
        return found
    pec = told["pec"]
    return np.maximum(found, (pec["gamma"] ** 2 - 1) * np.square(values) / pec["num_randomizations"])


def finished(measured: Any) -> Any:
    """The result of a PUB from what was measured of it."""
    result = ClientSideEstimatorDecoder.decode(measured)[0]
    if (told := measured.passthrough_data.get(_TOLD)) is not None:
        result.metadata["resilience"] = told
    return result


@contextmanager
def _folding_by(seed: int | None) -> Iterator[None]:
    """Which gates are folded once more than others is drawn by a seed, too, which the preparation has no option for."""
    original = gate_folding.GateFoldingPass
    gate_folding.GateFoldingPass = partial(original, seed=seed)
    try:
        yield
    finally:
        gate_folding.GateFoldingPass = original
