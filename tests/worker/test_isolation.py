"""Isolation: receivers that hang, fail or have a backlog take nothing from others, on each database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from sqlalchemy import Connection as Database
from sqlalchemy import event, select, text, update

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records import transitions
from flask_hubhooks.records.models import Delivery, Status
from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker import breaker, claims, dispatcher, limits
from flask_hubhooks.worker.jobs import dispatchers

from ..support.host import Host
from ..support.marks import on_postgresql
from ..support.plans import analyze, check_flat, explained
from ..support.processes import Process, until
from ..support.receivers import Answer, Connection, Receiver, Request, close, poll, reset


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
    """Run the job beside the block, and wait for its end after it."""
    job = threading.Thread(target=host.run_job)
    job.start()
    try:
        yield
    finally:
        job.join(30)
    assert not job.is_alive()


class Clock:
    """The breakers' clock, which stands still until it is moved."""

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


# Room


def test_one_that_hangs(host: Host) -> None:
    """A hook that has not answered yet has one request in flight; others are delivered meanwhile."""
    gate = Gate()
    with Receiver(gate) as hanging, Receiver() as healthy:
        webhook = push_to(host, hanging.url, 5, "acme/hanging")
        push_to(host, healthy.url, 20, "acme/healthy")
        with running(host):
            healthy.wait_for(20)
            poll(lambda: len(stored(host, Status.SUCCEEDED)) == 20)
            host.push("acme/hanging", tag="later")
            host.push("acme/healthy")
            healthy.wait_for(21)
            waiting = [each for each in stored(host, Status.PENDING) if each.hook_id == webhook["hooks"][0]["id"]]
            assert waiting[-1].lease_token is None, "nothing more is claimed for it"
            assert len(hanging.requests) == 1
            gate.opened.set()
    assert len(hanging.requests) == 6
    assert len(stored(host, Status.SUCCEEDED)) == 27


def test_many_that_hang(make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if more hooks hang than HUBHOOKS_CONCURRENCY allows requests, the others are delivered."""
    monkeypatch.setattr("flask_hubhooks.worker.limits.SLOW_S", 0.05)
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


def test_limit_of_a_hook(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook's limit grows no further than what servers queue of new connections."""
    monkeypatch.setattr(limits, "MAX_PER_HOOK", 4)
    gate = Gate()
    with Receiver(*[200] * 20, gate) as receiver:
        push_to(host, receiver.url, 40)
        with running(host):
            receiver.wait_for(24)
            sleep(0.3)
            assert len(receiver.requests) == 24
            gate.opened.set()
    assert len(receiver.requests) == 40


def test_limit_falls(host: Host) -> None:
    """After a failure nothing more is sent to a hook until all its requests in flight are answered."""
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
    """A delivery that waits too long for its turn is checked again first: its webhook may be paused."""
    monkeypatch.setattr(dispatcher, "MAX_WAIT_S", 0.2)
    webhook: dict[str, Any] = {}

    def pause(request: Request, connection: Connection) -> int:
        assert host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False}).status_code == 200
        connection.receiver.stopping.wait(0.3)
        return 200

    with Receiver(pause) as receiver:
        webhook |= push_to(host, receiver.url, 4)
        host.run_job()
    assert len(receiver.requests) == 1
    assert [each.reason for each in stored(host, Status.PENDING)] == ["Held: the webhook is paused."] * 3


def test_stopped_while_deliveries_wait(host: Host) -> None:
    """On SIGTERM waiting deliveries are due at once for other workers, even if a request is in flight."""
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


def test_sent_again_while_it_hangs(host: Host) -> None:
    """A delivery that is called back and redelivered while it hangs is in flight twice, and the job ends."""
    gate = Gate()
    with Receiver(gate) as receiver:
        webhook = push_to(host, receiver.url, 1)
        with running(host):
            receiver.wait_for(1)
            assert host.call_back(receiver.requests[0].body).status_code == 200
            ask_for(host, webhook, "redelivery")
            receiver.wait_for(2)
            gate.opened.set()
    assert len({each.headers["webhook-id"] for each in receiver.requests}) == 1
    [delivery] = host.history(webhook)
    assert (delivery["state"], delivery["attempt_count"]) == ("succeeded", 2)


