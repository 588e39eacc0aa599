"""Encrypts webhook secrets and request headers for the database."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class SecretUnreadable(Exception):
    """A stored secret cannot be decrypted with any of the keys we have."""


class SecretBox:
    """Encrypts what is secret, and decrypts it.

    `keys` are Fernet keys, the newest first: it encrypts. Behind them stand those derived from `passwords`, the
    app's secret keys, the newest first as well: they are all there is until the operator sets keys.
    """

    def __init__(self, keys: Sequence[str], passwords: Sequence[str | bytes]) -> None:
        self._fernet = MultiFernet([*map(Fernet, keys), *map(_derived, passwords)])
        self.decrypt = lru_cache(maxsize=4096)(self._decrypt)

    def encrypt(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def encrypted_anew(self, encrypted: bytes) -> bytes:
        """The same under the newest key; raises `SecretUnreadable`."""
        try:
            return self._fernet.rotate(encrypted)
        except InvalidToken:
            raise SecretUnreadable from None

    def _decrypt(self, encrypted: bytes) -> str:
        try:
            return self._fernet.decrypt(encrypted).decode()
        except InvalidToken:
            raise SecretUnreadable from None


def _derived(password: str | bytes) -> Fernet:
    material = password.encode() if isinstance(password, str) else password
    derived = HKDF(SHA256(), length=32, salt=None, info=b"flask_hubhooks secrets").derive(material)
    return Fernet(base64.urlsafe_b64encode(derived))
