"""Deleting old pushes with their deliveries and attempts, and deleted webhooks and hooks that have none left."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, func, select
from sqlalchemy.orm import Session

from ..dialects import first_uuid, one_of, utcnow
from ..state import State
from .models import attempts, deliveries, hooks, pushes, webhooks

BATCH = 500
"""Deliveries of one transaction: PostgreSQL takes some 30 ms for it."""
DAY_S = 24 * 3600


def takes_turn(state: State) -> bool:
    """Whether it is the caller's turn to prune, which one caller has once a day.

    Two at once would do no harm. Raises redis-py's errors if Redis cannot be reached.
    """
    return bool(state.redis.set(f"{state.config.queue}:pruned", 1, nx=True, ex=DAY_S))


def prunable(state: State) -> int:
    """The number of deliveries that ended long enough ago for `prune` to look at."""
    if (before := _limit(state)) is None:
        return 0
    with state.reading() as session:
        return session.scalar(select(func.count()).select_from(deliveries).where(_ended(before))) or 0


def prune(state: State) -> Iterator[int]:
    """Delete pushes that ended more than `HUBHOOKS_RETENTION_DAYS` ago; yields the number of deliveries per batch.

    A push is deleted with all that belongs to it once all its deliveries ended that long ago, redelivered ones
    included. Webhooks that were deleted and hooks that were removed that long ago follow once they have no deliveries.
    Each batch is committed before it is yielded, so the caller decides about pauses.
    """
    if (before := _limit(state)) is None:
        return
    after: uuid.UUID | None = uuid.UUID(int=0)
    while after:
        with state.writing() as session:
            after, deleted = _prune_batch(session, after, before)
        yield deleted
    with state.writing() as session:
        for statement in _LEFT_OVER:
            session.execute(statement, {"before": before})


def _limit(state: State) -> datetime | None:
    days = state.config.retention_days
    return None if days is None else utcnow() - timedelta(days=days)


def _ended(before: datetime) -> ColumnElement[bool]:
    """Whether a delivery ended before a time. Ids begin with the time of recording, so that no newer row is read."""
    return and_(deliveries.c.id < first_uuid(before), deliveries.c.finished_at < before)


def _prune_batch(session: Session, after: uuid.UUID, before: datetime) -> tuple[uuid.UUID | None, int]:
    """Delete one batch; returns the delivery to continue after, None after the last, and how many were deleted."""
    of_age = select(deliveries.c.id, deliveries.c.push_id).where(deliveries.c.id > after, _ended(before))
    found = session.execute(of_age.order_by(deliveries.c.id).limit(BATCH)).all()
    ended = _lock_ended(session, {each.push_id for each in found}, before)
    for statement in _DELETE if ended else ():
        session.execute(statement, {"pushes": list(ended)})
    return found[-1].id if len(found) == BATCH else None, sum(ended.values())


def _lock_ended(session: Session, push_ids: Collection[int], before: datetime) -> Counter[int]:
    """Lock these pushes and all their deliveries, so that nobody sends them again.

    Returns the pushes whose deliveries have all ended, with the number of deliveries. Pushes of which another
    transaction has locked something are left for the next time.
    """
    if not push_ids:
        return Counter()
    these = {"pushes": list(push_ids)}
    rows = session.execute(_LOCK, these).all()
    ended = Counter(row.push_id for row in rows if row.finished_at is not None and row.finished_at < before)
    all_of = Counter(session.scalars(_PUSH_IDS, these))
    free = session.scalars(_LOCK_PUSHES, {"pushes": [each for each in ended if ended[each] == all_of[each]]})
    return Counter({each: ended[each] for each in free})


_of_pushes = one_of(deliveries.c.push_id, "pushes")
_PUSH_IDS = select(deliveries.c.push_id).where(_of_pushes)
_LOCK = _PUSH_IDS.add_columns(deliveries.c.finished_at).order_by(deliveries.c.id).with_for_update(skip_locked=True)
_these = one_of(pushes.c.id, "pushes")
_LOCK_PUSHES = select(pushes.c.id).where(_these).order_by(pushes.c.id).with_for_update(skip_locked=True)

_DELETE = (  # each table by itself: SQLite follows foreign keys only where it is told to
    delete(attempts).where(attempts.c.delivery_id.in_(select(deliveries.c.id).where(_of_pushes))),
    delete(deliveries).where(_of_pushes),
    delete(pushes).where(_these),
)

# Only those deleted long ago: a push that is being recorded may still refer to a webhook.
_gone = and_(
    webhooks.c.deleted_id != 0,
    webhooks.c.last_updated < bindparam("before"),
    ~exists().where(deliveries.c.webhook_id == webhooks.c.id),
)
_removed = and_(hooks.c.removed_at < bindparam("before"), ~exists().where(deliveries.c.hook_id == hooks.c.id))
_LEFT_OVER = (
    delete(hooks).where(hooks.c.webhook_id.in_(select(webhooks.c.id).where(_gone))),
    delete(webhooks).where(_gone),
    delete(hooks).where(_removed),
)