def test_an_outcome_that_cannot_be_judged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours while judging a response postpones the delivery, and the job ends."""
    monkeypatch.setattr(dispatcher, "judge", lambda *_: 1 / 0)
    with Receiver() as receiver:
        webhook = push_to(host, receiver.url, 1)
        host.run_job()
        assert len(receiver.requests) == 1
    [delivery] = host.history(webhook)
    assert (delivery["state"], delivery["attempt_count"]) == ("pending", 0)
    assert "could not be judged" in delivery["reason"]


@pytest.mark.parametrize("urgent", [False, True])
def test_not_sent_too_late(host: Host, urgent: bool) -> None:
    """A claim that waited too long while its worker was suspended is released: another may be sending it."""
    push_to(host, "http://late.example.com/", 2)
    with host.writing() as session:
        first, second = claims.claim(session, 10)[0]
    waiting = limits.Limits(10, 10)
    waiting.add(first._replace(urgent=urgent), monotonic() - 1)
    assert waiting.take() == []
    assert [claim.id for claim, _ in waiting.withdraw()] == [first.id]
    waiting.add(second, monotonic() + 10)
    assert waiting.take() == [second]


def test_idle_hooks_take_no_share(host: Host) -> None:
    """A hook with two hanging requests gets more claims, although many other hooks have just succeeded."""
    for number in range(20):
        host.create(f"http://127.0.0.1:9/{number}", name=f"webhook {number}")
    for _ in range(4):
        host.push()
    with host.writing() as session:
        claimed = claims.claim(session, 100)[0]
    worker = limits.Limits(10, 40)
    first = {claim.hook_id: claim for claim in claimed}
    for claim in first.values():
        worker.add(claim, monotonic() + 10)
    while taken := worker.take():
        for claim in taken:
            worker.ended(claim, Outcome(utcnow(), 5, 200), received=True)
    busy = claimed[0].hook_id
    for claim in claimed:
        if claim.hook_id == busy and claim is not first[busy]:
            worker.add(claim, monotonic() + 10)
    assert len(worker.take()) == 2
    assert worker.excluded(8192) == []


# The breaker


def test_breaker_opens(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """After three failures in a row nothing more is sent; waiting deliveries are postponed, with no attempt used up."""
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
    hook = webhook["hooks"][0]["id"]
    assert f"hook {hook} at http://127.0.0.1:{receiver.port} has failed 3 times in a row" in caplog.text


def test_breaker_opens_for_floods(host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A hook whose responses take too much work to read has received them, and is sent nothing for a while."""
    flooding = Process(tmp_path / "log", {}, "tests.support.flooding")
    try:
        until(lambda: flooding.log.endswith("\n"))
        webhook = push_to(host, f"http://127.0.0.1:{flooding.log.strip()}/", 6)
        host.run_job()
    finally:
        flooding.stop()
    attempted = [each for each in host.history(webhook) if each["attempt_count"]]
    assert [each["state"] for each in attempted] == ["succeeded"] * breaker.FAILURES
    assert all(each["cause"].startswith("The response takes too much work to read.") for each in attempted)
    assert caplog.text.count("(breaker open)") == 1


