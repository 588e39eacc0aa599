"""What a worker decides about deliveries and hooks from results, without any database."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from flask_hubhooks.records.models import Kind, Status
from flask_hubhooks.transport import Concern, Outcome
from flask_hubhooks.worker.claims import Claim
from flask_hubhooks.worker.recording import Decisions, Result, decide
from flask_hubhooks.worker.retry import judge, judge_test

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
URL = "https://ci.example.com/hook"


def claim(**columns: Any) -> Claim:
    fields: dict[str, Any] = {
        **dict.fromkeys(Claim._fields),
        "id": uuid.uuid4(),
        "lease_token": uuid.uuid4(),
        "round": 1,
        "retry_step": 0,
        "position": 0,
        "chain_length": 1,
        "callback_expected": False,
        "push_id": 1,
        "webhook_id": 2,
        "hook_id": 3,
        "hook_url": URL,
        "kind": Kind.PUSH,
    }
    return Claim(**fields | columns)


def decided(
    claim: Claim, status_code: int = 200, url: str = URL, concern: Concern = Concern.HOOK, **row: Any
) -> Decisions:
    outcome = Outcome(NOW, 1, status_code, concern=concern)
    judgement = judge_test(outcome) if claim.is_test else judge(outcome, claim.retry_step)
    columns = {"lease_token": claim.lease_token, "round": claim.round, "status": Status.PENDING}
    return decide(
        [Result(claim, claim.hook_url, {}, "{}", outcome, judgement)],
        {claim.id: SimpleNamespace(**columns | row)},
        {3: url},
    )


def test_received() -> None:
    """A received delivery has succeeded, or awaits its callback; either way its hook works."""
    last, awaiting = claim(), claim(callback_expected=True)
    assert decided(last) == Decisions(succeeded=[last.id], working_hooks={3})
    assert decided(awaiting) == Decisions(awaiting_callback=[awaiting.id], working_hooks={3})


def test_in_a_chain() -> None:
    """A delivery that ends or continues its run is followed by others; the last one is not."""
    assert decided(claim(chain_length=2)).ended_runs == {(1, 2)}
    assert decided(claim(chain_length=2), 301).ended_runs == {(1, 2)}
    assert decided(claim(chain_length=2, position=1)).ended_runs == set()


def test_failed() -> None:
    """A failure is retried, or final; 410 disables the webhook, and a hook whose receiver declines is not failing."""
    retried, declined, gone = decided(claim(), 500), decided(claim(), 301), decided(claim(), 410)
    assert (len(retried.retries), retried.failing_hooks, retried.gone_hooks) == (1, {3}, {})
    assert (len(declined.failed), declined.failing_hooks, declined.working_hooks) == (1, set(), set())
    assert (len(gone.failed), gone.failing_hooks, list(gone.gone_hooks)) == (1, {3}, [3])


@pytest.mark.parametrize(
    "row",
    [{"lease_token": None}, {"lease_token": uuid.uuid4()}, {"round": 2}, {"status": Status.SUCCEEDED}],
    ids=["released", "claimed by another worker", "sent again", "called back"],
)
@pytest.mark.parametrize("status_code", [200, 500, 410])
def test_a_claim_that_no_longer_holds(row: dict[str, Any], status_code: int) -> None:
    """Neither the delivery nor its hook changes."""
    assert decided(claim(), status_code, **row) == Decisions()


def test_cancelled_in_flight() -> None:
    """A cancelled delivery stays cancelled, but its receipt is noted unless it was redelivered since."""
    late = claim()
    cancelled: dict[str, Any] = {"status": Status.CANCELLED, "lease_token": None}
    assert decided(late, **cancelled) == Decisions(received=[late.id])
    assert decided(late, 500, **cancelled) == Decisions()
    assert decided(late, **cancelled, round=2) == Decisions()


def test_at_an_earlier_url() -> None:
    """A failure there does not count against the hook, whose current URL is tried at once; a success counts."""
    failed = claim()
    moved = "https://new.example.com/hook"
    assert decided(failed, 410, moved) == Decisions(retries={failed.id: 0.0}, more_due=True)
    assert decided(failed, 200, moved) == Decisions(succeeded=[failed.id], working_hooks={3})


def test_no_word_about_the_hook() -> None:
    """A test says nothing about its hook, nor does a failure that concerns nobody."""
    test = decided(claim(kind=Kind.TEST), 410)
    assert (len(test.failed), test.failing_hooks, test.gone_hooks) == (1, set(), {})
    nobodys = decided(claim(), 502, concern=Concern.NOBODY)
    assert (len(nobodys.retries), nobodys.failing_hooks) == (1, set())


def test_one_success_among_failures() -> None:
    """A hook that received one delivery of a batch is not failing."""
    outcomes = [Outcome(NOW, 1, code) for code in (500, 200, 500)]
    results = [Result(claim(), URL, {}, "{}", each, judge(each, 0)) for each in outcomes]
    rows = {
        each.claim.id: SimpleNamespace(lease_token=each.claim.lease_token, round=1, status=Status.PENDING)
        for each in results
    }
    decisions = decide(results, rows, {})
    assert (decisions.working_hooks, decisions.failing_hooks) == ({3}, set())
