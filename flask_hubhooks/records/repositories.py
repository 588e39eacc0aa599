"""Deleting and renaming repositories, as the host tells us.

These functions write in a transaction of the caller, and take locks in the order of `locks`. Pushes wait for none of
them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from ..dialects import try_lock_repository, utcnow, wait_for_repository
from ..registry import check_repository
from . import superseding
from .cancelling import REPOSITORY_DELETED, cancel_all
from .models import deliveries, hooks, pushes, webhooks

MAX_SETTLED = 20
"""Repositories that one call of `settle` corrects at most."""


class RepositoryHasWebhooks(ValueError):
    """A repository was renamed to a name that has webhooks already."""


def delete(session: Session, name: str, only: Collection[int] | None = None) -> int:
    """Delete a repository's webhooks, and cancel their unfinished deliveries, including those that await a callback.

    Those of webhooks that their owners deleted before are cancelled too. With `only`, webhooks with other ids are kept.
    Returns how many webhooks were deleted. Raises `ValueError` for what is not a repository name.
    """
    check_repository(name)
    wait_for_repository(session, name)
    found = session.execute(select(webhooks.c.id, webhooks.c.deleted_id).where(_belong_to(name))).all()
    chosen = [each for each in found if only is None or each.deleted_id or each.id in only]
    if not chosen:
        return 0
    ids = [each.id for each in chosen]
    cancel_all(session, ids)
    with_credentials = hooks.c.webhook_id.in_(ids) & hooks.c.encrypted_authorization.is_not(None)
    session.execute(update(hooks).where(with_credentials).values(encrypted_authorization=None))
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
            unsettled=True,
        )
    )
    return sum(not each.deleted_id for each in chosen)


def rename(session: Session, old: str, new: str) -> None:
    """Give a repository's webhooks, and their history, its new name; also those that their owners deleted.

    Does nothing if `old` has no webhooks. Raises `RepositoryHasWebhooks` if both have some, `ValueError` for what is
    not a repository name.
    """
    for name in (old, new):
        check_repository(name)
    for name in sorted({old, new}):
        wait_for_repository(session, name)
    ids = _live(session, old)
    if old == new:
        return
    if _live(session, new):
        if not ids:
            return
        raise RepositoryHasWebhooks(f"{old!r} cannot be renamed: {new!r} has webhooks already; delete them first")
    # The webhooks come last: from then on claims correct pushes that are still recorded under the old name.
    _name_pushes(session, ids, new)
    session.execute(update(webhooks).where(_belong_to(old)).values(scope=new, unsettled=True))


def settle(session: Session) -> None:
    """Correct what was recorded and sent before a host committed that it deleted or renamed a repository.

    Workers call it, and it waits for no host: locked repositories are left for later. Once is enough, since claims
    correct or cancel what is recorded afterwards.
    """
    names = select(webhooks.c.scope).where(webhooks.c.unsettled).distinct().limit(MAX_SETTLED)
    for name in session.scalars(names).all():
        if not try_lock_repository(session, name):
            continue
        unsettled = select(webhooks.c.id, webhooks.c.deleted_id, webhooks.c.disabled_reason)
        rows = session.execute(unsettled.where(webhooks.c.unsettled, webhooks.c.scope == name)).all()
        cancel_all(session, [each.id for each in rows if each.disabled_reason == REPOSITORY_DELETED])
        live = [each.id for each in rows if not each.deleted_id]
        superseding.rename(session, live, name)
        _name_pushes(session, live, name)
        session.execute(update(webhooks).where(webhooks.c.id.in_([each.id for each in rows])).values(unsettled=False))


def _name_pushes(session: Session, webhook_ids: Sequence[int], name: str) -> None:
    """Give the pushes of these webhooks the name of their repository."""
    delivered = select(deliveries.c.push_id).where(deliveries.c.webhook_id.in_(webhook_ids))
    misnamed = select(pushes.c.id).where(pushes.c.id.in_(delivered), pushes.c.repository != name)
    locked = misnamed.order_by(pushes.c.id).with_for_update(key_share=True).cte("locked")
    session.execute(update(pushes).where(pushes.c.id.in_(select(locked.c.id))).values(repository=name))


def _belong_to(name: str) -> ColumnElement[bool]:
    """The webhooks of a repository, also those that its owners deleted; none of an earlier repository of that name."""
    return (webhooks.c.scope == name) & (webhooks.c.disabled_reason != REPOSITORY_DELETED)


def _live(session: Session, name: str) -> Sequence[int]:
    live = select(webhooks.c.id).where(webhooks.c.scope == name, webhooks.c.deleted_id == 0)
    return session.scalars(live).all()
