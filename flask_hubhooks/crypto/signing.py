"""Standard Webhooks signatures and secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's prefix, not a secret
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
"""By Standard Webhooks 1.0."""


class BadSecret(ValueError):
    """Not a Standard Webhooks secret."""


def new_secret() -> str:
    """Return a secret of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Accept `whsec_` followed by the base64 of 24 to 64 bytes; raise `BadSecret` for anything else.

    Base64 with unused bits that are not zero is refused, too: some libraries of receivers cannot read it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode("ascii"), validate=True)
    except ValueError:
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES or secret != SECRET_PREFIX + base64.b64encode(key).decode():
        raise BadSecret(f"Must be {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes.")


def signature_headers(keys: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove who sent a body: Standard Webhooks 1.0, GitHub's and Flux's.

    `keys` are the webhook's secrets, the current one first; after a rotation there is a signature with each of them.
    `timestamp` is in epoch seconds, `body` the exact bytes that are sent.

    `webhook-signature` is HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes that a secret encodes.
    `X-Hub-Signature-256`, for receivers made for GitHub, and `X-Signature`, for Flux's `generic-hmac`, are HMAC-SHA256
    over the body, keyed with the text of the current secret, including `whsec_`.
    """
    of_body = f"sha256={hmac.new(keys[0].encode(), body, hashlib.sha256).hexdigest()}"
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in keys),
        "X-Hub-Signature-256": of_body,
        "X-Signature": of_body,
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    # Not `hmac.digest`: it releases the GIL, and getting it back takes longer than the signature.
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
