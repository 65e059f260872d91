"""Helm, from where `scripts/cluster build` has put it, and what a chart comes to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "neartime"
BEFORE = Path(__file__).parent / "neartime-0.1.0.tgz"
"""The chart's version before this one, as it was packed: a checkout need not have its history."""
VALUES = Path(__file__).parent / "values"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neartime" / "cluster"

Object = dict[str, Any]


def tool(name: str) -> str:
    """The path of helm, kubectl or cyclonus."""
    found = sorted(str(path) for path in _CACHE.glob(f"*/{name}"))
    if not found and (on_path := shutil.which(name)):
        found = [on_path]
    if not found:
        pytest.skip(f"no {name}: scripts/cluster build makes it")
    return found[-1]


def helm(*arguments: object, kubeconfig: Path | None = None, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    command = [tool("helm"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


def template(values: str, *arguments: object, release: str = "lab", namespace: str = "neartime") -> str:
    """The manifests, as text."""
    done = helm("template", release, CHART, "--namespace", namespace, "--values", VALUES / f"{values}.yaml", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(values: str, *arguments: object) -> str:
    """What Helm says where it refuses."""
    done = helm("template", "lab", CHART, "--values", VALUES / f"{values}.yaml", *arguments)
    assert done.returncode != 0, "it was accepted"
    return done.stderr


class Objects:
    """Manifests by kind and name."""

    def __init__(self, text: str) -> None:
        self.all: list[Object] = [one for one in yaml.safe_load_all(text) if one]

    def __call__(self, kind: str, name: str) -> Object:
        found = [one for one in self.all if one["kind"] == kind and one["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name}: {len(found)} of {[self.name(one) for one in self.all]}"
        return found[0]

    def has(self, kind: str) -> list[str]:
        return sorted(one["metadata"]["name"] for one in self.all if one["kind"] == kind)

    def pods(self) -> dict[str, Object]:
        """The specification of each pod that is made, by kind and name of what makes it."""
        found = {}
        for one in self.all:
            if one["kind"] == "Pod":
                found[self.name(one)] = one["spec"]
            elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
                found[self.name(one)] = one["spec"]["template"]["spec"]
        return found

    @staticmethod
    def name(one: Object) -> str:
        return f"{one['kind']} {one['metadata']['name']}"


def objects(values: str, *arguments: object) -> Objects:
    return Objects(template(values, *arguments))


def environment(spec: Object, container: str = "server") -> Object:
    """A container's variables, by name: values, or where they come from."""
    [found] = [one for one in spec["containers"] if one["name"] == container]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in found["env"]}
