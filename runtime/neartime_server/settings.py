"""The server's settings: the one reader of the environment. Every field is explained in docs/reference/settings.md."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

PREFIX = "NEARTIME_"
FAULT_SUFFIX = ".fault"
"""Of the file, beside the one that says where a server is, that says why it can't start as it is configured."""
SHUT_DOWN = signal.SIGUSR1
"""Tells a server to end all workers, with their jobs, and then itself. SIGTERM ends it alone: workers go on."""


def _home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.environ.get("NEARTIME_HOME") or f"{data}/neartime").expanduser()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can set. Each field is the environment variable NEARTIME_<NAME IN CAPITALS>."""

    home: Path = field(default_factory=_home)
    """Folder of everything the embedded runtime keeps. Only its owner can read it."""

    # --- where it listens
    host: str = "127.0.0.1"
    port: int = 8787
    """TCP port of the REST API; 0 takes a free one."""
    public_url: str | None = None
    """The API's URL as clients reach it, where a proxy stands before it."""

    # --- where it keeps things
    database: str | None = None
    """SQLAlchemy URL; None is SQLite in the home folder. PostgreSQL: postgresql+psycopg://user@host/name"""
    secret_file: Path | None = None
    """The operator's secret, 64 hexadecimal digits, for its owner alone; all keys derive from it. None: in home."""

    # --- NATS
    nats_url: str | None = None
    """Of a NATS server in operator mode that trusts this operator; None: the embedded one."""
    nats_public_url: str | None = None
    """The NATS URL as clients reach it, where it differs."""
    nats_worker_url: str | None = None
    """The NATS URL as workers reach it, where it differs: pods of a cluster that the server is not in."""
    jobs_stream_bytes: int = 512 << 20
    """Bytes reserved per instance for status, interim results and results."""
    bulk_stream_bytes: int = 4 << 30
    """Bytes per instance for logs and large values."""
    stream_replicas: int = 1
    """Servers of a NATS cluster that keep each stream: 1, or 3 so that one of them may be lost."""
    stream_max_age: float = 7 * 86400.0
    """Seconds that events stay in the streams; the store keeps results, interim results and logs beyond."""

    # --- backends and workers
    backends_file: Path | None = None
    """TOML, a table [[backends]] each; None: `aer` and `generic_5q`, built in."""
    executor: str = "process"
    """What workers are: `process`, on this machine, for trusted programs; `docker`, containers of images; or
    `kubernetes`, pods of images."""
    worker_heartbeat: float = 5.0
    """Seconds between heartbeats; a worker unheard for three of them, and not seen by the executor, is lost."""
    cancel_grace: float = 2.0
    """Seconds between the exception in main() and SIGTERM, and again between SIGTERM and SIGKILL."""

    # --- images
    builder: str | None = None
    """Who makes images: `registry`, over HTTP without a daemon; or `docker`. None: `registry` where one is named."""
    registry: str | None = None
    """Where images go: a registry and the beginning of repositories' names, `registry.lab.example/neartime`. None: they
    stay in the Docker Engine that made them."""
    registry_config: Path | None = None
    """Docker's config.json with the credentials of registries; None: the one of this user."""
    registry_ca: Path | None = None
    """Certificates, PEM, that the registry's is checked against beside the system's."""
    registry_insecure: str | None = None
    """Registries, with commas between them, that speak HTTP without TLS; those on loopback addresses may anyway."""
    base_image: str = "docker.io/library/python:{python}-slim"
    """The image that programs are built on; `{python}` stands for a minor version."""
    packages: str | None = None
    """Where packages of images are fetched: `job`, a Kubernetes Job in the namespace of workers; or `server`. None: a
    Job where the executor is `kubernetes` and the builder `registry`."""
    packages_memory: str = "2Gi"
    """That such a Job may use."""
    packages_disk: str = "10Gi"
    """Of its node, that it may fill: packages as they come, installed and packed."""
    packages_seconds: float = 1800.0
    """It may take, a wait for its image and for a place included."""
    packages_index: str | None = None
    """Where it reaches the package index, for a NetworkPolicy that allows nothing else, as NEARTIME_KUBERNETES_NATS
    says where NATS is. None: the operator makes that policy."""
    docker_host: str | None = None
    """Where the Docker Engine listens, `unix:///run/docker.sock`; None: as DOCKER_HOST says, or Docker's own place."""
    docker_network: str | None = None
    """A network of the engine that the operator has restricted to NATS, for workers; None: they have no network, and a
    Unix socket to NATS."""

    # --- Kubernetes
    kubeconfig: Path | None = None
    """Of the cluster where workers run; None: the one that the server is a pod of, or kubectl's own file."""
    kubernetes_namespace: str = "neartime-workers"
    """Of workers' pods. Nothing else should be in it."""
    kubernetes_nats: str | None = None
    """Where pods reach NATS, for a NetworkPolicy that allows nothing else: `10.0.0.5/32:4222`, or a namespace and a
    label of NATS' pods, `nats/app.kubernetes.io/name=nats:4222`. None: the operator makes that policy."""
    kubernetes_pending: float = 300.0
    """Seconds that a pod may wait for an image that can't be had, or for a place that no node has, before its job fails
    with what the cluster says. A pull that makes progress may take longer."""
    kubernetes_spares: int = 0
    """Pods that wait for a session with Qiskit imported, for each kind of placement: the first job of a session whose
    program has no requirements runs in one at once. Each holds the cores and memory that a program has by default."""

    # --- limits
    max_body_bytes: int = 512 << 20
    """Bytes of a request's body."""
    session_max_ttl: int = 8 * 3600
    """Seconds a session may stay open, and the default."""
    session_interactive_ttl: int = 300
    """Seconds without a job after which a session closes by itself, the default."""
    stream_token_ttl: int = 3600
    """Seconds a client's NATS credential lives."""
    idempotency_ttl: int = 86400
    """Seconds an idempotency key is remembered."""

    # --- limits of one instance; None is none
    limit_running_jobs: int | None = None
    """Jobs that run at a time; others wait."""
    limit_live_jobs: int | None = None
    """Jobs that wait or run; another one is refused."""
    limit_open_sessions: int | None = None
    """Sessions that are open; another one is refused."""
    limit_seconds_per_day: int | None = None
    """Seconds that its jobs ran within the last 24 hours, from which on another one is refused."""

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home / 'neartime.db'}"

    @property
    def secret_path(self) -> Path:
        return self.secret_file or self.home / "secret"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
        """Settings from the environment; `overrides` win.

        Raises:
            ConfigurationError: a variable does not hold what its field wants; all of them are named.
        """
        from neartime_server.errors import ConfigurationError

        source = os.environ if environment is None else environment
        values: dict[str, object] = {}
        faults = []
        kinds: dict[str, Callable[[str], object]] = {
            "int": int,
            "float": float,
            "str": str,
            "Path": lambda text: Path(text).expanduser(),
        }
        for one in fields(cls):
            name = PREFIX + one.name.upper()
            if not (text := source.get(name)):
                continue
            kind = str(one.type).removesuffix(" | None")
            try:
                values[one.name] = kinds[kind](text)
            except ValueError:
                faults.append(f"{name}={text!r}: expected {kind}")
        if faults:
            raise ConfigurationError("\n".join(faults))
        return cls(**{**values, **{k: v for k, v in overrides.items() if v is not None}})  # type: ignore[arg-type]
