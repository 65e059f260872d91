"""A package index of a test's own, with a password: what an operator's private one is."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from builder.packages import Index


class PrivateIndex(Index):
    """Serves the wheels of a folder to whoever has the password. A context manager."""

    USER = "reader"

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        super().__init__(folder)
        self.address = address
        self.password = secrets.token_hex(16)
        self.faults: dict[str, int] = {}
        """With which status files of a package are refused, by its name; 0 breaks the connection."""
        expected = f"Basic {base64.b64encode(f'{self.USER}:{self.password}'.encode()).decode()}"
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.headers.get("Authorization") != expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="private"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                path = urlsplit(self.path).path
                fault = index.faults.get(Path(path).name.partition("-")[0])
                if fault == 0:
                    self.close_connection = True
                    return
                kind, body = index._answer(path)
                self.send_response(fault or (200 if kind else 404))
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """With the password in it, as uv takes it."""
        return f"http://{self.USER}:{self.password}@{self.address}:{self._server.server_port}/simple"

    @property
    def secrets(self) -> list[bytes]:
        """The password, as it is and as it goes over the wire."""
        pair = f"{self.USER}:{self.password}".encode()
        return [self.password.encode(), base64.b64encode(pair)]

    def _answer(self, path: str) -> tuple[str, bytes]:
        if found := re.fullmatch(r"/simple/([a-z0-9-]+)/", path):
            wheels = sorted(self.folder.glob(f"{found[1].replace('-', '_')}-*.whl"))
            links = [
                f'<a href="/files/{one.name}#sha256={hashlib.sha256(one.read_bytes()).hexdigest()}">{one.name}</a>'
                for one in wheels
            ]
            return ("text/html", "<br>".join(links).encode()) if links else ("", b"")
        file = self.folder / Path(path).name
        if path.startswith("/files/") and file.is_file():
            return "application/octet-stream", file.read_bytes()
        return "", b""

    def __enter__(self) -> PrivateIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
