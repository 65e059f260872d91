"""A server of its own, prepared as a chart prepares it: with `neartime admin secret`, `migrate` and `nats-config`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from databases import Postgres

from neartime import RuntimeService
from neartime_server.bus import Keys
from neartime_server.bus.server import find_binary, free_port
from neartime_server.embedded import processes
from neartime_server.errors import ConfigurationError

COUNT = """
import time

def main(backend, user_messenger, count=40):
    for number in range(count):
        user_messenger.publish(number)
        time.sleep(0.05)
    return count
"""


class Installation:
    """What an operator has: a folder, an environment, and processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("NEARTIME_")}
        self.environment |= {"NEARTIME_HOME": str(folder / "home"), "NEARTIME_PORT": "0"}
        self.stack = ExitStack()

    def admin(self, *arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "neartime_server", "admin", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout.strip() if status == 0 else done.stderr.strip()

    def secret(self) -> None:
        file = self.folder / "operator-secret"
        file.touch(0o600)
        file.write_text(self.admin("secret"))
        self.environment["NEARTIME_SECRET_FILE"] = str(file)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.stack.callback(process.wait, 20)
        self.stack.callback(process.kill)
        return process

    def nats(self, *names: str) -> dict[str, tuple[int, subprocess.Popen[bytes]]]:
        """NATS servers; several are a cluster. Their ports and processes."""
        ports, routes = {name: free_port() for name in names}, {name: free_port() for name in names}
        found = {}
        for name in names:
            folder = self.folder / name
            folder.mkdir()
            told = self.admin("nats-config", "--folder", str(folder), "--name", name)
            assert Path(self.environment["NEARTIME_SECRET_FILE"]).read_text().strip() not in told
            assert "SEED" not in told
            (folder / "operator.conf").write_text(told)
            text = f'listen: "127.0.0.1:{ports[name]}"\ninclude operator.conf\n'
            if len(names) > 1:
                to = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes.values())
                text += f'cluster {{ name: neartime, listen: "127.0.0.1:{routes[name]}", routes: [{to}] }}\n'
            (folder / "nats.conf").write_text(text)
            process = self.start(name, find_binary(), "-c", str(folder / "nats.conf"))
            found[name] = ports[name], process
        self.environment["NEARTIME_NATS_URL"] = ",".join(f"nats://127.0.0.1:{port}" for port, _ in found.values())
        return found

    def serve(self) -> str:
        """An API server's URL."""
        ready = self.folder / "home" / "run" / "server.json"
        process = self.start("server", sys.executable, "-m", "neartime_server", "serve")
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.05)
        return str(json.loads(ready.read_text())["url"])


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    with made.stack:
        yield made
        processes.end_runners(tmp_path / "home", 2)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    name = f"provision_{secrets.token_hex(6)}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.mark.postgres
def test_a_server_on_its_own_nats_and_postgresql_runs_programs(installation: Installation, database: str) -> None:
    installation.environment["NEARTIME_DATABASE"] = database
    installation.secret()
    installation.admin("migrate", "--instance", "lab")
    installation.nats("nats")
    url = installation.serve()
    token = installation.admin("token", "create", "ada", "--instance", "lab")
    heard: list[int] = []
    with RuntimeService(url, token) as service:
        service.upload_program(COUNT, name="count")
        job = service.run("count", {"count": 5}, callback=lambda _, value: heard.append(value))
        assert job.result(timeout=60) == 5
    assert heard == [0, 1, 2, 3, 4]


@pytest.mark.timeout(180)
def test_a_nats_cluster_loses_a_server_and_no_message(installation: Installation) -> None:
    installation.environment["NEARTIME_STREAM_REPLICAS"] = "3"
    installation.secret()
    installation.admin("migrate", "--instance", "lab")
    servers = installation.nats("nats-0", "nats-1", "nats-2")
    url = installation.serve()
    token = installation.admin("token", "create", "ada", "--instance", "lab")
    heard: list[int] = []
    half = threading.Event()

    def hear(_: str, value: int) -> None:
        heard.append(value)
        if len(heard) == 10:
            half.set()

    with RuntimeService(url, token) as service:
        service.upload_program(COUNT, name="count")
        job = service.run("count", {"count": 100}, callback=hear)
        assert half.wait(60)
        servers["nats-0"][1].kill()
        assert job.result(timeout=90) == 100
        job.wait_for_final_state(20)
    assert heard == list(range(100))


def test_a_server_waits_for_a_nats_that_is_started_after_it(installation: Installation) -> None:
    installation.secret()
    port = free_port()
    installation.environment["NEARTIME_NATS_URL"] = f"nats://127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as thread:
        url = thread.submit(installation.serve)
        time.sleep(3)
        folder = installation.folder / "nats"
        folder.mkdir()
        (folder / "operator.conf").write_text(installation.admin("nats-config", "--folder", str(folder)))
        (folder / "nats.conf").write_text(f'listen: "127.0.0.1:{port}"\ninclude operator.conf\n')
        installation.start("nats", find_binary(), "-c", str(folder / "nats.conf"))
        assert url.result(60).startswith("http://")


@pytest.mark.postgres
@pytest.mark.parametrize("several", [1, 4])
def test_tables_are_migrated_by_several_at_once_and_again(
    installation: Installation, database: str, several: int
) -> None:
    installation.environment["NEARTIME_DATABASE"] = database
    with ThreadPoolExecutor(several) as threads:
        list(threads.map(lambda _: installation.admin("migrate", "--instance", "lab"), range(several)))
    installation.admin("migrate", "--instance", "lab")
    assert [one["name"] for one in json.loads(installation.admin("instance", "list", "--json"))] == ["lab"]


@pytest.mark.postgres
def test_a_migration_waits_for_a_database_that_starts(installation: Installation, postgres: Postgres) -> None:
    installation.environment["NEARTIME_DATABASE"] = postgres.create("starts")
    postgres.kill()
    begun = time.monotonic()
    refused = installation.admin("migrate", "--wait", "0", status=1)
    assert refused.startswith("Error: the database does not answer:")
    assert time.monotonic() - begun < 20
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(installation.admin, "migrate", "--wait", "60")
        time.sleep(2)
        postgres.start()
        waiting.result(60)


@pytest.mark.postgres
def test_a_migration_that_the_database_refuses_says_so_in_one_line(installation: Installation, database: str) -> None:
    installation.environment["NEARTIME_DATABASE"] = database.replace("neartime:", "neartime:wrong-")
    said = installation.admin("migrate", status=1)
    assert "password authentication failed" in said
    assert "NEARTIME_DATABASE" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine has no root, who gives files away")
@pytest.mark.parametrize(
    ("owner", "mode", "taken"),
    [(0, 0o600, True), (0, 0o440, False), (4711, 0o440, True), (4711, 0o444, False), (4711, 0o460, False)],
)
def test_a_secret_that_kubernetes_hands_out_to_a_group_is_taken_and_one_for_all_is_not(
    tmp_path: Path, owner: int, mode: int, taken: bool
) -> None:
    file = tmp_path / "secret"
    file.write_text("ab" * 32)
    os.chown(file, owner, 0)
    file.chmod(mode)
    read: Callable[[], Keys] = lambda: Keys.load(file)  # noqa: E731
    if taken:
        assert read().installation
    else:
        with pytest.raises(ConfigurationError, match="can be read by others"):
            read()
