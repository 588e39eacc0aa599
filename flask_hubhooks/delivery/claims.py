"""Taking due deliveries under a lease, destination by destination, and giving them back.

Which destinations have something due is found by skipping through the index of what is pending from one to the next:
a hundred thousand rows of one cost as much as a single one.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    Float,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from ..chains import HEAD_START_S, SWITCHED_OFF, Changes, advance, ended, lock_free, lock_waiting, switched_off
from ..database import among, now_plus
from ..models import Kind, Status, deliveries, hooks, pushes, webhooks
from ..repositories import settle
from .retry import GIVE_UP_AFTER

LEASE_S = 60.0
"""How long a claimed delivery is ours. A worker that dies leaves its rows to come due again after this."""

SHARE_LEAST = 8
"""Of each destination a claim takes at least so many, where so many are due."""

# Statements are built once: building one anew takes SQLAlchemy longer than PostgreSQL takes to run it.
_now = now_plus(literal(0.0))
_first: Any = literal_column("1")  # a parameter would not tell the planner how little is wanted
_pending = deliveries.c.next_attempt_at.is_not(None)
_due = deliveries.c.next_attempt_at <= now_plus(bindparam("until_s", type_=Float))
_overdue = and_(
    deliveries.c.give_up_at <= _now,
    or_(deliveries.c.lease_token.is_(None), deliveries.c.next_attempt_at <= _now),  # not on the wire
)


def _destinations_due() -> Any:
    """The destinations that have something due, each with whether a person waits for the first of it."""
    # Each is read as the first by the index's own order: for a minimum the planner may read all of it.
    one = select(deliveries.c.destination).where(_pending).order_by(deliveries.c.destination).limit(_first)
    walk = select(one.scalar_subquery().label("destination")).cte("walk", recursive=True)
    following = one.where(deliveries.c.destination > walk.c.destination)
    walk = walk.union_all(select(following.scalar_subquery()).where(walk.c.destination.is_not(None)))
    # A value for each destination is read from the index; an EXISTS may become a join that reads all that is due.
    due_at = select(deliveries.c.next_attempt_at).where(_pending, deliveries.c.destination == walk.c.destination)
    there = due_at.order_by(deliveries.c.next_attempt_at).limit(_first)
    urgent = there.scalar_subquery() <= now_plus(literal(-HEAD_START_S))
    return select(walk.c.destination, urgent.label("urgent")).where(there.scalar_subquery() <= _now)


_most, _share = bindparam("most", type_=Integer), bindparam("share", type_=Integer)
_DESTINATIONS_DUE = _destinations_due()
_OVERDUE = select(deliveries.c.id).where(_overdue).order_by(deliveries.c.give_up_at)
_ANYTHING_DUE = select(
    or_(
        _DESTINATIONS_DUE.exists(),
        _OVERDUE.limit(_first).scalar_subquery().is_not(None),
        exists().where(webhooks.c.unsettled),
    )
)
_lease = update(deliveries).values(lease_token=bindparam("lease"), next_attempt_at=now_plus(literal(LEASE_S)))
_oldest = select(deliveries.c.id).where(_due).order_by(deliveries.c.next_attempt_at)
_TAKE_OF_ONE = _lease.where(
    deliveries.c.id.in_(_oldest.where(deliveries.c.destination == bindparam("served", type_=Text)).limit(_share))
).returning(deliveries.c.id)


def _read(its: Any) -> Any:
    """All that a `Claim` is made of, in its order, and what else `claim` goes by; `its` are a delivery's columns."""
    columns = (
        its.id,
        its.lease_token,
        its.round,
        its.retry_step,
        its.position,
        its.chain_length,
        its.callback_expected,
        its.push_id,
        its.webhook_id,
        its.hook_id,
        hooks.c.hook_url,
        its.destination,
        webhooks.c.encrypted_secret,
        case((webhooks.c.former_secret_until > _now, webhooks.c.encrypted_former_secret)),
        webhooks.c.encrypted_headers,
        pushes.c.kind,
        webhooks.c.repository,
        pushes.c.tag,
        pushes.c.pusher,
        pushes.c.pushed_at,
        pushes.c.snapshot,
        switched_off.label("switched_off"),
        (its.give_up_at <= _now).label("gave_up"),
        and_(webhooks.c.deleted_id == 0, pushes.c.repository != webhooks.c.repository).label("misnamed"),
    )
    return select(*columns).where(
        hooks.c.id == its.hook_id, webhooks.c.id == its.webhook_id, pushes.c.id == its.push_id
    )


_READ = _read(deliveries.c).where(among(deliveries.c.id, bindparam("taken", expanding=True)))


