"""What runs in a Job's pod: it installs the packages of a lock, and packs them as a layer.

It takes one order, over HTTP on a loopback port that only the cluster's own port forwarding leads to: so what an
order holds, an index's password among it, is never written down. It hands out what is said, and then the layer. When
nobody has asked for a while, its server is gone, and it ends.

It needs nothing but Python, `archive` beside it, and `uv`: the three are a layer on top of the base image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from neartime_server.builder.images import archive
else:
    try:
        from neartime_server.builder.images import archive
    except ModuleNotFoundError:  # where it runs
        import archive

PORT: Final = 8000
IDLE_SECONDS: Final = 20.0
"""A server asks every second."""
NEWS_SECONDS: Final = 1.0
"""How long an answer waits for something to be said."""
PIECE: Final = 1 << 20
HIDDEN: Final = "****"


class Bench:
    """One order, and what has become of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ordered = False
        self._secrets: list[str] = []
        self._state: dict[str, Any] = {"state": "waiting"}
        self._asked = time.monotonic()

    @property
    def layer(self) -> Path:
        return self._folder / "layer.tar.gz"

    def asked(self) -> None:
        self._asked = time.monotonic()

    def idle(self) -> float:
        """Seconds since somebody has asked."""
        return time.monotonic() - self._asked

    def order(self, order: dict[str, Any]) -> bool:
        """Begins. Whether it is the first one."""
        with self._changed:
            if self._ordered:
                return False
            self._ordered = True
            self._secrets = sorted(order["secrets"], key=len, reverse=True)
            self._state = {"state": "running"}
        threading.Thread(target=self._work, args=(order,), daemon=True).start()
        return True

    def progress(self, after: int) -> dict[str, Any]:
        """What was said after so many lines, and how it stands."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) > after or "made" in self._state, NEWS_SECONDS)
            return {"lines": self._lines[after:], **self._state}

    # --- the work

    def _work(self, order: dict[str, Any]) -> None:
        found: dict[str, Any]
        try:
            found = {"state": "done", "made": self._make(order)._asdict()}
        except Failed as error:
            found = {"state": "failed", "made": None, "reason": error.reason, "exit_code": error.code}
        except Exception as error:
            found = {"state": "failed", "made": None, "reason": self._hidden(str(error)), "exit_code": None}
        with self._changed:
            self._state = found
            self._changed.notify_all()

    def _make(self, order: dict[str, Any]) -> archive.Packed:
        folder, lock = self._folder / "packages", self._folder / "packages.lock"
        lock.write_text(order["lock"])
        environment = {**os.environ, **order["environment"], "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        if order["certificates"]:
            certificates = self._folder / "certificates.pem"
            certificates.write_text(order["certificates"])
            environment["SSL_CERT_FILE"] = str(certificates)
        uv = str(Path(__file__).with_name("uv"))
        install = [*order["install"], "--python", sys.executable, "--target", str(folder), "--requirement", str(lock)]
        self._run([uv, *install], environment)
        shutil.rmtree(self._folder / ".cache", ignore_errors=True)
        shutil.rmtree(folder / "bin", ignore_errors=True)
        compiling = [*order["compile"], "-s", str(folder), "-p", order["place"], str(folder)]
        try:
            self._run([sys.executable, "-I", "-m", "compileall", *compiling], dict(os.environ), aloud=False)
        except Failed:  # a file of a package that is meant for another Python
            pass
        self._say("packing them")
        return archive.write(self.layer, [(PurePosixPath(order["place"]), folder)])

    def _run(self, command: list[str], environment: dict[str, str], *, aloud: bool = True) -> None:
        before = _killed()
        process = subprocess.Popen(
            command, env=environment, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if aloud:
                self._say(line.rstrip())
        if (code := process.wait()) != 0:
            raise Failed("memory" if _killed() > before else "tool", code)

    def _say(self, line: str) -> None:
        with self._changed:
            self._lines.append(self._hidden(line))
            self._changed.notify_all()

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


class Failed(Exception):
    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


def _killed() -> int:
    """How many processes of this container the kernel has ended for want of memory.

    Source: Linux, admin-guide/cgroup-v2.rst, memory.events; cgroup-v1/memory.rst, memory.oom_control.
    """
    for file in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            found = dict(line.split() for line in Path(file).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(found.get("oom_kill", 0))
    return 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bench: Bench

    def do_POST(self) -> None:
        self.bench.asked()
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bench.order(order)
        self._answer({})

    def do_GET(self) -> None:
        self.bench.asked()
        what, _, number = self.path.strip("/").partition("/")
        if what == "progress":
            self._answer(self.bench.progress(int(number)))
        else:
            self._send_layer(int(number))

    def _answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self._head(len(content))
        self.wfile.write(content)

    def _send_layer(self, since: int) -> None:
        with self.bench.layer.open("rb") as file:
            self._head(os.fstat(file.fileno()).st_size - since)
            file.seek(since)
            while piece := file.read(PIECE):
                self.wfile.write(piece)
                self.bench.asked()

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main(folder: Path, port: int = PORT) -> int:
    bench = Handler.bench = Bench(folder)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while bench.idle() < IDLE_SECONDS:
        time.sleep(1)
    print(f"nobody has asked for {IDLE_SECONDS:g} s: the server is gone", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
