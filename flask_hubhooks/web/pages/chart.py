"""The chart of a webhook's last seven days: deliveries by outcome, and the median response time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...dialects import utcnow
from ...records import history
from ...records.models import OUTCOMES, Attempt, Delivery, Webhook

DAYS = 7
GROUND, BAR_HEIGHT = 94.0, 78.0
"""The bottom of the bars in the drawing, and their greatest height."""
MAX_ATTEMPTS = 5_000
"""The most attempts that are read; the latest ones count."""


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


_OUTCOME_OF = {status: name for name, states in OUTCOMES.items() for status in states}


def read_chart(session: Session, webhook: Webhook, scope: str) -> Chart:
    """Read the chart of a webhook, as users of `scope` see it, in one statement."""
    now = utcnow()
    order = history.order_for(webhook, scope, None)
    found = (
        select(Delivery.id, Delivery.pushed_at, Delivery.status, Attempt.duration_ms, Attempt.status_code)
        .join_from(Delivery, Attempt, Attempt.delivery_id == Delivery.id, isouter=True)
        .where(*history.shown(webhook, scope), order.pushed_at > now - timedelta(days=DAYS))
        .order_by(order.pushed_at.desc(), order.push_id.desc())
        .limit(MAX_ATTEMPTS)
    )
    if webhook.scope != scope:
        found = found.join(Delivery.push)
    rows = session.execute(found).all()
    by_day = defaultdict(list)
    for row in rows:
        by_day[row.pushed_at.date()].append(row)
    days = []
    for day in (now.date() - timedelta(days=back) for back in reversed(range(DAYS))):
        status_of = {row.id: row.status for row in by_day[day]}
        counts = Counter(_OUTCOME_OF.get(status) for status in status_of.values())
        times = [row.duration_ms for row in by_day[day] if row.status_code is not None]
        days.append(Day(day, {name: counts[name] for name in OUTCOMES}, round(median(times)) if times else None))
    return Chart(days, is_cut=len(rows) == MAX_ATTEMPTS)
