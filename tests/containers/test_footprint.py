"""An engine leaves nothing on the machine: no process, mount, interface, rule, control group or folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from engine import Engine, require_engine
from footprint import Footprint
from images import base_image
from registries import Registry

pytestmark = pytest.mark.engine

KINDS = {"process", "mount", "link", "rule", "control", "folder"}


def kinds(footprint: Footprint) -> set[str]:
    return {left.partition(" ")[0] for left in footprint.left()}


def busy(engine: Engine, base: str) -> None:
    """Gives it a running container on a network of its own, with a volume."""
    engine.client.images.pull(base)
    engine.client.networks.create("own", driver="bridge")
    engine.client.containers.run(
        base, ["sleep", "600"], detach=True, network="own", volumes={"kept": {"bind": "/kept"}}
    )


def test_an_engine_that_is_stopped_leaves_nothing(base: str) -> None:
    with Engine() as engine:
        busy(engine, base)
        assert len(engine.footprint.links()) == 2
        assert kinds(engine.footprint) == KINDS
    assert engine.footprint.left() == []


def test_an_engine_that_was_killed_leaves_nothing_either(base: str) -> None:
    with Engine() as engine:
        busy(engine, base)
        engine.kill()
        assert kinds(engine.footprint) == KINDS
    assert engine.footprint.left() == []


def test_a_registry_leaves_nothing() -> None:
    require_engine()
    with Registry() as registry:
        base_image().push(registry.url, "some/base", "1")
        assert kinds(registry.footprint) == {"process", "folder"}
    assert registry.footprint.left() == []


def test_the_next_one_clears_what_a_killed_test_process_has_left(base: str) -> None:
    program = f"""
import os, sys, time
from engine import Engine
from registries import Registry
engine, registry = Engine(), Registry()
engine.client.images.pull({base!r})
engine.client.containers.run({base!r}, ["sleep", "600"], detach=True)
for part in (engine, registry):
    print(part.folder, part.footprint.pool, flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        lines = [other.stdout.readline().split() for _ in range(2)]
        other.send_signal(signal.SIGKILL)
    left = [Footprint(Path(folder), IPv4Network(pool)) for folder, pool in lines]
    assert kinds(left[0]) == KINDS
    assert kinds(left[1]) == {"process", "folder"}
    Footprint.claim().clear()
    assert [footprint.left() for footprint in left] == [[], []]


def test_an_engine_keeps_its_networks_closed_while_others_come_and_go() -> None:
    require_engine()
    with Engine() as engine:
        engine.client.networks.create("inner", driver="bridge", internal=True)
        rules = set(engine.footprint.rules())
        assert sum("-j DROP" in rule for _, rule in rules) >= 2
        with Engine():
            assert set(engine.footprint.rules()) == rules
        assert set(engine.footprint.rules()) == rules


def test_an_engine_goes_on_where_another_has_just_made_a_chain_or_removed_a_jump() -> None:
    """What two that start at once do to each other. A word in the output counts as an error, too."""
    require_engine()

    def complaint(*arguments: str) -> str:
        command = [str(engine.folder / "bin/iptables"), "--wait", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return f"{done.stdout}{done.returncode or ''}"

    with Engine() as engine:
        assert complaint("-t", "nat", "-L", "DOCKER")
        assert complaint("-t", "nat", "-N", "DOCKER") == ""
        assert complaint("-D", "FORWARD", "-j", "DOCKER-NOT-THERE") == ""
        assert complaint("-D", "FORWARD", "-j", "NOT-DOCKERS") != ""
