"""Workers and web servers with wrong clocks: the database's clock decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flask_hubhooks.records.chains import Changes
from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker import claims, recording
from flask_hubhooks.worker.claims import Claim
from flask_hubhooks.worker.retry import judge

from ..support.host import Host
from ..support.stopped_clock import StoppedClock, stopped_clock


@pytest.fixture(params=[-600.0, 600.0], ids=["slow", "fast"])
def clock(request: pytest.FixtureRequest, host: Host) -> Iterator[StoppedClock]:
    """The database's clock, ten minutes ahead of the processes' clock or behind it."""
    with host.app.app_context():
        engine = host.db.engine
    with stopped_clock(engine) as clock:
        clock.skew_s = request.param
        yield clock


@pytest.fixture
def claim(host: Host) -> Callable[[], list[Claim]]:
    def take() -> list[Claim]:
        with host.writing() as session:
            return claims.claim(session, 10)[0]

    return take


def answered(host: Host, clock: StoppedClock, claim: Claim, status_code: int) -> Changes:
    outcome = Outcome(clock.at_process(), 5, status_code)
    with host.writing() as session:
        result = recording.Result(claim, claim.hook_url, {}, "{}", outcome, judge(outcome, claim.retry_step))
        return recording.record(session, [result], 3600)


def test_a_lease(host: Host, clock: StoppedClock, claim: Callable[[], list[Claim]]) -> None:
    """A lease lasts 45 s longer than its hook's time-out, whatever the clocks of the processes say."""
    webhook = host.create(hooks=[{"hook_url": "https://receiver.example.com/hook", "timeout_s": 20}])
    host.push()
    assert len(claim()) == 1
    clock.now_s += 64
    assert claim() == []
    assert host.redeliver(webhook).status_code == 409
    clock.now_s += 1
    assert host.redeliver(webhook).status_code == 202
    assert len(claim()) == 1


def test_a_retry(host: Host, clock: StoppedClock, claim: Callable[[], list[Claim]]) -> None:
    """A retry is due 5 s after the failure, give or take 20 %, whatever the clocks of the processes say."""
    host.create("https://receiver.example.com/hook")
    host.push()
    answered(host, clock, claim()[0], 500)
    clock.now_s += 3.9
    assert claim() == []
    clock.now_s += 2.2
    assert len(claim()) == 1


def test_a_callback_that_never_comes(host: Host, clock: StoppedClock, claim: Callable[[], list[Claim]]) -> None:
    """A callback expires after the configured time, whatever the clocks of the processes say."""
    webhook = host.create("https://receiver.example.com/hook", expect_final_callback=True)
    host.push()
    answered(host, clock, claim()[0], 200)
    for passes_s, state in ((3599, "awaiting_callback"), (2, "expired")):
        clock.now_s += passes_s
        with host.writing() as session:
            claims.expire_overdue(session, 10)
        assert host.states(webhook) == [state]
