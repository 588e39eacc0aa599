"""What the pages say of states, outcomes and times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from markupsafe import Markup, escape

from ...dialects import utcnow
from ...records.runs import RunSummary
from .translation import gettext as _
from .translation import marked, ngettext
from .week import Chart, Day

ICONS = {
    "succeeded": "✓",
    "failed": "✗",
    "expired": "✗",
    "awaiting_callback": "…",
    "pending": "⟳",
    "waiting": "…",
    "skipped": "\N{EN DASH}",
    "cancelled": "⊘",
}
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MOVING = ("pending", "waiting", "awaiting_callback")
"""States that another is to follow."""


def state(name: str) -> Markup:
    """Where a delivery or a chain request stands."""
    words = {
        "succeeded": _("Succeeded"),
        "failed": _("Failed"),
        "expired": _("No callback came"),
        "awaiting_callback": _("Awaiting callback"),
        "pending": _("Under way"),
        "waiting": _("Waiting for its turn"),
        "skipped": _("Skipped"),
        "cancelled": _("Cancelled"),
    }
    return words[name]


def webhook_state(webhook: Mapping[str, Any]) -> Markup:
    """Whether pushes are sent to a webhook."""
    if webhook["active"]:
        return _("Active")
    return _("Disabled") if webhook["disabled_reason"] else _("Paused")


def step(name: str) -> Markup:
    """How far a hook of a chain has come."""
    words = {"succeeded": _("delivered"), "failed": _("failed"), "expired": _("no callback came")}
    words |= {"awaiting_callback": _("awaiting callback"), "pending": _("being delivered"), "waiting": _("waiting")}
    words |= {"skipped": _("skipped"), "cancelled": _("cancelled")}
    return words[name]


def outcome(name: str) -> Markup:
    """How chain requests stand that are looked for."""
    words = {"succeeded": _("Succeeded"), "under_way": _("Under way"), "failed": _("Failed")}
    return (words | {"cancelled": _("Cancelled")})[name]


def callback(name: str) -> Markup:
    """What a receiver said in its callback."""
    return {"success": _("success"), "failure": _("failure"), "error": _("error")}[name]


def trigger(name: str) -> Markup:
    """Why an attempt was made."""
    words = {"push": _("first try"), "test": _("test"), "chain": _("first try, after the URL before it")}
    return (words | {"retry": _("retry"), "redelivery": _("redelivery")})[name]


NOTICES: Mapping[str, str] = {
    "saved": marked("The webhook was saved."),
    "paused": marked("The webhook is paused: pushes are not recorded for it until it is resumed."),
    "resumed": marked("The webhook is active again."),
    "deleted": marked("The webhook was deleted."),
    "test": marked("A test push was sent."),
    "redelivered": marked("It is being sent again."),
}


PROBLEMS: Mapping[int, str] = {
    400: marked("Bad Request"),
    403: marked("Forbidden"),
    404: marked("Not Found"),
    405: marked("Method Not Allowed"),
    409: marked("Conflict"),
    412: marked("Precondition Failed"),
    413: marked("Content Too Large"),
    429: marked("Too Many Requests"),
    500: marked("Internal Server Error"),
    503: marked("Service Unavailable"),
}


def problem(status: int) -> Markup:
    """What kind of error a status is."""
    return _(PROBLEMS.get(status) or HTTPStatus(status).phrase)


def plain(text: str) -> str:
    """Text that others typed for where no element can isolate its direction: without the characters that change it."""
    return _DIRECTIONS.sub("", text)


def notice(name: str) -> Markup | None:
    """What was just done, by the name that stands in the URL."""
    return _(NOTICES[name]) if name in NOTICES else None


def duration(milliseconds: int) -> Markup:
    """A duration as people read it."""
    if milliseconds < 1000:
        return _("%(number)s ms", number=milliseconds)
    return _("%(number)s s", number=f"{milliseconds / 1000:.1f}")


def ago(time: datetime) -> Markup:
    """How long ago a time was, or how soon it comes; beyond a month the date."""
    now = utcnow()
    past, distance = time <= now, abs(now - time)
    if distance >= timedelta(days=31):
        return escape(f"{time:%Y-%m-%d}")
    for size, words in (
        (timedelta(days=1), _days),
        (timedelta(hours=1), _hours),
        (timedelta(minutes=1), _minutes),
    ):
        if distance >= size:
            return words(distance // size, past)
    if distance < timedelta(seconds=5):
        return _("just now") if past else _("in a moment")
    return _seconds(distance // timedelta(seconds=1), past)


def _days(number: int, past: bool) -> Markup:
    if past:
        return ngettext("%(number)s day ago", "%(number)s days ago", number)
    return ngettext("in %(number)s day", "in %(number)s days", number)


def _hours(number: int, past: bool) -> Markup:
    if past:
        return ngettext("%(number)s hour ago", "%(number)s hours ago", number)
    return ngettext("in %(number)s hour", "in %(number)s hours", number)


def _minutes(number: int, past: bool) -> Markup:
    if past:
        return ngettext("%(number)s minute ago", "%(number)s minutes ago", number)
    return ngettext("in %(number)s minute", "in %(number)s minutes", number)


def _seconds(number: int, past: bool) -> Markup:
    if past:
        return ngettext("%(number)s second ago", "%(number)s seconds ago", number)
    return ngettext("in %(number)s second", "in %(number)s seconds", number)


def total_duration(deliveries: Sequence[Mapping[str, Any]]) -> Markup:
    """How long the latest attempts of a chain's deliveries took, together."""
    taken = [each["duration_ms"] for each in deliveries if each["duration_ms"] is not None]
    return duration(sum(taken)) if taken else Markup("\N{EN DASH}")


def cause_of(deliveries: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a chain: with the first of its deliveries that has not succeeded."""
    deciding = next((each for each in deliveries if each["state"] != "succeeded"), None)
    return str(deciding["cause"] or deciding["reason"]) if deciding else ""


def timing(attempt: Mapping[str, Any]) -> Markup:
    """How long an attempt took, and which parts of it are known."""
    parts = [_("Took %(duration)s", duration=duration(attempt["duration_ms"]))]
    if attempt["connect_ms"] is not None:
        parts.append(_("connecting %(duration)s", duration=duration(attempt["connect_ms"])))
    elif attempt["status_code"] is not None:
        parts.append(_("over a connection that was kept open"))
    if attempt["wait_ms"] is not None:
        parts.append(_("waiting for the answer %(duration)s", duration=duration(attempt["wait_ms"])))
    return _(", ").join(parts)


def summary(recent: Sequence[RunSummary]) -> Markup:
    """The latest outcomes, for who cannot see their marks."""
    counts = Counter(each.state.value for each in recent)
    told = _(", ").join(
        _("%(number)s %(outcome)s", number=count, outcome=state(name)) for name, count in counts.items()
    )
    return ngettext("The latest %(number)s: %(told)s", "The latest %(number)s: %(told)s", len(recent), told=told)


def chart(week: Chart) -> Markup:
    """The chart, for who cannot see it."""
    return _("; ").join(chart_day(day) for day in week.days if day.total)


def chart_day(day: Day) -> Markup:
    told = [_("%(outcome)s: %(number)s", outcome=outcome(name), number=n) for name, n in day.counts.items() if n]
    if day.response_ms is not None:
        told.append(_("response time %(duration)s", duration=duration(day.response_ms)))
    return Markup("{}: {}").format(f"{day.day:%Y-%m-%d}", _(", ").join(told) if told else _("nothing"))
