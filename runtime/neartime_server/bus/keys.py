"""Every key of this operator, derived from one secret. No key is in the database, so all of them can be made again."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import nkeys

from neartime_server.errors import ConfigurationError

SECRET_BYTES = 32


def new_secret() -> str:
    """A secret as its file holds it: hexadecimal digits."""
    return secrets.token_hex(SECRET_BYTES)


class KeyPair:
    """An nkey: an Ed25519 pair in NATS' text forms."""

    def __init__(self, kind: int, raw: bytes) -> None:
        self.seed: str = nkeys.encode_seed(raw, kind).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, text: bytes) -> bytes:
        return bytes(self._pair.sign(text))

    @classmethod
    def new_user(cls) -> KeyPair:
        return cls(nkeys.PREFIX_BYTE_USER, os.urandom(32))


class Keys:
    """HMAC-SHA-256 of a label, keyed by the operator's secret, is the key of that label."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigurationError(f"the operator's secret has {len(secret)} bytes, not {SECRET_BYTES}")
        self._secret = secret
        self.operator = KeyPair(nkeys.PREFIX_BYTE_OPERATOR, self._derive("operator"))
        self.system = KeyPair(nkeys.PREFIX_BYTE_ACCOUNT, self._derive("system"))
        self.platform = KeyPair(nkeys.PREFIX_BYTE_ACCOUNT, self._derive("platform"))
        """The account of what belongs to no instance: gateways."""

    @property
    def installation(self) -> str:
        """What stands for the servers of this operator, where others have theirs too: 16 hexadecimal digits."""
        return self._derive("installation").hex()[:16]

    def _derive(self, label: str) -> bytes:
        return hmac.new(self._secret, label.encode(), hashlib.sha256).digest()

    def account(self, instance_id: str) -> KeyPair:
        """The account of one instance."""
        return KeyPair(nkeys.PREFIX_BYTE_ACCOUNT, self._derive(f"account:{instance_id}"))

    def control_key(self, worker_id: str) -> str:
        """The key that signs what control plane and this worker say to each other, hexadecimal."""
        return self._derive(f"worker:{worker_id}").hex()

    def reader(self, token_id: str) -> KeyPair:
        """The key of every stream credential that is given out for a bearer token, so that they can end with it."""
        return KeyPair(nkeys.PREFIX_BYTE_USER, self._derive(f"reader:{token_id}"))

    @property
    def identity(self) -> bytes:
        """What signs the tokens that are given for others and end soon."""
        return self._derive("identity")

    def token_digest(self, token: str) -> str:
        """What is stored of a bearer token, hexadecimal."""
        return self._derive(f"token:{token}").hex()

    @classmethod
    def load(cls, path: Path, create: bool = False) -> Keys:
        """The keys of the secret in a file: 64 hexadecimal digits, which only its owner can read; or, where that is
        somebody else, this process's group: so Kubernetes hands out Secrets.

        Raises:
            ConfigurationError: there is no such file, others can read it, or it holds something else.
        """
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")  # one that died here may have had this pid
            with open(draft, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(new_secret() + "\n")
            try:
                os.link(draft, path)  # whoever comes first wins; nobody reads half a secret
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        try:
            status = path.stat()
            text = path.read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"the operator's secret can't be read: {error}") from error
        mode = status.st_mode & 0o777
        if mode & (0o077 if status.st_uid == os.geteuid() else 0o037):
            raise ConfigurationError(f"{path} can be read by others (mode {mode:o}); mend it with: chmod 600 {path}")
        try:
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise ConfigurationError(f"{path} does not hold 64 hexadecimal digits") from error
