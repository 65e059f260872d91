"""The tests' registries are real ones: they keep what is pushed, and who has no right gets nothing."""

from __future__ import annotations

import io
import ssl
import tarfile
from collections.abc import Iterator

import httpx
import pytest
from docker.errors import APIError, ImageNotFound
from engine import Engine
from registries import Authority, Registry

pytestmark = pytest.mark.engine


def image(engine: Engine, name: str) -> str:
    """An image of one file; its id."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as layer:
        layer.addfile(tarfile.TarInfo(name.rpartition("/")[2]))
    engine.client.api.import_image_from_data(data.getvalue(), repository=name, tag="1")
    return str(engine.client.images.get(f"{name}:1").id)


def push(engine: Engine, registry: Registry, name: str, credentials: dict[str, str] | None) -> str | None:
    """The error, if there was one."""
    lines: Iterator[dict[str, str]] = engine.client.images.push(
        f"{registry.host}/{name}", "1", stream=True, decode=True, auth_config=credentials
    )
    return next((line["error"] for line in lines if "error" in line), None)


@pytest.mark.parametrize("kind", ["registry", "locked_registry", "token_registry"])
def test_what_is_pushed_is_pulled_again(engine: Engine, kind: str, request: pytest.FixtureRequest) -> None:
    registry: Registry = request.getfixturevalue(kind)
    made = image(engine, f"{registry.host}/{kind}/round")
    assert push(engine, registry, f"{kind}/round", registry.credentials) is None
    engine.client.images.remove(f"{registry.host}/{kind}/round:1")
    with pytest.raises(ImageNotFound):
        engine.client.images.get(made)
    pulled = engine.client.images.pull(f"{registry.host}/{kind}/round", "1", auth_config=registry.credentials)
    assert pulled.id == made


@pytest.mark.parametrize("kind", ["locked_registry", "token_registry"])
@pytest.mark.parametrize("credentials", [None, {"username": "neartime", "password": "guessed"}])
def test_who_has_no_right_pushes_nothing(
    engine: Engine, kind: str, credentials: dict[str, str] | None, request: pytest.FixtureRequest, authority: Authority
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    image(engine, f"{registry.host}/{kind}/refused")
    error = push(engine, registry, f"{kind}/refused", credentials)
    assert error is not None
    assert any(word in error for word in ("unauthorized", "denied", "no basic auth credentials")), error
    with pytest.raises((APIError, ImageNotFound)):
        engine.client.images.pull(f"{registry.host}/{kind}/refused", "1", auth_config=registry.credentials)


def test_a_client_that_does_not_know_the_authority_is_not_served(
    locked_registry: Registry, authority: Authority
) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{locked_registry.url}/v2/", trust_env=False, verify=ssl.create_default_context())
    answer = httpx.get(f"{locked_registry.url}/v2/", trust_env=False, verify=authority.context())
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="neartime"'
    answer = httpx.get(
        f"{locked_registry.url}/v2/", trust_env=False, verify=authority.context(), auth=("neartime", "secret")
    )
    assert answer.status_code == 200


def test_docker_takes_no_certificate_of_an_authority_it_does_not_trust(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    with Registry(address=engine.gateway, authority=stranger) as registry:
        image(engine, f"{registry.host}/stranger")
        error = push(engine, registry, "stranger", None)
    assert error is not None
    assert "certificate signed by unknown authority" in error


def test_a_token_allows_what_it_was_asked_for(token_registry: Registry, authority: Authority) -> None:
    with httpx.Client(trust_env=False, verify=authority.context()) as client:
        asked = client.get(f"{token_registry.url}/v2/some/thing/tags/list").headers["www-authenticate"]
        assert token_registry.tokens is not None
        assert f'Bearer realm="{token_registry.tokens.url}"' in asked
        assert 'scope="repository:some/thing:pull"' in asked
        scope = {"service": token_registry.host, "scope": "repository:some/thing:pull"}
        nobodys = client.get(token_registry.tokens.url, params=scope).json()["token"]
        own = client.get(token_registry.tokens.url, params=scope, auth=("neartime", "secret")).json()["token"]

        def status(token: str, name: str, method: str = "GET") -> int:
            url = f"{token_registry.url}/v2/{name}/{'tags/list' if method == 'GET' else 'blobs/uploads/'}"
            return client.request(method, url, headers={"Authorization": f"Bearer {token}"}).status_code

        assert status(nobodys, "some/thing") == 401
        assert status(own, "some/thing") == 404  # allowed, and there is nothing
        assert status(own, "other/thing") == 401
        assert status(own, "some/thing", "POST") == 401
        assert token_registry.tokens.grants[-1].user == "neartime"


def test_an_expired_token_is_refused(token_registry: Registry, authority: Authority) -> None:
    assert token_registry.tokens is not None
    with httpx.Client(trust_env=False, verify=authority.context()) as client:
        token_registry.tokens.lifetime = -120
        try:
            scope = {"service": token_registry.host, "scope": "repository:some/thing:pull"}
            token = client.get(token_registry.tokens.url, params=scope, auth=("neartime", "secret")).json()["token"]
        finally:
            token_registry.tokens.lifetime = 300
        url = f"{token_registry.url}/v2/some/thing/tags/list"
        assert client.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_a_registry_that_was_killed_comes_back_with_what_it_had(engine: Engine) -> None:
    with Registry() as registry:
        image(engine, f"{registry.host}/kept")
        assert push(engine, registry, "kept", None) is None
        registry.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{registry.url}/v2/", trust_env=False)
        registry.start()
        assert httpx.get(f"{registry.url}/v2/kept/tags/list", trust_env=False).json()["tags"] == ["1"]
