"""Isolation: receivers that hang, fail or have a backlog take nothing from the others, on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from flask_hubhooks.chains import ended
from flask_hubhooks.database import utcnow
from flask_hubhooks.delivery import breaker, claims, dispatcher
from flask_hubhooks.delivery.caps import CAP
from flask_hubhooks.delivery.jobs import dispatchers
from flask_hubhooks.models import Delivery, Status

from .host import Host
from .receivers import Answer, Connection, Receiver, Request, close, poll

on_postgresql = pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)


class Gate:
    """An answer that keeps its requests waiting until the gate is opened."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.opened = threading.Event()

    def __call__(self, request: Request, connection: Connection) -> int:
        assert self.opened.wait(20)
        return self.status


@contextmanager
def running(host: Host) -> Iterator[None]:
    """The job runs beside the block, and has ended after it."""
    job = threading.Thread(target=host.run_job)
    job.start()
    try:
        yield
    finally:
        job.join(30)
    assert not job.is_alive()


class Clock:
    """The breakers' clock, which stands still until it is put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(breaker, "monotonic", lambda: self.now)


def push_to(host: Host, url: str, pushes: int, repository: str = "acme/app") -> dict[str, Any]:
    webhook = host.create(url, repository=repository)
    for number in range(pushes):
        host.push(repository, tag=f"v{number}")
    return webhook


def stored(host: Host, status: Status) -> list[Delivery]:
    with host.writing() as session:
        return list(session.scalars(select(Delivery).where(Delivery.status == status).order_by(Delivery.id)))


# Caps


def test_one_that_hangs(host: Host) -> None:
    """Of a destination that has not answered yet one request is on the wire; others are delivered meanwhile."""
    gate = Gate()
    with Receiver(gate) as hanging, Receiver() as healthy:
        push_to(host, hanging.url, 5, "acme/hanging")
        push_to(host, healthy.url, 20, "acme/healthy")
        with running(host):
            healthy.wait_for(20)
            poll(lambda: len(stored(host, Status.SUCCEEDED)) == 20)
            host.push("acme/hanging", tag="later")
            host.push("acme/healthy")
            healthy.wait_for(21)
            waiting = [each for each in stored(host, Status.PENDING) if f":{hanging.port}" in each.destination]
            assert waiting[-1].lease_token is None, "nothing more is claimed for it"
            assert len(hanging.requests) == 1
            gate.opened.set()
    assert len(hanging.requests) == 6
    assert len(stored(host, Status.SUCCEEDED)) == 27


def test_many_that_hang(make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though more destinations hang than HUBHOOKS_CONCURRENCY allows requests, the others are delivered."""
    monkeypatch.setattr("flask_hubhooks.delivery.pool.HANGING_S", 0.05)
    host = make_host(config={"HUBHOOKS_CONCURRENCY": 2})
    gates = [Gate() for _ in range(4)]
    receivers = [Receiver(gate) for gate in gates]
    with receivers[0], receivers[1], receivers[2], receivers[3], Receiver() as healthy:
        for number, receiver in enumerate(receivers):
            push_to(host, receiver.url, 2, f"acme/hanging{number}")
        with running(host):
            for receiver in receivers:
                receiver.wait_for(1)
            push_to(host, healthy.url, 3, "acme/healthy")
            healthy.wait_for(3)
            assert [len(receiver.requests) for receiver in receivers] == [1] * 4
            for gate in gates:
                gate.opened.set()
    assert len(stored(host, Status.SUCCEEDED)) == 11


def test_cap_falls(host: Host) -> None:
    """After a failure nothing more is sent until all that is on the wire to the destination is answered."""
    failing, good = Gate(500), Gate()
    with Receiver(200, 200, 200, 200, failing, good) as receiver, Receiver() as other:
        push_to(host, receiver.url, 20)
        with running(host):
            receiver.wait_for(9)
            failing.opened.set()
            poll(lambda: any(each.retry_step for each in stored(host, Status.PENDING)))
            push_to(host, other.url, 1, "acme/other")
            other.wait_for(1)
            poll(lambda: len(stored(host, Status.SUCCEEDED)) == 5)
            assert len(receiver.requests) == 9
            good.opened.set()
    assert len(receiver.requests) == 20