def _take_of_many() -> Any:
    """`_TAKE_OF_ONE` for many destinations, and `_READ`, at once, passing over what is locked: for PostgreSQL."""
    named = func.unnest(bindparam("served", type_=ARRAY(Text))).table_valued("destination").render_derived("named")
    of_one = _oldest.where(deliveries.c.destination == named.c.destination).limit(_share)
    oldest = of_one.with_for_update(skip_locked=True).lateral("oldest")
    chosen = select(oldest.c.id).select_from(named.join(oldest, true())).limit(_most).cte("chosen")
    # As an array, so that it is read by the index: to join 512 rows the planner would read 100,000 through.
    taken = _lease.where(deliveries.c.id == any_(func.array(select(chosen.c.id).scalar_subquery())))
    return _read(taken.returning(*deliveries.c).cte("taken").c)


_TAKE_OF_MANY = _take_of_many()
_TAKE_OVERDUE = _OVERDUE.limit(_most).with_for_update(skip_locked=True)
GAVE_UP = f"not delivered within {GIVE_UP_AFTER.days} days"
_EXPIRE = (
    update(deliveries)
    .where(
        among(deliveries.c.id, bindparam("ids", expanding=True)),
        deliveries.c.status.in_([Status.PENDING, Status.AWAITING_CALLBACK]),  # others have no time to give up
    )
    .values(
        ended(Status.EXPIRED, "the callback never came")
        | {
            "status": case((_pending, Status.FAILED), else_=Status.EXPIRED),
            "reason": case((_pending, GAVE_UP), else_="the callback never came"),
        }
    )
    .returning(deliveries.c.id, deliveries.c.push_id, deliveries.c.webhook_id)
)


_of_renamed = (
    select(webhooks.c.repository)
    .join(deliveries, deliveries.c.webhook_id == webhooks.c.id)
    .where(deliveries.c.push_id == pushes.c.id, webhooks.c.deleted_id == 0)
    .limit(1)
)
_unlocked = select(pushes.c.id).where(among(pushes.c.id, bindparam("ids", expanding=True)))
_RENAME = (
    update(pushes)
    .where(pushes.c.id.in_(_unlocked.with_for_update(skip_locked=True, key_share=True)))
    .values(repository=_of_renamed.scalar_subquery())
)
"""Pushes that were recorded under the former name while their repository was renamed."""


@dataclass(frozen=True)
class Claim:
    """A delivery under our lease, with all that is needed to send it."""

    id: uuid.UUID
    lease_token: uuid.UUID
    round: int
    retry_step: int
    position: int
    chain_length: int
    callback_expected: bool
    push_id: int
    webhook_id: int
    hook_id: int
    hook_url: str
    destination: str
    encrypted_secret: bytes
    encrypted_former_secret: bytes | None
    encrypted_headers: bytes | None
    kind: Kind
    repository: str
    tag: str
    pusher: str
    pushed_at: datetime
    snapshot: dict[str, Any]
    urgent: bool = False
    """A person waits for it: neither a cap nor a breaker is to hold it up."""

    @property
    def is_test(self) -> bool:
        return self.kind is Kind.TEST

    @property
    def trigger(self) -> str:
        if self.retry_step:
            return "retry"
        if self.round > 1:
            return "redelivery"
        return "chain" if self.position else self.kind.value


@dataclass(frozen=True)
class Unsent:
    """A claim that is given back: nothing was sent, no attempt is used up."""

    claim: Claim
    delay_s: float = 0.0
    reason: str = ""
    """For the history, where it is a fault of ours."""


def anything_due(session: Session) -> bool:
    """Whether `claim` or `expire_overdue` would find work now."""
    return bool(session.scalar(_ANYTHING_DUE))


class Rotation:
    """Whose turn it is: where more is due than one claim takes, the next one goes on with the destinations after."""

    def __init__(self) -> None:
        self._last = ""

    def ordered(self, destinations: Iterable[str]) -> list[str]:
        """The destinations, those after the last one that was served first."""
        names = sorted(destinations)
        start = bisect_right(names, self._last)
        return names[start:] + names[:start]

    def served(self, ordered: Sequence[str], destinations: Collection[str]) -> None:
        """Note whom a claim has served, of those it had in order."""
        self._last = next((each for each in reversed(ordered) if each in destinations), "")


