"""SamplerV2 on a server's backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qiskit.primitives.base import BaseSamplerV2
from qiskit.primitives.containers.sampler_pub import SamplerPub

from neartime.primitives.options import SamplerOptions
from neartime.primitives.primitive import Primitive, values

if TYPE_CHECKING:
    from neartime.feed import Callback
    from neartime.job import RuntimeJob


class SamplerV2(Primitive[SamplerOptions], BaseSamplerV2):  # type: ignore[misc]
    """Runs circuits and gives every shot.

    sampler = SamplerV2(mode=session, options={"default_shots": 1000})
    counts = sampler.run([(circuit, values)]).result()[0].data.meas.get_counts()
    """

    _kind = SamplerOptions

    def run(self, pubs: Iterable[Any], *, shots: int | None = None, callback: Callback | None = None) -> RuntimeJob:
        """Runs PUBs: circuits, or tuples of circuit, parameter values and shots, as Qiskit defines them.

        Args:
            pubs: the circuits are ISA circuits of the backend; one that is not fails the job, which names it.
            shots: of PUBs that say nothing of their own.
            callback: called as `callback(job_id, {"pub": number, "result": result})` as each PUB is finished.

        Returns:
            A job whose `result()` is a `PrimitiveResult` of `SamplerPubResult`.

        Raises:
            ValueError: a PUB is none.
        """
        if isinstance(pubs, SamplerPub):
            pubs = [pubs]
        coerced = [SamplerPub.coerce(pub, shots) for pub in pubs]
        if not coerced:
            raise ValueError("pubs: there are none")
        for pub in coerced:
            pub.validate()
        inputs: dict[str, Any] = {
            "pubs": [[pub.circuit, values(pub), pub.shots] for pub in coerced],
            "options": self._options.for_program(),
        }
        if callback is not None:
            inputs["stream"] = True
        return self._mode.run(self._options.program, inputs, self._options.for_job(), callback)
