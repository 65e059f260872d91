"""Where a client looks for its server."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from neartime import config
from neartime.errors import ConfigurationError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"NEARTIME_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def embedded(environment: dict[str, str], url: str = "http://127.0.0.1:8787") -> None:
    home = Path(environment["NEARTIME_HOME"])
    (home / "run").mkdir(parents=True)
    (home / "run" / "up.json").write_text(json.dumps({"url": url}))
    (home / "token").write_text("embedded-token\n")


def test_arguments_come_before_the_environment(environment: dict[str, str]) -> None:
    environment |= {"NEARTIME_URL": "https://there", "NEARTIME_TOKEN": "theirs"}
    assert config.find("https://here/", "mine", environment=environment) == config.Account("https://here", "mine")
    found = config.find(environment=environment)
    assert (found.url, found.token, found.source) == ("https://there", "theirs", "environment")


def test_a_saved_account_comes_before_the_embedded_runtime(environment: dict[str, str]) -> None:
    embedded(environment)
    assert config.find(environment=environment).token == "embedded-token"
    config.save(config.Account("https://lab", "saved"), environment=environment)
    config.save(config.Account("https://other", "others"), "other", environment=environment)
    assert config.find(environment=environment).url == "https://lab"
    assert config.find(name="other", environment=environment).token == "others"


def test_saved_accounts_are_named_where_none_is_the_default(environment: dict[str, str]) -> None:
    config.save(config.Account("https://lab", "saved"), "lab", environment=environment)
    with pytest.raises(
        ConfigurationError, match=r"Saved: 'lab' \(https://lab\).*--account NAME.*instance=NAME"
    ) as caught:
        config.find(environment=environment)
    assert "saved'" not in str(caught.value), "a token is never told"
    embedded(environment)
    assert config.find(environment=environment).token == "embedded-token"


def test_a_url_that_is_known_needs_no_token(environment: dict[str, str]) -> None:
    embedded(environment)
    assert config.find("http://127.0.0.1:8787", environment=environment).token == "embedded-token"


def test_accounts_are_saved_for_their_owner_alone(environment: dict[str, str]) -> None:
    path = config.save(config.Account("https://lab", "saved"), environment=environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "saved" not in repr(config.find(environment=environment).__class__("https://lab", "saved"))


@pytest.mark.parametrize(
    ("url", "token", "name", "says"),
    [
        (None, None, None, "neartime up"),
        ("https://lab", None, None, "NEARTIME_TOKEN"),
        (None, "token", None, "NEARTIME_URL"),
        (None, None, "unsaved", "no account 'unsaved' is saved"),
        ("lab", "token", None, "http://"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(
    environment: dict[str, str], url: str | None, token: str | None, name: str | None, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        config.find(url, token, name, environment)


def test_a_damaged_file_of_accounts_is_named(environment: dict[str, str]) -> None:
    path = config.accounts_file(environment)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"accounts\.json is damaged"):
        config.find(environment=environment)


def test_a_server_on_this_machine_is_reached_without_a_proxy() -> None:
    assert config.Account("http://127.0.0.1:1", "t").loopback
    assert config.Account("http://localhost:1", "t").loopback
    assert config.Account("http://[::1]:1", "t").loopback
    assert not config.Account("http://lab:1", "t").loopback
