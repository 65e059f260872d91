"""One blob on its way to a registry, in pieces, which goes on where it was after the connection broke.

OCI distribution specification, "Pushing a blob in chunks" and "Pushing a blob monolithically": the last piece, which
may be the only one, goes with the request that ends the upload.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from urllib.parse import quote, urljoin

from neartime.errors import RegistryError
from neartime.oci.reference import Reference
from neartime.oci.source import Reader
from neartime.oci.wire import Answer, Ask, Trouble, Wire, said

ATTEMPTS = 6
"""How often in a row a piece may break off before it is given up. The registry's absence has the wire's patience."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_GONE = (400, 404, 416)
"""How a registry says that it has forgotten an upload. Distribution 2 answers 404 where a piece had come in part, and
distribution 3 answers 416: they can't go on within a piece."""


@dataclass(frozen=True)
class _Session:
    """An upload that the registry knows of."""

    location: str
    offset: int
    """How many bytes it has."""
    least: int = 0
    """The fewest bytes that a piece must have, where it isn't the last (OCI-Chunk-Min-Length)."""


class Upload:
    """A blob that the registry does not have yet. It can be run once."""

    def __init__(
        self, wire: Wire, reference: Reference, reader: Reader, digest: str, scopes: frozenset[str], piece: int
    ) -> None:
        self._wire = wire
        self._reader = reader
        self._digest = digest
        self._piece = piece
        self._ask = Ask(
            "POST",
            reference.registry,
            f"/v2/{reference.repository}/blobs/uploads/",
            f"push the blob {digest} to {reference.name}",
            scopes,
            (202,),
        )
        self._blob = f"/v2/{reference.repository}/blobs/{digest}"

    async def run(self) -> None:
        """
        Raises:
            DamagedContent: the content is not what the digest names. The registry keeps nothing of it.
            RegistryUnreachable: the connection breaks again and again, or the registry went away.
        """
        session = await self._begin()
        most, attempt = 0, 0
        while True:
            length = max(self._piece, session.least)
            last = self._reader.size - session.offset <= length
            data = await self._reader.read(session.offset, length)
            ask = self._finish(session, data) if last else self._continue(session, data)
            try:
                answer = await self._wire.once(ask)
            except Trouble as trouble:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise self._wire.unreachable(ask, trouble) from trouble
                await self._wire.wait(ask, trouble, attempt, time.monotonic())
                if last and await self._exists():
                    return  # what was lost was the answer
                session = await self._resume(session)
            else:
                if answer.status in (201, 204):
                    return
                if answer.status in _GONE:
                    attempt += 1
                    if attempt >= ATTEMPTS:
                        raise RegistryError(
                            f"can't {ask.doing}: the registry forgets the upload again and again ({said(answer)})"
                        )
                    session = await self._resume(session)
                else:
                    session = self._next(session, answer, session.offset + len(data))
            if session.offset > most:
                most, attempt = session.offset, 0

    async def _begin(self) -> _Session:
        answer = await self._wire.send(self._ask)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        return _Session(self._location(answer), 0, int(least) if least.isdigit() else 0)

    async def _resume(self, session: _Session) -> _Session:
        """As much as the registry has, which may be nothing: then from the beginning."""
        ask = replace(self._ask, method="GET", url=session.location, expected=(200, 202, 204, *_GONE))
        answer = await self._wire.send(ask)
        return await self._begin() if answer.status in _GONE else self._next(session, answer, None)

    def _next(self, session: _Session, answer: Answer, assumed: int | None) -> _Session:
        """What the registry says that it has; `assumed` where it does not say."""
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        # "0-0" is how distribution says that it has nothing; whoever has one byte says the same.
        has = int(found[1]) + 1 if found and found[1] != "0" else (assumed or 0)
        if has > self._reader.size or (assumed is not None and has > assumed):
            raise RegistryError(f"can't {self._ask.doing}: the registry says that it has more than was sent")
        return replace(session, location=self._location(answer, session.location), offset=has)

    def _continue(self, session: _Session, data: bytes) -> Ask:
        return self._piece_of(session, data, "PATCH", session.location, (202, 404, 416))

    def _finish(self, session: _Session, data: bytes) -> Ask:
        mark = "&" if "?" in session.location else "?"
        url = f"{session.location}{mark}digest={quote(self._digest, safe='')}"
        return self._piece_of(session, data, "PUT", url, (201, 204, 404, 416))

    def _piece_of(self, session: _Session, data: bytes, method: str, url: str, expected: tuple[int, ...]) -> Ask:
        headers = {"Content-Type": "application/octet-stream"}
        if data and (method == "PATCH" or session.offset):
            headers["Content-Range"] = f"{session.offset}-{session.offset + len(data) - 1}"
        return replace(self._ask, method=method, url=url, expected=expected, headers=headers, content=data)

    async def _exists(self) -> bool:
        ask = replace(self._ask, method="HEAD", url=self._blob, expected=(200, 404))
        return (await self._wire.send(ask)).status == 200

    def _location(self, answer: Answer, before: str | None = None) -> str:
        location: str | None = answer.headers.get("Location")
        if location is None and before is None:
            raise RegistryError(f"can't {self._ask.doing}: the registry does not say where to")
        return urljoin(answer.url, location) if location else str(before)
