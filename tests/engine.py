"""A real Docker Engine of the tests' own: Debian's `dockerd` in a folder, with a socket, a bridge and addresses.

It knows nothing of an engine that the machine may have. It does not turn on forwarding of packets: where the machine
has not, containers reach the machine itself and each other, and nothing beyond.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from footprint import Footprint, turn
from images import PYTHON, Image, base_image, runner_image
from registries import Authority, Registry

NEEDED = {
    "dockerd": "docker.io",
    "docker-registry": "docker-registry",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
}
"""Programs, and the Debian packages that have them. `scripts/engine` installs them."""

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"

_IPTABLES = """#!/bin/sh
# All engines of a machine share these chains. One that starts empties them, which opens the others' closed networks.
# Two that look at once for a chain, or a jump to it, find the same, and one comes too late to make or to remove it.
case " $* " in
  *" -F DOCKER"* | *" -X DOCKER"*) exit 0 ;;
  *" -N DOCKER"* | *" -D FORWARD -j DOCKER"*) {} "$@" 2>/dev/null; exit 0 ;; # Docker takes a word for an error
esac
exec {} "$@"
"""


class Engine:
    """A context manager. `kill()` and `start()` again keep images, and the containers' records."""

    def __init__(self, *, disk: str | None = None, options: Sequence[str] = (), trust: Path | None = None) -> None:
        """
        Args:
            disk: how much there is for images and containers, "500m" or the like: a disk in memory, to be filled.
            options: further ones for `dockerd`.
            trust: a certificate authority's, in PEM, that it takes registries' certificates from.
        """
        self.footprint = Footprint.claim()
        self.folder = self.footprint.folder
        self.socket = self.folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        """What the SDK, or DOCKER_HOST, takes."""
        self.gateway = str(self.footprint.subnet[1])
        """The machine's address on the default bridge: a server that listens there is seen by containers."""
        self._options = options
        # Nothing of the environment: no proxy, no credentials, no settings of another engine.
        self._environment = {
            "PATH": f"{self.folder}/bin:{_PATH}",
            "HOME": str(self.folder),
        }
        if trust is not None:
            self._environment["SSL_CERT_FILE"] = str(trust)
        try:
            (self.folder / "data").mkdir()
            if disk:
                size = ["-o", f"size={disk}"]
                subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", self.folder / "data"], check=True)
            (self.folder / "daemon.json").write_text("{}")  # not the machine's
            (self.folder / "bin").mkdir()
            (self.folder / "bin/iptables").write_text(
                _IPTABLES.replace("{}", str(shutil.which("iptables", path=_PATH)))
            )
            (self.folder / "bin/iptables").chmod(0o755)
            self._ip("link", "add", self.footprint.bridge, "type", "bridge")
            self._ip("address", "add", f"{self.gateway}/24", "dev", self.footprint.bridge)
            self._ip("link", "set", self.footprint.bridge, "up")
            self.start()
        except BaseException:
            self.footprint.clear()
            raise

    def start(self) -> None:
        """Starts it, again too, and waits until it answers."""
        # What one that was killed has left.
        self.footprint.open()
        (self.folder / "docker.pid").unlink(missing_ok=True)
        command = [
            "dockerd", "--config-file", self.folder / "daemon.json", "--data-root", self.folder / "data",
            "--exec-root", self.folder / "exec", "--pidfile", self.folder / "docker.pid", "--host", self.url,
            "--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", self.footprint.cgroup, "--bridge", self.footprint.bridge,
            "--default-address-pool", f"base={self.footprint.pool},size=24",
            "--ip-forward=false", "--ip6tables=false", *self._options,
        ]  # fmt: skip
        with turn(), (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment,
                start_new_session=True, cwd="/",
                umask=0o022,  # containerd makes the root folder of a container with it, and users have to get in
            )  # fmt: skip
        self.client = docker.DockerClient(base_url=self.url, timeout=120, version="1.41")
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(DockerException, OSError):
                if self.client.ping():
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{self.log}")
            time.sleep(0.05)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """Ends it at once, as a crash would. Its containers stay."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        # containerd is killed with it, a moment later. The next one would wait for it where the process is still to be
        # seen, which it is for good where nobody buries the dead.
        number = self.folder / "exec/containerd/containerd.pid"
        with contextlib.suppress(OSError):
            deadline = time.monotonic() + 10
            while int(number.read_text()) in self.footprint.processes() and time.monotonic() < deadline:
                time.sleep(0.02)
            number.unlink()

    def stop(self) -> None:
        """Ends it, and removes all that it has made."""
        if self.process.poll() is None:
            with contextlib.suppress(DockerException, OSError):
                for container in self.client.containers.list(all=True, ignore_removed=True):
                    container.remove(force=True, v=True)
                # Those that a test gave addresses outside the pool are found by nobody else.
                for network in self.client.networks.list(filters={"type": "custom"}):
                    network.remove()
            self.client.close()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.footprint.clear()
        self.process.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def require_engine() -> None:
    """Skips the test where the machine has no engine, or the user may not start one."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker Engine")
    if missing := [package for program, package in NEEDED.items() if not shutil.which(program, path=_PATH)]:
        pytest.skip(f"no Docker Engine to be tested with: apt-get install {' '.join(missing)}")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """What signs the certificates of the tests' servers."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def engine(authority: Authority) -> Iterator[Engine]:
    """A Docker Engine of this test process's own. Whoever kills one makes another."""
    require_engine()
    with Engine(trust=authority.certificate) as engine:
        yield engine


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry that asks for nothing, over HTTP on a loopback port."""
    require_engine()
    with Registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def base(engine: Engine, registry: Registry) -> str:
    """A reference to the base image, in the open registry and in the engine."""
    return _publish(base_image(), "neartime/base", engine, registry)


@pytest.fixture(scope="session")
def runner(engine: Engine, registry: Registry) -> str:
    """A reference to the image of the runner, with Qiskit and Aer, in the open registry and in the engine."""
    return _publish(runner_image(), "neartime/runner", engine, registry)


def _publish(image: Image, name: str, engine: Engine, registry: Registry) -> str:
    image.push(registry.url, name, f"py{PYTHON}")
    engine.client.images.pull(f"{registry.host}/{name}", f"py{PYTHON}")
    return f"{registry.host}/{name}:py{PYTHON}"


@pytest.fixture(scope="session")
def locked_registry(engine: Engine, authority: Authority) -> Iterator[Registry]:
    """A registry with TLS, a certificate of the tests' authority, and a password (basic authentication).

    It is on the engine's bridge: on a loopback address Docker would accept any certificate.
    """
    with Registry(address=engine.gateway, authority=authority, users={"neartime": "secret"}) as registry:
        yield registry


@pytest.fixture(scope="session")
def token_registry(engine: Engine, authority: Authority) -> Iterator[Registry]:
    """A registry with TLS that sends its clients to a token server."""
    with Registry(address=engine.gateway, authority=authority, users={"neartime": "secret"}, tokens=True) as registry:
        yield registry
