"""How deliveries move on by other means than an attempt: chains, callbacks, cancelling."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session, aliased

from ..dialects import among, not_waiting, now_plus
from .models import GIVE_UP_AFTER, Delivery, Hook, Kind, Push, Status, deliveries, hooks, pushes, unsucceeded, webhooks

switched_off = or_(
    webhooks.c.deleted_id != 0,
    hooks.c.removed_at.is_not(None),
    and_(~webhooks.c.active, pushes.c.kind != Kind.TEST),
)
"""Of a delivery's webhook, hook and push: it is not to be sent. A test ignores that its webhook is paused."""
SWITCHED_OFF = "the webhook was paused, disabled or deleted, or the hook removed"

OUTCOMES: Mapping[str, tuple[Status, ...]] = {
    "succeeded": (Status.SUCCEEDED,),
    "under_way": (Status.PENDING, Status.AWAITING_CALLBACK),
    "failed": (Status.FAILED, Status.EXPIRED),
    "cancelled": (Status.CANCELLED,),
}
"""How a chain request stands, by the state of the hook that decided it, or is to decide it."""


def outcome(states: Iterable[Status]) -> Status:
    """Where a chain request stands: where its first hook does that has not succeeded."""
    return next((each for each in states if each != Status.SUCCEEDED), Status.SUCCEEDED)


HEAD_START_S = 30 * 24 * 3600.0
"""What a person waits for is due since so long ago, before all else: nothing else is pending for more than 5 days."""


def sendable_now(*, urgent: bool = False) -> dict[str, Any]:
    return {
        "status": Status.PENDING,
        "next_attempt_at": now_plus(literal(-HEAD_START_S if urgent else 0.0)),
        "give_up_at": now_plus(literal(GIVE_UP_AFTER.total_seconds())),
    }


@dataclass
class Changes:
    """What a transaction changed, for those who act on it after the commit."""

    finished: list[uuid.UUID] = field(default_factory=list)
    """Deliveries that succeeded, failed or expired."""
    disabled: list[int] = field(default_factory=list)
    """Webhooks that we switched off."""
    more_due: bool = False
    """Another hook of a chain is now to be called."""
    locked: frozenset[uuid.UUID] = frozenset()
    """Deliveries of which nothing was written, since another transaction has locked them."""


Chain = tuple[int, int]
"""A push's id and a webhook's: together they name a chain request."""


def advance(session: Session, chains: Collection[Chain]) -> bool:
    """Carry chain requests on after a delivery in them ended; True where another hook is now to be called.

    The hook after one that succeeded becomes pending, or is cancelled where its webhook has been switched off.
    What comes after one that failed or expired is skipped, after one that was cancelled is cancelled, unless a
    redelivered one in between is still under way. Only waiting rows move, so repeating it changes nothing.
    """
    going_on = {(row.push_id, row.webhook_id) for row in session.execute(_MOVE_ON, {"chains": list(chains)})}
    if others := [each for each in chains if each not in going_on]:  # where something is to be called nothing ends
        for statement in (_CANCEL_SWITCHED_OFF, _SKIP, _CANCEL_REST):
            session.execute(statement, {"chains": others})
    return bool(going_on)


def lock_waiting(session: Session, chains: Collection[Chain]) -> None:
    """Lock what waits in chain requests of which only deliveries that await a callback are locked."""
    of_chains = tuple_(deliveries.c.push_id, deliveries.c.webhook_id).in_(list(chains))
    session.execute(_of(of_chains & (deliveries.c.status == Status.WAITING)))


def ended(status: Status, reason: str) -> dict[str, Any]:
    """The columns of a delivery that will not be sent any more."""
    return {
        "status": status,
        "reason": reason,
        "next_attempt_at": None,
        "give_up_at": None,
        "lease_token": None,
        "finished_at": now_plus(literal(0.0)),
    }


def _earlier(statuses: Sequence[Status], directly: bool = False) -> ColumnElement[bool]:
    other = aliased(Delivery)
    before = other.position == deliveries.c.position - 1 if directly else other.position < deliveries.c.position
    return exists().where(
        other.push_id == deliveries.c.push_id,
        other.webhook_id == deliveries.c.webhook_id,
        before,
        other.status.in_(statuses),
    )


