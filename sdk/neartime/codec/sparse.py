"""The form of scipy's sparse matrices: base64 of the file that save_npz makes, read with pickle switched off."""

from __future__ import annotations

import binascii
import io
import zipfile
from typing import TYPE_CHECKING, Any

from scipy.sparse import load_npz, save_npz, sparray, spmatrix

from neartime.codec import tags, transfer
from neartime.codec.encoder import Walk, Wire, Writer, tagged
from neartime.errors import DecodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading


def _write_sparse(matrix: Any, walk: Walk) -> Wire:
    buffer = io.BytesIO()
    save_npz(buffer, matrix)
    return tagged(tags.SPARSE_MATRIX, walk.binary(buffer.getbuffer()))


def _read_sparse(value: Any, reading: Reading) -> object:
    if not isinstance(value, str):
        raise DecodeError(f"expected base64 text, got {type(value).__name__}")
    buffer = io.BytesIO(binascii.a2b_base64(transfer.ascii_bytes(value)))
    with zipfile.ZipFile(buffer) as archive:
        reading.budget.spend(sum(entry.file_size for entry in archive.infolist()))
    buffer.seek(0)
    return load_npz(buffer)


WRITERS: dict[type, Writer] = {spmatrix: _write_sparse, sparray: _write_sparse}

READERS: dict[str, Reader] = {tags.SPARSE_MATRIX: _read_sparse}
