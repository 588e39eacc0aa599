"""The chart of a webhook's last seven days: deliveries by outcome, and the median response time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...dialects import utcnow
from ...records.chains import OUTCOMES
from ...records.models import Status, Webhook, attempts, deliveries

DAYS = 7
GROUND, BAR_HEIGHT = 94.0, 78.0
"""The bottom of the bars in the drawing, and their greatest height."""
MAX_ATTEMPTS = 5_000
"""The most attempts that are read; the latest ones count."""


@dataclass(frozen=True)
class Tried:
    """One attempt of a delivery, or a delivery without attempts. `duration_ms` is None if there was no response."""

    delivery: object
    day: date
    status: Status
    duration_ms: int | None


@dataclass(frozen=True)
class Day:
    """One day of the chart, in UTC."""

    day: date
    counts: dict[str, int]
    """Deliveries by outcome."""
    response_ms: int | None
    """The median response time."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Part:
    """A part of a day's bar, in the units of the drawing."""

    outcome: str
    y: float
    height: float


@dataclass(frozen=True)
class Chart:
    """The last days, oldest first."""

    days: list[Day]
    is_cut: bool
    """There were more attempts than `limit`."""
    limit: int = MAX_ATTEMPTS

    @property
    def totals(self) -> dict[str, int]:
        """Deliveries by outcome."""
        return {name: sum(each.counts[name] for each in self.days) for name in OUTCOMES}

    def parts(self, day: Day) -> Iterator[Part]:
        """Yield the bar of a day from bottom to top. The day with the most deliveries has the tallest bar."""
        unit = BAR_HEIGHT / max(1, *(each.total for each in self.days))
        y = GROUND
        for name, count in day.counts.items():
            if count:
                height = max(round(count * unit, 1), 1.0)
                y = round(y - height, 1)
                yield Part(name, y, height)


def read(session: Session, webhook: Webhook) -> list[Tried]:
    """Read the attempts of the last days' deliveries, in one statement."""
    since = utcnow() - timedelta(days=DAYS)
    rows = session.execute(
        select(
            deliveries.c.id,
            deliveries.c.pushed_at,
            deliveries.c.status,
            attempts.c.duration_ms,
            attempts.c.status_code,
        )
        .join_from(deliveries, attempts, attempts.c.delivery_id == deliveries.c.id, isouter=True)
        .where(deliveries.c.webhook_id == webhook.id, deliveries.c.pushed_at > since)
        .order_by(deliveries.c.pushed_at.desc(), deliveries.c.push_id.desc())
        .limit(MAX_ATTEMPTS)
    )
    return [
        Tried(each.id, each.pushed_at.date(), each.status, None if each.status_code is None else each.duration_ms)
        for each in rows
    ]


def chart(tried: Sequence[Tried], now: datetime) -> Chart:
    """Make the chart of these attempts."""
    days = [now.date() - timedelta(days=back) for back in reversed(range(DAYS))]
    return Chart([_day(each, [row for row in tried if row.day == each]) for each in days], len(tried) == MAX_ATTEMPTS)


def _day(day: date, tried: Sequence[Tried]) -> Day:
    status_of = {each.delivery: each.status for each in tried}
    found = Counter(_OUTCOME_OF.get(status) for status in status_of.values())
    times = [each.duration_ms for each in tried if each.duration_ms is not None]
    return Day(day, {name: found[name] for name in OUTCOMES}, round(median(times)) if times else None)


_OUTCOME_OF = {status: name for name, states in OUTCOMES.items() for status in states}
