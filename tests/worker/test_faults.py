"""Deliveries while the database is away, and when transactions meet."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.chains import Changes
from flask_hubhooks.records.models import Delivery, Hook, Webhook
from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker import claims, dispatcher, recording
from flask_hubhooks.worker.claims import Claim, Released
from flask_hubhooks.worker.recording import Result
from flask_hubhooks.worker.retry import judge

from ..support.host import Host, failing_for
from ..support.receivers import Connection, Receiver, Request, poll

pytestmark = pytest.mark.usefixtures("roomy_pool")


def result(claim: Claim, status_code: int = 200) -> Result:
    outcome = Outcome(utcnow(), 1, status_code)
    return Result(claim, claim.hook_url, {}, "{}", outcome, judge(outcome, claim.retry_step))


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_a_database_that_is_away_costs_nothing_on_the_wire(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses during a database outage are recorded after it, and nothing is sent again."""
    writing, away = host.state.writing, threading.Event()

    @contextmanager
    def flaky() -> Iterator[Session]:
        if away.is_set():
            raise OperationalError("", {}, Exception("server closed the connection unexpectedly"))
        with writing() as session:
            yield session

    def answer(request: Request, connection: Connection) -> int:
        away.set()
        threading.Timer(1.5, away.clear).start()  # a sweep falls into it
        return 200

    with Receiver(answer) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        monkeypatch.setattr(host.state, "writing", flaky)
        host.run_job()
        poll(lambda: not away.is_set())
        assert [(each["state"], each["attempt_count"]) for each in host.history(webhook)] == [("succeeded", 1)]
        assert len(receiver.requests) == 1


