"""Environments of programs: resolved, made by uv, kept by content. With the real uv, and packages of the real index."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builder.packages import Index

from neartime.contract.problem import ErrorCode
from neartime.contract.programs import Manifest, PickledWith
from neartime_server.builder import needs
from neartime_server.builder.environments import Environment, Environments
from neartime_server.errors import BuildFailed, Refused

HERE = ".".join(map(str, sys.version_info[:2]))


def manifest(*requirements: str, **more: object) -> Manifest:
    return Manifest(name="program", requirements=list(requirements), **more)  # type: ignore[arg-type]


def python(environment: Environment, code: str) -> object:
    """What an expression is in an environment, as JSON."""
    run = subprocess.run(
        [environment.python, "-I", "-c", f"import json; print(json.dumps({code}))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def made(home: Path) -> list[str]:
    """Environments in a home, drafts among them."""
    folder = home / "environments"
    return sorted(one.name for one in folder.iterdir() if one.name != "resolved") if folder.exists() else []


# --- which environment


async def test_a_program_without_requirements_runs_in_the_servers_own_environment(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    for wanted in (manifest(), manifest(python=f">={HERE}"), manifest(python=f"=={HERE}.*")):
        assert await environments.ensure(wanted) == Environment(None, None, Path(sys.executable))
    assert made(tmp_path) == []


async def test_requirements_make_an_environment_of_their_own_with_runner_and_qiskit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = await Environments(home).ensure(manifest("six==1.16.0"))
    assert made(home) == [str(environment.digest).removeprefix("sha256:")]
    assert environment.python.is_relative_to(home)
    assert python(environment, "__import__('six').__version__") == "1.16.0"
    names = ("neartime_runner", "neartime.contract", "nkeys", "nats", "qiskit", "qiskit_aer", "cloudpickle")
    assert [python(environment, f"__import__('{name}').__name__") for name in names] == [
        name.partition(".")[0] for name in names
    ]
    find = "__import__('importlib.util').util.find_spec('{}') is None"
    assert all(python(environment, find.format(name)) for name in ("fastapi", "sqlalchemy", "neartime_server", "typer"))
    own = "__import__('importlib.metadata').metadata.version('neartime')"
    assert python(environment, own) == __import__("importlib.metadata").metadata.version("neartime")


async def test_it_is_byte_compiled(home: Path) -> None:
    environment = await Environments(home).ensure(manifest("six==1.16.0"))
    site = next(environment.python.parents[1].glob("lib/python*/site-packages"))
    for module in ("six.py", "qiskit/circuit/quantumcircuit.py", "neartime_runner/worker.py"):
        source = site / module
        assert (source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc").is_file()


async def test_it_is_made_once_and_found_again_by_every_server(home: Path) -> None:
    first, second = Environments(home), Environments(home)
    wanted = manifest("six==1.15.0")
    found = await asyncio.gather(*(one.ensure(wanted) for one in (first, first, first, second)))
    assert len(set(found)) == 1
    assert not [name for name in made(home) if name.startswith(".")]
    began = time.monotonic()
    assert await Environments(home).ensure(wanted, found[0].lock) == found[0]
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    assert await first.ensure(wanted, found[0].lock) == found[0]
    assert time.monotonic() - began < 0.02


async def test_the_same_requirements_in_another_order_and_spelling_are_the_same_environment(home: Path) -> None:
    environments = Environments(home)
    one = await environments.ensure(manifest("six == 1.16.0", "packaging"))
    assert await environments.ensure(manifest("packaging", "six==1.16.0", "six==1.16.0")) == one
    assert await environments.ensure(manifest("six==1.16.0")) == one  # the runner has packaging in any case


async def test_a_version_keeps_the_environment_that_it_was_uploaded_with(home: Path) -> None:
    environments = Environments(home)
    old = await environments.ensure(manifest("six==1.16.0"))
    assert await environments.ensure(manifest("six"), old.lock) == old
    assert await Environments(home).ensure(manifest("six"), old.lock) == old


async def test_one_whose_python_is_gone_is_made_again(home: Path) -> None:
    found = await Environments(home).ensure(manifest("six==1.16.0"))
    found.python.unlink()
    found.python.symlink_to(home / "no-python")
    assert await Environments(home).ensure(manifest("six==1.16.0"), found.lock) == found
    assert python(found, "__import__('six').__version__") == "1.16.0"


async def test_where_the_index_is_away_what_was_resolved_before_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await Environments(home).ensure(manifest("six==1.16.0"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert await Environments(home).ensure(manifest("six==1.16.0")) == found
    with pytest.raises(BuildFailed) as caught:
        await Environments(home).ensure(manifest("idna==3.7"))
    assert "127.0.0.1:9" in caught.value.log


WHEEL = """
import asyncio, subprocess, sys
from pathlib import Path
import neartime, neartime_server
from neartime.contract.programs import Manifest
from neartime_server.builder.environments import Environments

