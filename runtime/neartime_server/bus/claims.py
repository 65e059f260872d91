"""NATS' JSON Web Tokens (version 2 claims) of operator, accounts and users. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from neartime.contract import subjects
from neartime_server.bus.keys import KeyPair

ANSWER_SECONDS: Final = 10
"""How long a user may answer what it heard."""
_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_UNLIMITED = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(signer: KeyPair, subject: str, name: str, body: Mapping[str, Any], expires: float | None = None) -> str:
    content: dict[str, Any] = {
        "jti": "",
        "iat": int(time.time()),
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {**body, "version": 2},
    }
    if expires is not None:
        content["exp"] = int(expires)
    digest = hashlib.sha256(json.dumps(content).encode()).digest()
    content["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    text = f"{_base64(_HEADER)}.{_base64(json.dumps(content).encode())}"
    return f"{text}.{_base64(signer.sign(text.encode()))}"


def operator(key: KeyPair, system_account: str) -> str:
    return _token(key, key.public, "neartime", {"type": "operator", "system_account": system_account})


def system_account(signer: KeyPair, key: KeyPair) -> str:
    return _token(signer, key.public, "SYS", {"type": "account", "limits": _UNLIMITED})


def account(
    signer: KeyPair, key: KeyPair, name: str, disk_bytes: int, revocations: Mapping[str, int], platform: str
) -> str:
    """An instance's account; `revocations` maps users' public keys to the Unix time up to which they are void, and
    `platform` is the public key of the account where gateways are."""
    limits = _UNLIMITED | {"mem_storage": -1, "disk_storage": disk_bytes, "streams": 2, "consumer": -1}
    body: dict[str, Any] = {"type": "account", "limits": limits, "imports": imports(name, platform)}
    if revocations:
        body["revocations"] = dict(revocations)
    return _token(signer, key.public, name, body)


def imports(instance_id: str, platform: str) -> list[dict[str, Any]]:
    """What an instance's account takes over from the platform's: its gateways, which hear which instance asks."""
    tokens = subjects.GATEWAY_HERE.count("*")
    return [
        {
            "name": "gateways",
            "subject": f"gateway.{instance_id}{'.*' * tokens}",
            "account": platform,
            "local_subject": f"gateway.{'.'.join(f'${number}' for number in range(1, tokens + 1))}",
            "type": "service",
        }
    ]


EXPORTS: Final = [{"name": "gateways", "subject": subjects.PLATFORM_SUBJECTS[0], "type": "service"}]
"""What the platform's account offers to those of instances."""


def platform_account(signer: KeyPair, key: KeyPair) -> str:
    """The account of gateways. Nothing is kept in it."""
    return _token(signer, key.public, "platform", {"type": "account", "limits": _UNLIMITED, "exports": EXPORTS})


def deletion(key: KeyPair, accounts: list[str]) -> str:
    """The operator's word that these accounts (public keys) are to go."""
    return _token(key, key.public, "neartime", {"type": "generic", "accounts": accounts})


def credential(
    account_key: KeyPair,
    user: KeyPair,
    name: str,
    publish: list[str],
    subscribe: list[str],
    expires: float | None,
    *,
    answers: int = 0,
    answer_seconds: int = ANSWER_SECONDS,
) -> str:
    """A user's credentials file: what it may publish and hear (all, where the list is empty), until when (Unix time;
    None for ever). `answers` is how many messages it may send to the reply subject of one that it heard, and within
    which time."""
    body: dict[str, Any] = {
        "type": "user",
        "subs": -1,
        "data": -1,
        "payload": -1,
        "pub": {"allow": publish} if publish else {},
        "sub": {"allow": subscribe} if subscribe else {},
    }
    if answers:
        body["resp"] = {"max": answers, "ttl": answer_seconds * 10**9}
    token = _token(account_key, user.public, name, body, expires)
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
