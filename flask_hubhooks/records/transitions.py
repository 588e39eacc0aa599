"""The states of a delivery and all transitions between them: no other module writes its state columns.

    push, test
        |  recorded
        +------------------------------+
        | later hooks of a chain       | first hook
        v             due_now          v      leased, released, retry_in, tag_shown
     WAITING ----------------------> PENDING <----------------------+
        |     the hook before it       |  |        held, resumed    |
        |     succeeded                |  +-------------------------+
        |                              |
        |             2xx, a callback  |  awaiting_callback
        |             is expected      +----------------------> AWAITING_CALLBACK
        |                              |                                |
        |                              | succeeded, failed,             | decided_by_callback,
        | skipped, cancelled           | decided_by_callback, overdue,  | overdue, cancelled
        |                              | superseded, cancelled          |
        v                              v                                v
     SKIPPED, CANCELLED    SUCCEEDED, FAILED, CANCELLED    SUCCEEDED, FAILED, EXPIRED, CANCELLED

From any state `new_round` leads back to WAITING, and for the first delivery that is sent again `due_now` to PENDING.
Two transitions keep the state that a delivery has ended in: `received`, for a cancelled one whose request was in
flight, and `decided_by_callback`, for one that has succeeded without a callback.

Each function returns the columns that a transition writes, for `update(deliveries).values(...)`. The callers choose the
rows and have locked them. Hot paths build their statements once, so arguments may be bind parameters as well as values.

The sets of states have their names beside `Status`: `UNSENT`, `UNDER_WAY`, `UNFINISHED` and `FAILED`.
"""

from __future__ import annotations

import uuid
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, ColumnElement, Float, bindparam, case, func, select

from ..dialects import now_plus
from .models import GIVE_UP_AFTER, Status, deliveries, webhooks

Columns: TypeAlias = dict[str, Any]
"""Values or SQL expressions by the names of columns."""
Seconds: TypeAlias = float | ColumnElement[Any]

URGENT_S = -30 * 24 * 3600.0
"""An urgent delivery, one that a person waits for, is due this many seconds from now: a month ago.

It sorts before all others, since nothing else stays pending for more than `GIVE_UP_AFTER`. Urgency is part of the due
time, and no column of its own, because claims find due deliveries by skipping through an index of repositories, hooks
and due times: one probe tells what is due next and whether that is urgent, and a tenant who redelivers 100,000 at once
delays nobody. With a column the same would take a second index, and each statement of a claim twice. Urgency ends with
the lease, or with a delay.
"""
GAVE_UP = f"Not delivered within {GIVE_UP_AFTER.days} days."
GAVE_UP_PAUSED = f"Not delivered within {GIVE_UP_AFTER.days} days: the webhook was paused."
GAVE_UP_DISABLED = f"Not delivered within {GIVE_UP_AFTER.days} days: the webhook was disabled."
HELD_PAUSED = "Held: the webhook is paused."
HELD_DISABLED = "Held: the webhook is disabled."
NO_CALLBACK = "The callback never came."
SUPERSEDED = "Superseded by a newer push of this tag."


def recorded() -> Columns:
    """The columns of new deliveries whose rows have the parameters of `first_of_run` or `later_in_run`."""
    return {
        "next_attempt_at": now_plus(bindparam("due_in_s", type_=Float)),
        "give_up_at": now_plus(bindparam("give_up_in_s", type_=Float)),
    }


def first_of_run(*, urgent: bool = False, delay_s: float = 0.0, reason: str = "") -> Columns:
    """The parameters of a new delivery that is due at once, or after a delay."""
    return {
        "status": Status.PENDING,
        "reason": reason,
        "due_in_s": URGENT_S if urgent else delay_s,
        "give_up_in_s": GIVE_UP_AFTER.total_seconds(),
    }


def later_in_run() -> Columns:
    """The parameters of a new delivery that waits for the hook before it."""
    return {"status": Status.WAITING, "reason": "", "due_in_s": None, "give_up_in_s": None}


def due_now(*, urgent: bool = False) -> Columns:
    """A waiting delivery can be sent now."""
    return {
        "status": Status.PENDING,
        "next_attempt_at": now_plus(URGENT_S if urgent else 0.0),
        "give_up_at": now_plus(GIVE_UP_AFTER.total_seconds()),
    }


def tag_shown() -> Columns:
    """A pending delivery that was never tried need not wait for its tag any longer."""
    return {"reason": "", "next_attempt_at": now_plus(0.0)}


