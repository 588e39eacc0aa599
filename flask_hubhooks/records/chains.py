"""Chains: the next hook is called when the one before it has succeeded."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, bindparam, exists, tuple_, update
from sqlalchemy.orm import Session, aliased

from . import transitions
from .cancelling import REMOVED, removed
from .models import FAILED, UNDER_WAY, Delivery, Run, Status, deliveries, hooks, same_run, webhooks


@dataclass
class Changes:
    """What a transaction changed, to be acted on after its commit."""

    finished: list[uuid.UUID] = field(default_factory=list)
    """Deliveries that succeeded, failed or expired."""
    disabled: list[int] = field(default_factory=list)
    """Webhooks that were disabled because they failed."""
    more_due: bool = False
    """More is due, such as another hook of a chain."""
    locked: frozenset[uuid.UUID] = frozenset()
    """Deliveries that were left as they are, since another transaction has locked them."""
    log: list[tuple[int, str]] = field(default_factory=list)
    """Levels and texts of log entries."""

    def log_failure(self, delivery_id: uuid.UUID, webhook_id: int, status: Status, reason: str) -> None:
        """Log that a delivery failed for good, or that its callback expired."""
        ended = "expired" if status is Status.EXPIRED else "failed for good"
        self.log.append((logging.INFO, f"delivery {delivery_id} of webhook {webhook_id} {ended}: {reason}"))


def advance(session: Session, runs: Collection[Run]) -> bool:
    """Continue runs in which a delivery has ended; returns whether another hook is due.

    The delivery after one that succeeded becomes due, or is cancelled if its webhook or hook is gone. Those after one
    that failed or expired are skipped, those after a cancelled one are cancelled, unless a redelivered one in between
    is still under way. Only waiting deliveries change, so it is safe to repeat.
    """
    continued = {(row.push_id, row.webhook_id) for row in session.execute(_CONTINUE, {"runs": list(runs)})}
    if others := [run for run in runs if run not in continued]:  # a run that continues has nothing to end
        for statement in (_CANCEL_REMOVED, _SKIP, _CANCEL):
            session.execute(statement, {"runs": others})
    return bool(continued)


def _any_earlier(statuses: Sequence[Status]) -> ColumnElement[bool]:
    earlier = aliased(Delivery)
    return exists().where(
        same_run(earlier, deliveries.c), earlier.position < deliveries.c.position, earlier.status.in_(statuses)
    )


_previous = aliased(Delivery)
_previous_succeeded = exists().where(
    same_run(_previous, deliveries.c),
    _previous.position == deliveries.c.position - 1,
    _previous.status == Status.SUCCEEDED,
)
_is_removed = exists().where(webhooks.c.id == deliveries.c.webhook_id, hooks.c.id == deliveries.c.hook_id, removed)
_waiting = update(deliveries).where(
    deliveries.c.status == Status.WAITING,
    tuple_(deliveries.c.push_id, deliveries.c.webhook_id).in_(bindparam("runs", expanding=True)),
)
_next = _waiting.where(_previous_succeeded)
_interrupted = _waiting.where(~_any_earlier(UNDER_WAY))

_CONTINUE = (
    _next.where(~_is_removed).values(transitions.due_now()).returning(deliveries.c.push_id, deliveries.c.webhook_id)
)
_CANCEL_REMOVED = _next.values(transitions.cancelled(REMOVED))  # `_CONTINUE` has left only these
_SKIP = _interrupted.where(_any_earlier(FAILED)).values(transitions.skipped())
_CANCEL = _interrupted.where(_any_earlier([Status.CANCELLED])).values(
    transitions.cancelled("An earlier hook of the chain was cancelled.")
)
