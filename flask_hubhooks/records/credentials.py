"""The secrets of a webhook, encrypted in the database: the one that it signs with, its request headers, and the user
names and passwords of its hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import select

from ..crypto.secret_box import SecretBox, SecretUnreadable
from ..crypto.signing import new_secret
from ..dialects import utcnow
from ..state import State
from . import request_headers
from .models import Hook, Webhook

BATCH = 500
FORMER_SECRET_TTL = timedelta(hours=24)
"""How long requests are also signed with a secret that was replaced."""


def rotate_secret(secrets: SecretBox, webhook: Webhook, secret: str | None) -> str:
    """Replace the secret of a webhook, by default with a random one; returns the new secret.

    For `FORMER_SECRET_TTL` requests are also signed with the former one, unless it can no longer be decrypted.
    """
    secret = secret or new_secret()
    webhook.encrypted_former_secret = webhook.former_secret_until = None
    with suppress(SecretUnreadable):
        webhook.encrypted_former_secret = secrets.reencrypt(webhook.encrypted_secret)
        webhook.former_secret_until = utcnow() + FORMER_SECRET_TTL
    webhook.encrypted_secret = secrets.encrypt(secret)
    return secret


def headers_of(secrets: SecretBox, webhook: Webhook) -> dict[str, str] | None:
    """The request headers of a webhook; None if they cannot be decrypted."""
    try:
        return request_headers.of_text(secrets.decrypt(webhook.encrypted_headers)) if webhook.encrypted_headers else {}
    except SecretUnreadable:
        return None


def encrypt_anew(state: State) -> tuple[int, list[str]]:
    """Encrypt the secrets of all webhooks with the newest key.

    Returns how many webhooks that were, and those that could not be decrypted, as `scope: name`.
    """
    rotated, unreadable, last = 0, [], 0
    while True:
        with state.writing() as session:
            batch = select(Webhook.id).where(Webhook.id > last).order_by(Webhook.id).limit(BATCH)
            ids = session.scalars(batch).all()
            # Hooks are locked before webhooks, as workers do.
            with_credentials = select(Hook).where(Hook.webhook_id.in_(ids), Hook.encrypted_authorization.is_not(None))
            hooks_of: defaultdict[int, list[Hook]] = defaultdict(list)
            for hook in session.scalars(with_credentials.order_by(Hook.id).with_for_update()):
                hooks_of[hook.webhook_id].append(hook)
            locked = select(Webhook).where(Webhook.id.in_(ids)).order_by(Webhook.id).with_for_update()
            for row in session.scalars(locked):
                if _encrypt_anew(state.secrets, row, hooks_of[row.id]):
                    rotated += 1
                elif not row.deleted_id:  # nobody can give a deleted webhook a new secret, nor needs to
                    unreadable.append(f"{row.scope}: {row.name}")
        if not ids:
            return rotated, unreadable
        last = ids[-1]


def _encrypt_anew(secrets: SecretBox, webhook: Webhook, hooks: Sequence[Hook]) -> bool:
    """Encrypt the secrets of a webhook with the newest key; returns False if some stay, as they cannot be decrypted.

    A former secret is dropped once it is no longer used.
    """
    if webhook.former_secret_until and webhook.former_secret_until <= utcnow():
        webhook.encrypted_former_secret = webhook.former_secret_until = None
    readable = True
    of_webhook = ("encrypted_secret", "encrypted_former_secret", "encrypted_headers")
    columns = [(webhook, name) for name in of_webhook] + [(hook, "encrypted_authorization") for hook in hooks]
    for row, column in columns:
        if (encrypted := getattr(row, column)) is not None:
            try:
                setattr(row, column, secrets.reencrypt(encrypted))
            except SecretUnreadable:
                readable = False
    return readable
