"""The dispatcher's loop: wake-ups, claims that fail, and stopping, with a transport that answers when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.chains import Changes
from flask_hubhooks.records.models import Delivery, attempts
from flask_hubhooks.transport import Outcome, Request
from flask_hubhooks.worker import claims, dispatcher, recording
from flask_hubhooks.worker.dispatcher import Dispatcher
from flask_hubhooks.worker.recording import Result

from ..support.host import Host
from ..support.marks import URL, on_sqlite

pytestmark = on_sqlite
Answer = Callable[[], None]


class Sender:
    """Calls a function for each request, which answers it with 200."""

    def __init__(self, sent: Callable[[Answer], None]) -> None:
        self._sent = sent

    def send(self, _: Request, done: Callable[[Outcome], None]) -> None:
        self._sent(lambda: done(Outcome(utcnow(), 5, 200)))


def recorded_attempts(host: Host) -> int:
    with host.writing() as session:
        return session.scalar(select(func.count()).select_from(attempts)) or 0


def test_a_claim_that_fails_with_results_in_hand(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up whose claim fails does not lose the results that have come in meanwhile."""
    host.create(URL)
    host.push()
    claim, answered = claims.claim, threading.Event()

    def failing_claim(*arguments: Any, **options: Any) -> Any:
        if answered.is_set():
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))
        return claim(*arguments, **options)

    def sent(answer: Answer) -> None:
        def wake_and_answer() -> None:
            answered.set()
            worker._wake()
            answer()

        threading.Timer(0.2, wake_and_answer).start()

    monkeypatch.setattr(claims, "claim", failing_claim)
    worker = Dispatcher(host.state, linger_s=0.5, transport=Sender(sent))
    with host.app.app_context(), pytest.raises(OperationalError):
        worker.run()
    assert recorded_attempts(host) == 1


def test_stopping_with_a_locked_delivery(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is answered late after a stop is recorded, even if its delivery is locked at first."""
    host.create(URL)
    host.push()
    monkeypatch.setattr(dispatcher, "STOP_LOCKED_S", 0.5)
    record, calls = recording.record, []

    def locked_at_first(session: Session, results: list[Result], *arguments: Any, **options: Any) -> Changes:
        calls.append(results)
        if len(calls) == 1:
            return Changes(locked=frozenset(each.claim.id for each in results))
        return record(session, results, *arguments, **options)

    def sent(answer: Answer) -> None:
        worker.stop()
        threading.Timer(1.0, answer).start()

    monkeypatch.setattr(recording, "record", locked_at_first)
    worker = Dispatcher(host.state, transport=Sender(sent))
    with host.app.app_context():
        worker.run()
    assert recorded_attempts(host) == 1


def test_holds_little_more_than_it_can_send(host: Host) -> None:
    """A worker with few requests in flight leaves to others what would only wait in it."""
    host.create(URL)
    for _ in range(400):
        host.push()
    held = []

    def sent(answer: Answer) -> None:
        threading.Timer(0.02, answer).start()
        with host.writing() as session:
            held.append(session.scalars(select(func.count()).where(Delivery.lease_token.is_not(None))).one())

    with host.app.app_context():
        Dispatcher(host.state, concurrency=4, transport=Sender(sent)).run()
    assert recorded_attempts(host) == 400
    assert max(held) <= 100


def test_no_thread_to_listen_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without room for another thread a worker delivers, and leaves no subscription behind."""
    host.create(URL)
    host.push()
    start = threading.Thread.start

    def no_more_threads(thread: threading.Thread) -> None:
        if thread.name == "hubhooks-wakes":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    worker = Dispatcher(host.state, linger_s=0.5, transport=Sender(lambda answer: answer()))
    with host.app.app_context():
        worker.run()
    assert recorded_attempts(host) == 1
    assert host.state.redis.publish(f"{host.state.config.queue}:wakes", "") == 0


def test_wake_ups_claim_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up for something that is not due here makes an idle worker look once."""
    host.create(URL)
    claim, calls = claims.claim, []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(threading.current_thread())
        return claim(*arguments, **options)

    monkeypatch.setattr(claims, "claim", counted)
    worker = Dispatcher(host.state, linger_s=1.0, transport=Sender(lambda answer: answer()))
    looks: list[int] = []

    def wake_five_times() -> None:
        before = len(calls)
        for _ in range(5):
            worker._wake()
            threading.Event().wait(0.1)
        looks.append(len(calls) - before)

    timer = threading.Timer(0.2, wake_five_times)
    timer.start()
    with host.app.app_context():
        worker.run()
    timer.join()
    assert looks[0] <= 7, "five, and perhaps a look that is due anyway"


def test_wake_ups_of_other_versions(host: Host) -> None:
    """A listening worker takes any text on the channel as a wake-up, and goes on listening."""
    host.create(URL)
    worker = Dispatcher(host.state, linger_s=1.0, transport=Sender(lambda answer: answer()))
    heard: list[int] = []

    def talk() -> None:
        for text in (
            "",
            "nonsense",
            "{}",
            "7",
            "[7]",
            '[["a", 1]]',
            "[[1, 2, 3]]",
            "[[1, 2]]",
            "[[1e400, 1]]",
            f"[[{10**30}, 1]]",
            "[" * 100_000,
        ):
            heard.append(host.state.redis.publish(f"{host.state.config.queue}:wakes", text))
        host.push()

    timer = threading.Timer(0.2, talk)
    timer.start()
    with host.app.app_context():
        worker.run()
    timer.join()
    assert heard == [1] * 11
    assert recorded_attempts(host) == 1