def claim(
    session: Session, limit: int, left_out: Collection[str] = frozenset(), rotation: Rotation | None = None
) -> tuple[list[Claim], Changes]:
    """Take at most `limit` due deliveries, of each destination its oldest; nobody else has them until the lease ends.

    Destinations that are `left_out` are passed over, but for what a person waits for. The database's clock decides
    what is due. What can no longer be sent ends here instead: its webhook was switched off, or its time to give up
    has come, which the changes tell.
    """
    changes = Changes()
    rotation = rotation or Rotation()
    while taken := _take(session, limit, left_out, rotation):
        if misnamed := {row.push_id for row, _ in taken if row.misnamed}:
            session.execute(_RENAME, {"ids": list(misnamed)})
        changes.finished += _end_unsendable(session, [row for row, _ in taken])
        if sendable := [each for each in taken if not each[0].switched_off and not each[0].gave_up]:
            return [Claim(*(*row[:-3], urgent)) for row, urgent in sendable], changes
    return [], changes


def _take(session: Session, limit: int, left_out: Collection[str], rotation: Rotation) -> list[tuple[Any, bool]]:
    """Put deliveries under a lease; returns them in the order of their ids, each with whether a person waits for it."""
    due = session.execute(_DESTINATIONS_DUE).all()
    of_urgent = [each.destination for each in due if each.urgent][:limit]
    urgent = _lease_oldest(session, of_urgent, min(SHARE_LEAST, limit), limit, until_s=-HEAD_START_S)
    wanted = [each.destination for each in due if each.destination not in left_out]
    ordered = rotation.ordered(wanted)[:limit]
    share = max(min(SHARE_LEAST, limit), limit // max(1, len(wanted)))
    taken = _lease_oldest(session, ordered, share, limit - len(urgent))
    if ordered:
        rotation.served(ordered, {row.destination for row in taken})
    return sorted([*((row, False) for row in taken), *((row, True) for row in urgent)], key=lambda each: each[0].id)


def _lease_oldest(
    session: Session, destinations: Sequence[str], share: int, most: int, until_s: float = 0.0
) -> list[Any]:
    """Of each of these destinations its `share` that has been due for longest, `most` in all.

    All of it is due since `until_s` from now: what was seen to be urgent may have been taken by others meanwhile.
    """
    if not destinations:
        return []
    values = {"lease": uuid.uuid4(), "until_s": until_s}
    if session.get_bind().dialect.name == "postgresql":
        return list(session.execute(_TAKE_OF_MANY, values | {"share": share, "most": most, "served": destinations}))
    taken: list[uuid.UUID] = []
    for destination in destinations:
        of_one = {"share": min(share, most - len(taken)), "served": destination}
        taken += session.scalars(_TAKE_OF_ONE, values | of_one)
    return list(session.execute(_READ, {"taken": taken}))


def _end_unsendable(session: Session, rows: Sequence[Any]) -> list[uuid.UUID]:
    """Cancel what was switched off, fail what has to be given up; returns the ids of the latter."""
    cancelled = [row for row in rows if row.switched_off]
    gave_up = [row for row in rows if row.gave_up and not row.switched_off]
    for unsendable, status, reason in (
        (cancelled, Status.CANCELLED, SWITCHED_OFF),
        (gave_up, Status.FAILED, GAVE_UP),
    ):
        if unsendable:
            these = deliveries.c.id.in_([row.id for row in unsendable])
            session.execute(update(deliveries).where(these).values(ended(status, reason)))
            advance(session, {(row.push_id, row.webhook_id) for row in unsendable})
    return [row.id for row in gave_up]


def let_go(session: Session, unsent: Collection[Unsent]) -> frozenset[uuid.UUID]:
    """Give claims back, each due again after its `delay_s`, and before all else where a person waits for it.

    Returns the ids of deliveries that another transaction has locked: these are not given back.
    """
    free, locked = lock_free(session, {each.claim.id for each in unsent})
    rows = [
        {
            "claim_id": each.claim.id,
            "claim_lease": each.claim.lease_token,
            "delay_s": -HEAD_START_S if each.claim.urgent and not each.delay_s else each.delay_s,
            "why": each.reason,
        }
        for each in unsent
        if each.claim.id in free
    ]
    if rows:
        session.execute(_LET_GO, rows)
    return locked


_LET_GO = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("claim_id"), deliveries.c.lease_token == bindparam("claim_lease"))
    .values(lease_token=None, reason=bindparam("why"), next_attempt_at=now_plus(bindparam("delay_s", type_=Float)))
)


def expire_overdue(session: Session, limit: int) -> Changes:
    """End at most `limit` deliveries whose time is over, and with them their chains.

    Their callback never came, or they were never delivered, such as to a destination that is left out of claims.
    What belongs to repositories that were deleted or renamed lately is settled first.
    """
    settle(session)
    overdue = session.scalars(_TAKE_OVERDUE, {"most": limit}).all()
    expired = session.execute(_EXPIRE, {"ids": overdue}).all() if overdue else []
    if expired:
        chains = {(row.push_id, row.webhook_id) for row in expired}
        lock_waiting(session, chains)
        advance(session, chains)
    return Changes([row.id for row in expired])
