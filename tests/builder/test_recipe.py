"""What an image is made of, without a registry or an engine."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from neartime.contract.programs import Manifest
from neartime.contract.version import CONTRACT_VERSION
from neartime_server.builder.images.layers import Layers
from neartime_server.builder.images.recipe import Base, Recipe
from neartime_server.errors import Refused

OFFICIAL = {"config": {"Env": ["PATH=/usr/local/bin", "PYTHON_VERSION=3.11.9", "LANG=C.UTF-8"], "Cmd": ["python3"]}}
REFERENCE = "images.example/python@sha256:" + "0" * 64


def recipe(**changes: object) -> Recipe:
    base = Base.of(REFERENCE, OFFICIAL, complete=False)
    made = Recipe(base, "# Python 3.11\nsix==1.16.0\n", "runner", Manifest(name="vqe"), "sha256:" + "1" * 64)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_official_image_says_which_python_it_has_and_labels_say_it_better() -> None:
    assert Base.of(REFERENCE, OFFICIAL, complete=False) == Base(REFERENCE, "/usr/local/bin/python3", "3.11")
    labels = {"neartime.python": "/usr/bin/python3", "neartime.python-version": "3.12"}
    other = {"config": {**OFFICIAL["config"], "Labels": labels}}
    assert Base.of(REFERENCE, other, complete=False) == Base(REFERENCE, "/usr/bin/python3", "3.12")


def test_an_image_that_is_no_base_is_refused_with_what_to_add_to_it() -> None:
    for config in ({}, {"config": None}, {"config": {"Env": ["PYTHON_VERSION=new"]}}):
        with pytest.raises(Refused, match="does not say which Python") as caught:
            Base.of(REFERENCE, config, complete=False)
        assert "LABEL neartime.python-version" in str(caught.value.problems[0].solution)


def test_an_image_that_is_to_carry_the_runner_says_so_and_speaks_this_contract() -> None:
    def complete(contract: str | None) -> Base:
        labels = {} if contract is None else {"neartime.contract": contract}
        return Base.of(REFERENCE, {"config": {**OFFICIAL["config"], "Labels": labels}}, complete=True)

    assert complete(str(CONTRACT_VERSION)).complete
    with pytest.raises(Refused, match="does not carry Neartime's runner"):
        complete(None)
    for old in ("0", "none"):
        with pytest.raises(Refused, match=r"the runner in images\.example/python.* speaks contract version 0"):
            complete(old)


def test_the_tag_stands_for_all_that_is_in_the_image_and_the_environment_for_what_programs_share() -> None:
    one = recipe()
    others = [
        recipe(program="sha256:" + "2" * 64),
        recipe(runner="newer"),
        recipe(lock="# Python 3.11\nsix==1.17.0\n"),
        recipe(base=replace(one.base, reference="images.example/python@sha256:" + "3" * 64)),
    ]
    assert len({other.tag for other in [one, *others]}) == 5
    assert [other.environment == one.environment for other in others] == [True, True, False, False]
    assert recipe().tag == one.tag


def test_an_image_says_of_itself_what_it_is() -> None:
    config = json.loads(recipe().configuration(OFFICIAL, {"packages": "sha256:a", "program": "sha256:b"}))
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Cmd"] == ["/usr/local/bin/python3", "-m", "neartime_runner", "worker", "-"]
    assert "PYTHONPATH=/opt/neartime/runner:/opt/neartime/packages" in config["config"]["Env"]
    assert "LANG=C.UTF-8" in config["config"]["Env"]
    assert config["rootfs"]["diff_ids"] == ["sha256:a", "sha256:b"]
    labels = config["config"]["Labels"]
    assert Manifest.model_validate_json(labels["neartime.manifest"]) == Manifest(name="vqe")
    assert labels["neartime.recipe"] == recipe().tag
    assert recipe().configuration(OFFICIAL, {"program": "sha256:b"}) == recipe().configuration(
        OFFICIAL, {"program": "sha256:b"}
    )
    bare = json.loads(recipe(base=replace(recipe().base, complete=True)).configuration(OFFICIAL, {}))
    assert not any(line.startswith("PYTHONPATH") for line in bare["config"]["Env"])


def test_a_layer_is_the_same_bytes_for_the_same_files_and_is_made_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name / "program"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "program.py").write_text("x = 1\n")
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(0o700)
        layers = Layers(tmp_path / name / "layers")
        made = layers.pack("program", "name", [(PurePosixPath("/opt/neartime/program"), folder)])
        assert made.digest == f"sha256:{hashlib.sha256(made.file.read_bytes()).hexdigest()}"
        assert made.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(made.file.read_bytes())).hexdigest()}"
        assert made.size == made.file.stat().st_size
        assert layers.known("program", "name") == made
    assert (tmp_path / "one/layers/program-name.tar.gz").read_bytes() == made.file.read_bytes()
    with tarfile.open(made.file) as tar:
        entries = {entry.name: (entry.mode, entry.uid, entry.mtime, entry.isdir()) for entry in tar}
    assert entries == {
        "opt": (0o755, 0, 0, True),
        "opt/neartime": (0o755, 0, 0, True),
        "opt/neartime/program": (0o755, 0, 0, True),
        "opt/neartime/program/deep": (0o755, 0, 0, True),
        "opt/neartime/program/deep/program.py": (0o644, 0, 0, False),
        "opt/neartime/program/run": (0o755, 0, 0, False),
    }
    made.file.unlink()
    assert layers.known("program", "name") is None
