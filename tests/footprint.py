"""What a test's Docker Engine or registry leaves on the machine, how to find it, and how to remove it.

Everything that one of them makes can be told from what others made: its processes and mounts name its folder, its
networks are in its range of addresses, its containers in its control group. So a daemon that was killed, or whose test
process was, is cleared as well as one that ended by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, ip_network
from pathlib import Path

_PREFIX = "neartime-engine-"
_RANGE = IPv4Network("10.200.0.0/13")
"""Where test engines take their networks from: each a /20 that nothing else on the machine routes."""

_CHAINS = {
    "filter": ("DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER-USER"),
    "nat": ("DOCKER",),
}
"""What all engines of a machine share. The last one takes them along."""

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Footprint:
    folder: Path
    pool: IPv4Network
    """Of its networks, the default bridge's first."""

    @classmethod
    def claim(cls) -> Footprint:
        """A folder and a range of addresses of one's own. What test processes that were killed have left goes first."""
        for stale in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/claim.json"):
            with contextlib.suppress(OSError, ValueError):
                claim = json.loads(stale.read_text())
                if _born(claim["pid"]) != claim["born"]:
                    cls(stale.parent, IPv4Network(claim["pool"])).clear()
        with turn():
            # Short, since a socket's path holds 107 bytes.
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            pool = random.choice([pool for pool in _RANGE.subnets(new_prefix=20) if not _taken(pool)])
            claim = {"pid": os.getpid(), "born": _born(os.getpid()), "pool": str(pool)}
            (folder / "claim.json").write_text(json.dumps(claim))
            return cls(folder, pool)

    @property
    def bridge(self) -> str:
        """The default bridge's name: at most 15 characters."""
        return f"nt{self.folder.name.removeprefix(_PREFIX)}"

    @property
    def subnet(self) -> IPv4Network:
        """The default bridge's."""
        return next(self.pool.subnets(new_prefix=24))

    @property
    def cgroup(self) -> str:
        return f"/{self.folder.name}"

    # --- what there is of it

    def processes(self) -> list[int]:
        """Servers and shims, which name the folder, and what runs in containers."""
        found = set()
        name = os.fsencode(self.folder) + b"/"
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if name in (entry / "cmdline").read_bytes() and _state(entry) != "Z":
                    found.add(int(entry.name))
        for group in self.cgroups():
            with contextlib.suppress(OSError):
                found.update(map(int, (group / "cgroup.procs").read_text().split()))
        return sorted(found - {os.getpid()})

    def mounts(self) -> list[str]:
        """The innermost first."""
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return [point for point in reversed(points) if point.startswith(f"{self.folder}/")]

    def links(self) -> list[str]:
        """Bridges: the default one, and those with an address in the pool."""
        return [name for name, address in _addresses() if name == self.bridge or address in self.pool]

    def rules(self) -> list[tuple[str, str]]:
        """Of iptables, with their tables: those that name one of the bridges, or an address in the pool."""
        bridges = {self.bridge, *self.links()}
        return [
            (table, rule)
            for table in _CHAINS
            for rule in _rules(table)
            if any(word in bridges or _within(word, self.pool) for word in rule.split())
        ]

    def cgroups(self) -> list[Path]:
        """The innermost first. Each controller has a tree of its own in version 1."""
        roots = [root / self.folder.name for root in (_CGROUPS, *_CGROUPS.glob("*/"))]
        return sorted((path for root in roots if root.is_dir() for path in (root, *root.rglob("*/"))), reverse=True)

    def left(self) -> list[str]:
        """What there is of it, in words; empty where nothing is."""
        return [
            *(f"process {pid}" for pid in self.processes()),
            *(f"mount {point}" for point in self.mounts()),
            *(f"link {link}" for link in self.links()),
            *(f"rule {rule}" for _, rule in self.rules()),
            *(f"control group {group}" for group in self.cgroups()),
            *([f"folder {self.folder}"] if self.folder.exists() else []),
        ]

    # --- and how it goes

    def open(self) -> None:
        """Removes its rules."""
        for table, rule in self.rules():
            with contextlib.suppress(subprocess.CalledProcessError):  # someone else's engine has emptied the chain
                _iptables(table, "-D", *shlex.split(rule.removeprefix("-A ")))

    def clear(self) -> None:
        """Ends and removes all of it."""
        deadline = time.monotonic() + 20
        while pids := self.processes():
            if time.monotonic() > deadline:
                raise RuntimeError(f"can't end {pids}")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for point in self.mounts():
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        self.open()
        for link in self.links():
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
        with turn():
            _remove_chains()
        for group in self.cgroups():
            with contextlib.suppress(OSError):
                group.rmdir()
        # Whatever could not be unmounted is not deleted through its mount.
        if not self.mounts():
            shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """For one process at a time: two must not take the same addresses, nor the shared chains from under each other."""
    with (Path(tempfile.gettempdir()) / f"{_PREFIX}lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _born(pid: int) -> str | None:
    """When a process began, in ticks since the machine did: with its id, it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def _addresses() -> list[tuple[str, IPv4Interface]]:
    shown = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True).stdout
    return [
        (link["ifname"], IPv4Interface(address["local"]))
        for link in json.loads(shown)
        for address in link.get("addr_info", [])
    ]


def _taken(pool: IPv4Network) -> bool:
    shown = subprocess.run(["ip", "-json", "-4", "route"], check=True, capture_output=True, text=True).stdout
    routes = [IPv4Network(route["dst"]) for route in json.loads(shown) if route["dst"][0].isdigit()]
    claims = [
        IPv4Network(json.loads(claim.read_text())["pool"])
        for claim in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/claim.json")
    ]
    return any(pool.overlaps(other) for other in (*routes, *claims))


def _within(word: str, pool: IPv4Network) -> bool:
    try:
        network = ip_network(word)
    except ValueError:
        return False
    return isinstance(network, IPv4Network) and network.subnet_of(pool)


def _iptables(table: str, *arguments: str) -> str:
    command = ["iptables", "--wait", "10", "-t", table, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _rules(table: str) -> list[str]:
    return [line for line in _iptables(table, "-S").splitlines() if line.startswith("-A ")]


def _remove_chains() -> None:
    """Takes away what engines share, where no engine runs that uses it and nobody has put a rule of their own in."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if arguments[0].endswith(b"dockerd") and b"--iptables=false" not in arguments:
                return
    for table, chains in _CHAINS.items():
        shown = _iptables(table, "-S").splitlines()
        present = [chain for chain in chains if f"-N {chain}" in shown]
        inside = [rule for rule in shown if rule.startswith(tuple(f"-A {chain} " for chain in present))]
        if any(not rule.endswith("-j RETURN") for rule in inside):
            continue
        for rule in shown:
            if rule.startswith("-A ") and rule.split()[-1] in present:
                _iptables(table, "-D", *shlex.split(rule.removeprefix("-A ")))
        for chain in present:
            _iptables(table, "-F", chain)
        for chain in present:
            _iptables(table, "-X", chain)