def test_what_was_locked_does_not_wait_for_the_rest(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that were locked are recorded soon, even if more results keep coming."""
    record, tried, events = recording.record, set[uuid.UUID](), list[str]()

    def locked_at_first(session: Session, results: Sequence[Result], *args: Any, **options: Any) -> Changes:
        first = frozenset(each.claim.id for each in results) - tried
        tried.update(first)
        events.extend(["locked"] * len(first))
        again = [each for each in results if each.claim.id not in first]
        events.extend(["recorded"] * len(again))
        changes = record(session, again, *args, **options) if again else Changes()
        return replace(changes, locked=changes.locked | first)

    def push_again(request: Request, connection: Connection) -> int:
        connection.receiver.stopping.wait(0.03)
        if len(connection.receiver.requests) < 20:
            host.push()
        return 200

    monkeypatch.setattr(recording, "record", locked_at_first)
    with Receiver(push_again) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.run_job()
    assert host.states(webhook) == ["succeeded"] * 20
    assert events.index("recorded") < 19


def test_a_commit_whose_answer_is_lost(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is not repeated if the connection breaks before it is confirmed."""
    writing, record, recorded = host.state.writing, recording.record, threading.Event()
    lost: list[bool] = []

    @contextmanager
    def breaking() -> Iterator[Session]:
        recorded.clear()
        with writing() as session:
            yield session
        if recorded.is_set() and not lost:
            lost.append(True)
            raise OperationalError("", {}, Exception("server closed the connection unexpectedly"))

    def noted(*args: Any, **options: Any) -> Changes:
        recorded.set()
        return record(*args, **options)

    monkeypatch.setattr(recording, "record", noted)
    with Receiver(500) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        monkeypatch.setattr(host.state, "writing", breaking)
        host.run_job()
        assert lost
        (delivery,) = host.history(webhook)
        assert (delivery["state"], delivery["attempt_count"]) == ("pending", 1)


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_a_worker_that_stands_still_within_a_transaction(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen worker's locks are released after a while, and it records its results when it goes on."""
    record, frozen, thawed = recording.record, threading.Event(), threading.Event()
    kept_waiting: list[bool] = []

    def freezing(*args: Any, **options: Any) -> Changes:
        changes = record(*args, **options)
        if not frozen.is_set():
            frozen.set()
            kept_waiting.append(not thawed.wait(10))
        return changes

    monkeypatch.setattr(recording, "record", freezing)
    monkeypatch.setattr(dispatcher, "IDLE_S", 0.2)
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        worker = threading.Thread(target=host.run_job)
        worker.start()
        assert frozen.wait(20)
        assert host.call_back(receiver.requests[0].body, state="success").status_code == 200
        thawed.set()
        worker.join(20)
        host.run_job()
        assert kept_waiting == [False]
        states = [(each["state"], each["attempt_count"]) for each in host.history(webhook)]
        assert states == [("succeeded", 1), ("awaiting_callback", 1)]


def lost_and_held(host: Host) -> tuple[Claim, Claim]:
    """Two claims of one delivery: one with an expired lease, and its successor."""
    host.push()
    with host.writing() as session:
        (lost,) = claims.claim(session, 5)[0]
    host.make_due()
    with host.writing() as session:
        (held,) = claims.claim(session, 5)[0]
    return lost, held


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_attempts_of_a_worker_and_its_successor_are_both_kept(host: Host) -> None:
    """Attempts at a locked delivery are recorded later and numbered consecutively."""
    webhook = host.create("http://127.0.0.1:9/")
    lost, held = lost_and_held(host)

    with host.writing() as session:
        recording.record(session, [result(lost, 500)], 60)
        with host.writing() as other:
            assert recording.record(other, [result(held)], 60).locked == {held.id}
    with host.writing() as session:
        assert not recording.record(session, [result(held)], 60).locked
    (delivery,) = host.history(webhook)
    assert delivery["state"] == "succeeded"
    assert [each["status_code"] for each in host.details(webhook, delivery)["attempts"]] == [500, 200]


def test_a_lost_lease_gives_nothing_back(host: Host) -> None:
    """Releasing a claim whose lease is lost does not take the delivery from the successor."""
    host.create("http://127.0.0.1:9/")
    lost, held = lost_and_held(host)
    with host.writing() as session:
        claims.release(session, [Released(lost)])
        assert session.scalars(select(Delivery.lease_token)).one() == held.lease_token


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_deleting_a_webhook_that_is_just_being_disabled(host: Host) -> None:
    """Deleting and disabling at the same moment wait for each other, and neither fails."""
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    with host.writing() as session:
        (claim,) = claims.claim(session, 5)[0]
    answers: list[int] = []
    url = f"acme/app/webhooks/{webhook['id']}/"
    thread = threading.Thread(target=lambda: answers.append(host.api("DELETE", url).status_code))
    with host.writing() as session:
        recording.record(session, [result(claim, 410)], 60)
        with host.statements("advisory") as tried:
            thread.start()
            poll(lambda: tried)
    thread.join(20)
    assert answers == [204]


def test_many_that_fail_together(host: Host) -> None:
    """Recording failures and releases takes the same number of statements however many there are."""
    webhook = host.create("http://127.0.0.1:9/")
    counts = [statements_of_failures(host, together) for together in (2, 30)]
    assert counts[0] == counts[1] < 15
    due = [each["next_attempt_at"] for each in host.history(webhook)]
    assert len(set(due)) == len(due) > 20


def statements_of_failures(host: Host, together: int) -> int:
    """Count the statements that record this many failures and release this many claims."""
    for _ in range(2 * together):
        host.push()
    with host.writing() as session:
        taken = claims.claim(session, 100)[0]
    with host.statements() as statements, host.writing() as session:
        recording.record(session, [result(each, 500) for each in taken[:together]], 60)
        claims.release(session, [Released(each, 60.0 + number) for number, each in enumerate(taken[together:])])
    return len(statements)


def test_a_success_ends_failing_whichever_was_claimed_first(host: Host) -> None:
    """A success ends the failing even if it was claimed before the failure was recorded."""
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    host.push()
    with host.writing() as session:
        first, second = claims.claim(session, 5)[0]
    with host.writing() as session:
        recording.record(session, [result(first, 500)], 60)
    with host.writing() as session:
        recording.record(session, [result(second)], 60)
    (hook,) = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    assert hook["failing_since"] is None


def test_a_success_ends_failing_of_its_own_hook_alone(host: Host) -> None:
    """A success of one hook does not hide the simultaneous failure of another."""
    host.create("http://127.0.0.1:9/", name="well")
    host.create("http://127.0.0.1:9/", name="failing")
    host.push()
    with host.writing() as session:
        well, failing = sorted(claims.claim(session, 5)[0], key=lambda claim: claim.hook_id)
    with host.writing() as session:
        recording.record(session, [result(well), result(failing, 500)], 60)
        assert [each is not None for each in session.scalars(select(Hook.failing_since).order_by(Hook.id))] == [
            False,
            True,
        ]


def test_a_late_failure_does_not_disable_a_hook_that_is_well_again(host: Host) -> None:
    """A success ends the days of failing; a failure claimed before it restarts the count."""
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    host.push()
    host.set_all(Hook, **failing_for(days=6))
    with host.writing() as session:
        first, second = claims.claim(session, 5)[0]
    with host.writing() as session:
        recording.record(session, [result(first)], 60)
    with host.writing() as session:
        recording.record(session, [result(second, 500)], 60)
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["active"]


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)  # SQLite calls it the same as being locked
def test_an_attempt_that_the_database_refuses(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """If an attempt cannot be stored, its delivery still moves on and is not resent; the log says so."""
    with Receiver() as receiver:
        webhook = host.create(f"{receiver.url}?token=not-for-the-log")
        host.push()
        with host.writing() as session:
            session.execute(text("ALTER TABLE hubhooks_attempt RENAME COLUMN wait_ms TO waited"))
        host.deliver()
        with host.writing() as session:
            session.execute(text("ALTER TABLE hubhooks_attempt RENAME COLUMN waited TO wait_ms"))
        host.make_due()
        host.deliver()
    assert len(receiver.requests) == 1
    assert [(each["state"], each["attempt_count"]) for each in host.history(webhook)] == [("succeeded", 0)]
    assert "cannot record 1 deliveries" in caplog.text
    assert "not-for-the-log" not in caplog.text


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
def test_an_attempt_that_cannot_be_written(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """If the text of one attempt is no valid Unicode, its delivery still moves on, and so do the others."""
    outcomes = iter([Outcome(utcnow(), 5, 200), Outcome(utcnow(), 5, 200, error="\ud800")])

    class Sender:
        def send(self, _: object, done: Callable[[Outcome], None]) -> None:
            done(next(outcomes))

    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    host.push()
    with host.app.app_context():
        dispatcher.Dispatcher(host.state, transport=Sender()).run()
    assert {each["state"] for each in host.history(webhook)} == {"succeeded"}
    assert sorted(each["attempt_count"] for each in host.history(webhook)) == [0, 1]
    assert "cannot record" in caplog.text


def test_a_held_delivery_says_so(host: Host) -> None:
    """The history says that a delivery is held for want of a key, until it is sent."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        with host.writing() as session:
            kept = session.scalars(select(Webhook.encrypted_secret)).one()
        host.set_all(Webhook, encrypted_secret=b"nonsense")
        host.deliver()
        assert host.history(webhook)[0]["reason"].startswith("Waiting: its secret or its headers cannot be decrypted")
        host.set_all(Webhook, encrypted_secret=kept)
        host.make_due()
        host.deliver()
    assert [(each["state"], each["reason"]) for each in host.history(webhook)] == [("succeeded", "")]


def test_localhost_is_allowed_by_either_loopback_network(make_host: Callable[..., Host]) -> None:
    """A hook on localhost works if either loopback network is allowed."""
    for network in ("127.0.0.0/8", "::1/128"):
        host = make_host(config={"HUBHOOKS_ALLOWED_NETWORKS": [network]})
        with Receiver() as receiver:
            webhook = host.create(f"http://localhost:{receiver.port}/", name=network)
            host.push()
            host.deliver()
            assert host.history(webhook)[0]["state"] == "succeeded"
            host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/")