_waiting = update(deliveries).where(
    deliveries.c.status == Status.WAITING,
    tuple_(deliveries.c.push_id, deliveries.c.webhook_id).in_(bindparam("chains", expanding=True)),
)
_ready = _waiting.where(_earlier([Status.SUCCEEDED], directly=True))
_interrupted = _waiting.where(~_earlier([Status.PENDING, Status.AWAITING_CALLBACK]))
_is_switched_off = exists().where(
    webhooks.c.id == deliveries.c.webhook_id,
    hooks.c.id == deliveries.c.hook_id,
    pushes.c.id == deliveries.c.push_id,
    switched_off,
)
_CANCEL_SWITCHED_OFF = _ready.values(ended(Status.CANCELLED, SWITCHED_OFF))  # where `_MOVE_ON` has left it out
_MOVE_ON = (
    _ready.where(~_is_switched_off).values(sendable_now()).returning(deliveries.c.push_id, deliveries.c.webhook_id)
)
_SKIP = _interrupted.where(_earlier([Status.FAILED, Status.EXPIRED])).values(
    ended(Status.SKIPPED, "an earlier hook of the chain failed")
)
_CANCEL_REST = _interrupted.where(_earlier([Status.CANCELLED])).values(
    ended(Status.CANCELLED, "an earlier hook of the chain was cancelled")
)


unsent = deliveries.c.status.in_([Status.PENDING, Status.WAITING])
"""Of a delivery: it is cancelled where its webhook is switched off."""
_unfinished = deliveries.c.status.in_([Status.PENDING, Status.WAITING, Status.AWAITING_CALLBACK])


def cancel_webhook(session: Session, webhook_id: int, reason: str, *, tests: bool = False) -> None:
    """Cancel what a webhook has pending or waiting, `tests` too where these are to end as well."""
    every = unsent & (deliveries.c.webhook_id == webhook_id)
    real = every & exists().where(Push.id == deliveries.c.push_id, Push.kind != Kind.TEST)
    _cancel(session, every if tests else real, reason)


def cancel_hook(session: Session, hook: Hook, reason: str) -> None:
    """Cancel what a hook has pending or waiting, and what waits behind it; its callbacks may still decide."""
    its = aliased(Delivery)
    behind = exists().where(
        its.push_id == deliveries.c.push_id,
        its.webhook_id == deliveries.c.webhook_id,
        its.hook_id == hook.id,
        its.position < deliveries.c.position,
        its.status.in_([Status.PENDING, Status.WAITING, Status.AWAITING_CALLBACK]),
    )
    of_hook = deliveries.c.hook_id == hook.id
    waits_behind = (deliveries.c.status == Status.WAITING) & behind
    _cancel(session, (deliveries.c.webhook_id == hook.webhook_id) & (of_hook & unsent | waits_behind), reason)


REPOSITORY_DELETED = "the repository was deleted"
"""Why deliveries were cancelled, and the `disabled_reason` of such webhooks."""


def end_webhooks(session: Session, webhook_ids: Collection[int]) -> None:
    """Cancel all that the webhooks of a deleted repository have not finished: no callback decides it any more."""
    _cancel(session, _unfinished & deliveries.c.webhook_id.in_(webhook_ids), REPOSITORY_DELETED)


def lock_unsent(session: Session, webhook_id: int) -> None:
    """Lock what a webhook has pending or waiting, for more than one change to it."""
    session.execute(_of(unsent & (deliveries.c.webhook_id == webhook_id)))


def _of(condition: ColumnElement[bool]) -> Select[Any]:
    return locking(select(deliveries.c.id).where(unsucceeded, condition))


def locking(found: Select[Any]) -> Select[Any]:
    """Lock the deliveries that are found. All do so in the order of their ids, so that none waits in a circle."""
    return found.order_by(deliveries.c.id).with_for_update()


leases = select(deliveries.c.id, deliveries.c.lease_token, deliveries.c.round, deliveries.c.status)
"""Of deliveries, what tells whether a claim still holds."""


def lock_free(session: Session, ids: Collection[uuid.UUID]) -> tuple[dict[uuid.UUID, Any], frozenset[uuid.UUID]]:
    """Lock those of these deliveries that nobody else has locked, without waiting.

    Returns the rows that are locked now, and the ids of those that somebody else has locked.
    """
    rows = {row.id: row for row in session.execute(_LOCK_FREE, {"ids": list(ids)}).all()}
    missing = [each for each in ids if each not in rows]
    return rows, frozenset(session.scalars(_EXISTING, {"ids": missing}) if missing else ())


_these = among(deliveries.c.id, bindparam("ids", expanding=True))
_EXISTING = select(deliveries.c.id).where(_these)
_LOCK_FREE = leases.where(_these).order_by(deliveries.c.id).with_for_update(skip_locked=True)


def _cancel(session: Session, condition: ColumnElement[bool], reason: str) -> None:
    """A POST on the wire is still written to the history."""
    chosen = _of(condition).cte("chosen")
    cancelled = update(deliveries).where(deliveries.c.id.in_(select(chosen.c.id)))
    session.execute(cancelled.values(ended(Status.CANCELLED, reason)))


