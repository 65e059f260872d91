"""Zip archives as others make them, good and hostile."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable

Entry = tuple["str | zipfile.ZipInfo", bytes]


def zipped(entries: Iterable[Entry], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    """An entry as a Unix zip writes it, with a file's type and permissions."""
    made = zipfile.ZipInfo(name)
    made.create_system = 3
    made.external_attr = mode << 16
    return made
