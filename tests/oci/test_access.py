"""Who may what: passwords, tokens, identity tokens and certificates, and what is said where they are not enough."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from contents import push_image
from registries import Authority
from registries import Registry as Server

from neartime.errors import ConfigurationError, RegistryRefused, RegistryUnreachable
from neartime.oci import Credentials, Login, Reference, Registry, digest_of
from neartime.oci.access import Challenge

USER, PASSWORD = "neartime", "open-sesame"


def of(server: Server, name: str) -> Reference:
    return Reference.parse(f"{server.host}/{name}")


def client_of(server: Server, authority: Authority, login: Login | None = None) -> Registry:
    logins = {server.host: login or Login(USER, PASSWORD)}
    return Registry(Credentials(logins), ca=authority.certificate)


@pytest.mark.parametrize("kind", ["locked", "tokens"])
async def test_a_wrong_password_is_refused_and_not_shown(
    kind: str, request: pytest.FixtureRequest, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server: Server = request.getfixturevalue(kind)
    async with client_of(server, authority, Login(USER, "guessed-word")) as client:
        with pytest.raises(RegistryRefused) as error:
            await client.image(of(server, "a/b:1"))
        with pytest.raises(RegistryRefused):
            await client.push_blob(of(server, "a/b"), b"blob", digest_of(b"blob"), 4)
    message = str(error.value)
    assert server.host in message
    assert f"user {USER!r} of arguments" in message
    assert f"docker login {server.host}" in message
    assert "401" in message
    assert "guessed-word" not in message + repr(error.value) + caplog.text


@pytest.mark.parametrize("kind", ["locked", "tokens"])
async def test_who_has_no_login_is_told_how_to_get_one(
    kind: str, request: pytest.FixtureRequest, authority: Authority, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue(kind)
    (tmp_path / "config.json").write_text("{}")
    async with Registry(Credentials.read(tmp_path), ca=authority.certificate) as client:
        with pytest.raises(RegistryRefused, match=f"config.json has no credentials for {server.host}: log in"):
            await client.image(of(server, "a/b:1"))


@pytest.mark.parametrize("kind", ["locked", "tokens"])
async def test_no_secret_or_token_is_logged(
    kind: str, request: pytest.FixtureRequest, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server: Server = request.getfixturevalue(kind)
    async with client_of(server, authority) as client:
        await push_image(client, of(server, "silent:1"))
        await client.image(of(server, "silent:1"))
    assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore", "neartime"))]


async def test_an_identity_token_opens_a_registry(tokens: Server, authority: Authority) -> None:
    async with client_of(tokens, authority, Login(identity_token=PASSWORD[::-1])) as client:
        await push_image(client, of(tokens, "identity:1"))
        assert await client.tags(of(tokens, "identity")) == ["1"]
    async with client_of(tokens, authority, Login(identity_token="no-such-token")) as client:
        with pytest.raises(RegistryRefused, match="the identity token of arguments") as error:
            await client.tags(of(tokens, "identity"))
    assert "no-such-token" not in str(error.value)


async def test_a_token_is_kept_and_asked_for_by_what_it_is_for(tokens: Server, authority: Authority) -> None:
    assert tokens.tokens is not None
    async with client_of(tokens, authority) as client:
        await push_image(client, of(tokens, "kept/a:1"))
        before = len(tokens.tokens.grants)
        for _ in range(3):
            await client.image(of(tokens, "kept/a:1"))
        await asyncio.gather(*(client.tags(of(tokens, "kept/a")) for _ in range(5)))
        assert len(tokens.tokens.grants) == before
        _, content = await client.manifest(of(tokens, "kept/a:1"))
        assert await client.mount(of(tokens, "kept/b"), digest_of(b"layer"), "kept/a")
        assert set(tokens.tokens.grants[-1].scopes) == {"repository:kept/b:pull,push", "repository:kept/a:pull"}
        await client.delete(of(tokens, "kept/a").at(digest_of(content)))
        assert tokens.tokens.grants[-1].scopes == ["repository:kept/a:delete,pull,push"]
        assert all(grant.user == USER for grant in tokens.tokens.grants[before:])


async def test_a_token_that_has_ended_is_replaced(tokens: Server, authority: Authority) -> None:
    assert tokens.tokens is not None
    async with client_of(tokens, authority) as client:
        await push_image(client, of(tokens, "ended:1"))
        # The registry takes no such token; the client asks for another one, once.
        tokens.tokens.lifetime = -120
        try:
            with pytest.raises(RegistryRefused):
                await client.tags(of(tokens, "ended/too"))
        finally:
            tokens.tokens.lifetime = 300
        assert await client.tags(of(tokens, "ended")) == ["1"]


async def test_a_token_that_the_registry_no_longer_takes_is_replaced(authority: Authority) -> None:
    with Server(authority=authority, users={USER: PASSWORD}, tokens=True) as server:
        assert server.tokens is not None
        async with client_of(server, authority) as client:
            await push_image(client, of(server, "renewed:1"))
            before = len(server.tokens.grants)
            (host,) = client._wire._hosts.values()
            # As a token that ended while a request was on its way, or whose key the registry no longer knows.
            for scopes, token in host.access._tokens.items():
                host.access._tokens[scopes] = type(token)("stale." + token.value, token.ends)
            assert await client.tags(of(server, "renewed")) == ["1"]
            assert len(server.tokens.grants) == before + 1


async def test_a_certificate_that_is_not_trusted_names_the_setting(locked: Server, tmp_path: Path) -> None:
    async with Registry() as client:
        with pytest.raises(RegistryUnreachable, match=r"certificate of .* is not trusted .*Give the file .* as `ca`"):
            await client.tags(of(locked, "a"))
    stranger = Authority(tmp_path)
    async with Registry(ca=stranger.certificate) as client:
        with pytest.raises(RegistryUnreachable, match=r"isn't signed by the one in .*authority\.pem"):
            await client.tags(of(locked, "a"))


async def test_a_file_that_is_no_authority_is_named(locked: Server, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        async with Registry(ca=tmp_path / name) as client:
            with pytest.raises(ConfigurationError, match=f"{name}, given as `ca`"):
                await client.tags(of(locked, "a"))


async def test_no_password_goes_to_a_registry_that_was_to_have_tls_and_has_none(plain: Server) -> None:
    reference = Reference(plain.host.replace("127.0.0.1", "0.0.0.0"), "a")  # this machine, and no loopback address
    async with Registry(patience=0) as client:
        with pytest.raises(RegistryUnreachable, match=r"does not speak TLS as it should .* name it in `insecure`"):
            await client.tags(reference)
    async with Registry(insecure=[reference.registry]) as client:
        assert isinstance(await client.repositories(reference.registry), list)


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Basic realm="a, b"', "basic", {"realm": "a, b"}),
        ('Bearer realm="https://x/t",service="s",scope="repository:a/b:pull,push"', "bearer",
         {"realm": "https://x/t", "service": "s", "scope": "repository:a/b:pull,push"}),
        ('BEARER Realm=https://x/t, error="expired"', "bearer", {"realm": "https://x/t", "error": "expired"}),
        ('Basic realm="a", Bearer realm="b"', "bearer", {"realm": "b"}),
        ('Bearer realm="b", Basic realm="a"', "bearer", {"realm": "b"}),
        ('Negotiate, Basic realm="a\\"b"', "basic", {"realm": 'a"b'}),
    ],
)  # fmt: skip
def test_challenges_are_understood(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert Challenge.choose(header) == Challenge(scheme, parameters)


@pytest.mark.parametrize("header", ["", "Negotiate", "nonsense=1", ",,,"])
def test_what_is_no_challenge_that_can_be_met_is_none(header: str) -> None:
    assert Challenge.choose(header) is None
