"""The form of Aer's noise models: their own dictionary."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from qiskit_aer.noise import NoiseModel

from neartime.codec import tags
from neartime.codec.encoder import Walk, Wire, Writer, tagged
from neartime.codec.operators import plain

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading


def _write_noise_model(model: NoiseModel, walk: Walk) -> Wire:
    return tagged(tags.NOISE_MODEL, walk.tree(plain(model.to_dict())))


def _read_noise_model(value: Any, reading: Reading) -> NoiseModel:
    with warnings.catch_warnings():  # deprecated by Aer, with nothing in its place
        warnings.simplefilter("ignore", DeprecationWarning)
        return NoiseModel.from_dict(value)


WRITERS: dict[type, Writer] = {NoiseModel: _write_noise_model}

READERS: dict[str, Reader] = {tags.NOISE_MODEL: _read_noise_model}
