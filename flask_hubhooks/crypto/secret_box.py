"""Encrypts webhook secrets and request headers for the database."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class SecretUnreadable(Exception):
    """A stored secret cannot be decrypted with any of our keys."""


class SecretBox:
    """Encrypts and decrypts secrets.

    `keys` are Fernet keys and `passwords` the app's secret keys, each newest first. The first key encrypts. Keys
    derived from the passwords come after the Fernet keys; they are the only ones until the operator sets some.
    """

    def __init__(self, keys: Sequence[str], passwords: Sequence[str | bytes]) -> None:
        self._fernet = MultiFernet([*map(Fernet, keys), *map(_key_from, passwords)])
        self.decrypt = lru_cache(maxsize=4096)(self._decrypt)

    def encrypt(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def reencrypt(self, encrypted: bytes) -> bytes:
        """Encrypt a secret with the newest key instead; raises `SecretUnreadable`."""
        try:
            return self._fernet.rotate(encrypted)
        except InvalidToken:
            raise SecretUnreadable from None

    def _decrypt(self, encrypted: bytes) -> str:
        try:
            return self._fernet.decrypt(encrypted).decode()
        except InvalidToken:
            raise SecretUnreadable from None


def _key_from(password: str | bytes) -> Fernet:
    material = password.encode() if isinstance(password, str) else password
    derived = HKDF(SHA256(), length=32, salt=None, info=b"flask_hubhooks secrets").derive(material)
    return Fernet(base64.urlsafe_b64encode(derived))
