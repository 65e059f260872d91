"""A package index on this machine, for servers in pods, which reach nothing beyond it."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WheelIndex:
    """Serves a folder's wheels to everybody who reaches the address. A context manager."""

    def __init__(self, address: str, folder: Path) -> None:
        pages: dict[str, list[str]] = {}
        for wheel in sorted(folder.glob("*.whl")):
            name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            pages.setdefault(name, []).append(f'<a href="/files/{wheel.name}#sha256={digest}">{wheel.name}</a>')

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, name = self.path.strip("/").partition("/")[::2]
                if kind == "simple" and name in pages:
                    self._send("text/html", "<br>".join(pages[name]).encode())
                elif kind == "files" and (file := folder / Path(name).name).is_file():
                    self._send("application/octet-stream", file.read_bytes())
                else:
                    self.send_error(404)

            do_HEAD = do_GET  # noqa: N815

            def _send(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://{address}:{self._server.server_port}/simple"

    def __enter__(self) -> WheelIndex:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
