"""The attempts of a delivery: a line for each, of those around the one that is shown whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...records.models import NUMBER_LIMIT, Attempt, Delivery
from ...transport.causes import received
from ..documents import time
from ..problems import not_found

LINES = 20
"""Attempts that one page lists."""


@dataclass(frozen=True)
class Attempts:
    """Some attempts, newest first, the one that is shown, and the numbers that lead on; None where there are none."""

    lines: Sequence[dict[str, Any]]
    shown: Attempt | None
    older: int | None
    newer: int | None


def read(session: Session, delivery: Delivery, number: int | None) -> Attempts:
    """The attempts around a number, or the latest; in two statements. Raises 404 where there is none of the number."""
    newest = number + LINES // 2 if number else NUMBER_LIMIT
    rows = session.execute(
        select(Attempt.number, Attempt.trigger, Attempt.started_at, Attempt.status_code)
        .where(Attempt.delivery_id == delivery.id, Attempt.number <= newest)
        .order_by(Attempt.number.desc())
        .limit(LINES)
    ).all()
    shown = session.get(Attempt, (delivery.id, number or rows[0].number)) if number or rows else None
    if number and shown is None:
        raise not_found()
    lines = [
        {
            "number": each.number,
            "trigger": each.trigger,
            "started_at": time(each.started_at),
            "status_code": each.status_code,
            "received": each.status_code is not None and received(each.status_code),
        }
        for each in rows
    ]
    older = rows[-1].number - 1 if rows and rows[-1].number > 1 else None
    newer = rows[0].number + 1 if rows and rows[0].number < delivery.attempt_count else None
    return Attempts(lines, shown, older, newer)
