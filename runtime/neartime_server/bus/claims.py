"""NATS' JSON Web Tokens (version 2 claims) of operator, accounts and users. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from neartime_server.bus.keys import KeyPair

ANSWER_NANOSECONDS: Final = 10 * 10**9
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


def account(signer: KeyPair, key: KeyPair, name: str, disk_bytes: int, revocations: Mapping[str, int]) -> str:
    """An instance's account; `revocations` maps users' public keys to the Unix time up to which they are void."""
    limits = _UNLIMITED | {"mem_storage": -1, "disk_storage": disk_bytes, "streams": 2, "consumer": -1}
    body: dict[str, Any] = {"type": "account", "limits": limits}
    if revocations:
        body["revocations"] = dict(revocations)
    return _token(signer, key.public, name, body)


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
) -> str:
    """A user's credentials file: what it may publish and hear (all, where the list is empty), until when (Unix time;
    None for ever). `answers` is how many messages it may send to the reply subject of one that it heard."""
    body: dict[str, Any] = {
        "type": "user",
        "subs": -1,
        "data": -1,
        "payload": -1,
        "pub": {"allow": publish} if publish else {},
        "sub": {"allow": subscribe} if subscribe else {},
    }
    if answers:
        body["resp"] = {"max": answers, "ttl": ANSWER_NANOSECONDS}
    token = _token(account_key, user.public, name, body, expires)
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
