"""Logins, as Docker's file and its helpers have them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from neartime.errors import ConfigurationError
from neartime.oci import Credentials, Login

SECRET = "open:sesame"


def written(folder: Path, content: object) -> Path:
    file = folder / "config.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper, `docker-credential-test`, that knows three registries."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(
        """#!/bin/sh
        test "$1" = get || exit 3
        read -r server
        case "$server" in
            kept.example) echo '{"ServerURL": "kept.example", "Username": "me", "Secret": "open:sesame"}' ;;
            token.example) echo '{"ServerURL": "token.example", "Username": "<token>", "Secret": "open:sesame"}' ;;
            https://index.docker.io/v1/) echo '{"Username": "hub", "Secret": "open:sesame"}' ;;
            broken.example) echo "the keychain with open:sesame is locked"; exit 1 ;;
            *) echo "credentials not found in native keychain"; exit 1 ;;
        esac
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return program


async def test_every_form_of_a_login_is_read(tmp_path: Path) -> None:
    written(
        tmp_path,
        {
            "auths": {
                "coded.example": {"auth": encoded("me", SECRET)},
                "open.example:5000": {"username": "me", "password": SECRET},
                "https://url.example/v2/": {"auth": encoded("me", SECRET)},
                "https://index.docker.io/v1/": {"auth": encoded("hub", SECRET)},
                "token.example": {"auth": encoded("me", ""), "identitytoken": "refresh"},
                "empty.example": {},
            },
            "HttpHeaders": {"User-Agent": "x"},
        },
    )
    found = Credentials.read(environment={"DOCKER_CONFIG": str(tmp_path)})
    for registry in ("coded.example", "open.example:5000", "url.example"):
        assert await found.find(registry) == Login("me", SECRET)
    assert await found.find("docker.io") == Login("hub", SECRET)
    assert await found.find("token.example") == Login("me", "", "refresh")
    assert await found.find("empty.example") is None
    assert await found.find("open.example") is None
    assert str(tmp_path) in found.source


async def test_without_a_file_nobody_is_logged_in_unless_it_was_named(tmp_path: Path) -> None:
    found = Credentials.read(environment={"DOCKER_CONFIG": str(tmp_path)})
    assert await found.find("docker.io") is None
    with pytest.raises(ConfigurationError, match=r"there is no .*named\.json"):
        Credentials.read(tmp_path / "named.json")


@pytest.mark.parametrize(
    "content",
    [
        f'{{"auths": {{"a.example": {{"auth": "{SECRET}"}}}}}}',
        f'{{"auths": ["{SECRET}"]}}',
        f'{{"auths": {{"a.example": "{SECRET}"}}}}',
        f'{{"auths": {SECRET}',
        '{"auths": {"a.example": {"auth": "/w=="}}}',
    ],
)
def test_a_damaged_file_is_named_and_not_quoted(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Credentials.read(written(tmp_path, content))
    assert "config.json" in str(error.value)
    assert "sesame" not in str(error.value)
    assert error.value.__cause__ is None


async def test_a_helper_is_asked(tmp_path: Path, helper: Path) -> None:
    found = Credentials.read(written(tmp_path, {"auths": {"kept.example": {}}, "credsStore": "test"}))
    assert await found.find("kept.example") == Login("me", SECRET)
    assert await found.find("token.example") == Login(identity_token=SECRET)
    assert await found.find("docker.io") == Login("hub", SECRET)
    assert await found.find("other.example") is None


async def test_a_helper_of_one_registry_is_not_asked_about_others(tmp_path: Path, helper: Path) -> None:
    content = {"auths": {"other.example": {"auth": encoded("me", "pw")}}, "credHelpers": {"kept.example": "test"}}
    found = Credentials.read(written(tmp_path, content))
    assert await found.find("kept.example") == Login("me", SECRET)
    assert await found.find("token.example") is None
    assert await found.find("other.example") == Login("me", "pw")


async def test_a_helper_that_fails_is_named_and_not_quoted(tmp_path: Path, helper: Path) -> None:
    found = Credentials.read(written(tmp_path, {"credsStore": "test"}))
    with pytest.raises(ConfigurationError, match="docker-credential-test") as error:
        await found.find("broken.example")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize("name", ["missing", "../test", "a b"])
async def test_a_helper_that_is_none_is_not_run(tmp_path: Path, name: str) -> None:
    found = Credentials.read(written(tmp_path, {"credsStore": name}))
    with pytest.raises(ConfigurationError, match="credential"):
        await found.find("a.example")


def test_no_secret_is_shown() -> None:
    login = Login("me", SECRET, "refresh-me")
    for shown in (repr(login), repr(Credentials({"a.example": login})), str(login), f"{Credentials({'a': login})}"):
        assert SECRET not in shown
        assert "refresh-me" not in shown