class CallbackRefused(Exception):
    """The callback changes nothing; `status_code` is the HTTP answer, the text says why."""

    def __init__(self, status_code: int, reason: str) -> None:
        super().__init__(reason)
        self.status_code = status_code


@dataclass(frozen=True)
class Callback:
    """What a receiver posted to its `callback_url`."""

    state: str
    description: str = ""
    context: str = ""
    target_url: str = ""


def lock_called_back(session: Session, delivery_id: uuid.UUID) -> Row[Any] | None:
    """Lock a delivery for `decide`, with the `kind` of its push; None where there is none.

    Raises `Locked` if another transaction has locked it.
    """
    with not_waiting():
        return session.execute(_CALLED_BACK, {"delivery_id": delivery_id}).one_or_none()


_CALLED_BACK: Select[Any] = (
    select(
        deliveries.c.id,
        deliveries.c.push_id,
        deliveries.c.webhook_id,
        deliveries.c.hook_id,
        deliveries.c.position,
        deliveries.c.chain_length,
        deliveries.c.callback_expected,
        deliveries.c.round,
        deliveries.c.status,
        deliveries.c.reason,
        deliveries.c.finished_at,
        deliveries.c.callback_state,
        pushes.c.kind,
        hooks.c.failing_since,
        webhooks.c.deleted_id,
        webhooks.c.disabled_reason,
    )
    .join(pushes, pushes.c.id == deliveries.c.push_id)
    .join(hooks, hooks.c.id == deliveries.c.hook_id)
    .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .where(deliveries.c.id == bindparam("delivery_id"))
    .with_for_update(of=deliveries, nowait=True)
)


def _refuse(delivery: Row[Any], round_: int, callback: Callback) -> None:
    with_repository = delivery.disabled_reason == REPOSITORY_DELETED  # `settle` has yet to cancel what still awaits it
    if delivery.deleted_id and (with_repository or delivery.status is not Status.AWAITING_CALLBACK):
        raise CallbackRefused(410, f"this delivery is {delivery.status.value}: the webhook was deleted")
    if round_ != delivery.round:
        raise CallbackRefused(409, "this callback URL is of an earlier round: the delivery was sent again since")
    if delivery.callback_state not in ("", callback.state):
        raise CallbackRefused(409, f"this delivery was decided before, as {delivery.callback_state!r}")
    ended_without = delivery.status not in (Status.PENDING, Status.AWAITING_CALLBACK, Status.SUCCEEDED)
    if ended_without and not delivery.callback_state:
        ending = f": {delivery.reason}" if delivery.reason else ""
        raise CallbackRefused(410, f"this delivery is {delivery.status.value}{ending}")


def decide(session: Session, delivery: Row[Any], round_: int, callback: Callback) -> Changes:
    """Let a callback decide its delivery, which `lock_called_back` has returned.

    A token of the current round proves that a POST of this round was begun, so a delivery that is still pending
    is decided too: real receivers call back before they answer, or beside an error answer. That ends its
    retries, and its hook is not failing any more. Where no callback was expected it proves receipt whatever its
    state, and fails nothing.

    Raises `CallbackRefused`: 409 for another state or an older round, 410 where the delivery has ended or its webhook
    was deleted. A delivery that awaited its callback when an owner deleted the webhook can still be decided, until
    the repository is deleted too.
    """
    _refuse(delivery, round_, callback)
    if delivery.callback_state:
        return Changes()  # it says the same again
    failed = delivery.callback_expected and callback.state != "success"
    decided = {"decided": delivery.id, "new_status": Status.FAILED if failed else Status.SUCCEEDED}
    session.execute(_DECIDE, decided | {f"callback_{name}": said for name, said in vars(callback).items()})
    changes = Changes() if delivery.finished_at else Changes([delivery.id])
    if changes.finished and delivery.position + 1 < delivery.chain_length:
        changes.more_due = advance(session, {(delivery.push_id, delivery.webhook_id)})
    may_fail = delivery.failing_since or delivery.status is Status.PENDING  # whose failure may just have been written
    if may_fail and delivery.kind is not Kind.TEST:  # a hook is locked after all deliveries
        session.execute(update(hooks).where(hooks.c.id == delivery.hook_id).values(failing_since=None))
    return changes


_DECIDE = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("decided"))
    .values(
        status=bindparam("new_status"),
        reason="",
        lease_token=None,
        next_attempt_at=None,
        give_up_at=None,
        received_at=func.coalesce(deliveries.c.received_at, now_plus(literal(0.0))),
        finished_at=func.coalesce(deliveries.c.finished_at, now_plus(literal(0.0))),
        callback_state=bindparam("callback_state"),
        callback_description=bindparam("callback_description"),
        callback_context=bindparam("callback_context"),
        callback_target_url=bindparam("callback_target_url"),
        callback_at=now_plus(literal(0.0)),
    )
)