def test_breaker_opens_once(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Requests that were in flight when the breaker opened and fail later do not keep it open for longer."""
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
    """After the open time one delivery is tried; once it is answered, all are sent. The log has each step."""
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
    """A failed probe opens the breaker again, for longer."""
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


def by_path(request: Request, connection: Connection) -> Any:
    """Answer 503, 429, a reset or 200, as the path says."""
    for name, answer in {"503": 503, "429": busy, "reset": reset}.items():
        if name in request.path:
            return answer(request, connection) if callable(answer) else answer
    return 200


@pytest.mark.parametrize("broken", ["503", "429", "reset"])
def test_another_path_of_the_same_host(host: Host, broken: str) -> None:
    """Failures of one path of a host do not hold up hooks at other paths."""
    with Receiver(by_path) as receiver:
        origin = receiver.url.removesuffix("/hook")
        push_to(host, f"{origin}/{broken}/x", 20, "acme/tool")
        host.run_job()
        push_to(host, f"{origin}/ok/x", 5, "acme/app")
        host.run_job()
        assert len([each for each in receiver.requests if each.path == "/ok/x"]) == 5
    assert len(stored(host, Status.SUCCEEDED)) == 5


def test_a_host_that_is_down(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A host that refuses connections holds back all its hooks until one gets any response."""
    clock = Clock(monkeypatch)
    with Receiver(by_path) as receiver:
        origin = receiver.url.removesuffix("/hook")
    webhook = push_to(host, f"{origin}/503/x", 3, "acme/tool")
    host.run_job()
    good = push_to(host, f"{origin}/ok/x", 5, "acme/app")
    host.run_job()
    assert f"host {origin} has failed 3 times in a row" in caplog.text
    assert [each["attempt_count"] for each in host.history(good, "acme/app")] == [0] * 5
    with Receiver(by_path, port=receiver.port) as back:
        clock.now += 1.2 * breaker.OPEN_S[0]
        host.make_due()
        host.run_job()
        assert f"host {origin} answers again (breaker closed)" in caplog.text
        host.make_due()
        host.run_job()
        assert len([each for each in back.requests if each.path == "/ok/x"]) == 5
    assert {each["state"] for each in host.history(webhook, "acme/tool")} == {"pending"}


def test_no_more_than_a_quarter(make_host: Callable[..., Host]) -> None:
    """While others wait, a repository has a quarter of the requests in flight, however many hooks it has."""
    host = make_host(config={"HUBHOOKS_CONCURRENCY": 8})
    gate = Gate()
    with Receiver(gate) as receiver:
        for repository, hooks in {"acme/greedy": 8, "acme/a": 2, "acme/b": 2, "acme/c": 2}.items():
            for number in range(hooks):
                host.create(f"{receiver.url}/{repository}", repository=repository, name=f"hook {number}")
            host.push(repository)
        with running(host):
            receiver.wait_for(8)
            paths = [each.path.removeprefix("/hook/") for each in receiver.requests[:8]]
            gate.opened.set()
    assert sorted(paths) == sorted(["acme/greedy", "acme/a", "acme/b", "acme/c"] * 2)
    assert len(stored(host, Status.SUCCEEDED)) == 14


def busy(request: Request, connection: Connection) -> bytes:
    return b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "requests"),
    [(503, 3), (502, 3), (504, 3), (close, 3), (500, 5), (404, 5), (busy, 5)],
    ids=["503", "502", "504", "no answer", "500", "404", "429"],
)
def test_what_counts(host: Host, answer: Answer, requests: int) -> None:
    """No response counts as a failure, as does a proxy's response that nobody is there; any other response does not."""
    with Receiver(answer) as receiver:
        push_to(host, receiver.url, 5)
        host.run_job()
        assert len(receiver.requests) == requests


def test_failures_in_a_row(host: Host) -> None:
    """A response in between restarts the count."""
    with Receiver(close, close, 404, close, close, 200) as receiver:
        push_to(host, receiver.url, 6)
        host.run_job()
        assert len(receiver.requests) == 6


def test_a_receiver_that_declines(host: Host) -> None:
    """A redirect without Location fails its delivery at once, and counts neither for nor against the hook."""
    with Receiver(close, 301, close, 308, close) as receiver:
        webhook = push_to(host, receiver.url, 6)
        host.run_job()
        assert len(receiver.requests) == 5, "the breaker has opened after the third without a response"
    assert len(stored(host, Status.FAILED)) == 2
    with Receiver(301) as receiver:
        path = f"acme/app/webhooks/{webhook['id']}/"
        assert host.api("PATCH", path, json={"hooks": [{"hook_url": receiver.url}]}).status_code == 200
        host.push(tag="other")
        host.run_job()
    [hook] = host.api("GET", path).get_json()["hooks"]
    assert (hook["failing_since"], len(receiver.requests)) == (None, 1)


