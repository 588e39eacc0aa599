"""The token in a callback URL: a delivery and its round, signed, so that nothing secret is stored."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from itsdangerous import BadSignature, Signer, base64_decode, base64_encode


class BadToken(Exception):
    """The token was not made by us, or with a key that is gone."""


class CallbackTokens:
    """Makes and reads tokens; `keys` are the app's secret keys from oldest to newest."""

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        secret_keys = [key.encode() if isinstance(key, str) else key for key in keys]
        self._signer = Signer(
            secret_keys, salt="flask_hubhooks.callback", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def make(self, delivery_id: uuid.UUID, round_: int) -> str:
        return self._signer.sign(f"{delivery_id.hex}.{round_}").decode()

    def read(self, token: str) -> tuple[uuid.UUID, int]:
        """The delivery's id and the round; raises `BadToken`."""
        try:
            delivery, round_ = self._signer.unsign(token.encode()).decode("ascii").split(".")
            said = uuid.UUID(hex=delivery), int(round_)
        except (BadSignature, ValueError):  # a token may hold anything, lone surrogates too
            raise BadToken from None
        signature = token.rpartition(".")[2]
        if base64_encode(base64_decode(signature)).decode() != signature:  # base64 can be written in other ways
            raise BadToken
        return said
