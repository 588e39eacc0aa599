"""Locks on deliveries, in one order for all transactions, so that no two wait for each other.

The order is: namespaces, the repository, deliveries by their ids, hooks, and then webhooks. SQLite, which has one
writer at a time, ignores row locks.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Tuple, and_, literal_column, select, tuple_
from sqlalchemy.orm import Session

from ..dialects import now_plus, one_of
from .models import UNSENT, Run, Status, deliveries, unsucceeded

unsent = deliveries.c.status.in_(UNSENT)
leases = select(deliveries.c.id, deliveries.c.lease_token, deliveries.c.round, deliveries.c.status)
"""Deliveries with the columns that show whether a claim still holds."""
_AFTER_ALL_PUSHES: ColumnElement[int] = literal_column(str(2**63 - 1))


def in_flight(rows: FromClause) -> ColumnElement[bool]:
    """Whether a worker has these deliveries under a lease: their requests may be on the wire."""
    return and_(rows.c.lease_token.is_not(None), _next_attempt(rows) > tuple_(now_plus(0.0), _AFTER_ALL_PUSHES))


def is_scheduled(rows: FromClause) -> ColumnElement[bool]:
    """Whether these deliveries have a next attempt: they are due, now or later, or in flight."""
    return _next_attempt(rows) < tuple_(literal_column("'9999-12-31'"), literal_column("0"))


def _next_attempt(rows: FromClause) -> Tuple:
    """For conditions on `next_attempt_at` that the indexes for claims must not serve.

    If nothing was due when PostgreSQL last analyzed the table, it believes that these indexes are empty, and would read
    a whole backlog from them. It does not see that a row comparison implies `next_attempt_at IS NOT NULL`.
    """
    return tuple_(rows.c.next_attempt_at, rows.c.push_id)


def in_order(found: Select[Any]) -> Select[Any]:
    """Lock the deliveries that a query finds, in the order of their ids."""
    return found.order_by(deliveries.c.id).with_for_update()


def locked_ids(condition: ColumnElement[bool]) -> Select[Any]:
    """Lock deliveries, and select their ids. The index of those that have not succeeded is small."""
    return in_order(select(deliveries.c.id).where(unsucceeded, condition))


def lock_unsent(session: Session, webhook_id: int) -> None:
    """Lock the pending and waiting deliveries of a webhook before several changes to its hooks."""
    session.execute(locked_ids(unsent & (deliveries.c.webhook_id == webhook_id)))


def lock_waiting(session: Session, runs: Collection[Run]) -> None:
    """Lock the waiting deliveries of runs in which only the delivery under way is locked."""
    of_runs = tuple_(deliveries.c.push_id, deliveries.c.webhook_id).in_(list(runs))
    session.execute(locked_ids(of_runs & (deliveries.c.status == Status.WAITING)))


def lock_free(session: Session, ids: Collection[uuid.UUID]) -> tuple[dict[uuid.UUID, Any], frozenset[uuid.UUID]]:
    """Lock those of these deliveries that no other transaction has locked, without waiting.

    Returns the `leases` rows that it locked, by id, and the ids of deliveries that another transaction has locked.
    """
    rows = {row.id: row for row in session.execute(_LOCK_FREE, {"ids": list(ids)}).all()}
    missing = [each for each in ids if each not in rows]
    return rows, frozenset(session.scalars(_EXISTING, {"ids": missing}) if missing else ())


_these = one_of(deliveries.c.id, "ids")
_EXISTING = select(deliveries.c.id).where(_these)
_LOCK_FREE = leases.where(_these).order_by(deliveries.c.id).with_for_update(skip_locked=True)
