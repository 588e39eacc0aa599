"""What the host tells us about a repository's life: that it was deleted, or has another name now.

These functions write within a transaction of the caller's. They take locks in the same order as everybody else: the
repository, deliveries by id, and then webhooks. Pushes do not wait for any of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from .chains import REPOSITORY_DELETED, end_webhooks
from .database import utcnow, wait_for_repository
from .models import deliveries, pushes, webhooks

MAX_NAME = 255
"""Characters of a repository's name, as our tables hold it."""


class RepositoryHasWebhooks(ValueError):
    """The new name of a renamed repository belongs to one that has webhooks."""


def delete(session: Session, name: str) -> None:
    """Delete a repository's webhooks, and cancel all that they have not finished, callbacks included."""
    _check(name)
    wait_for_repository(session, name)
    if not (ids := _live(session, name)):
        return
    end_webhooks(session, ids)
    session.execute(
        update(webhooks)
        .where(webhooks.c.id.in_(ids))
        .values(
            deleted_id=webhooks.c.id,
            disabled_reason=REPOSITORY_DELETED,
            encrypted_former_secret=None,
            former_secret_until=None,
            encrypted_headers=None,
            last_updated=utcnow(),
        )
    )


def rename(session: Session, old: str, new: str) -> None:
    """Give a repository's webhooks, and their history, its new name.

    Does nothing where `old` has no webhooks. Raises `RepositoryHasWebhooks` where both have some.
    """
    for name in (old, new):
        _check(name)
    for name in sorted({old, new}):
        wait_for_repository(session, name)
    ids = _live(session, old)
    if old == new or not ids:
        return
    if _live(session, new):
        raise RepositoryHasWebhooks(f"{old!r} cannot be renamed: {new!r} has webhooks already; delete them first")
    # The webhooks come last: from then on claims correct what pushes in flight record under the old name.
    delivered = select(deliveries.c.push_id).where(deliveries.c.webhook_id.in_(ids))
    chosen = select(pushes.c.id).where(pushes.c.id.in_(delivered)).order_by(pushes.c.id)
    locked = chosen.with_for_update(key_share=True).cte("locked")
    session.execute(update(pushes).where(pushes.c.id.in_(select(locked.c.id))).values(repository=new))
    session.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(repository=new))


def _live(session: Session, name: str) -> Sequence[int]:
    live = select(webhooks.c.id).where(webhooks.c.repository == name, webhooks.c.deleted_id == 0)
    return session.scalars(live).all()


def _check(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or "\0" in name:
        raise ValueError(f"not a repository name: {name!r}")
