"""Real registries for images: Debian's `docker-registry`, open, with a password or behind a token server, and TLS."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from footprint import Footprint


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.certificate = folder / "authority.pem"
        """What clients trust."""
        self._authority.cert_pem.write_to_path(str(self.certificate))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for an address or a name, and its key, both in PEM."""
        issued = self._authority.issue_cert(name, key_type=trustme.KeyType.RSA)
        certificate, key = (self._folder / f"{name}-{secrets.token_hex(4)}.{kind}" for kind in ("crt", "key"))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        key.touch(0o600)
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def context(self) -> ssl.SSLContext:
        """For a client that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


class Registry:
    """A context manager. `kill()` and `start()` again keep what was pushed, and the port."""

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        authority: Authority | None = None,
        users: Mapping[str, str] | None = None,
        tokens: bool = False,
        deletes: bool = True,
    ) -> None:
        """
        Args:
            address: where it listens. Docker takes any certificate of a registry on a loopback address.
            authority: signs its certificate; without one it speaks HTTP.
            users: their passwords; without them it asks nobody.
            tokens: whether users get tokens from a server beside it (`tokens`), instead of sending passwords to it.
            deletes: whether it lets anybody delete.
        """
        self.footprint = Footprint.claim()
        self.folder = self.footprint.folder
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = probe.getsockname()[1]
        self.host = f"{address}:{self.port}"
        """What an image's name begins with."""
        self.url = f"{'https' if authority else 'http'}://{self.host}"
        self.users = dict(users or {})
        self.tokens: TokenServer | None = None
        http: dict[str, object] = {"addr": self.host, "secret": secrets.token_hex(16)}
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}, "delete": {"enabled": deletes}},
            "http": http,
        }
        try:
            if authority:
                certificate, key = authority.issue(address)
                http["tls"] = {"certificate": str(certificate), "key": str(key)}
            if tokens:
                assert authority is not None, "a token server signs with a certificate"
                self.tokens = TokenServer(address, authority, self.users, service=self.host)
                configuration["auth"] = {
                    "token": {
                        "realm": self.tokens.url,
                        "service": self.host,
                        "issuer": self.tokens.ISSUER,
                        "rootcertbundle": str(authority.certificate),
                    }
                }
            elif users:
                lines = [
                    f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
                    for name, password in users.items()
                ]
                (self.folder / "htpasswd").write_text("".join(lines))
                configuration["auth"] = {"htpasswd": {"realm": "neartime", "path": str(self.folder / "htpasswd")}}
            (self.folder / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML
            self.start()
        except BaseException:
            self._close()
            raise

    def start(self) -> None:
        """Starts it, again too, and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.yml")],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/bin"), "HOME": str(self.folder)},
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((self.host.rpartition(":")[0], self.port), 1).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"docker-registry did not start:\n{self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """What it has said so far, each request among it."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def credentials(self) -> dict[str, str] | None:
        """What the SDK takes as `auth_config`."""
        return next(({"username": name, "password": password} for name, password in self.users.items()), None)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it, and removes what was pushed."""
        self.kill()
        self._close()

    def _close(self) -> None:
        if self.tokens:
            self.tokens.close()
        self.footprint.clear()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass
class Grant:
    """A token that was asked for."""

    user: str | None
    scopes: list[str] = field(default_factory=list)


class TokenServer:
    """Hands out a registry's bearer tokens, as the distribution project's token specification has it: to whom has a
    password, or an identity token (by its OAuth 2 form), which here is the password backwards.

    Who has the right password may do anything; others get a token that allows nothing.
    """

    ISSUER = "neartime tests"

    def __init__(self, address: str, authority: Authority, users: Mapping[str, str], service: str) -> None:
        self.users = users
        self.lifetime = 300
        """Seconds that the tokens from now on are valid. The registry lets a minute pass beyond."""
        self.grants: list[Grant] = []
        """The tokens asked for so far."""
        self._service = service
        certificate, key = authority.issue("tokens")
        loaded = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, RSAPrivateKey)
        self._key = loaded
        lines = certificate.read_text().splitlines()
        self._certificate = "".join(lines[1 : lines.index("-----END CERTIFICATE-----")])
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def do_POST(self) -> None:
                server._answer_form(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*authority.issue(address))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://{address}:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        user = None
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            user, _, password = base64.b64decode(value).decode().partition(":")
            if self.users.get(user) != password:
                return self._send(request, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]})
        return self._grant(request, user, parse_qs(urlsplit(request.path).query))

    def _answer_form(self, request: BaseHTTPRequestHandler) -> None:
        form = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        users = {password[::-1]: name for name, password in self.users.items()}
        user = users.get(form["refresh_token"][0])
        if user is None or form["grant_type"] != ["refresh_token"] or not form["client_id"]:
            return self._send(request, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong token"}]})
        return self._grant(request, user, form)

    def _grant(self, request: BaseHTTPRequestHandler, user: str | None, query: Mapping[str, list[str]]) -> None:
        scopes = [scope for asked in query.get("scope", []) for scope in asked.split()]
        self.grants.append(Grant(user, scopes))
        access = []
        for scope in scopes if user else []:
            kind, name, actions = (
                scope.split(":", 1)[0],
                scope.split(":", 1)[1].rpartition(":")[0],
                scope.rpartition(":")[2],
            )
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": self.ISSUER, "sub": user or "", "aud": self._service, "jti": secrets.token_hex(8),
            "iat": now, "nbf": now - 5, "exp": now + self.lifetime, "access": access,
        }  # fmt: skip
        return self._send(request, 200, {"token": self._sign(claims), "expires_in": self.lifetime})

    def _sign(self, claims: Mapping[str, object]) -> str:
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._certificate]}
        text = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return (text + b"." + _base64(self._key.sign(text, padding.PKCS1v15(), SHA256()))).decode()

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: object) -> None:
        encoded = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(encoded)))
        request.end_headers()
        request.wfile.write(encoded)


def require_registry() -> None:
    """Skips the test where the machine has no registry."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if os.geteuid() != 0:
        pytest.skip("a registry's footprint on the machine takes root to remove")
    needed = {"docker-registry": "docker-registry", "iptables": "iptables", "ip": "iproute2"}
    if missing := [package for program, package in needed.items() if not shutil.which(program, path=path)]:
        pytest.skip(f"no registry to be tested with: apt-get install {' '.join(missing)}")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