def leased(token: BindParameter[uuid.UUID], lease_s: Seconds) -> Columns:
    """A worker takes a pending delivery; it is due again when the lease ends."""
    return {"lease_token": token, "reason": "", "next_attempt_at": now_plus(lease_s)}


def released(delay_s: Seconds, reason: str | BindParameter[str]) -> Columns:
    """A worker gives a pending delivery back unsent, due again after a delay."""
    return {"lease_token": None, "reason": reason, "next_attempt_at": now_plus(delay_s)}


def retry_in(delay_s: Seconds) -> Columns:
    """An attempt failed, and another one follows."""
    return released(delay_s, "") | {"retry_step": deliveries.c.retry_step + 1}


def held(reason: BindParameter[str]) -> Columns:
    """The webhook of a pending delivery is paused or disabled: it is not due until that is over.

    The time to give up stays, and the step of its retries.
    """
    return {"lease_token": None, "reason": reason, "next_attempt_at": None}


def resumed() -> Columns:
    """The webhook of a held delivery is active again."""
    return released(0.0, "")


def retried_now() -> Columns:
    """Do not wait any longer for the next attempt."""
    return {"next_attempt_at": now_plus(0.0)}


def awaiting_callback(ttl_s: Seconds) -> Columns:
    """It was received, and its callback decides."""
    return {
        "status": Status.AWAITING_CALLBACK,
        "reason": "",
        "lease_token": None,
        "next_attempt_at": None,
        "give_up_at": now_plus(ttl_s),
        **received(),
    }


def received() -> Columns:
    """It was received, whatever its state: a request of a cancelled delivery may have been in flight."""
    return {"received_at": now_plus(0.0)}


def succeeded() -> Columns:
    """It was received, and no callback is expected."""
    return _ended(Status.SUCCEEDED, "") | received()


def failed(reason: str | BindParameter[str]) -> Columns:
    """An attempt failed, and none follows."""
    return _ended(Status.FAILED, reason) | {"retry_step": deliveries.c.retry_step + 1}


def overdue() -> Columns:
    """The time to give up has come: a pending delivery failed, one that awaits its callback expired."""
    pending = deliveries.c.status == Status.PENDING
    inactive = select(case((webhooks.c.disabled_reason == "", GAVE_UP_PAUSED), else_=GAVE_UP_DISABLED)).where(
        webhooks.c.id == deliveries.c.webhook_id, ~webhooks.c.active
    )
    columns = _ended(Status.EXPIRED, NO_CALLBACK)
    return columns | {
        "status": case((pending, Status.FAILED), else_=Status.EXPIRED),
        "reason": case((pending, func.coalesce(inactive.scalar_subquery(), GAVE_UP)), else_=NO_CALLBACK),
    }


def skipped() -> Columns:
    """An earlier hook of its chain failed."""
    return _ended(Status.SKIPPED, "An earlier hook of the chain failed.")


def cancelled(reason: str) -> Columns:
    """It is no longer to be sent. The attempt of a request in flight is still recorded."""
    return _ended(Status.CANCELLED, reason)


def superseded() -> Columns:
    """Its hook has received a newer push of its tag."""
    return cancelled(SUPERSEDED)


def decided_by_callback(status: BindParameter[Status]) -> Columns:
    """A callback decides, before or after the answer, or an owner in its place.

    It proves receipt; what had ended keeps its time. The parameters `callback_state`, `callback_description`,
    `callback_context` and `callback_target_url` are what was posted.
    """
    return {
        **_ended(status, ""),
        "received_at": func.coalesce(deliveries.c.received_at, now_plus(0.0)),
        "finished_at": func.coalesce(deliveries.c.finished_at, now_plus(0.0)),
        "callback_state": bindparam("callback_state"),
        "callback_description": bindparam("callback_description"),
        "callback_context": bindparam("callback_context"),
        "callback_target_url": bindparam("callback_target_url"),
        "callback_at": now_plus(0.0),
    }


def new_round(*, redelivered: bool) -> Columns:
    """Sent again: as when it was recorded, but in the next round."""
    return {
        "round": deliveries.c.round + 1,
        "redelivered": redelivered,
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


def _ended(status: Status | BindParameter[Status], reason: str | BindParameter[str]) -> Columns:
    return {
        "status": status,
        "reason": reason,
        "lease_token": None,
        "next_attempt_at": None,
        "give_up_at": None,
        "finished_at": now_plus(0.0),
    }
