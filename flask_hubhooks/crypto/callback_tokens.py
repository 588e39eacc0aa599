"""Callback tokens: a delivery's id and round, signed, so that nothing secret has to be stored."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from itsdangerous import BadSignature, Signer, base64_decode, base64_encode


class BadToken(Exception):
    """The token was not made by us, or with a key that is no longer in use."""


class CallbackTokens:
    """Makes and reads callback tokens; `keys` are the app's secret keys, oldest first."""

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        signer = Signer(b"", salt="flask_hubhooks.callback", key_derivation="hmac", digest_method=hashlib.sha256)
        derived = [signer.derive_key(key) for key in keys]  # once, and not for every token
        self._signer = Signer(derived, key_derivation="none", digest_method=hashlib.sha256)

    def make(self, delivery_id: uuid.UUID, round_: int) -> str:
        return self._signer.sign(f"{delivery_id.hex}.{round_}").decode()

    def read(self, token: str) -> tuple[uuid.UUID, int]:
        """Return the delivery's id and the round; raises `BadToken`."""
        try:
            delivery, round_ = self._signer.unsign(token.encode()).decode("ascii").split(".")
            content = uuid.UUID(hex=delivery), int(round_)
        except (BadSignature, ValueError):  # a token may contain anything, even lone surrogates
            raise BadToken from None
        signature = token.rpartition(".")[2]
        if base64_encode(base64_decode(signature)).decode() != signature:  # base64 can be spelled in several ways
            raise BadToken
        return content
