"""Cancelling deliveries whose webhook, hook or repository is deleted or removed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from . import transitions
from .locks import in_order, locked_ids, unsent
from .models import UNFINISHED, Delivery, Hook, Status, deliveries, hooks, pushes, same_run, webhooks

removed = or_(webhooks.c.deleted_id != 0, hooks.c.removed_at.is_not(None))
"""Whether a delivery with this webhook and hook is to be cancelled."""
REMOVED = "The webhook was deleted, or the hook was removed."
WEBHOOK_DELETED = "The webhook was deleted."
REPOSITORY_DELETED = "The repository was deleted."
REPOSITORY_LEFT = "The repository was renamed and has left the namespace."
"""The reason of cancelled deliveries, and the `disabled_reason` of the webhooks of a deleted repository."""


def cancel_webhook(session: Session, webhook_id: int) -> None:
    """Cancel the pending and waiting deliveries of a webhook that is deleted."""
    _cancel(session, unsent & (deliveries.c.webhook_id == webhook_id), WEBHOOK_DELETED)


def cancel_hook(session: Session, hook: Hook, reason: str) -> None:
    """Cancel the pending and waiting deliveries of a hook, and those that wait behind it.

    A callback may still decide a delivery that awaits it.
    """
    of_hook = aliased(Delivery)
    behind = (deliveries.c.status == Status.WAITING) & exists().where(
        same_run(of_hook, deliveries.c),
        of_hook.hook_id == hook.id,
        of_hook.position < deliveries.c.position,
        of_hook.status.in_(UNFINISHED),
    )
    its_own = unsent & (deliveries.c.hook_id == hook.id)
    _cancel(session, (deliveries.c.webhook_id == hook.webhook_id) & (its_own | behind), reason)


def cancel_all(session: Session, webhook_ids: Collection[int]) -> None:
    """Cancel all unfinished deliveries of webhooks of a deleted repository: no callback decides them any more."""
    unfinished = deliveries.c.status.in_(UNFINISHED)
    _cancel(session, unfinished & deliveries.c.webhook_id.in_(webhook_ids), REPOSITORY_DELETED)


def cut_off(session: Session, push_ids: Select[Any], webhook_ids: Select[Any], reason: str) -> None:
    """Cancel what webhooks of namespaces have not finished of these pushes, since their repository is no longer theirs.

    Their history keeps the name that the repository has now, and the repository's own pages no longer show it.
    """
    theirs = deliveries.c.push_id.in_(push_ids) & deliveries.c.webhook_id.in_(webhook_ids)
    locked = in_order(select(deliveries.c.id).where(theirs, deliveries.c.former_repository.is_(None))).cte("locked")
    name = select(pushes.c.repository).where(pushes.c.id == deliveries.c.push_id).scalar_subquery()
    cut = update(deliveries).where(deliveries.c.id.in_(select(locked.c.id)))
    session.execute(cut.values(former_repository=name))
    unfinished = deliveries.c.status.in_(UNFINISHED) & deliveries.c.former_repository.is_not(None)
    _cancel(session, unfinished & theirs, reason)


def _cancel(session: Session, condition: ColumnElement[bool], reason: str) -> None:
    chosen = locked_ids(condition).cte("chosen")
    these = deliveries.c.id.in_(select(chosen.c.id))
    session.execute(update(deliveries).where(these).values(transitions.cancelled(reason)))