assert Path(neartime.__file__).is_relative_to(sys.prefix)
assert Path(neartime_server.__file__).is_relative_to(sys.prefix)
found = asyncio.run(Environments(Path(sys.argv[1])).ensure(Manifest(name="program", requirements=["six==1.16.0"])))
code = "import os, neartime, neartime_runner.worker; print(os.path.realpath(neartime.__file__), neartime.__version__)"
subprocess.run([found.python, "-I", "-c", code], check=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_was_installed_from_a_wheel_gives_its_runner_to_environments_too(tmp_path: Path) -> None:
    uv, checkout = Path(sys.executable).with_name("uv"), Path(__file__).parents[2]
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    run([uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path / "dist", checkout])
    run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"])
    installed = tmp_path / "venv" / "bin" / "python"
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run([uv, "pip", "install", "--quiet", "--no-deps", "--python", installed, wheel])
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    others = Path(sys.executable).parents[1] / site.relative_to(tmp_path / "venv")
    (site / "dependencies.pth").write_text(f"{others}\n")  # those of this environment, behind the wheel's own folders
    environment = {**os.environ, "PATH": f"{uv.parent}{os.pathsep}{os.environ['PATH']}"}
    output = run([installed, "-c", WHEEL, tmp_path / "home"], env=environment).stdout
    assert str(site.resolve()) in output


# --- while one is made


async def test_a_build_stalls_nobody_and_whoever_gives_up_leaves_it_to_the_others(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    began = time.monotonic()
    impatient = asyncio.create_task(environments.ensure(manifest("six==1.14.0")))
    patient = asyncio.create_task(environments.ensure(manifest("six==1.14.0")))
    longest = 0.0
    while not patient.done():
        before = time.monotonic()
        await asyncio.sleep(0.005)
        longest = max(longest, time.monotonic() - before)
        assert (await environments.ensure(manifest())).digest is None
        if time.monotonic() - began > 0.5:
            impatient.cancel()
    assert impatient.cancelled()
    assert python(await patient, "__import__('six').__version__") == "1.14.0"
    assert longest < 0.5


async def test_a_server_that_ends_leaves_no_half_of_an_environment(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    making = asyncio.create_task(environments.ensure(manifest("six==1.16.0")))
    await asyncio.sleep(0.3)
    while not made(tmp_path):
        assert not making.done()
        await asyncio.sleep(0.01)
    await environments.close()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert made(tmp_path) == []


# --- what can't be had


async def test_what_can_not_be_had_fails_with_the_tools_own_words_and_its_log_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="can't be resolved") as caught:
        await Environments(tmp_path).ensure(manifest("six==99.0"))
    assert "there is no version of six==99.0" in caught.value.log
    (log,) = (tmp_path / "logs" / "builds").glob("*.log")
    assert "there is no version of six==99.0" in log.read_text()
    assert made(tmp_path) == []


async def test_requirements_that_contradict_each_other_or_the_runner_are_told(tmp_path: Path) -> None:
    for requirements, words in ((("six==1.16.0", "six==1.15.0"), "six"), (("pydantic<2",), "pydantic>=2")):
        with pytest.raises(BuildFailed) as caught:
            await Environments(tmp_path).ensure(manifest(*requirements))
        assert words in caught.value.log


async def test_neither_resolving_nor_installing_runs_code_of_a_package(tmp_path: Path, index: Index) -> None:
    ran = tmp_path / "ran"
    index.source("neartime_test_evil", "1.0", f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(BuildFailed) as caught:
        await Environments(tmp_path).ensure(manifest("neartime-test-evil==1.0"))
    assert "wheels are required" in caught.value.log.lower()
    assert not ran.exists()


@pytest.mark.parametrize(
    "requirement",
    ["six @ https://example.org/six.whl", "six @ git+https://example.org/six", "./folder", "six\n--index-url=x", "a b"],
)
async def test_only_named_packages_are_taken(tmp_path: Path, requirement: str) -> None:
    with pytest.raises(Refused) as caught:
        await Environments(tmp_path).ensure(manifest("idna", requirement))
    (problem,) = caught.value.problems
    assert (caught.value.status, problem.code) == (422, ErrorCode.UNSUPPORTED_REQUIREMENT)
    assert problem.path == "manifest.requirements[1]"


# --- Qiskit


@pytest.mark.parametrize(
    "requirement",
    ["qiskit==1.3.3", "qiskit<1.4", "qiskit<=1.4.1", "qiskit~=1.3.0", "Qiskit==0.46.*", "qiskit==1.4", "qiskit<1.4.2"],
)
async def test_a_qiskit_that_is_too_old_is_refused_by_name(tmp_path: Path, requirement: str) -> None:
    with pytest.raises(Refused, match=r"requirements\[0\].*1\.4\.2") as caught:
        await Environments(tmp_path).ensure(manifest(requirement))
    assert caught.value.problems[0].code == ErrorCode.UNSUPPORTED_REQUIREMENT


@pytest.mark.parametrize(
    "requirement", ["qiskit", "qiskit>=1.2", "qiskit~=1.3", "qiskit==1.4.*", "qiskit!=1.3.*", "qiskit<3"]
)
def test_a_qiskit_that_may_be_new_enough_is_not(requirement: str) -> None:
    assert needs.wanted(manifest(requirement)) == [requirement]


async def test_a_package_that_leads_to_an_old_qiskit_is_refused_too(tmp_path: Path, index: Index) -> None:
    index.wheel("neartime_test_old", "1.0", "qiskit==1.3.3")
    with pytest.raises(BuildFailed) as caught:
        await Environments(tmp_path).ensure(manifest("neartime-test-old"))
    assert "qiskit>=1.4.2" in caught.value.log
    with pytest.raises(Refused, match=r"Qiskit 1\.3\.3"):
        needs.check_lock("qiskit==1.3.3 \\\n    --hash=sha256:00\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_program_pinned_to_qiskit_1_4_has_it_beside_the_servers_own(tmp_path: Path) -> None:
    import qiskit

    environment = await Environments(tmp_path).ensure(manifest("qiskit==1.4.*"))
    code = "[__import__('neartime_runner.preload').preload.versions(), __import__('qiskit').__version__]"
    versions, version = python(environment, code)  # type: ignore[misc]
    assert str(version).startswith("1.4.")
    assert versions["qiskit"] == version
    assert not qiskit.__version__.startswith("1.")


# --- Pythons


async def test_a_python_that_the_machine_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    for wanted in (manifest(python=">=3.99"), manifest("six", python="<3.9")):
        with pytest.raises(Refused, match="it has .*" + HERE) as caught:
            await Environments(tmp_path).ensure(wanted)
        assert caught.value.problems[0].path == "manifest.python"
    with pytest.raises(Refused, match="no version specifier"):
        await Environments(tmp_path).ensure(manifest(python="three"))


async def test_a_pickled_function_runs_on_the_python_that_wrote_it_or_nowhere(tmp_path: Path) -> None:
    def function(version: str) -> Manifest:
        return manifest(kind="function", pickled_with=PickledWith(python=version, cloudpickle="3.1"))

    assert (await Environments(tmp_path).ensure(function(f"{HERE}.99"))).digest is None
    with pytest.raises(Refused, match=r"pickled by Python ==3\.99\.\*"):
        await Environments(tmp_path).ensure(function("3.99.1"))


def _other_python() -> tuple[str, str] | None:
    """Minor version and folder of another Python of this machine: on PATH, or one that pyenv keeps."""
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *sorted(kept.glob("3.1[0-9]*/bin"))]
    for folder in folders:
        for path in sorted(folder.glob("python3.1[0-9]")):
            minor = path.name.removeprefix("python")
            asked = [str(path), "-c", "import ensurepip"]  # a shim may be no Python at all
            if minor != HERE and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return minor, str(folder)
    return None


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_program_can_run_on_another_python_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (other := _other_python()) is None:
        pytest.skip("this machine has one Python alone")
    minor, folder = other
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{folder}")
    environment = await Environments(tmp_path).ensure(manifest(python=f"=={minor}.*"))
    found = python(environment, "[__import__('platform').python_version(), __import__('neartime_runner').__name__]")
    assert str(found[0]).startswith(minor)  # type: ignore[index]
