"""Sending again: one delivery with the rest of its chain, or all that never arrived since a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, exists, func, literal, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from ..dialects import now_plus
from .chains import locking, sendable_now
from .models import Delivery, Hook, Kind, Push, Status, Webhook, deliveries, unsucceeded

RECOVER_MOST = 500
"""Chain requests that one call of `recover` sends again."""

UNDER_WAY = (Status.PENDING, Status.WAITING, Status.AWAITING_CALLBACK)


class NotNow(Exception):
    """Nothing was sent; the text says why."""


def redeliver(session: Session, delivery: Delivery) -> None:
    """Begin a new round for a delivery and all that follow it in its chain.

    The delivery is due at once, the later ones wait for it. Its id stays: receivers can tell a repeat. Raises
    `NotNow` where the webhook is off, the hook gone, or the chain on the wire or not yet come this far.
    """
    of_chain = select(deliveries.c.position, deliveries.c.status, _on_the_wire(deliveries).label("on_the_wire")).where(
        deliveries.c.push_id == delivery.push_id, deliveries.c.webhook_id == delivery.webhook_id
    )
    chain = session.execute(locking(of_chain)).all()
    if not delivery.webhook.active:
        raise NotNow("the webhook is not active")
    if delivery.hook.removed_at:
        raise NotNow("the hook has been removed from its webhook")
    if any(each.on_the_wire for each in chain):
        raise NotNow("a delivery of this chain is being sent: try again in a moment")
    if any(each.position < delivery.position and each.status in UNDER_WAY for each in chain):
        raise NotNow("the chain has not come this far yet: an earlier hook is still under way")
    _begin_round(session, [delivery], urgent=True)


def _on_the_wire(rows: FromClause) -> ColumnElement[bool]:
    return and_(rows.c.lease_token.is_not(None), rows.c.next_attempt_at > now_plus(literal(0.0)))


def recover(session: Session, webhook: Webhook, since: datetime, until: datetime | None) -> tuple[int, int]:
    """Send again what a webhook could not deliver since a time and before another, oldest push first, in batches.

    That is what failed without having been received, or was cancelled by pausing or disabling, each with the rest
    of its chain. What a receiver itself called a failure is not among it, nor a chain that is on the wire. Returns
    how many chain requests were started, and how many are left. Raises `NotNow` where the webhook is off.
    """
    if not webhook.active:
        raise NotNow("the webhook is not active")
    lost = _undelivered(webhook, since, until)
    oldest = select(Delivery.push_id).where(lost).order_by(Delivery.pushed_at, Delivery.push_id).limit(RECOVER_MOST)
    chosen = session.scalars(oldest).all()
    of_webhook = (deliveries.c.webhook_id == webhook.id) & deliveries.c.push_id.in_(chosen)
    session.execute(locking(select(deliveries.c.id).where(of_webhook)))
    rows = session.scalars(select(Delivery).where(lost, Delivery.push_id.in_(chosen))).all()  # what holds once locked
    if rows:
        _begin_round(session, rows)
    remaining = session.scalar(select(func.count()).select_from(Delivery).where(lost)) if chosen else 0
    return len(rows), remaining or 0


def _undelivered(webhook: Webhook, since: datetime, until: datetime | None) -> ColumnElement[bool]:
    """The first of each chain request that is lost by our side; all before it succeeded, none is on the wire."""
    earlier, sent = aliased(Delivery), deliveries.alias()
    return and_(
        Delivery.webhook_id == webhook.id,
        unsucceeded,
        Delivery.status.in_([Status.FAILED, Status.CANCELLED]),
        Delivery.received_at.is_(None),
        Delivery.finished_at >= since,
        Delivery.finished_at < until if until else true(),
        exists().where(Push.id == Delivery.push_id, Push.kind != Kind.TEST),
        exists().where(Hook.id == Delivery.hook_id, Hook.removed_at.is_(None)),
        ~exists().where(
            earlier.push_id == Delivery.push_id,
            earlier.webhook_id == Delivery.webhook_id,
            earlier.position < Delivery.position,
            Hook.id == earlier.hook_id,
            or_(earlier.status != Status.SUCCEEDED, Hook.removed_at.is_not(None)),
        ),
        ~exists().where(
            sent.c.push_id == Delivery.push_id, sent.c.webhook_id == Delivery.webhook_id, _on_the_wire(sent)
        ),
    )


def _begin_round(session: Session, first: Sequence[Delivery], *, urgent: bool = False) -> None:
    """Make these due at once, and have what follows them wait."""
    ids = [each.id for each in first]
    start = aliased(Delivery)
    following = exists().where(
        start.id.in_(ids),
        start.push_id == deliveries.c.push_id,
        start.webhook_id == deliveries.c.webhook_id,
        start.position <= deliveries.c.position,
    )
    of_pushes = deliveries.c.push_id.in_({each.push_id for each in first})
    session.execute(update(deliveries).where(of_pushes, following).values(_NEW_ROUND))
    session.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(sendable_now(urgent=urgent)))


_NEW_ROUND: dict[str, Any] = {
    "round": deliveries.c.round + 1,
    "status": Status.WAITING,
    "reason": "",
    "retry_step": 0,
    "lease_token": None,
    "next_attempt_at": None,
    "give_up_at": None,
    "received_at": None,
    "finished_at": None,
    "callback_state": "",
    "callback_description": "",
    "callback_context": "",
    "callback_target_url": "",
    "callback_at": None,
}
