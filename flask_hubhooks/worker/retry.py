"""Decides what an outcome means for its delivery, and when the next attempt is made."""

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
"""Seconds before the second, third, … tenth attempt of a round: 75.6 hours in total."""
JITTER = 0.2


class Verdict(enum.Enum):
    RECEIVED = "received"
    RETRY = "retry"
    FAILED = "failed"
    DECLINED = "declined"
    """301, 307 or 308 that lead nowhere: the receiver does not want this push, which says nothing about the hook."""
    GONE = "gone"
    """410: the receiver wants no more deliveries; the webhook is disabled."""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    delay_s: float = 0.0
    """RETRY: the time until the next attempt."""
    reason: str = ""
    """FAILED, DECLINED and GONE: why, for users."""


def judge_test(outcome: Outcome) -> Judgement:
    """Judge the only attempt of a test: it is received or failed, and nothing else follows."""
    judgement = judge(outcome, 0)
    if judgement.verdict in (Verdict.RECEIVED, Verdict.FAILED, Verdict.DECLINED):
        return judgement
    return Judgement(Verdict.FAILED, reason=judgement.reason or "A test is sent only once.")


def judge(outcome: Outcome, retry_step: int) -> Judgement:
    """Judge an attempt; `retry_step` is how many attempts of the round have failed before it.

    2xx, 302 and 303 are received (Jenkins' Docker Hub plugin answers 302). 301, 307, 308 and forbidden addresses fail
    at once; without a `Location` the receiver declines (Dokploy answers 301 to a tag that it does not deploy). 410
    disables the webhook. Everything else is retried until the schedule ends.
    """
    code = outcome.status_code
    if outcome.blocked:
        return Judgement(Verdict.FAILED, reason=outcome.error)
    if code is not None and received(code):
        return Judgement(Verdict.RECEIVED)
    if code in (301, 307, 308):
        return _redirected(code, outcome)
    if code == 410:
        return Judgement(Verdict.GONE, reason=cause(code, ""))
    if retry_step >= len(SCHEDULE_S):
        return Judgement(Verdict.FAILED, reason=f"All {len(SCHEDULE_S) + 1} attempts failed.")
    retry_after_s = _retry_after_s(outcome) if code in (429, 502, 503, 504) else None
    return Judgement(Verdict.RETRY, delay_s=retry_delay(retry_step, retry_after_s))


def retry_delay(retry_step: int, retry_after_s: float | None = None) -> float:
    """Return the seconds until the next attempt after failure number `retry_step`, counted from 0.

    Without `retry_after_s` that is the scheduled delay ±20 %. With it, it is what the receiver asked for, but between
    one and two times the scheduled delay.
    """
    scheduled = SCHEDULE_S[retry_step]
    if retry_after_s is None:
        return scheduled * random.uniform(1 - JITTER, 1 + JITTER)  # spreads load  # noqa: S311  # nosec B311
    return min(max(retry_after_s, scheduled), 2 * scheduled)


def _redirected(code: int, outcome: Outcome) -> Judgement:
    location = _header(outcome, "location")
    if not location:
        declined = f"Redirected ({code}) without a Location header. The receiver does not want this push."
        return Judgement(Verdict.DECLINED, reason=declined)
    # Readers see the reason, and the path may be a credential: only the origin is shown, if it is a plain one.
    found = origin(location)
    shown = found and len(found) <= 300 and found.isascii() and found.isprintable() and " " not in found
    advice = "Redirects are not followed. Set the hook URL to where it leads."
    reason = f"Redirected ({code}) to {found if shown else 'another URL'}. {advice}"
    return Judgement(Verdict.FAILED, reason=reason)


def _retry_after_s(outcome: Outcome) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110 section 10.2.3: a number or a date)."""
    value = _header(outcome, "retry-after").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        time = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return (time - datetime.now(timezone.utc)).total_seconds()


def _header(outcome: Outcome, name: str) -> str:
    return next((value for key, value in outcome.response_headers if key.lower() == name), "")
