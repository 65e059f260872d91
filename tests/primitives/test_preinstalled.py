"""The programs that every server has are saved at its start, by content."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from sqlalchemy import Connection

import neartime_primitives
from neartime import packaging
from neartime_server import preinstalled
from neartime_server.store import Store, blobs, instances, programs
from neartime_server.testing import Runtime

NAMES = [
    "circuit-runner",
    "estimator",
    "estimator-mitigated",
    "estimator-v1",
    "executor",
    "noise-learner",
    "sampler",
    "sampler-mitigated",
    "sampler-v1",
    "transpile",
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    yield store
    store.close()


def tenant(connection: Connection) -> str:
    return instances.ensure(connection, "lab")


def test_a_tenant_sees_and_runs_them_and_does_not_own_them(store: Store) -> None:
    assert preinstalled.install(store) == NAMES
    lab = store.transact(tenant)
    found, count = store.transact(lambda connection: programs.page(connection, lab))
    assert ([one.name for one in found], count) == (NAMES, len(NAMES))
    assert all(one.is_public and one.is_preinstalled and one.instance_id != lab for one in found)


def test_a_second_start_does_nothing(store: Store) -> None:
    preinstalled.install(store)
    assert preinstalled.install(store) == []


def test_a_changed_one_is_a_new_version_and_the_others_stay(store: Store, tmp_path: Path) -> None:
    preinstalled.install(store)
    folder = neartime_primitives.assemble("sampler", tmp_path)
    (folder / "program.py").write_text((folder / "program.py").read_text() + "\n# of yesterday\n")
    old = packaging.package(folder)

    def yesterday(connection: Connection) -> None:
        owner = instances.ensure(connection, instances.PREINSTALLED)
        archive = blobs.put(connection, old.archive)
        programs.save(connection, owner, programs.NewVersion(old.manifest, old.digest, archive, None, None), True)

    store.transact(yesterday)
    assert preinstalled.install(store) == ["sampler"]
    lab = store.transact(tenant)
    current = store.transact(lambda connection: programs.find(connection, lab, "sampler"))
    assert current is not None
    assert current.version.digest != old.digest
    assert len(store.transact(lambda connection: programs.versions(connection, current.id))) == 2


def test_a_program_of_ones_own_goes_before(store: Store) -> None:
    preinstalled.install(store)
    own = packaging.package("def main(backend, user_messenger):\n    return 1\n", name="sampler")

    def upload(connection: Connection) -> tuple[str, programs.Program | None]:
        lab = tenant(connection)
        archive = blobs.put(connection, own.archive)
        programs.save(connection, lab, programs.NewVersion(own.manifest, own.digest, archive, None, None), None)
        return lab, programs.find(connection, lab, "sampler")

    lab, found = store.transact(upload)
    assert found is not None
    assert (found.instance_id, found.is_preinstalled) == (lab, False)


def test_an_installed_package_brings_them_along() -> None:
    for name in NAMES:
        assert (neartime_primitives.FOLDER / name / "program.py").is_file()
    assert neartime_primitives.names() == NAMES
    assert all(one.manifest.description for one in preinstalled.packaged())


@pytest.mark.timeout(120)
def test_a_job_whose_environment_is_made_says_so() -> None:
    with Runtime() as runtime, runtime.service() as service:
        job = service.run("noise-learner", {"circuits": [QuantumCircuit(2)]}, {"backend": "generic_5q"})
        said = set()
        while not any("its environment, which is made once: " in text for text in said):
            said.add(service.job(job.job_id()).view.waits_for or "")
            said |= {entry.waits_for or "" for entry in service.queue()}
            time.sleep(0.05)
        job.cancel()
        job.wait_for_final_state(60)
        assert service.job(job.job_id()).view.waits_for is None