def test_paused_while_its_deliveries_wait(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its turn too long is looked at again before it is sent: its webhook may have been paused."""
    monkeypatch.setattr(dispatcher, "WAIT_MOST_S", 0.2)
    webhook: dict[str, Any] = {}

    def pause(request: Request, connection: Connection) -> int:
        assert host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False}).status_code == 200
        connection.receiver.stopping.wait(0.3)
        return 200

    with Receiver(pause) as receiver:
        webhook |= push_to(host, receiver.url, 4)
        host.run_job()
    assert len(receiver.requests) == 1
    assert len(stored(host, Status.CANCELLED)) == 4


def test_stopped_while_deliveries_wait(host: Host) -> None:
    """On SIGTERM what waits is due at once for other workers, though the request before it is still on the wire."""
    gate = Gate()
    with Receiver(gate, 200) as receiver:
        push_to(host, receiver.url, 5)
        with running(host):
            receiver.wait_for(1)
            dispatchers[host.state].stop()
            poll(lambda: [each.lease_token is None for each in stored(host, Status.PENDING)].count(True) == 4)
            gate.opened.set()
        assert len(receiver.requests) == 1
        left = stored(host, Status.PENDING)
        assert len(left) == 4
        assert all(each.next_attempt_at and each.next_attempt_at <= utcnow() for each in left)
        host.deliver()
    assert [request.headers["webhook-id"] for request in receiver.requests[1:]] == [str(each.id) for each in left]


# The breaker


def test_breaker_opens(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """After three failures in a row nothing more is sent: what waits is put off and has used up no attempt."""
    with Receiver(close) as receiver:
        webhook = push_to(host, receiver.url, 6)
        promised = {each.id: each.give_up_at for each in stored(host, Status.PENDING)}
        host.run_job()
        host.push()
        host.run_job()
        assert len(receiver.requests) == breaker.FAILURES == 3
    deliveries = {each.id: each for each in stored(host, Status.PENDING)}
    assert {each: deliveries[each].give_up_at for each in promised} == promised
    untried = [each for each in host.history(webhook) if not each["attempt_count"]]
    assert len(untried) == 4
    for each in untried[1:]:
        wait = datetime.fromisoformat(each["next_attempt_at"].replace("Z", "+00:00")) - utcnow()
        assert timedelta(seconds=1) < wait <= timedelta(seconds=6)
    assert all(each.lease_token is None and each.retry_step <= 1 for each in deliveries.values())
    assert caplog.text.count("(breaker open)") == 1
    assert f"destination http://127.0.0.1:{receiver.port} has not answered 3 times in a row" in caplog.text


def test_breaker_opens_once(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What was on the wire before the breaker opened, and fails after it, does not keep it open for longer."""
    Clock(monkeypatch)
    gate = Gate()

    def close_later(request: Request, connection: Connection) -> None:
        gate(request, connection)

    with Receiver(200, 200, 200, 200, close_later) as receiver:
        push_to(host, receiver.url, 20)
        with running(host):
            receiver.wait_for(9)
            gate.opened.set()
    assert len(receiver.requests) == 9
    assert len(stored(host, Status.SUCCEEDED)) == 4
    assert caplog.text.count("(breaker open)") == 1


def test_breaker_closes(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """When it was open for a while one delivery is tried; once that is answered, all are sent. The log tells each."""
    caplog.set_level("INFO")
    clock, gate = Clock(monkeypatch), Gate()
    with Receiver(close, close, close, gate) as receiver, Receiver() as other:
        push_to(host, receiver.url, 8)
        host.run_job()
        host.make_due()
        host.run_job()
        assert len(receiver.requests) == 3
        push_to(host, other.url, 3, "acme/other")
        clock.now += 1.2 * breaker.OPEN_S[0]
        host.make_due()
        with running(host):
            receiver.wait_for(4)
            other.wait_for(3)
            poll(lambda: len(stored(host, Status.SUCCEEDED)) == 3)
            assert len(receiver.requests) == 4
            gate.opened.set()
        host.make_due()
        host.run_job()
        assert len(stored(host, Status.SUCCEEDED)) == 11
    said = [each.getMessage().rpartition("(breaker ")[2] for each in caplog.records if "(breaker " in each.getMessage()]
    assert said == ["open)", "half-open)", "closed)"]


def test_breaker_opens_again(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A probe that fails opens it again, for longer."""
    clock = Clock(monkeypatch)
    with Receiver(close) as receiver:
        push_to(host, receiver.url, 8)
        host.run_job()
        for requests in (4, 4, 5):
            clock.now += 1.2 * breaker.OPEN_S[0]
            host.make_due()
            host.run_job()
            assert len(receiver.requests) == requests
    assert caplog.text.count("(breaker open)") == 3


def busy(request: Request, connection: Connection) -> bytes:
    return b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "requests"),
    [(503, 3), (502, 3), (504, 3), (close, 3), (500, 5), (404, 5), (busy, 5)],
    ids=["503", "502", "504", "no answer", "500", "404", "429"],
)
def test_what_counts(host: Host, answer: Answer, requests: int) -> None:
    """No answer counts, and a proxy's that nobody is there; any other answer is a living receiver's."""
    with Receiver(answer) as receiver:
        push_to(host, receiver.url, 5)
        host.run_job()
        assert len(receiver.requests) == requests


def test_failures_in_a_row(host: Host) -> None:
    """An answer in between begins the count anew."""
    with Receiver(close, close, 404, close, close, 200) as receiver:
        push_to(host, receiver.url, 6)
        host.run_job()
        assert len(receiver.requests) == 6


def test_failures_of_long_ago(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing was sent to a destination for more than an hour its failures are counted anew."""
    clock = Clock(monkeypatch)
    with Receiver(close) as receiver:
        for requests in (2, 4):
            push_to(host, receiver.url, 2, f"acme/{requests}")
            host.run_job()
            assert len(receiver.requests) == requests
            clock.now += 3601
        push_to(host, receiver.url, 4, "acme/more")
        host.run_job()
        assert len(receiver.requests) == 7


def test_tests_do_not_count(host: Host) -> None:
    """Test pushes that fail count for no breaker."""
    with Receiver(close) as receiver:
        webhook = host.create(receiver.url)
        for _ in range(4):
            assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
            host.run_job()
        host.push()
        host.run_job()
        assert len(receiver.requests) == 5


def test_given_up_while_held_back(host: Host) -> None:
    """The five days end for what a breaker holds back as well, and for what is not due yet."""
    with Receiver(close) as receiver:
        webhook = push_to(host, receiver.url, 5)
        host.run_job()
        host.make_overdue()
        host.run_job()
        assert len(receiver.requests) == 3
    assert {(each["state"], each["reason"]) for each in host.history(webhook)} == {
        ("failed", "not delivered within 5 days")
    }


# What a person waits for


def ask_for(host: Host, webhook: dict[str, Any], what: str) -> dict[str, Any]:
    """Send a test push, or the first delivery again; returns the delivery as it stands then."""
    path = "test/" if what == "test" else f"history/{host.history(webhook)[-1]['id']}/redeliver/"
    assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/{path}").status_code == 202
    return host.history(webhook)[0 if what == "test" else -1]


@pytest.mark.parametrize(("what", "requests"), [("test", 4), ("redelivery", 11)])
def test_past_a_breaker(host: Host, monkeypatch: pytest.MonkeyPatch, what: str, requests: int) -> None:
    """A test or redelivery goes at once where a breaker is open, alone; a redelivery that is answered closes it."""
    Clock(monkeypatch)
    with Receiver(close, close, close, 200) as receiver:
        webhook = push_to(host, receiver.url, 8)
        host.run_job()
        asked_for = ask_for(host, webhook, what)
        assert asked_for["next_attempt_at"] >= asked_for["created_at"]
        host.run_job()
        assert receiver.requests[3].headers["webhook-id"] == asked_for["id"]
        host.make_due()
        host.run_job()
    assert len(receiver.requests) == requests


@pytest.mark.parametrize("what", ["test", "redelivery"])
def test_past_one_that_hangs(host: Host, what: str) -> None:
    """A test or redelivery waits neither for the request before it nor for a backlog, up to eight of them together."""
    gate = Gate()
    with Receiver(200, gate) as receiver:
        webhook = push_to(host, receiver.url, 1)
        host.run_job()
        for number in range(20):
            host.push(tag=f"w{number}")
        with running(host):
            receiver.wait_for(2)
            asked_for = ask_for(host, webhook, what)
            receiver.wait_for(3)
            assert receiver.requests[2].headers["webhook-id"] == asked_for["id"]
            for _ in range(8):
                ask_for(host, webhook, "test")
            poll(lambda: not any(each.lease_token is None for each in stored(host, Status.PENDING)[-8:]))
            receiver.wait_for(1 + CAP)
            assert len(receiver.requests) == 1 + CAP
            gate.opened.set()
    assert not stored(host, Status.PENDING)


CLOSED = "http://closed.example.com:80"


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_nothing_else_past_a_breaker(host: Host) -> None:
    """Of workers that find a test at the same moment one takes it, and the others nothing in its place."""
    webhook = push_to(host, "http://closed.example.com/", 3)
    asked_for = ask_for(host, webhook, "test")
    with host.writing() as session, host.writing() as other:
        assert [str(each.id) for each in claims.claim(session, 20, {CLOSED})[0]] == [asked_for["id"]]
        assert claims.claim(other, 20, {CLOSED})[0] == []


def test_given_back_while_a_person_waits(host: Host) -> None:
    """Tests that a worker gives back when it is stopped go before all else again, however many there are."""
    webhook = push_to(host, "http://closed.example.com/", 3)
    asked_for = {ask_for(host, webhook, "test")["id"] for _ in range(3)}
    for left_out in (set(), {CLOSED}):
        with host.writing() as session:
            taken = claims.claim(session, 20, left_out)[0]
            assert {str(each.id) for each in taken if each.urgent} == asked_for
            claims.let_go(session, [claims.Unsent(each) for each in taken])
    assert len(taken) == 3


# Claims


def lay_out(host: Host, due: dict[str, int]) -> None:
    """So many due deliveries for each of these host names."""
    for name, pushes in due.items():
        push_to(host, f"http://{name}.example.com/", pushes, f"acme/{name}")


def claimed(host: Host, limit: int, *left_out: str, rotation: claims.Rotation | None = None) -> dict[str, int]:
    """How many deliveries a claim takes of each name."""
    with host.writing() as session:
        taken, _ = claims.claim(session, limit, {f"http://{name}.example.com:80" for name in left_out}, rotation)
    names = [each.destination.removeprefix("http://").split(".")[0] for each in taken]
    return {name: names.count(name) for name in sorted(set(names))}


def test_a_backlog_starves_nobody(host: Host) -> None:
    """However much is due for one destination, and since when, each of the others has its share of a claim."""
    lay_out(host, {"backlog": 40, "one": 1, "two": 12})
    assert claimed(host, 24) == {"backlog": 8, "one": 1, "two": 8}
    assert claimed(host, 64) == {"backlog": 32, "two": 4}


def test_left_out(host: Host) -> None:
    """What is left out is not claimed, and takes no share."""
    lay_out(host, {"open": 30, "one": 30})
    assert claimed(host, 20, "open") == {"one": 20}
    assert claimed(host, 20, "open", "one") == {}


def test_destinations_take_turns(host: Host) -> None:
    """Where there are more destinations than a claim serves, each is served in its turn."""
    names = [f"d{number:02}" for number in range(6)]
    lay_out(host, dict.fromkeys(names, 9))
    rotation = claims.Rotation()
    turns = [claimed(host, 16, rotation=rotation) for _ in range(4)]
    assert turns == [
        {"d00": 8, "d01": 8},
        {"d02": 8, "d03": 8},
        {"d04": 8, "d05": 8},
        dict.fromkeys(names, 1),
    ]


@pytest.mark.parametrize("analyzed", ["never", "while nothing was due", "now"])
@on_postgresql
def test_claims_stay_flat(host: Host, analyzed: str) -> None:
    """No statement of a claim, a sweep or a beat reads a table through, nor what is due of a backlog."""
    if analyzed == "while nothing was due":
        lay_out(host, {"before": 200})
        with host.writing() as session:
            session.execute(update(Delivery).values(ended(Status.SUCCEEDED, "")))
        analyze(host)
    lay_out(host, {"dead": 1, "one": 3, "two": 3})
    with host.writing() as session:
        for status, count in (("pending", 20_000), ("succeeded", 20_000)):
            session.execute(text(_MORE_PUSHES), {"status": status, "count": count})
            session.execute(text(_MORE_DELIVERIES), {"status": status})
    if analyzed == "now":
        analyze(host)
    plans: list[dict[str, Any]] = []

    def explain(statement: str, parameters: Any, cursor: Any) -> None:
        if not statement.startswith("SAVEPOINT"):
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plans.extend(nodes(cursor.fetchone()[0][0]["Plan"]))
            cursor.execute("ROLLBACK TO SAVEPOINT before; SAVEPOINT before")

    with host.listening(explain), host.writing() as session:
        session.execute(text("SAVEPOINT before"))
        claims.anything_due(session)
        taken, _ = claims.claim(session, 512, {"http://dead.example.com:80"})
        claims.expire_overdue(session, 512)
    assert len(taken) == 6
    read = {each["Index Name"] for each in plans if "Index Name" in each}
    assert {"ix_hubhooks_delivery_due", "ix_hubhooks_delivery_overdue"} <= read
    for each in plans:
        assert not (each["Node Type"] == "Seq Scan" and each["Relation Name"] == "hubhooks_delivery")
        assert each["Actual Rows"] * each["Actual Loops"] < 100
        assert each.get("Rows Removed by Filter", 0) * each["Actual Loops"] < 100


def analyze(host: Host) -> None:
    """Have PostgreSQL look at what there is, as it does by itself now and then."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


_MORE_PUSHES = """
INSERT INTO hubhooks_push (kind, repository, tag, digest, media_type, pusher, pushed_at, snapshot)
SELECT kind, repository, :status, digest, media_type, pusher, pushed_at, snapshot
FROM hubhooks_push, generate_series(1, :count) WHERE repository = 'acme/dead' AND tag = 'v0'
"""
_MORE_DELIVERIES = """
INSERT INTO hubhooks_delivery (id, push_id, webhook_id, hook_id, position, chain_length, callback_expected,
    destination, pushed_at, status, next_attempt_at, give_up_at, created_at)
SELECT gen_random_uuid(), hubhooks_push.id, webhook_id, hook_id, 0, 1, false, destination, hubhooks_push.pushed_at,
    tag, CASE tag WHEN 'pending' THEN next_attempt_at END, CASE tag WHEN 'pending' THEN give_up_at END, created_at
FROM hubhooks_delivery, hubhooks_push WHERE destination LIKE '%dead%' AND tag = :status AND hubhooks_delivery.push_id =
    (SELECT id FROM hubhooks_push WHERE repository = 'acme/dead' AND tag = 'v0')
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and all below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)
