"""What each outcome means for its delivery, and the bounds of every delay."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker.retry import SCHEDULE_S, Verdict, judge, judge_test, retry_delay

NOW = datetime.now(timezone.utc)
STEPS = st.integers(0, len(SCHEDULE_S) - 1)
BUSY = st.sampled_from([429, 502, 503, 504])


def answered(status: int | None, *headers: tuple[str, str], error: str = "", blocked: bool = False) -> Outcome:
    return Outcome(NOW, 1, status, error, blocked, response_headers=headers)


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


def test_schedule() -> None:
    """Nine retries: after 5 s, 5 min, 30 min, then 2, 5, 10, 14, 20 and 24 hours."""
    assert SCHEDULE_S == (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299, 302, 303])
def test_received(status: int) -> None:
    """2xx, 302 and 303 are received, since Jenkins' Docker Hub plugin answers 302."""
    assert judge(answered(status), 0).verdict is Verdict.RECEIVED
    assert judge(answered(status), len(SCHEDULE_S)).verdict is Verdict.RECEIVED


@pytest.mark.parametrize("status", [301, 307, 308])
def test_moved(status: int) -> None:
    """A redirect that asks to repeat the POST elsewhere fails at once, and the reason says where to."""
    judgement = judge(answered(status, ("LOCATION", "https://new.example:8443/hook/s3cr3t?a=b")), 0)
    assert judgement.verdict is Verdict.FAILED
    assert f"({status}) to https://new.example:8443. Redirects are not followed. " in judgement.reason
    for elsewhere in ("/hook/s3cr3t", "//s3cr3t", "s3cr3t", f"https://{'x' * 9000}/"):
        assert "to another URL. " in judge(answered(status, ("Location", elsewhere)), 0).reason
    for nowhere in ((), (("Location", ""),)):
        declined = judge(answered(status, *nowhere), 0)
        assert declined.verdict is judge_test(answered(status, *nowhere)).verdict is Verdict.DECLINED
        assert "without a Location header" in declined.reason


def test_gone() -> None:
    """410 means that the receiver wants no more deliveries."""
    judgement = judge(answered(410), 0)
    assert judgement.verdict is Verdict.GONE
    assert "410 Gone" in judgement.reason


def test_forbidden_address() -> None:
    """A forbidden address fails at once, with the cause as reason."""
    judgement = judge(answered(None, error="Hook address 10.0.0.1 is not public (private).", blocked=True), 0)
    assert (judgement.verdict, judgement.reason) == (Verdict.FAILED, "Hook address 10.0.0.1 is not public (private).")


@pytest.mark.parametrize(
    "status", [None, 199, 300, 304, 400, 401, 404, 408, 413, 418, 429, 500, 502, 503, 504, 599, 999]
)
def test_everything_else(status: int | None) -> None:
    """All other responses, and none, are retried until the schedule ends."""
    for step in range(len(SCHEDULE_S)):
        assert judge(answered(status), step).verdict is Verdict.RETRY
    used_up = judge(answered(status), len(SCHEDULE_S))
    assert (used_up.verdict, used_up.reason) == (Verdict.FAILED, "All 10 attempts failed.")


@given(STEPS)
def test_delay(step: int) -> None:
    """A delay is within 20 % of the scheduled one, and varies."""
    delays = {retry_delay(step) for _ in range(20)}
    assert all(0.8 * SCHEDULE_S[step] <= delay <= 1.2 * SCHEDULE_S[step] for delay in delays)
    assert len(delays) > 1
    assert 0.8 * SCHEDULE_S[step] <= judge(answered(500), step).delay_s <= 1.2 * SCHEDULE_S[step]


@given(STEPS, st.floats(allow_nan=False))
def test_retry_after_bounds(step: int, asked: float) -> None:
    """The delay that a receiver asks for is limited to one to two times the scheduled delay."""
    assert SCHEDULE_S[step] <= retry_delay(step, asked) <= 2 * SCHEDULE_S[step]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("header", ["Retry-After", "retry-after"])
def test_retry_after_seconds(status: int, header: str) -> None:
    """Within the bounds, the number of seconds is used as it is."""
    assert judge(answered(status, (header, " 450 ")), 1).delay_s == 450


def test_retry_after_date() -> None:
    """A date means the time until then."""
    for asked in (in_seconds(450), in_seconds(450).replace("GMT", "-0000")):
        assert 440 <= judge(answered(503, ("Retry-After", asked)), 1).delay_s <= 450


@pytest.mark.parametrize(
    ("asked", "delay"),
    [("0", 300), ("7", 300), (in_seconds(-3600), 300), ("601", 600), ("9" * 5000, 600), (in_seconds(9e6), 600)],
    ids=["none", "too soon", "gone by", "too late", "far too late", "a distant date"],
)
def test_retry_after_out_of_bounds(asked: str, delay: int) -> None:
    """A time that is too soon, past or huge becomes the nearest bound."""
    assert judge(answered(503, ("Retry-After", asked)), 1).delay_s == delay


GARBAGE = [
    "",
    "soon",
    "-5",
    "1.5",
    "1e3",
    "٣",
    "²",
    "Mon, 99 Jan 2024 00:00:00 GMT",
    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "Mon, 01 Jan 2024 99999999999999999999:00:00 GMT",
    "Mon, 01 Jan 2024 00:00:00 +99999999999",
]


@pytest.mark.parametrize("asked", GARBAGE)
def test_retry_after_garbage(asked: str) -> None:
    """Anything but a number or a date is ignored."""
    assert 240 <= judge(answered(503, ("Retry-After", asked)), 1).delay_s <= 360


@pytest.mark.parametrize("status", [None, 400, 408, 500, 501])
def test_retry_after_elsewhere(status: int | None) -> None:
    """Only 429, 502, 503 and 504 may ask for a delay."""
    assert judge(answered(status, ("Retry-After", "600")), 1).delay_s <= 360


DATES = st.from_regex(r"\A(Mon, )?\d{1,2} (Jan|Feb|Foo) \d{1,20} \d{1,3}:\d{1,3}(:\d{1,3})? ([+-]\d{1,12}|GMT)\Z")


@given(BUSY, STEPS, st.text() | st.integers().map(str) | st.datetimes().map(format_datetime) | DATES)
def test_any_retry_after(status: int, step: int, asked: str) -> None:
    """No header, whatever it contains, raises or leads out of the bounds."""
    judgement = judge(answered(status, ("Retry-After", asked)), step)
    assert judgement.verdict is Verdict.RETRY
    assert 0.8 * SCHEDULE_S[step] <= judgement.delay_s <= 2 * SCHEDULE_S[step]