def test_failures_of_long_ago(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour without requests to a hook, its failures are counted from zero."""
    clock = Clock(monkeypatch)
    with Receiver(close) as receiver:
        host.create(receiver.url)
        for requests in (2, 4):
            for number in range(2):
                host.push(tag=f"v{number}")
            host.run_job()
            assert len(receiver.requests) == requests
            clock.now += 3601
        for number in range(4):
            host.push(tag=f"v{number}")
        host.run_job()
        assert len(receiver.requests) == 7


def test_tests_do_not_count(host: Host) -> None:
    """Failed test pushes count for no breaker."""
    with Receiver(close) as receiver:
        webhook = host.create(receiver.url)
        for _ in range(4):
            assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
            host.run_job()
        host.push()
        host.run_job()
        assert len(receiver.requests) == 5


def test_given_up_while_held_back(host: Host) -> None:
    """The five days also end for deliveries that a breaker holds back, and for ones not yet due."""
    with Receiver(close) as receiver:
        webhook = push_to(host, receiver.url, 5)
        host.run_job()
        host.make_overdue()
        host.run_job()
        assert len(receiver.requests) == 3
    assert {(each["state"], each["reason"]) for each in host.history(webhook)} == {
        ("failed", "Not delivered within 5 days.")
    }


# What a person waits for


def ask_for(host: Host, webhook: dict[str, Any], what: str) -> dict[str, Any]:
    """Send a test push, or redeliver the first delivery; return the delivery as it stands then."""
    path = "test/" if what == "test" else f"history/{host.history(webhook)[-1]['id']}/redeliver/"
    assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/{path}").status_code == 202
    return host.history(webhook)[0 if what == "test" else -1]


@pytest.mark.parametrize(("what", "requests"), [("test", 4), ("redelivery", 11)])
def test_past_a_breaker(host: Host, monkeypatch: pytest.MonkeyPatch, what: str, requests: int) -> None:
    """A test or redelivery alone goes past an open breaker at once; an answered redelivery closes it."""
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
    """Up to eight tests or redeliveries wait neither for the request before them nor for a backlog."""
    gate = Gate()
    with Receiver(200, gate) as receiver:
        webhook = push_to(host, receiver.url, 1)
        host.run_job()
        for number in range(20):
            host.push(tag=f"w{number}")
        with running(host):
            receiver.wait_for(3)
            asked_for = ask_for(host, webhook, what)
            receiver.wait_for(4)
            assert receiver.requests[3].headers["webhook-id"] == asked_for["id"]
            for _ in range(8):
                ask_for(host, webhook, "test")
            poll(lambda: not any(each.lease_token is None for each in stored(host, Status.PENDING)[-8:]))
            receiver.wait_for(1 + claims.MAX_URGENT)
            assert len(receiver.requests) == 1 + claims.MAX_URGENT
            gate.opened.set()
    assert not stored(host, Status.PENDING)


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_nothing_else_past_a_breaker(host: Host) -> None:
    """Of several workers that find a test, one takes it, and the others take nothing in its place."""
    webhook = push_to(host, "http://closed.example.com/", 3)
    asked_for = ask_for(host, webhook, "test")
    closed = {webhook["hooks"][0]["id"]}
    with host.writing() as session, host.writing() as other:
        assert [str(each.id) for each in claims.claim(session, 20, closed)[0]] == [asked_for["id"]]
        assert claims.claim(other, 20, closed)[0] == []


def test_given_back_while_a_person_waits(host: Host) -> None:
    """Tests that a stopped worker releases go first again, however many there are."""
    webhook = push_to(host, "http://closed.example.com/", 3)
    asked_for = {ask_for(host, webhook, "test")["id"] for _ in range(3)}
    for left_out in (set(), {webhook["hooks"][0]["id"]}):
        with host.writing() as session:
            taken = claims.claim(session, 20, left_out)[0]
            assert {str(each.id) for each in taken if each.urgent} == asked_for
            claims.release(session, [claims.Released(each) for each in taken])
    assert len(taken) == 3


# Claims


def lay_out(host: Host, due: dict[str, int]) -> dict[int, str]:
    """Make this many due deliveries for each repository; return the name of each by its hook's id."""
    return {
        push_to(host, f"http://{name}.example.com/", pushes, f"acme/{name}")["hooks"][0]["id"]: name
        for name, pushes in due.items()
    }


def claimed(
    host: Host, names: dict[int, str], limit: int, *left_out: str, turns: claims.Turns | None = None
) -> dict[str, int]:
    """Count the deliveries of each name in a claim."""
    with host.writing() as session:
        taken, _ = claims.claim(session, limit, {hook for hook, name in names.items() if name in left_out}, turns)
    found = [names[each.hook_id] for each in taken]
    return {name: found.count(name) for name in sorted(set(found))}


def test_a_backlog_starves_nobody(host: Host) -> None:
    """A repository has a quarter of a claim while others wait, however large or old its backlog."""
    names = lay_out(host, {"backlog": 60, "one": 1, "two": 12})
    assert claimed(host, names, 40) == {"backlog": 10, "one": 1, "two": 10}
    assert claimed(host, names, 40) == {"backlog": 10, "two": 2}
    assert claimed(host, names, 40) == {"backlog": 40}


def test_hooks_of_a_repository_take_turns(host: Host) -> None:
    """A hook with a backlog leaves the repository's other hooks their share of each claim."""
    names = lay_out(host, {"backlog": 60})
    other = host.create("http://other.example.com/", repository="acme/backlog", name="other")["hooks"][0]["id"]
    for number in range(6):
        host.push("acme/backlog", tag=f"w{number}")
    assert claimed(host, names | {other: "other"}, 10) == {"backlog": 5, "other": 5}


def test_left_out(host: Host) -> None:
    """Hooks that are left out are not claimed, and soon take no share."""
    names = lay_out(host, {"open": 30, "one": 30})
    turns = claims.Turns()
    assert claimed(host, names, 20, "open", turns=turns) == {"one": 5}
    assert claimed(host, names, 20, "open", turns=turns) == {"one": 20}
    assert claimed(host, names, 20, "open", "one", turns=turns) == {}


def test_many_left_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many repositories are left out, the same claim reaches one that is not."""
    monkeypatch.setattr(claims, "WALK_STEPS", 2)
    names = lay_out(host, {f"open{number}": 2 for number in range(7)} | {"one": 2})
    left_out = [name for name in names.values() if name != "one"]
    assert claimed(host, names, 2, *left_out, turns=claims.Turns()) == {"one": 1}


@pytest.mark.parametrize("walk", [2, 128])
def test_repositories_take_turns(host: Host, monkeypatch: pytest.MonkeyPatch, walk: int) -> None:
    """If more repositories have due deliveries than a claim serves, each is served in turn."""
    monkeypatch.setattr(claims, "WALK_STEPS", walk)
    names = lay_out(host, {f"d{number}": 9 for number in range(6)})
    turns = claims.Turns()
    served = Counter[str]()
    for _ in range(6):
        served.update(claimed(host, names, 2, turns=turns))
    assert served == dict.fromkeys(names.values(), 2)


def test_many_hooks_take_turns(host: Host) -> None:
    """If a repository has more hooks with due deliveries than its share of a claim, each is served in turn."""
    names = {}
    for number in range(6):
        webhook = host.create(f"http://h{number}.example.com/", name=f"h{number}")
        names[webhook["hooks"][0]["id"]] = f"h{number}"
    for number in range(4):
        host.push(tag=f"v{number}")
    turns = claims.Turns()
    served = Counter[str]()
    for _ in range(6):
        served.update(claimed(host, names, 2, turns=turns))
    assert served == dict.fromkeys(names.values(), 2)


@pytest.mark.own_host
@pytest.mark.parametrize("analyzed", ["never", "with one delivery", "while nothing was due", "now"])
@on_postgresql
def test_claims_stay_flat(host: Host, analyzed: str) -> None:
    """No statement of a claim, a sweep or a beat scans a whole table or a whole backlog."""
    if analyzed in ("with one delivery", "while nothing was due"):
        lay_out(host, {"before": 1 if analyzed == "with one delivery" else 200})
        with host.writing() as session:
            session.execute(update(Delivery).values(transitions.succeeded()))
        analyze(host)
    dead = min(lay_out(host, {"dead": 1, "one": 3, "two": 3}))
    with host.writing() as session:
        count = 2_000 if analyzed == "with one delivery" else 20_000  # checking foreign keys takes long with one
        for status in ("pending", "succeeded"):
            session.execute(text(_MORE_PUSHES), {"status": status, "count": count})
            session.execute(text(_MORE_DELIVERIES), {"status": status})
    if analyzed == "now":
        analyze(host)
    with explained(host) as (session, plans):
        claims.anything_due(session)
        taken, _ = claims.claim(session, 512, {dead})
        claims.expire_overdue(session, 512)
    assert len(taken) == 6
    read = {each["Index Name"] for each in plans if "Index Name" in each}
    assert {"ix_hubhooks_delivery_due", "ix_hubhooks_delivery_hook_due", "ix_hubhooks_delivery_overdue"} <= read
    check_flat(plans)


@pytest.mark.own_host
@on_postgresql
def test_what_has_ended_is_not_read_again(host: Host) -> None:
    """Claims skip what they have claimed before, although the rest was due at the same time and still is."""
    lay_out(host, {"dead": 1})
    with host.writing() as session:
        session.execute(text(_MORE_PUSHES), {"status": "pending", "count": 300})
        session.execute(text(_MORE_DELIVERIES), {"status": "pending"})
    with host.writing() as session:
        taken, _ = claims.claim(session, 200)
        ended = update(Delivery).where(Delivery.id.in_([each.id for each in taken]))
        session.execute(ended.values(transitions.succeeded()))
    for _ in range(2):  # the first one finds that they have ended
        with explained(host) as (session, plans):
            claims.claim(session, 10)
    fetched = [each["Heap Fetches"] for each in plans if each["Node Type"] == "Index Only Scan"]
    assert fetched
    assert max(fetched) < 50


@pytest.mark.own_host
@on_postgresql
@pytest.mark.parametrize("payload_format", ["dockerhub", "harbor"])
@pytest.mark.parametrize("analyzed_after", [0, 1, 3])
def test_plans_of_small_tables(host: Host, analyzed_after: int, payload_format: str) -> None:
    """Plans that were made while the tables were nearly empty are not used once there are many rows.

    PostgreSQL would keep them until it analyzes the tables, which may take minutes.
    """
    with Receiver() as receiver:
        webhook = host.create(hooks=[{"hook_url": receiver.url, "payload_format": payload_format}])
        for number in range(2 * PREPARED_AFTER):
            if number == analyzed_after:
                analyze(host)
            host.push()
            host.deliver()
        lay_out(host, {"dead": 1})
        with host.writing() as session:
            pending = update(Delivery).where(Delivery.status == Status.PENDING)
            session.execute(pending.values(next_attempt_at=utcnow() + timedelta(hours=1)))
            for status in ("pending", "succeeded"):
                session.execute(text(_MORE_PUSHES), {"status": status, "count": 2_000})
                session.execute(text(_MORE_DELIVERIES), {"status": status})
        host.push()
        with rows_read(host) as read:
            host.deliver()
    assert set(host.states(webhook)) == {"succeeded"}
    assert len(read) > 2
    assert max(read) < 100


PREPARED_AFTER = 5
"""psycopg has PostgreSQL prepare a statement after so many executions."""


@contextmanager
def rows_read(host: Host) -> Iterator[list[int]]:
    """How many rows each transaction of ours reads that begins and commits in the block."""
    read: list[int] = []
    query = "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"

    def begins(connection: Database) -> None:  # an earlier transaction of the connection may be counted, too
        read.append(-int(connection.exec_driver_sql(query).scalar_one()))

    def commits(connection: Database) -> None:
        read[-1] += int(connection.exec_driver_sql(query).scalar_one())

    with host.app.app_context():
        engine = host.state.engine
    event.listen(engine, "begin", begins)
    event.listen(engine, "commit", commits)
    try:
        yield read
    finally:
        event.remove(engine, "begin", begins)
        event.remove(engine, "commit", commits)


_MORE_PUSHES = """
INSERT INTO hubhooks_push (kind, repository, tag, digest, media_type, pusher, pushed_at, snapshot)
SELECT kind, repository, :status, digest, media_type, pusher, pushed_at, snapshot
FROM hubhooks_push, generate_series(1, :count) WHERE repository = 'acme/dead' AND tag = 'v0'
"""
_MORE_DELIVERIES = """
INSERT INTO hubhooks_delivery (id, push_id, webhook_id, hook_id, position, chain_length, callback_expected,
    repository_key, pushed_at, status, next_attempt_at, give_up_at, created_at)
SELECT gen_random_uuid(), hubhooks_push.id, webhook_id, hook_id, 0, 1, false, repository_key, hubhooks_push.pushed_at,
    tag, CASE tag WHEN 'pending' THEN next_attempt_at END, CASE tag WHEN 'pending' THEN give_up_at END, created_at
FROM hubhooks_delivery, hubhooks_push WHERE tag = :status AND hubhooks_delivery.push_id =
    (SELECT id FROM hubhooks_push WHERE repository = 'acme/dead' AND tag = 'v0')
"""
