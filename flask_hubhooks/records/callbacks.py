"""Callbacks of receivers, which decide deliveries, and owners' decisions in their place."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, bindparam, select, update
from sqlalchemy.orm import Session

from ..dialects import raising_locked
from . import transitions
from .cancelling import REPOSITORY_DELETED
from .chains import Changes, advance
from .models import Kind, Status, deliveries, hooks, pushes, webhooks
from .superseding import Received, supersede

NOT_AWAITED = "Nothing was changed: only a delivery that awaits its callback can be decided."


class CallbackRefused(Exception):
    """The callback changes nothing. `status_code` is the HTTP status, the text the reason."""

    def __init__(self, status_code: int, reason: str) -> None:
        super().__init__(reason)
        self.status_code = status_code


@dataclass(frozen=True)
class Callback:
    """What a receiver posted to its `callback_url`, or an owner decided; `context` is the owner's name then."""

    state: str
    description: str = ""
    context: str = ""
    target_url: str = ""


def lock_called_back(session: Session, delivery_id: uuid.UUID) -> Row[Any] | None:
    """Lock a delivery and return the columns that deciding needs; None if it does not exist.

    Raises `Locked` if another transaction has locked it.
    """
    with raising_locked():
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
        deliveries.c.ordered_image,
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


def decide(session: Session, delivery: Row[Any], round_: int, callback: Callback) -> Changes:
    """Let a callback decide the delivery that `lock_called_back` returned.

    A token of the current round proves that a request of this round was begun, so a pending delivery is decided too:
    real receivers call back before they answer, or even if they answer with an error. That ends the retries, and the
    hook no longer counts as failing. If no callback was expected, one of any state proves receipt, and fails nothing.

    Raises `CallbackRefused`: 409 for another state or an earlier round, 410 if the delivery has ended or its webhook
    was deleted. A delivery that awaited its callback when its webhook was deleted can still be decided, until its
    repository is deleted too.
    """
    _check(delivery, round_, callback)
    if delivery.callback_state:
        return Changes()  # a repetition
    changes = _apply(session, delivery, callback)
    may_be_failing = delivery.failing_since or delivery.status is Status.PENDING  # its failure may just be recorded
    if may_be_failing and delivery.kind is not Kind.TEST:  # hooks are locked after all deliveries
        session.execute(update(hooks).where(hooks.c.id == delivery.hook_id).values(failing_since=None))
    return changes


def decide_by_hand(session: Session, delivery: Row[Any], decision: Callback) -> Changes:
    """Let an owner decide the delivery that `lock_called_back` returned, as its callback would.

    It says nothing about the receiver, so a failing hook stays one. Raises `CallbackRefused`, 409, unless the delivery
    awaits its callback.
    """
    if delivery.status is not Status.AWAITING_CALLBACK:
        raise CallbackRefused(409, NOT_AWAITED)
    return _apply(session, delivery, decision)


def _apply(session: Session, delivery: Row[Any], callback: Callback) -> Changes:
    failed = delivery.callback_expected and callback.state != "success"
    parameters = {f"callback_{name}": value for name, value in vars(callback).items()}
    parameters |= {"delivery_id": delivery.id, "new_status": Status.FAILED if failed else Status.SUCCEEDED}
    session.execute(_DECIDE, parameters)
    changes = Changes() if delivery.finished_at else Changes([delivery.id])
    if failed:
        decided = f"It was decided as {callback.state}."
        changes.log_failure(delivery.id, delivery.webhook_id, Status.FAILED, decided)
    if changes.finished and delivery.position + 1 < delivery.chain_length:
        changes.more_due = advance(session, {(delivery.push_id, delivery.webhook_id)})
    if delivery.ordered_image and delivery.status is Status.PENDING:
        supersede(session, [Received(delivery.hook_id, delivery.ordered_image, delivery.push_id)])
    return changes


_DECIDE = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery_id"))
    .values(transitions.decided_by_callback(bindparam("new_status")))
)


def _check(delivery: Row[Any], round_: int, callback: Callback) -> None:
    with_repository = delivery.disabled_reason == REPOSITORY_DELETED  # `settle` has yet to cancel what awaits callbacks
    if delivery.deleted_id and (with_repository or delivery.status is not Status.AWAITING_CALLBACK):
        raise CallbackRefused(410, f"This delivery is {delivery.status.value}. The webhook was deleted.")
    if round_ != delivery.round:
        raise CallbackRefused(409, "This callback URL is of an earlier round. The delivery was sent again since.")
    if delivery.callback_state not in ("", callback.state):
        raise CallbackRefused(409, f"This delivery was decided before, as {delivery.callback_state!r}.")
    may_be_decided = delivery.status in (Status.PENDING, Status.AWAITING_CALLBACK, Status.SUCCEEDED)
    if not may_be_decided and not delivery.callback_state:
        reason = f" {delivery.reason}" if delivery.reason else ""
        raise CallbackRefused(410, f"This delivery is {delivery.status.value}.{reason}")
