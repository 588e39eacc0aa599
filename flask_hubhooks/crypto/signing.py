"""Standard Webhooks signatures, and the secrets they are made with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's prefix, not a secret
LEAST_BYTES, MOST_BYTES = 24, 64
"""Of a secret, by Standard Webhooks 1.0."""


class BadSecret(ValueError):
    """Text that is no secret of Standard Webhooks."""


def new_secret() -> str:
    """A secret of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Pass `whsec_` and the base64 of 24 to 64 bytes; raises `BadSecret` for all else.

    Base64 that leaves bits over is refused as well: some of the receivers' libraries do not read it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode("ascii"), validate=True)
    except ValueError:
        key = b""
    if not LEAST_BYTES <= len(key) <= MOST_BYTES or secret != SECRET_PREFIX + base64.b64encode(key).decode():
        raise BadSecret(f"Must be {SECRET_PREFIX} and the base64 of {LEAST_BYTES} to {MOST_BYTES} bytes.")


def signature_headers(keys: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body: those of Standard Webhooks 1.0, and GitHub's X-Hub-Signature-256.

    `keys` are the webhook's secrets, the present one first: while one is replaced there is a signature of each.
    The first three are HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes that a secret stands for. The
    last is HMAC-SHA256 over the body, keyed with the present secret as text, `whsec_` and all. `timestamp` is in
    epoch seconds, `body` the very bytes that are sent.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in keys),
        "X-Hub-Signature-256": f"sha256={hmac.new(keys[0].encode(), body, hashlib.sha256).hexdigest()}",
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    # Not `hmac.digest`: it releases the interpreter's lock, and getting that back takes longer than the signature.
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
