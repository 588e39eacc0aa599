"""Taking due deliveries under a lease, and giving them back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from ..chains import SWITCHED_OFF, Changes, advance, ended, lock_waiting, switched_off
from ..database import now_plus
from ..models import Hook, Kind, Push, Status, Webhook, deliveries
from .retry import GIVE_UP_AFTER

LEASE_S = 60.0
"""How long a claimed delivery is ours. A worker that dies leaves its rows to come due again after this."""

# Statements are built once: building one anew takes SQLAlchemy longer than PostgreSQL takes to run it.
_now = now_plus(literal(0.0))
_due = and_(deliveries.c.status == Status.PENDING, deliveries.c.next_attempt_at <= _now)
_overdue = and_(deliveries.c.status == Status.AWAITING_CALLBACK, deliveries.c.give_up_at <= _now)


def _oldest(condition: ColumnElement[bool], column: ColumnElement[Any]) -> ColumnElement[bool]:
    """The deliveries that fulfil a condition, `most` of them, passing over those that others have locked."""
    chosen = select(deliveries.c.id).where(condition).order_by(column).limit(bindparam("most", type_=Integer))
    locked = chosen.with_for_update(skip_locked=True).cte("chosen")
    return deliveries.c.id.in_(select(locked.c.id))


_ANYTHING_DUE = select(or_(exists().where(_due), exists().where(_overdue)))
_TAKE = (
    update(deliveries)
    .where(_oldest(_due, deliveries.c.next_attempt_at))
    .values(lease_token=bindparam("lease"), next_attempt_at=now_plus(literal(LEASE_S)))
    .returning(deliveries.c.id)
)
_EXPIRE = (
    update(deliveries)
    .where(_oldest(_overdue, deliveries.c.give_up_at))
    .values(ended(Status.EXPIRED, "the callback never came"))
    .returning(deliveries.c.id, deliveries.c.push_id, deliveries.c.webhook_id)
)


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
    encrypted_secret: bytes
    encrypted_former_secret: bytes | None
    encrypted_headers: bytes | None
    kind: Kind
    repository: str
    tag: str
    pusher: str
    pushed_at: datetime
    snapshot: dict[str, Any]

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


def anything_due(session: Session) -> bool:
    """Whether `claim` or `expire_overdue` would find work now."""
    return bool(session.scalar(_ANYTHING_DUE))


def claim(session: Session, limit: int) -> tuple[list[Claim], Changes]:
    """Take at most `limit` due deliveries, oldest first; no other worker has them until the lease ends.

    The database's clock decides what is due. What can no longer be sent ends here instead: its webhook was
    switched off, or its time to give up has come, which the changes tell.
    """
    changes = Changes()
    while taken := session.execute(_TAKE, {"most": limit, "lease": uuid.uuid4()}).scalars().all():
        rows = session.execute(_READ_TAKEN, {"taken": taken}).all()
        changes.finished += _end_unsendable(session, rows)
        if sendable := [Claim(*row[:-2]) for row in rows if not row.switched_off and not row.gave_up]:
            return sendable, changes
    return [], changes


def _end_unsendable(session: Session, rows: Sequence[Any]) -> list[uuid.UUID]:
    """Cancel what was switched off, fail what has to be given up; returns the ids of the latter."""
    cancelled = [row for row in rows if row.switched_off]
    gave_up = [row for row in rows if row.gave_up and not row.switched_off]
    for unsendable, status, reason in (
        (cancelled, Status.CANCELLED, SWITCHED_OFF),
        (gave_up, Status.FAILED, f"not delivered within {GIVE_UP_AFTER.days} days"),
    ):
        if unsendable:
            these = deliveries.c.id.in_([row.id for row in unsendable])
            session.execute(update(deliveries).where(these).values(ended(status, reason)))
            advance(session, {(row.push_id, row.webhook_id) for row in unsendable})
    return [row.id for row in gave_up]


_READ_TAKEN = (
    select(
        deliveries.c.id,
        deliveries.c.lease_token,
        deliveries.c.round,
        deliveries.c.retry_step,
        deliveries.c.position,
        deliveries.c.chain_length,
        deliveries.c.callback_expected,
        deliveries.c.push_id,
        deliveries.c.webhook_id,
        deliveries.c.hook_id,
        Hook.hook_url,
        Webhook.encrypted_secret,
        case((Webhook.former_secret_until > _now, Webhook.encrypted_former_secret)),
        Webhook.encrypted_headers,
        Push.kind,
        Push.repository,
        Push.tag,
        Push.pusher,
        Push.pushed_at,
        Push.snapshot,
        switched_off.label("switched_off"),
        (deliveries.c.give_up_at <= now_plus(literal(0.0))).label("gave_up"),
    )
    .join(Hook, Hook.id == deliveries.c.hook_id)
    .join(Webhook, Webhook.id == deliveries.c.webhook_id)
    .join(Push, Push.id == deliveries.c.push_id)
    .where(deliveries.c.id.in_(bindparam("taken", expanding=True)))
    .order_by(deliveries.c.id)
)


def let_go(session: Session, claims: Iterable[Claim], delay_s: float, reason: str) -> None:
    """Give claims back unsent, due again after `delay_s`; it uses up no attempt. The history tells the reason."""
    rows = [
        {"claim_id": each.id, "claim_lease": each.lease_token, "delay_s": delay_s, "why": reason}
        for each in sorted(claims, key=lambda claim: claim.id)  # the order in which all lock them
    ]
    if rows:
        session.execute(_LET_GO, rows)


_LET_GO = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("claim_id"), deliveries.c.lease_token == bindparam("claim_lease"))
    .values(lease_token=None, reason=bindparam("why"), next_attempt_at=now_plus(bindparam("delay_s", type_=Float)))
)


def expire_overdue(session: Session, limit: int) -> Changes:
    """End at most `limit` deliveries whose callback never came, and with them their chains."""
    expired = session.execute(_EXPIRE, {"most": limit}).all()
    if expired:
        chains = {(row.push_id, row.webhook_id) for row in expired}
        lock_waiting(session, chains)
        advance(session, chains)
    return Changes([row.id for row in expired])
