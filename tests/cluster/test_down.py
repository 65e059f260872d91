"""The tests' Kubernetes leaves nothing on the machine, whatever happened to it. Each of these starts and ends one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import STATE, Cluster, until
from images import base_image
from kubernetes import config

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parents[2] / "scripts/cluster"
CGROUPS = Path("/sys/fs/cgroup")
SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")
NETWORKS = ("10.250.0.", "10.244.0.", "10.96.0.")


def call(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def processes(program: str = "") -> list[int]:
    """Those of it whose command names a program."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            command = (entry / "cmdline").read_text(errors="replace")  # empty where it only waits to be buried
            if command and program in command and "/neartime-cluster" in (entry / "cgroup").read_text():
                found.append(int(entry.name))
    return found


def left() -> set[str]:
    """The kinds of things that there are of it."""
    found = set()
    if processes():
        found.add("process")
    # Pods' mounts are in a namespace of their own, so that there is never one to be seen from here.
    if f"{STATE}/" in Path("/proc/mounts").read_text():
        found.add("mount")
    if "ntnode" in call("ip", "link"):
        found.add("link")
    if any(network in call("ip", "route") for network in NETWORKS):
        found.add("route")
    for table in ("filter", "nat", "mangle"):
        rules = call("iptables", "--wait", "10", "-t", table, "-S")
        if any(word in rules for word in ("KUBE", "CNI", "ntnode", *NETWORKS)):
            found.add("rule")
    if any(path.name == "neartime-cluster" for path in (*CGROUPS.glob("*"), *CGROUPS.glob("*/*"))):
        found.add("control group")
    if any(path.exists() for path in (STATE, Path("/var/lib/kubelet"))):
        found.add("folder")
    return found


def settings() -> list[str]:
    return [(Path("/proc/sys") / name).read_text() for name in SETTINGS]


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """What a test leaves is removed, and nobody's cluster is."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Kubernetes")
    if os.environ.get("NEARTIME_TEST_KUBECONFIG") or left():
        pytest.skip("this machine has a cluster that somebody uses")
    yield
    call(SCRIPT, "down")


def busy() -> None:
    """Gives it a running pod, of an image that was pulled, and a Service."""
    with config.new_client_from_config(str(STATE / "admin.conf")) as api:
        cluster = Cluster(STATE / "admin.conf", api, "10.250.0.1:5000", "http://10.250.0.1:5000")
        digest = base_image().push(cluster.registry_url, "neartime/base", "test")
        cluster.run("default", f"{cluster.registry}/neartime/base@{digest}", ["sleep", "600"])
        service = {"metadata": {"name": "front"}, "spec": {"selector": {"app": "pod"}, "ports": [{"port": 80}]}}
        cluster.core.create_namespaced_service("default", service)
        cluster.running("default")


def test_one_that_is_down_leaves_nothing_and_changes_nothing_while_it_is_up() -> None:
    before = settings()
    call(SCRIPT, "up")
    busy()
    assert left() == {"process", "link", "route", "control group", "folder"}
    assert settings() == before
    begun = time.monotonic()
    call(SCRIPT, "up")
    assert time.monotonic() - begun < 5, "one that runs was started again"
    call(SCRIPT, "down")
    assert left() == set()
    assert settings() == before


def test_the_next_one_clears_what_a_killed_one_has_left() -> None:
    with subprocess.Popen([SCRIPT, "up"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
        until(lambda: (STATE / "pki/admin.crt").exists())
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert "process" in left()
    call(SCRIPT, "up")
    busy()
    call(SCRIPT, "down")
    assert left() == set()


def test_one_whose_control_plane_was_killed_leaves_nothing_and_can_be_started_again() -> None:
    call(SCRIPT, "up")
    for pid in processes("kube-apiserver"):
        os.kill(pid, signal.SIGKILL)
    assert subprocess.run([SCRIPT, "status"], capture_output=True).returncode != 0
    call(SCRIPT, "up")
    call(SCRIPT, "status")


def test_a_network_of_somebody_else_is_left_alone() -> None:
    call("ip", "link", "add", "ntnode0", "type", "bridge")
    try:
        done = subprocess.run([SCRIPT, "up"], capture_output=True, text=True)
        assert "ntnode0" in call("ip", "link")
    finally:
        call("ip", "link", "delete", "ntnode0")
    assert done.returncode != 0
    assert "ntnode0 is a bridge of somebody else's" in done.stderr


def test_one_that_can_not_start_says_what_failed_and_ends() -> None:
    with socket.create_server(("0.0.0.0", 5000)):  # where its registry would listen
        done = subprocess.run([SCRIPT, "up"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "registry has ended" in done.stderr
    assert "address already in use" in done.stderr
    assert left() == {"folder"}
