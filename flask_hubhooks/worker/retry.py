"""What an outcome means, and when the next try is."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from ..transport import Outcome
from ..transport.causes import cause, received
from ..transport.hook_url import origin

MINUTE_S, HOUR_S = 60, 3600
SCHEDULE_S = (
    5,
    5 * MINUTE_S,
    30 * MINUTE_S,
    2 * HOUR_S,
    5 * HOUR_S,
    10 * HOUR_S,
    14 * HOUR_S,
    20 * HOUR_S,
    24 * HOUR_S,
)
"""Seconds before the second, third … tenth attempt of a round: 75.6 hours in all."""
JITTER = 0.2


class Verdict(enum.Enum):
    RECEIVED = "received"
    RETRY = "retry"
    FAILED = "failed"
    GONE = "gone"
    """410: the receiver wants no more; the webhook is disabled."""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    delay_s: float = 0.0
    """RETRY: how long until the next attempt."""
    reason: str = ""
    """FAILED and GONE: the cause in words."""


def judge_test(outcome: Outcome) -> Judgement:
    """Decide about the one attempt of a test: received or failed, and no consequences."""
    judgement = judge(outcome, 0)
    if judgement.verdict in (Verdict.RECEIVED, Verdict.FAILED):
        return judgement
    return Judgement(Verdict.FAILED, reason=judgement.reason or "a test is sent once")


def judge(outcome: Outcome, retry_step: int) -> Judgement:
    """Decide by the rules: 2xx, 302 and 303 are received (Jenkins' Docker Hub plugin answers 302).

    301, 307 and 308 and a forbidden address fail at once, 410 disables, all else is retried until the steps
    are used up. `retry_step` is how many attempts of the round have failed before.
    """
    code = outcome.status_code
    if outcome.blocked:
        return Judgement(Verdict.FAILED, reason=outcome.error)
    if code is not None and received(code):
        return Judgement(Verdict.RECEIVED)
    if code in (301, 307, 308):
        return Judgement(Verdict.FAILED, reason=f"redirected ({code}) {_whereto(outcome)}")
    if code == 410:
        return Judgement(Verdict.GONE, reason=cause(code, ""))
    if retry_step >= len(SCHEDULE_S):
        return Judgement(Verdict.FAILED, reason=f"all {len(SCHEDULE_S) + 1} attempts failed")
    honoured = _retry_after_s(outcome) if code in (429, 502, 503, 504) else None
    return Judgement(Verdict.RETRY, delay_s=retry_delay(retry_step, honoured))


def retry_delay(retry_step: int, retry_after_s: float | None = None) -> float:
    """Seconds until the next attempt after the failure number `retry_step`, counted from 0.

    Without `retry_after_s` the scheduled delay ±20 %; with it what the receiver asked for, held between one
    and two times the scheduled delay.
    """
    scheduled = SCHEDULE_S[retry_step]
    if retry_after_s is None:
        return scheduled * random.uniform(1 - JITTER, 1 + JITTER)  # spreads load  # noqa: S311  # nosec B311
    return min(max(retry_after_s, scheduled), 2 * scheduled)


def _header(outcome: Outcome, name: str) -> str:
    return next((value for key, value in outcome.response_headers if key.lower() == name), "")


def _whereto(outcome: Outcome) -> str:
    target = _header(outcome, "location")
    advice = "redirects are not followed, set the hook URL to where it leads"
    if not target:
        return f"without saying where: {advice}"
    return f"to {_named_origin(target) or 'another URL'}: {advice}"


def _named_origin(url: str) -> str:
    """Return the origin of a URL that a receiver wrote: readers see it, and its path may be the very credential."""
    found = origin(url)
    return found if len(found) <= 300 and found.isascii() and found.isprintable() and " " not in found else ""


def _retry_after_s(outcome: Outcome) -> float | None:
    """The seconds a `Retry-After` asks for (RFC 9110, 10.2.3: a number or a date), or None."""
    value = _header(outcome, "retry-after").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return (when - datetime.now(timezone.utc)).total_seconds()
