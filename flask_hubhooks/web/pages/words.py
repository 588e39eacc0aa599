"""The pages' words for states, outcomes and times."""

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
from .chart import Chart, Day
from .translation import gettext as _
from .translation import marked, marked_plural, ngettext

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
"""States that are not final."""


def state(name: str) -> Markup:
    """The state of a delivery, or of the one that decides a run's outcome."""
    words = {
        "succeeded": _("Succeeded"),
        "failed": _("Failed"),
        "expired": _("No callback received"),
        "awaiting_callback": _("Awaiting callback"),
        "pending": _("Under way"),
        "waiting": _("Waiting for its turn"),
        "skipped": _("Skipped"),
        "cancelled": _("Cancelled"),
    }
    return words[name]


def webhook_state(webhook: Mapping[str, Any]) -> Markup:
    """Whether a webhook is active, paused or disabled."""
    if webhook["active"]:
        return _("Active")
    return _("Disabled") if webhook["disabled_reason"] else _("Paused")


def outcome(name: str) -> Markup:
    """The outcome of a run."""
    return _("Under way") if name == "under_way" else state(name)


def callback(name: str) -> Markup:
    """The state that a receiver gave in its callback."""
    return {"success": _("success"), "failure": _("failure"), "error": _("error")}[name]


def trigger(name: str) -> Markup:
    """Why an attempt was made."""
    words = {
        "push": _("First attempt"),
        "test": _("Test"),
        "chain": _("First attempt after the previous hook"),
        "retry": _("Retry"),
        "redelivery": _("Redelivery"),
    }
    return words[name]


def payload_formats() -> dict[str, str]:
    """The payload formats, named by the receivers they are for."""
    return {
        "dockerhub": "Docker Hub",
        "dockerhub-full": "Keel, Kargo, Dokploy, Jenkins (dockerhub-full)",
        "harbor": "Argo CD, Flux, Keel, Kargo (harbor)",
        "distribution": "Keel, Jenkins, Kobold (distribution)",
        "cloudevents": "Knative, Argo Events (cloudevents)",
        "slack": "Slack, Mattermost, Rocket.Chat",
        "discord": "Discord",
        "teams": "Microsoft Teams",
        "template": _("Template of your own"),
    }


def payload_format(name: str) -> str:
    """A payload format, named by the receivers it is for; one of another version by its own name."""
    return payload_formats().get(name, name)


def tls_choices() -> dict[str, Markup]:
    """How the certificate of a receiver may be verified."""
    return {"": _("A known authority"), "ca": _("An authority of your own"), "public_key_sha256": _("A pinned key")}


NOTICES: Mapping[str, str] = {
    "saved": marked("The webhook was saved."),
    "paused": marked("The webhook is paused. What is pending is held until you resume it."),
    "resumed": marked("The webhook is active again, and sends what was held."),
    "deleted": marked("The webhook was deleted."),
    "test": marked("A test push was sent."),
    "pinned": marked("The key is pinned. Redeliver to try it."),
    "redelivered": marked("The delivery is being sent again."),
    "decided": marked("Your decision was recorded."),
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
    """The title of an HTTP status."""
    return _(PROBLEMS.get(status) or HTTPStatus(status).phrase)


def plain(text: str) -> str:
    """Remove characters that change the direction, for places where no element can isolate the text."""
    return _DIRECTIONS.sub("", text)


def notice(name: str) -> Markup | None:
    """The message about what was just done, by its name in the URL."""
    return _(NOTICES[name]) if name in NOTICES else None


def duration(milliseconds: int) -> Markup:
    """A duration in milliseconds or seconds."""
    if milliseconds < 1000:
        return _("%(number)s ms", number=milliseconds)
    return _("%(number)s s", number=f"{milliseconds / 1000:.1f}")


def ago(time: datetime) -> Markup:
    """How long ago a time was, or how soon it comes; beyond a month the date.

    Babel's own words would need Babel, which hosts without Flask-Babel do not have.
    """
    now = utcnow()
    past, distance = time <= now, abs(now - time)
    if distance >= timedelta(days=31):
        return escape(f"{time:%Y-%m-%d}")
    if distance < timedelta(seconds=5):
        return _("just now") if past else _("in a moment")
    unit, before, ahead = next(each for each in _UNITS if distance >= each[0])
    return ngettext(*(before if past else ahead), distance // unit)


_UNITS = (
    (
        timedelta(days=1),
        marked_plural("%(number)s day ago", "%(number)s days ago"),
        marked_plural("in %(number)s day", "in %(number)s days"),
    ),
    (
        timedelta(hours=1),
        marked_plural("%(number)s hour ago", "%(number)s hours ago"),
        marked_plural("in %(number)s hour", "in %(number)s hours"),
    ),
    (
        timedelta(minutes=1),
        marked_plural("%(number)s minute ago", "%(number)s minutes ago"),
        marked_plural("in %(number)s minute", "in %(number)s minutes"),
    ),
    (
        timedelta(seconds=1),
        marked_plural("%(number)s second ago", "%(number)s seconds ago"),
        marked_plural("in %(number)s second", "in %(number)s seconds"),
    ),
)


def total_duration(deliveries: Sequence[Mapping[str, Any]]) -> Markup:
    """The total duration of the latest attempts of a run's deliveries."""
    taken = [each["duration_ms"] for each in deliveries if each["duration_ms"] is not None]
    return duration(sum(taken)) if taken else Markup("\N{EN DASH}")


def cause_of(deliveries: Sequence[Mapping[str, Any]]) -> str:
    """Why a run has not succeeded: the cause of its first delivery that has not."""
    deciding = next((each for each in deliveries if each["state"] != "succeeded"), None)
    return str(deciding["cause"] or deciding["reason"]) if deciding else ""


def timing(attempt: Mapping[str, Any]) -> Markup:
    """The duration of an attempt and of its parts."""
    parts = [_("Took %(duration)s", duration=duration(attempt["duration_ms"]))]
    if attempt["connect_ms"] is not None:
        parts.append(_("%(duration)s to connect", duration=duration(attempt["connect_ms"])))
    elif attempt["status_code"] is not None:
        parts.append(_("on a reused connection"))
    if attempt["wait_ms"] is not None:
        parts.append(_("%(duration)s waiting for the response", duration=duration(attempt["wait_ms"])))
    return _(", ").join(parts)


def summary(recent: Sequence[RunSummary]) -> Markup:
    """The latest runs in words, for those who cannot see the marks."""
    counts = Counter(each.state.value for each in recent)
    outcomes = _(", ").join(
        _("%(number)s %(outcome)s", number=count, outcome=state(name)) for name, count in counts.items()
    )
    return ngettext(
        "Latest %(number)s: %(outcomes)s", "Latest %(number)s: %(outcomes)s", len(recent), outcomes=outcomes
    )


def chart(shown: Chart) -> Markup:
    """The chart in words, for those who cannot see it."""
    return _("; ").join(chart_day(day) for day in shown.days if day.total)


def chart_day(day: Day) -> Markup:
    words = [_("%(outcome)s: %(number)s", outcome=outcome(name), number=n) for name, n in day.counts.items() if n]
    if day.response_ms is not None:
        words.append(_("response time %(duration)s", duration=duration(day.response_ms)))
    return Markup("{}: {}").format(f"{day.day:%Y-%m-%d}", _(", ").join(words) if words else _("No deliveries"))
