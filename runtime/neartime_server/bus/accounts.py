"""What NATS is told of the instances: the claims of their accounts, pushed over the system account.

NATS keeps what it was told, so a server that starts asks before it pushes: it must not make valid again what another
server has revoked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from neartime.contract import subjects
from neartime.contract.ids import new_id
from neartime.contract.launch import NatsAccess
from neartime.errors import NeartimeError
from neartime.stream import Line, Link
from neartime.stream.link import AWAY
from neartime_server.bus import claims
from neartime_server.bus.keys import KeyPair, Keys
from neartime_server.bus.telling import Telling
from neartime_server.errors import BusError

log = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 5.0
"""How long NATS may take to answer, and to be reached where the connection is away."""
CREDENTIAL_SECONDS: Final = 86400.0
"""How long a credential of this server's own lives; a fresh one takes over before its end."""
_LOOKUP: Final = "$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP"
_UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
_DELETE: Final = "$SYS.REQ.CLAIMS.DELETE"


class Accounts:
    """`disk_bytes` is each account's quota."""

    def __init__(self, keys: Keys, url: str, disk_bytes: int) -> None:
        self._keys, self._url, self._disk_bytes = keys, url, disk_bytes
        self._revocations: dict[str, dict[str, int]] = {}
        self._unsure: set[str] = set()
        """Instances whose quota is to be looked at again."""
        self._pushing: dict[str, asyncio.Lock] = {}
        self._line = Line(self._access, name="neartime accounts", opened=self._open_anew)
        self._telling = Telling()

    async def _access(self) -> NatsAccess:
        return own_access(self._keys.system, self._url)

    async def open(self) -> None:
        """Connects.

        Raises:
            BusError: NATS can't be reached, or knows another operator.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._line.link()
        except (TimeoutError, NeartimeError) as error:
            raise BusError(f"NATS at {self._url} can't be reached: {error or 'no answer'}") from error

    async def close(self) -> None:
        self._telling.cancel()
        await self._line.close()

    @property
    def connected(self) -> bool:
        return self._line.connected

    async def _offer_platform(self, link: Link) -> None:
        key = self._keys.platform
        told = await link.client.request(_LOOKUP.format(key.public), b"", timeout=REQUEST_SECONDS)
        if _body(told.data.decode()).get("exports") != claims.EXPORTS:
            token = claims.platform_account(self._keys.operator, key)
            self._accepted((await link.client.request(_UPDATE, token.encode(), timeout=REQUEST_SECONDS)).data)

    async def ensure(self, instance_id: str) -> None:
        """The instance's account is there, with this server's quota and whatever is revoked in it.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        async with self._pushing.setdefault(instance_id, asyncio.Lock()):
            known = self._revocations.get(instance_id)
            if known is not None and instance_id not in self._unsure:
                return
            key = self._keys.account(instance_id)
            told = _body((await self._request(_LOOKUP.format(key.public), b"")).decode())
            void, same = self._merged(instance_id, told, known or {})
            if not same:
                await self._push(instance_id, key, void)
            self._revocations[instance_id] = void
            self._unsure.discard(instance_id)

    async def revoke(self, instance_id: str, void: Mapping[str, int]) -> None:
        """Makes exactly these credentials of the instance void: users' public keys, and until when they were given.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        await self.ensure(instance_id)
        async with self._pushing[instance_id]:
            if self._revocations[instance_id] != void:
                await self._push(instance_id, self._keys.account(instance_id), void)
                self._revocations[instance_id] = dict(void)

    async def remove(self, instance_id: str) -> None:
        """The instance's account goes, and whoever is connected to it is cut off.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        async with self._pushing.setdefault(instance_id, asyncio.Lock()):
            self._revocations.pop(instance_id, None)
            key = self._keys.account(instance_id)
            self._accepted(await self._request(_DELETE, claims.deletion(self._keys.operator, [key.public]).encode()))

    async def _push(self, instance_id: str, key: KeyPair, void: Mapping[str, int]) -> None:
        token = self._token(instance_id, key, void)
        self._accepted(await self._request(_UPDATE, token.encode()))

    @staticmethod
    def _accepted(answer: bytes) -> None:
        if error := json.loads(answer).get("error"):
            raise BusError(f"NATS refused what it was told of an account: {error.get('description', error)}")

    def forget(self, instance_id: str) -> None:
        """Its quota is to be looked at again: another server, of before, may have told its own."""
        self._unsure.add(instance_id)

    async def _open_anew(self, link: Link) -> None:
        """A connection that is new, or back, may be to a server that has lost what it was told."""
        link.listen(lambda: self._returned(link))
        await self._push_all(link)

    def _returned(self, link: Link) -> None:
        if link.client.is_connected:
            self._telling.spawn(lambda: self._push_all(link), link)

    async def _push_all(self, link: Link) -> None:
        """What is missing is told, and nothing is taken back: another server may have revoked more."""
        await self._offer_platform(link)
        for instance_id in list(self._revocations):
            while (known := self._revocations.get(instance_id)) is not None:
                key = self._keys.account(instance_id)
                asked = await link.client.request(_LOOKUP.format(key.public), b"", timeout=REQUEST_SECONDS)
                void, same = self._merged(instance_id, _body(bytes(asked.data).decode()), known)
                if not same:
                    token = self._token(instance_id, key, void)
                    await link.client.request(_UPDATE, token.encode(), timeout=REQUEST_SECONDS)
                if self._revocations.get(instance_id) is known:
                    break  # else more was revoked meanwhile

    def _merged(
        self, instance_id: str, told: Mapping[str, Any], known: Mapping[str, int]
    ) -> tuple[dict[str, int], bool]:
        """What is void by what NATS was told and by what is known here; and whether NATS knows that, and the rest."""
        there: dict[str, int] = told.get("revocations") or {}
        void = {**there, **known}
        due = self._disk_bytes, claims.imports(instance_id, self._keys.platform.public), void
        return void, due == (told.get("limits", {}).get("disk_storage"), told.get("imports"), there)

    def _token(self, instance_id: str, key: KeyPair, void: Mapping[str, int]) -> str:
        platform = self._keys.platform.public
        return claims.account(self._keys.operator, key, instance_id, self._disk_bytes, void, platform)

    async def _request(self, subject: str, body: bytes) -> bytes:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                link = await self._line.link()
                answer = await link.client.request(subject, body, timeout=REQUEST_SECONDS)
        except (*AWAY, NeartimeError) as error:
            raise BusError(f"NATS does not answer: {error!r}") from error
        return bytes(answer.data)


def own_access(account: KeyPair, url: str) -> NatsAccess:
    """A credential of this server itself in an account: all of it, for a while."""
    name = f"control-{new_id()}"
    expires = time.time() + CREDENTIAL_SECONDS
    credential = claims.credential(account, KeyPair.new_user(), name, [], [], expires)
    return NatsAccess(url=url, credential=credential, inbox=subjects.inbox(name))


def _body(token: str) -> dict[str, Any]:
    """What is in an account's claims; empty where there are none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        content = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        body: dict[str, Any] = content["nats"]
    except (ValueError, KeyError, TypeError):
        return {}
    return body
