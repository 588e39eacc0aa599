"""Standard Webhooks signatures, and the secrets they are made with, encrypted at rest."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's prefix, not a secret


class SecretUnreadable(Exception):
    """A stored secret cannot be decrypted with any of the keys we have."""


def new_secret() -> str:
    """A secret of 32 random bytes; Standard Webhooks 1.0 asks for 24 to 64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`.

    `timestamp` is in epoch seconds, `body` the very bytes that are sent.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{digest}",
    }


class SecretBox:
    """Encrypts and decrypts secrets with keys derived from the app's; `keys` run from oldest to newest."""

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        self._fernet = MultiFernet([_fernet(key) for key in reversed(keys)])
        self.decrypt = lru_cache(maxsize=4096)(self._decrypt)

    def encrypt(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def _decrypt(self, encrypted: bytes) -> str:
        try:
            return self._fernet.decrypt(encrypted).decode()
        except InvalidToken:
            raise SecretUnreadable from None


def _fernet(key: str | bytes) -> Fernet:
    material = key.encode() if isinstance(key, str) else key
    derived = HKDF(SHA256(), length=32, salt=None, info=b"flask_hubhooks secrets").derive(material)
    return Fernet(base64.urlsafe_b64encode(derived))
