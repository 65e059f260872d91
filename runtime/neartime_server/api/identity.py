"""/identity/token: a token of this server, changed for one that ends soon, in the form that IBM Cloud gives it.

Clients of IBM Cloud do not send the token that their user has. They change it for a signed one, which they read to know
when to ask for the next. It stands for the same user, and no longer than the first does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import timezone
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from neartime.contract.problem import ErrorCode
from neartime_server.api.services import JSON, Here
from neartime_server.bus import Keys
from neartime_server.errors import Refused
from neartime_server.store import tokens

router = APIRouter(prefix="/identity", tags=["identity"])

ACCESS_SECONDS: Final = 3600
"""How long a signed token lasts; IBM Cloud's do as long."""
GRANT: Final = "urn:ibm:params:oauth:grant-type:apikey"
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


class AccessToken(BaseModel):
    """The answer to POST /identity/token."""

    access_token: str
    refresh_token: str = "not_supported"
    token_type: str = "Bearer"
    expires_in: int
    expiration: int
    """Seconds since 1970."""
    scope: str = "ibm openid"


@router.post(
    "/token",
    response_model=AccessToken,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": {
                        "type": "object",
                        "properties": {"grant_type": {"const": GRANT}, "apikey": {"type": "string"}},
                        "required": ["grant_type", "apikey"],
                    }
                }
            },
        }
    },
)
async def token(request: Request, here: Here) -> Response:
    """Change a token, sent as `apikey`, for one that ends within the hour."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    grant, given = (form.get(name, [""])[0] for name in ("grant_type", "apikey"))
    if grant != GRANT or not given:
        raise Refused.of(
            422,
            ErrorCode.INVALID_REQUEST,
            f"expected a form with grant_type={GRANT} and apikey",
            path="apikey" if grant == GRANT else "grant_type",
        )
    digest = here.keys.token_digest(given)
    principal = await here.store.read(lambda connection: tokens.find(connection, digest))
    if principal is None:
        raise Refused.of(
            401,
            ErrorCode.UNAUTHORIZED,
            "the token is not known here, has expired or was ended",
            solution="ask the operator for a new one (neartime admin token create NAME --instance INSTANCE)",
        )
    now = int(time.time())
    ends = now + ACCESS_SECONDS
    if principal.expires is not None:
        ends = min(ends, int(principal.expires.replace(tzinfo=timezone.utc).timestamp()))
    answer = AccessToken(
        access_token=sign(here.keys, principal.token_id, now, ends), expires_in=ends - now, expiration=ends
    )
    return Response(answer.model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})


def sign(keys: Keys, token_id: str, issued: int, ends: int) -> str:
    """A JSON web token that stands for the token of this id, from and until these seconds since 1970."""
    signed = f"{_encoded(_HEADER)}.{_encoded({'sub': token_id, 'iat': issued, 'exp': ends})}"
    return f"{signed}.{_signature(keys, signed)}"


def stands_for(keys: Keys, text: str) -> str | None:
    """The id of the token that a signed one stands for; None where it is none of ours, or has ended."""
    signed, _, signature = text.rpartition(".")
    if not hmac.compare_digest(_signature(keys, signed).encode(), signature.encode()):
        return None
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(f"{signed.partition('.')[2]}=="))
    return str(claims["sub"]) if claims["exp"] > time.time() else None


def signed(text: str) -> bool:
    """Whether a bearer token has the form of a signed one; those of this server have no dots."""
    return text.count(".") == 2


def _encoded(part: dict[str, Any]) -> str:
    return _text(json.dumps(part, separators=(",", ":")).encode())


def _signature(keys: Keys, text: str) -> str:
    return _text(hmac.new(keys.identity, text.encode(), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
