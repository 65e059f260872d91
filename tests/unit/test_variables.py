"""Which environment variables are handed on."""

from __future__ import annotations

from neartime_server import variables

SERVER = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "2",
    "PYTHONPATH": "/src",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIRTUAL_ENV": "/venv",
    "NEARTIME_TOKEN": "secret",
    "NEARTIME_DATABASE": "postgresql://user:secret@host",
    "QISKIT_IBM_TOKEN": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "UV_INDEX_LAB_PASSWORD": "secret",
    "https_proxy": "http://proxy:8080",
    "HTTP_PROXY": "http://user:secret@proxy:8080",
}


def test_programs_get_the_machines_ways_and_no_secret() -> None:
    found = variables.of_worker(own=False, source=SERVER)
    assert set(found) == {"PATH", "LC_ALL", "OMP_NUM_THREADS", "https_proxy"}


def test_in_the_servers_own_environment_modules_are_where_the_servers_are() -> None:
    assert variables.of_worker(own=True, source=SERVER)["PYTHONPATH"] == "/src"


def test_the_tool_gets_the_operators_indexes_and_nothing_of_neartime_or_python() -> None:
    found = variables.of_tool(SERVER)
    assert found["UV_INDEX_LAB_PASSWORD"] == "secret"
    assert found["HTTP_PROXY"] == SERVER["HTTP_PROXY"]
    assert not [name for name in found if name.startswith(("NEARTIME_", "PYTHON", "VIRTUAL_ENV"))]


def test_where_indexes_are_and_their_logins_are_all_that_leaves_the_server() -> None:
    given = {
        "UV_DEFAULT_INDEX": "https://reader:a%20word@pypi.lab.example/simple",
        "UV_INDEX_LAB_PASSWORD": "another",
        "UV_INDEX": "https://token@pypi.lab.example/private",
        "HTTPS_PROXY": "http://proxy.lab.example:3128",
        "UV_CACHE_DIR": "/var/cache/uv",
        "PGPASSWORD": "the database's",
        "NEARTIME_SECRET_FILE": "/run/secret",
        "PATH": "/usr/bin",
    }
    found = variables.of_indexes(given)
    assert set(found) == {"UV_DEFAULT_INDEX", "UV_INDEX_LAB_PASSWORD", "UV_INDEX", "HTTPS_PROXY"}
    assert variables.secrets_of(found) == ["a word", "a%20word", "another", "token"]
