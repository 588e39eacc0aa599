"""Holds the deliveries of paused and disabled webhooks, and releases them once the webhook is active again.

Pausing and resuming only set `Webhook.active`, so they take no longer with 100,000 pending deliveries than with none.
Workers do the rest in batches: they hold what is due, and make it due again when the webhook is active again. A held
delivery is pending without a `next_attempt_at`, so it is in no index of what is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, and_, bindparam, case, exists, func, literal_column, select, update
from sqlalchemy.orm import Session

from ..dialects import now_plus, one_of
from . import transitions
from .locks import unsent
from .models import Kind, Webhook, deliveries, pushes, unsucceeded, webhooks

MAX_HELD = 1_000
"""Deliveries that one claim holds beside those that it has taken, and that one call of `release_held` makes due.

What was claimed for other webhooks in the same transaction waits for it: 10,000 took seconds on a busy machine.
"""
MAX_WEBHOOKS = 20
"""Webhooks that share one call of `release_held`."""
LOCKED_S = 1.0
"""When deliveries are looked at again whose webhook another transaction has locked."""

paused = and_(~webhooks.c.active, pushes.c.kind != Kind.TEST)
"""Whether a delivery with this webhook and push is to be held. A test is sent for a paused webhook too."""
_held = and_(deliveries.c.status == literal_column("'pending'"), deliveries.c.next_attempt_at.is_(None))
"""In the words of the partial index."""


def hold(session: Session, claimed: Sequence[Any]) -> bool:
    """Hold deliveries that were claimed for paused webhooks, and whatever else is due at the same hooks.

    Returns whether more may be left to hold. This does not wait for locks: if another transaction has locked a
    webhook, such as an owner's who edits it, its deliveries are released and looked at again later.
    """
    noted = {row.id: row.reason for row in session.execute(_NOTE, {"ids": list({row.webhook_id for row in claimed})})}
    for webhook_id, reason in noted.items():
        ids = [row.id for row in claimed if row.webhook_id == webhook_id]
        session.execute(_HOLD, {"ids": ids, "new_reason": reason})
    if left := [row.id for row in claimed if row.webhook_id not in noted]:
        session.execute(_LOOK_AGAIN, {"ids": left})
    of_hooks = {(row.repository_key, row.hook_id): noted[row.webhook_id] for row in claimed if row.webhook_id in noted}
    room = MAX_HELD
    for (key, hook), reason in of_hooks.items():
        if room and (due := session.scalars(_DUE_OF_HOOK, {"key": key, "hook": hook, "max_rows": room}).all()):
            session.execute(_HOLD, {"ids": due, "new_reason": reason})
            room -= len(due)
    return not room or bool(left)


# With a lock on the webhook, so that one is noted that still is paused, and `release_held` comes after it.
_lockable = select(webhooks.c.id).where(one_of(webhooks.c.id, "ids"), ~webhooks.c.active)
_NOTE = (
    update(webhooks)
    .where(webhooks.c.id.in_(_lockable.with_for_update(skip_locked=True, key_share=True)))
    .values(holds=True)
    .returning(
        webhooks.c.id,
        case((webhooks.c.disabled_reason == "", transitions.HELD_PAUSED), else_=transitions.HELD_DISABLED).label(
            "reason"
        ),
    )
)
_HOLD = update(deliveries).where(one_of(deliveries.c.id, "ids")).values(transitions.held(bindparam("new_reason")))
_LOOK_AGAIN = update(deliveries).where(one_of(deliveries.c.id, "ids")).values(transitions.released(LOCKED_S, ""))
# A subquery by the primary key: a join's plan would depend on the statistics of another table.
_kind = select(pushes.c.kind).where(pushes.c.id == deliveries.c.push_id).scalar_subquery()
_DUE_OF_HOOK = (
    select(deliveries.c.id)
    .where(
        deliveries.c.repository_key == bindparam("key", type_=BigInteger),
        deliveries.c.hook_id == bindparam("hook", type_=BigInteger),
        deliveries.c.next_attempt_at <= now_plus(0.0),
        _kind != Kind.TEST,
    )
    .order_by(deliveries.c.next_attempt_at)
    .limit(bindparam("max_rows", type_=BigInteger))
    .with_for_update(skip_locked=True)
)

any_to_release = exists().where(webhooks.c.holds, webhooks.c.active)
"""Whether a webhook with held deliveries is active again."""


def release_held(session: Session) -> bool:
    """Make a batch of held deliveries due for each webhook that is active again; returns whether there were any.

    The oldest push comes first. This does not wait for locks.
    """
    active = session.scalars(
        select(Webhook)
        .where(Webhook.holds, Webhook.active)
        .limit(MAX_WEBHOOKS)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    found = False
    for webhook in active:
        its_own = and_(_held, deliveries.c.webhook_id == webhook.id)
        part = max(1, MAX_HELD // len(active))
        batch = select(deliveries.c.id).where(its_own).order_by(deliveries.c.push_id).limit(part)
        if ids := session.scalars(batch.with_for_update(skip_locked=True)).all():
            session.execute(_RESUME, {"ids": ids})
            found = True
        webhook.holds = bool(session.scalar(select(exists().where(its_own))))
    return found


_RESUME = update(deliveries).where(one_of(deliveries.c.id, "ids")).values(transitions.resumed())


def count_unsent(session: Session, webhook_id: int) -> int:
    """How many deliveries of a webhook are pending or waiting: pausing holds them, and deleting cancels them."""
    of_webhook = and_(deliveries.c.webhook_id == webhook_id, unsucceeded, unsent)
    return session.scalar(select(func.count()).select_from(deliveries).where(of_webhook)) or 0
