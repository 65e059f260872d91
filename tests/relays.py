"""What stands between a client and a registry: a connection that breaks, and a registry of another kind in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import httpx

_BLOCK = 65536


class Relay:
    """Bytes to a server and back, counted, until a connection is cut in their middle. An asynchronous context manager.

    With `whole` it is like a reverse proxy with its usual settings: a request goes on when all of it has come.
    """

    def __init__(self, target: str, *, whole: bool = False) -> None:
        """`target` is a host and a port."""
        self.up = 0
        """Bytes that came from clients."""
        self.down = 0
        """Bytes that went to clients."""
        self.cuts_up: list[int] = []
        """At how many bytes `up` a connection is cut, each once."""
        self.cuts_down: list[int] = []
        """The same for `down`."""
        self.lost_answers = 0
        """How many of the next answers to a PUT are cut off: the request arrives, its answer doesn't. Needs `whole`."""
        self.connections = 0
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._whole = whole
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            their_reader, their_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        upwards = self._requests if self._whole else self._blocks
        pumps = [
            asyncio.ensure_future(upwards(reader, their_writer)),
            asyncio.ensure_future(self._answers(their_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, their_writer):
                end.transport.abort()
            self._tasks.discard(task)

    async def _take(self, reader: asyncio.StreamReader) -> bytes:
        """What comes from the client. Nothing where the connection is at its end, or is cut here."""
        data = await reader.read(_BLOCK)
        self.up += len(data)
        if self.cuts_up and self.up >= self.cuts_up[0]:
            self.cuts_up.pop(0)
            return b""
        return data

    async def _blocks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._take(reader):
            writer.write(data)
            await writer.drain()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting = b""
        while True:
            while b"\r\n\r\n" not in waiting:
                if not (data := await self._take(reader)):
                    return
                waiting += data
            head, _, _ = waiting.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            end = len(head) + 4 + (int(length[1]) if length else 0)
            pieces = [waiting]
            size = len(waiting)
            while size < end:
                if not (data := await self._take(reader)):
                    return
                pieces.append(data)
                size += len(data)
            waiting = b"".join(pieces)
            writer.write(waiting[:end])
            self._loses = head.startswith(b"PUT") and self.lost_answers > 0
            waiting = waiting[end:]
            await writer.drain()

    _loses = False

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_BLOCK):
            if self._loses:
                self.lost_answers -= 1
                return
            self.down += len(data)
            if self.cuts_down and self.down >= self.cuts_down[0]:
                self.cuts_down.pop(0)
                return
            writer.write(data)
            await writer.drain()


class Modern:
    """A registry as the specification's version 1.1 has it, in front of one that is older. A context manager.

    It keeps what it got of a piece when a connection breaks, wants pieces of a least size, and lists referrers itself.
    Lists have pages of two. Everything else the registry behind it does.
    """

    def __init__(self, behind: str, *, least: int = 0, filters: bool = True) -> None:
        """
        Args:
            behind: the URL of the registry.
            least: the fewest bytes of a piece that isn't the last.
            filters: whether it selects referrers by their type.
        """
        self.answers: list[tuple[int, dict[str, str]]] = []
        """Given to the next requests, instead of what they ask for."""
        self.requests: list[str] = []
        """Method and path of each."""
        self.heads: list[dict[str, str]] = []
        """The headers of each."""
        self.sessions: dict[str, bytearray] = {}
        self.referrers: dict[str, list[dict[str, object]]] = {}
        self.least = least
        self.filters = filters
        self.client = httpx.Client(base_url=behind, trust_env=False)
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                with contextlib.suppress(ConnectionError):
                    front._answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Modern:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.client.close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {urlsplit(request.path).path}")
        self.heads.append(dict(request.headers.items()))
        left = int(request.headers.get("Content-Length", 0))
        session = self.sessions.get(urlsplit(request.path).path.rpartition("/")[2])
        body = bytearray()
        late = "Content-Range" in request.headers and session is not None
        if late and session is not None:
            begins = int(request.headers["Content-Range"].partition("-")[0])
            if begins != len(session) or (request.command == "PATCH" and left < self.least):
                request.rfile.read(left)
                return self._send(request, 416, {"Range": f"0-{len(session) - 1}"})
            body = session
        while left:
            block = request.rfile.read1(min(left, _BLOCK))
            if not block:
                request.close_connection = True
                return None
            body += block
            left -= len(block)
        if self.answers:
            return self._send(request, *self.answers.pop(0))
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        if session is not None:
            return self._session(request, session, bytes(b"" if late else body), query)
        if request.command == "POST" and url.path.endswith("/blobs/uploads/") and not query:
            name = secrets.token_hex(8)
            self.sessions[name] = bytearray()
            least = {"OCI-Chunk-Min-Length": str(self.least)} if self.least else {}
            return self._send(request, 202, {"Location": f"{url.path}{name}?state=a%2Fb%3D", **least})
        if found := re.fullmatch(r"/v2/(.+)/referrers/(.+)", url.path):
            return self._list(request, found[2], query)
        return self._pass(request, bytes(body), url.path, query)

    def _session(
        self, request: BaseHTTPRequestHandler, session: bytearray, body: bytes, query: dict[str, list[str]]
    ) -> None:
        session += body
        path = urlsplit(request.path)
        assert query["state"] == ["a/b="], "a location is used as it was given"
        if request.command != "PUT":
            size = {"Range": f"0-{len(session) - 1}"} if session else {}
            location = path._replace(query="state=a%2Fb%3D").geturl()
            return self._send(request, 202 if request.command == "PATCH" else 204, {"Location": location, **size})
        uploads = path.path.rpartition("/")[0] + "/"
        place = self.client.post(uploads).headers["Location"]
        answer = self.client.put(place, params={**parse_qs(urlsplit(place).query), **query}, content=bytes(session))
        return self._send(request, answer.status_code, {}, answer.content)

    def _list(self, request: BaseHTTPRequestHandler, digest: str, query: dict[str, list[str]]) -> None:
        found = self.referrers.get(digest, [])
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        if self.filters and "artifactType" in query:
            found = [one for one in found if one["artifactType"] in query["artifactType"]]
            headers["OCI-Filters-Applied"] = "artifactType"
        first = int(query.get("first", ["0"])[0])
        if first + 2 < len(found):
            headers["Link"] = f'<{urlsplit(request.path).path}?first={first + 2}>; rel="next"'
        self._send(
            request, 200, headers, json.dumps({"schemaVersion": 2, "manifests": found[first : first + 2]}).encode()
        )

    def _pass(self, request: BaseHTTPRequestHandler, body: bytes, path: str, query: dict[str, list[str]]) -> None:
        if "n" in query:
            query["n"] = ["2"]
        headers = {
            name: request.headers[name] for name in ("Content-Type", "Accept", "Range") if name in request.headers
        }
        answer = self.client.request(request.command, path, params=query, headers=headers, content=body)
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("content-length", "date", "connection")
        }
        if request.command == "PUT" and answer.status_code == 201 and "/manifests/" in path:
            manifest = json.loads(body)
            if "subject" in manifest:
                kept["OCI-Subject"] = manifest["subject"]["digest"]
                self.referrers.setdefault(manifest["subject"]["digest"], []).append(
                    {
                        "mediaType": request.headers["Content-Type"],
                        "digest": answer.headers["Docker-Content-Digest"],
                        "size": len(body),
                        "artifactType": manifest.get("artifactType", "none"),
                        "annotations": manifest.get("annotations", {}),
                    }
                )
        if request.command == "DELETE":
            for listed in self.referrers.values():
                listed[:] = [one for one in listed if one["digest"] != path.rpartition("/")[2]]
        self._send(request, answer.status_code, kept, answer.content)

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if status != 204:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
