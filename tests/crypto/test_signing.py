"""Signatures that the Standard Webhooks library accepts, and secrets that cannot be read without the key."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from flask_hubhooks.crypto.secret_box import SecretBox, SecretUnreadable
from flask_hubhooks.crypto.signing import new_secret, signature_headers

from ..support.host import Host
from ..support.receivers import Receiver

SECRET = new_secret()


def sign(body: bytes) -> dict[str, str]:
    return signature_headers([SECRET], "018f-id", int(time.time()), body)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_standard_library_verifies(text: str) -> None:
    """The reference implementation of Standard Webhooks accepts the signature of any JSON body."""
    body = json.dumps(text, ensure_ascii=False).encode()
    assert Webhook(SECRET).verify(body, sign(body)) == text


@given(st.text(min_size=1), st.integers(min_value=0), st.integers(1, 127))
def test_a_changed_byte(text: str, place: int, change: int) -> None:
    """The signature does not match if one byte of the body changes."""
    body = bytearray(text.encode("ascii", "replace"))
    headers = sign(bytes(body))
    body[place % len(body)] ^= change
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(bytes(body), headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "secret"])
def test_what_else_is_signed(changed: str) -> None:
    """Id, time and secret are part of the signature, so a request cannot be replayed as another one."""
    headers = sign(b"{}")
    secret = new_secret() if changed == "secret" else SECRET
    if changed != "secret":
        headers[changed] = {"webhook-id": "018f-ie", "webhook-timestamp": str(int(time.time()) + 1)}[changed]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(b"{}", headers)


def test_secrets() -> None:
    """A secret is `whsec_` and the base64 of 24 to 64 random bytes, different each time."""
    secrets = {new_secret() for _ in range(50)}
    assert len(secrets) == 50
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip(secret: str) -> None:
    """An encrypted secret can be decrypted, and cannot be read from what is stored."""
    box = SecretBox([], ["key"])
    encrypted = box.encrypt(secret)
    assert box.decrypt(encrypted) == secret
    assert len(secret) < 4 or secret.encode() not in encrypted


def test_rotated_keys() -> None:
    """After a change of key the old one still decrypts, and the newest encrypts."""
    old, new, both = SecretBox([], ["old"]), SecretBox([], [b"new"]), SecretBox([], ["new", "old"])
    assert both.decrypt(old.encrypt(SECRET)) == SECRET
    assert new.decrypt(both.encrypt(SECRET)) == SECRET


@pytest.mark.parametrize(
    "stored",
    [SecretBox([], ["another"]).encrypt("secret"), b"", b"\xff" * 100],
    ids=["another key", "empty", "nonsense"],
)
def test_unreadable(stored: bytes) -> None:
    """A secret that another key encrypted, or that is malformed, raises `SecretUnreadable` and nothing else."""
    with pytest.raises(SecretUnreadable):
        SecretBox([], ["key"]).decrypt(stored)


def test_on_the_wire(host: Host) -> None:
    """A receiver verifies a delivery with the secret that was shown at creation; the id is the delivery's."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
    [request] = receiver.requests
    Webhook(webhook["secret"]).verify(request.body, dict(request.headers))
    [delivery] = host.history(webhook)
    assert request.headers["webhook-id"] == delivery["id"]
