"""Sending again: one delivery with the rest of its chain, or all that were lost since a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, exists, false, func, null, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from . import transitions
from .locks import in_flight, in_order
from .models import UNFINISHED, Delivery, Hook, Kind, Push, Status, Webhook, deliveries, same_run, unsucceeded
from .superseding import newest_of_each_tag, ordered_image_of_push

MAX_RECOVERED = 500
"""Runs that one call of `recover` starts again."""


class NotNow(Exception):
    """Nothing was sent again; the text says why."""


def redeliver(session: Session, delivery: Delivery) -> None:
    """Begin a new round for a delivery and all that follow it in its chain.

    The delivery is due at once and urgent, the others wait for it. Its id stays, so that receivers can tell a repeat.
    Raises `NotNow` if the webhook is not active, the hook was removed, the repository is gone, a request of the chain
    is in flight, or an earlier hook is unfinished.
    """
    of_run = select(deliveries.c.position, deliveries.c.status, in_flight(deliveries).label("in_flight")).where(
        same_run(deliveries.c, delivery)
    )
    chain = session.execute(in_order(of_run)).all()
    if not delivery.webhook.active:
        raise NotNow("the webhook is not active")
    if delivery.former_repository is not None:
        raise NotNow("the repository was deleted or has left the namespace")
    if delivery.hook.removed_at:
        raise NotNow("the hook has been removed from its webhook")
    if any(each.in_flight for each in chain):
        raise NotNow("a delivery of this run is being sent. Try again in a moment")
    if any(each.position < delivery.position and each.status in UNFINISHED for each in chain):
        raise NotNow("an earlier hook of the chain is still under way")
    _begin_round(session, [delivery], redelivered=True)


def recover(session: Session, webhook: Webhook, since: datetime, until: datetime | None) -> tuple[int, int]:
    """Send again what a webhook lost since a time and before another, oldest push first, in batches.

    Lost is what failed without having been received, each with the rest of its chain. Not included are failures that a
    receiver itself called back, and runs with a request in flight; of each tag only the newest push is sent to a hook
    that supersedes. Returns how many runs were started again, and how many are left. Raises `NotNow` if the webhook is
    not active.
    """
    if not webhook.active:
        raise NotNow("the webhook is not active")
    lost = _recoverable(webhook, since, until)
    oldest = select(Delivery.push_id).where(lost).order_by(Delivery.pushed_at, Delivery.push_id).limit(MAX_RECOVERED)
    chosen = session.scalars(oldest).all()
    of_webhook = (deliveries.c.webhook_id == webhook.id) & deliveries.c.push_id.in_(chosen)
    session.execute(in_order(select(deliveries.c.id).where(of_webhook)))
    still_lost = session.scalars(select(Delivery).where(lost, Delivery.push_id.in_(chosen))).all()  # now locked
    if still_lost:
        _begin_round(session, still_lost)
    return len(still_lost), _count(session, lost) if chosen else 0


def count_recoverable(session: Session, webhook: Webhook, since: datetime, until: datetime) -> int:
    """How many runs `recover` would start again in all."""
    return _count(session, _recoverable(webhook, since, until))


def _count(session: Session, condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(Delivery).where(condition)) or 0


def _recoverable(webhook: Webhook, since: datetime, until: datetime | None) -> ColumnElement[bool]:
    lost = _lost(webhook, since, until)
    return lost & newest_of_each_tag(lost, [hook.id for hook in webhook.hooks if hook.supersedes])


def _lost(webhook: Webhook, since: datetime, until: datetime | None) -> ColumnElement[bool]:
    """The first lost delivery of each run; all before it succeeded, and no request of the run is in flight."""
    earlier, other = aliased(Delivery), deliveries.alias()
    return and_(
        Delivery.webhook_id == webhook.id,
        unsucceeded,
        Delivery.status == Status.FAILED,
        Delivery.received_at.is_(None),
        Delivery.former_repository.is_(None),
        Delivery.finished_at >= since,
        Delivery.finished_at < until if until else true(),
        exists().where(Push.id == Delivery.push_id, Push.kind != Kind.TEST),
        exists().where(Hook.id == Delivery.hook_id, Hook.removed_at.is_(None)),
        ~exists().where(
            same_run(earlier, Delivery),
            earlier.position < Delivery.position,
            Hook.id == earlier.hook_id,
            or_(earlier.status != Status.SUCCEEDED, Hook.removed_at.is_not(None)),
        ),
        ~exists().where(same_run(other.c, Delivery), in_flight(other)),
    )


def _begin_round(session: Session, first: Sequence[Delivery], *, redelivered: bool = False) -> None:
    """Make these deliveries due, and those after them in their chains wait."""
    ids = [each.id for each in first]
    start = aliased(Delivery)
    from_start = exists().where(
        start.id.in_(ids), same_run(start, deliveries.c), start.position <= deliveries.c.position
    )
    of_pushes = deliveries.c.push_id.in_({each.push_id for each in first})
    hooks = session.scalars(select(Hook).where(Hook.webhook_id == first[0].webhook_id)).all()
    superseding = deliveries.c.hook_id.in_([hook.id for hook in hooks if hook.supersedes])
    settings = {
        "callback_expected": _callback_expected(hooks),
        "ordered_image": case((superseding, ordered_image_of_push), else_=null()),
    }
    of_rounds = update(deliveries).where(of_pushes, from_start)
    session.execute(of_rounds.values(transitions.new_round(redelivered=redelivered) | settings))
    session.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(transitions.due_now(urgent=redelivered)))


def _callback_expected(hooks: Sequence[Hook]) -> ColumnElement[bool]:
    """Whether a delivery's hook is expected to call back, by the payload format that the hook has now."""
    silent = [hook.id for hook in hooks if not hook.has_callback]
    followed = deliveries.c.position + 1 < deliveries.c.chain_length
    return case((deliveries.c.hook_id.in_(silent), false()), (followed, true()), else_=deliveries.c.callback_expected)
