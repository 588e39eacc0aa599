"""Deliveries from the push to the last attempt, with receivers of every kind, on each database."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import trustme
from blinker import Signal
from flask_sqlalchemy.record_queries import get_recorded_queries
from sqlalchemy import select, update

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Attempt, Delivery, Hook, Status, Webhook, repository_key
from flask_hubhooks.signals import chain_finished, delivery_finished, webhook_disabled
from flask_hubhooks.worker import claims
from flask_hubhooks.worker.dispatcher import Dispatcher

from ..support.host import Host, failing_for
from ..support.marks import MakeHost, on_postgresql
from ..support.receivers import (
    Answer,
    Connection,
    Receiver,
    Request,
    close,
    hang,
    http,
    poll,
    reset,
    sends,
    tls_context,
    trickles,
)


def push_to(host: Host, receiver: Receiver, within_s: int = 15, **more: Any) -> dict[str, Any]:
    """Push to a webhook with this receiver, deliver, and return the webhook."""
    webhook = host.create(receiver.url, **more)
    host.set_all(Hook, timeout_s=within_s)  # owners cannot set less than 5 s
    host.push()
    host.deliver()
    return webhook


def codes(delivery: dict[str, Any]) -> list[int | None]:
    return [each["status_code"] for each in delivery["attempts"]]


def in_seconds(time: str) -> float:
    return (datetime.fromisoformat(time.replace("Z", "+00:00")) - datetime.now(timezone.utc)).total_seconds()


@contextmanager
def heard(*signals: Signal) -> Iterator[list[dict[str, Any]]]:
    """The arguments of these signals, in order."""
    told: list[dict[str, Any]] = []

    def listen(sender: object, **details: Any) -> None:
        told.append(details)

    with ExitStack() as stack:
        for signal in signals:
            stack.enter_context(signal.connected_to(listen))
        yield told


# Received


def test_received(host: Host) -> None:
    """A push is delivered once, and the history has the request and the response."""
    with Receiver(http(201, b"thanks", "X-Build: 7")) as receiver:
        webhook = push_to(host, receiver)
        host.deliver()
    [request] = receiver.requests
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"], delivery["round"]) == ("success", "succeeded", 1)
    assert delivery["received_at"] == delivery["finished_at"] or delivery["received_at"] < delivery["finished_at"]
    assert delivery["next_attempt_at"] is None
    [attempt] = delivery["attempts"]
    assert (attempt["number"], attempt["round"], attempt["trigger"], attempt["cause"]) == (1, 1, "push", "")
    assert attempt["request"]["url"] == receiver.url
    sent = {name.lower(): value for name, value in attempt["request"]["headers"]}
    assert sent.items() <= dict(request.headers).items()
    assert {"content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature"} <= set(sent)
    assert attempt["status_code"] == 201
    assert attempt["response"] == {
        "headers": [["Content-Length", "6"], ["X-Build", "7"]],
        "body": "thanks",
        "truncated": False,
    }
    assert all(type(attempt[name]) is int for name in ("duration_ms", "connect_ms", "wait_ms"))
    assert in_seconds(attempt["started_at"]) < 0


def test_the_token_is_masked(host: Host) -> None:
    """The history shows requests and responses without the callback token, which is a capability."""
    with Receiver(lambda request, _: http(200, request.body, f"X-Echo: {request.body.decode()}")) as receiver:
        webhook = push_to(host, receiver)
    sent = json.loads(receiver.requests[0].body)
    token = sent["callback_url"].split("/")[-2]
    delivery = host.one_delivery(webhook)
    assert token not in json.dumps(delivery)
    masked = sent | {"callback_url": sent["callback_url"].replace(token, "***")}
    [attempt] = delivery["attempts"]
    assert json.loads(attempt["request"]["body"]) == json.loads(attempt["response"]["body"]) == masked


@pytest.mark.parametrize("status", [302, 303])
def test_redirect_that_counts_as_received(host: Host, status: int) -> None:
    """302 and 303 count as received, are shown as they are, and are not followed."""
    with Receiver() as target, Receiver(http(status, b"", f"Location: {target.url}")) as receiver:
        webhook = push_to(host, receiver)
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"], codes(delivery)) == ("success", "succeeded", [status])
    assert not target.requests


def test_keep_alive(make_host: MakeHost) -> None:
    """Deliveries to one receiver share a connection."""
    host = make_host(config={"HUBHOOKS_CONCURRENCY": 1})
    with Receiver() as receiver:
        host.create(receiver.url)
        for number in range(5):
            host.push(tag=f"v{number}")
        host.run_job()
        host.push()
        host.run_job()
        assert len(receiver.requests) == 6
        assert receiver.connections == 1


def test_proxies_of_the_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in the environment are not used."""
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        push_to(host, receiver)
    assert len(receiver.requests) == 1
    assert not proxy.requests


# Failed, and tried again


def test_retried_until_received(host: Host) -> None:
    """After two 500s the delivery is received: same id and body each time, each attempt when it is due."""
    with Receiver(500, 500, 200) as receiver:
        webhook = push_to(host, receiver)
        for tries, delay in ((1, 5), (2, 300)):
            delivery = host.one_delivery(webhook)
            assert (delivery["status"], delivery["state"], delivery["attempts"][-1]["number"]) == (
                "pending",
                "pending",
                tries,
            )
            assert 0.8 * delay - 2 <= in_seconds(delivery["next_attempt_at"]) <= 1.2 * delay
            host.deliver()
            assert len(receiver.requests) == tries  # not due yet
            host.make_due()
            host.deliver()
    delivery = host.one_delivery(webhook)
    assert (delivery["state"], codes(delivery)) == ("succeeded", [500, 500, 200])
    assert [(each["number"], each["trigger"]) for each in delivery["attempts"]] == [
        (1, "push"),
        (2, "retry"),
        (3, "retry"),
    ]
    assert {request.headers["webhook-id"] for request in receiver.requests} == {delivery["id"]}
    assert len({request.body for request in receiver.requests}) == 1


def test_a_time_to_give_up_that_was_left(host: Host) -> None:
    """Only deliveries under way expire, even if an ended one still has a time to give up."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        host.set_all(Delivery, give_up_at=utcnow())
        host.deliver()
    assert host.states(webhook) == ["succeeded"]


def test_schedule_used_up(host: Host) -> None:
    """After ten attempts the delivery has failed, and nothing more is sent."""
    with Receiver(500) as receiver:
        webhook = push_to(host, receiver)
        for _ in range(11):
            host.make_due()
            host.deliver()
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"]) == ("error", "failed")
    assert delivery["reason"] == "All 10 attempts failed."
    assert codes(delivery) == [500] * 10
    assert delivery["next_attempt_at"] is None


@pytest.mark.parametrize("answer", [hang, trickles(b"HTTP/1.1 200 OK\r\n" * 5)], ids=["hangs", "trickles"])
def test_no_answer_in_time(host: Host, answer: Answer) -> None:
    """A receiver that does not answer in time uses up an attempt, and the history says what happened."""
    check_no_answer(host, answer, "No answer within 1 s. ")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (close, "The connection was closed before an answer. "),
        (reset, "The connection was closed before an answer. "),
        (sends(b"220 mail.example.com ESMTP\r\n"), "The response is not HTTP/1.1. "),
    ],
    ids=["closes", "resets", "another protocol"],
)
def test_no_answer(host: Host, answer: Answer, error: str) -> None:
    """A receiver that breaks off or does not speak HTTP uses up an attempt, and the history says so."""
    check_no_answer(host, answer, error)


def check_no_answer(host: Host, answer: Answer, error: str) -> None:
    with Receiver(answer) as receiver:
        webhook = push_to(host, receiver, within_s=1)
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"]) == ("pending", "pending")
    [attempt] = delivery["attempts"]
    assert attempt["cause"].startswith(error)
    assert attempt["response"] is None
    assert delivery["next_attempt_at"] > attempt["started_at"]


def test_nobody_listens(host: Host) -> None:
    """The history says so if nothing listens on the port."""
    with Receiver() as receiver:
        pass
    delivery = host.one_delivery(push_to(host, receiver))
    assert "refused" in delivery["attempts"][0]["cause"]
    assert delivery["state"] == "pending"


def test_body_that_trickles(host: Host) -> None:
    """The status counts even if the deadline cuts off a trickling body, and the history says so."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with Receiver(trickles(b"x" * 1000, at_once=head)) as receiver:
        delivery = host.one_delivery(push_to(host, receiver, within_s=1))
    assert (delivery["state"], codes(delivery)) == ("succeeded", [200])
    assert delivery["attempts"][0]["cause"].startswith("The response body did not end within 1 s. ")


def test_bad_certificate(make_host: MakeHost) -> None:
    """A certificate of an unknown authority is refused before anything is sent."""
    host = make_host(config={"HUBHOOKS_ALLOWED_NETWORKS": ["127.0.0.0/8", "::1/128"]})
    with Receiver(tls=tls_context(trustme.CA())) as receiver:
        delivery = host.one_delivery(push_to(host, receiver))
    assert delivery["state"] == "pending"
    assert "certificate" in delivery["attempts"][0]["cause"]
    assert not receiver.requests


def test_retry_after(host: Host) -> None:
    """A busy receiver may ask for up to twice the scheduled delay."""
    with Receiver(http(503, b"", "Retry-After: 3600")) as receiver:
        webhook = push_to(host, receiver)
        host.make_due()
        host.deliver()
    assert 590 <= in_seconds(host.one_delivery(webhook)["next_attempt_at"]) <= 600


def test_hostile_retry_after(host: Host) -> None:
    """An attempt with a Retry-After that overflows numbers and dates counts like any other."""
    with Receiver(http(503, b"", "Retry-After: Mon, 01 Jan 99999999999999999999 00:00:00 GMT")) as receiver:
        webhook = push_to(host, receiver)
    delivery = host.one_delivery(webhook)
    assert (delivery["state"], codes(delivery)) == ("pending", [503])


@pytest.mark.parametrize("status", [301, 307, 308])
def test_moved(host: Host, status: int) -> None:
    """A receiver that has moved fails the delivery at once: the history names its new origin; nothing goes there."""
    with Receiver() as target, Receiver(http(status, b"", f"Location: {target.url}")) as receiver:
        webhook = push_to(host, receiver)
        host.make_due()
        host.deliver()
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"], codes(delivery)) == ("error", "failed", [status])
    assert f"to http://127.0.0.1:{target.port}. " in delivery["reason"]
    assert not target.requests


def test_forbidden_address(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a forbidden address fails at once: nothing connects, and the history names the cause."""
    host = make_host(config={"HUBHOOKS_ALLOWED_NETWORKS": []})
    with Receiver() as receiver:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]
        real = socket.getaddrinfo
        names = {"ci.example.com": lambda *_, **__: found}
        monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: names.get(name, real)(name, *_, **__))
        webhook = host.create(f"http://ci.example.com:{receiver.port}/")
        host.push()
        host.deliver()
        host.make_due()
        host.deliver()
        assert receiver.connections == 0
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"], codes(delivery)) == ("error", "failed", [None])
    assert delivery["reason"] == delivery["attempts"][0]["cause"]
    assert "ci.example.com has an address that is not public" in delivery["reason"]


def test_gave_up(host: Host) -> None:
    """A delivery that could not be sent for five days is given up, and the host gets a signal."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        [delivery] = host.history(webhook)
        with host.writing() as session:
            [give_up_at] = session.scalars(select(Delivery.give_up_at))
        assert give_up_at is not None
        assert timedelta(days=4.99) < give_up_at - utcnow() <= timedelta(days=5)
        host.make_overdue()
        with heard(delivery_finished, chain_finished) as told:
            host.deliver()
    assert not receiver.requests
    delivery = host.one_delivery(webhook)
    assert (delivery["status"], delivery["state"], delivery["attempts"]) == ("error", "failed", [])
    assert delivery["reason"] == "Not delivered within 5 days."
    assert [list(each) for each in told] == [["delivery"], ["deliveries"]]


# Switching off


def test_gone(host: Host) -> None:
    """410 disables the webhook, holds its unsent deliveries, and notifies the host; other webhooks go on."""
    with Receiver(500, 410) as receiver, Receiver() as other:
        webhook = host.create(receiver.url, other.url)
        host.push(tag="v1")
        host.deliver()
        host.create(other.url, name="other")
        host.push(tag="v2")
        with heard(webhook_disabled) as told:
            host.deliver()
        host.make_due()
        host.deliver()
    assert [(each["position"], each["push"]["tag"], each["state"]) for each in host.history(webhook)] == [
        (0, "v2", "failed"),
        (1, "v2", "skipped"),
        (0, "v1", "pending"),
        (1, "v1", "waiting"),
    ]
    gone, _, held, _ = host.history(webhook)
    assert "410 Gone" in gone["reason"]
    assert held["reason"] == "Held: the webhook is disabled."
    shown = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()
    assert (shown["active"], shown["disabled_reason"]) == (False, gone["reason"])
    [details] = told
    assert (details["webhook"].id, details["webhook"].disabled_reason) == (webhook["id"], gone["reason"])
    assert len(other.requests) == 1
    host.push(tag="v3")
    assert len(host.history(webhook)) == 4


def failing_since(host: Host, webhook: dict[str, Any]) -> str | None:
    [hook] = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    since: str | None = hook["failing_since"]
    return since


def test_failing_since(host: Host) -> None:
    """A hook is failing from its first failure until it receives something."""
    with Receiver(500, 500, 200) as receiver:
        webhook = push_to(host, receiver)
        since = failing_since(host, webhook)
        assert since is not None
        assert -10 < in_seconds(since) <= 0
        host.make_due()
        host.deliver()
        assert failing_since(host, webhook) == since
        host.make_due()
        host.deliver()
        assert failing_since(host, webhook) is None


def test_a_callback_ends_the_failing(host: Host) -> None:
    """A callback proves receipt: a hook whose receiver calls back before answering stops failing."""

    def call_back(request: Request, _: Connection) -> int:
        assert host.call_back(request.body).status_code == 200
        return 500

    with Receiver(500, call_back) as receiver:
        webhook = push_to(host, receiver)
        assert failing_since(host, webhook)
        host.make_due()
        host.deliver()
        assert failing_since(host, webhook) is None


def test_failing_for_five_days(host: Host) -> None:
    """A hook that fails for five days disables its webhook, which says why, and notifies the host."""
    with Receiver(500) as receiver:
        webhook = push_to(host, receiver)
        host.push(tag="v2")
        host.set_all(Hook, **failing_for(days=5, minutes=1))
        with heard(webhook_disabled) as told:
            host.deliver()
    states = [(each["push"]["tag"], each["state"]) for each in host.history(webhook)]
    assert states == [("v2", "pending"), ("latest", "pending")]
    shown = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()
    assert not shown["active"]
    assert f"127.0.0.1:{receiver.port} have failed since 20" in shown["disabled_reason"]
    assert [each["webhook"].id for each in told] == [webhook["id"]]


@pytest.mark.parametrize(
    ("since", "last", "days", "began_anew"),
    [(8, 8, 1, True), (8, 3.1, 5, True), (8, 1, 3, False), (4.9, 1, 4, False)],
    ids=["silence of 8 days", "silence of 3 days", "few days", "not yet 5 days"],
)
def test_silence_disables_nothing(host: Host, since: float, last: float, days: int, began_anew: bool) -> None:
    """Only days with failed attempts count, and 3 days without an attempt restart the count."""
    with Receiver(500) as receiver:
        webhook = push_to(host, receiver)
        failing = {"failing_since": utcnow() - timedelta(days=since), "failed_at": utcnow() - timedelta(days=last)}
        host.set_all(Hook, failed_days=days, **failing)
        host.make_due()
        host.deliver()
        shown = host.api("GET", path(webhook)).get_json()
    assert shown["active"]
    with host.writing() as session:
        [hook] = session.scalars(select(Hook))
        assert hook.failed_days == (1 if began_anew else days + 1)
        assert hook.failing_since and (hook.failing_since > utcnow() - timedelta(hours=1)) == began_anew
    assert host.states(webhook) == ["pending"]


def test_each_hook_of_a_chain_fails_for_itself(host: Host) -> None:
    """The second hook's five days of failing count even if the first works, and restart on resuming."""
    with Receiver() as first, Receiver(500) as second:
        webhook = host.create(first.url, second.url, expect_final_callback=False)
        for number in range(2):
            host.push(tag=f"v{number}")
            host.deliver()
            assert host.call_back(first.requests[number].body).status_code == 200
            host.deliver()
            since = [each["failing_since"] for each in host.api("GET", path(webhook)).get_json()["hooks"]]
            assert since[0] is None and since[1] is not None
            with host.writing() as session:
                failing = update(Hook).where(Hook.failing_since.is_not(None))
                session.execute(failing.values(**failing_for(days=5, minutes=1)))
    disabled = host.api("GET", path(webhook)).get_json()
    assert not disabled["active"]
    assert f"127.0.0.1:{second.port} have failed since" in disabled["disabled_reason"]
    enabled = host.api("PATCH", path(webhook), json={"active": True}).get_json()
    assert [each["failing_since"] for each in enabled["hooks"]] == [None, None]
    assert host.states(webhook) == ["succeeded", "pending"] * 2


def path(webhook: dict[str, Any]) -> str:
    return f"acme/app/webhooks/{webhook['id']}/"


def test_failing_for_less_than_five_days(host: Host) -> None:
    """A webhook that fails for less than five days stays active, and a success ends the failing."""
    with Receiver(500, 200) as receiver:
        webhook = push_to(host, receiver)
        host.set_all(Hook, **failing_for(days=4.9))
        host.push()
        host.deliver()
        assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["active"]
        host.set_all(Hook, **failing_for(days=30))
        host.make_due()
        host.deliver()
        assert host.states(webhook) == ["succeeded"] * 2
        assert failing_since(host, webhook) is None


def test_deleted_meanwhile(host: Host) -> None:
    """A deleted webhook sends nothing: what is recorded for it nevertheless is cancelled."""
    with Receiver() as receiver:
        host.create(receiver.url, receiver.url)
        host.push()
        host.set_all(Webhook, deleted_id=1)
        host.deliver()
    assert not receiver.requests
    with host.writing() as session:
        assert session.execute(select(Delivery.status)).scalars().all() == [Status.CANCELLED] * 2


def test_deleted_while_on_the_wire(host: Host) -> None:
    """Deleting a webhook cancels a delivery in flight, whose attempt is recorded all the same."""
    webhook: dict[str, Any] = {}

    def delete(request: Request, _: Connection) -> int:
        assert host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/").status_code == 204
        return 500

    with Receiver(delete) as receiver:
        webhook |= host.create(receiver.url)
        host.push()
        host.deliver()
        host.make_due()
        host.deliver()
    assert len(receiver.requests) == 1
    with host.writing() as session:
        [delivery] = session.scalars(select(Delivery))
        assert (delivery.status, delivery.reason) == (Status.CANCELLED, "The webhook was deleted.")
        assert [attempt.status_code for attempt in delivery.attempts] == [500]
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/").status_code == 404


def test_recorded_queries_do_not_pile_up(make_host: MakeHost) -> None:
    """A worker's memory does not grow with its deliveries if the host records queries."""
    host = make_host(config={"SQLALCHEMY_RECORD_QUERIES": True})
    with Receiver() as receiver:
        host.create(receiver.url)
        for number in range(3):
            host.push(tag=f"v{number}")
        with host.app.app_context():
            Dispatcher(host.state).run()
            assert not get_recorded_queries()
        assert len(receiver.requests) == 3


# Faults of ours


def test_secret_unreadable(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """With a changed SECRET_KEY deliveries are held: nothing is sent or used up, and the log says why."""
    host = make_host()
    changed = make_host(config={"SECRET_KEY": "another"})
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        changed.deliver()
        assert not receiver.requests
        delivery = host.one_delivery(webhook)
        assert (delivery["state"], delivery["attempts"]) == ("pending", [])
        assert 50 < in_seconds(delivery["next_attempt_at"]) <= 60
        assert f"the secret or the headers of webhook {webhook['id']} cannot be decrypted" in caplog.text
        assert failing_since(host, webhook) is None
        host.make_due()
        host.deliver()
        assert host.one_delivery(webhook)["state"] == "succeeded"


def test_secret_key_rotated(make_host: MakeHost) -> None:
    """With the old key as a fallback, a new SECRET_KEY changes nothing for webhooks and callbacks."""
    host = make_host()
    rotated = make_host(config={"SECRET_KEY": "another", "SECRET_KEY_FALLBACKS": ["a test's secret key"]})
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for _ in range(2):
            host.push()
            host.deliver()
        rotated.push()
        rotated.deliver()
    assert host.states(webhook) == ["succeeded"] * 3
    for request in receiver.requests:
        assert rotated.call_back(request.body).status_code == 200


@pytest.mark.own_host
@on_postgresql
def test_database_away_while_on_the_wire(host: Host, database_uri: str) -> None:
    """A response is not lost if the database goes away before it is recorded."""

    def cut_off(request: Request, _: Connection) -> int:
        with psycopg.connect(database_uri.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return 200

    with Receiver(cut_off) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.run_job()
    assert (host.one_delivery(webhook)["state"], len(receiver.requests)) == ("succeeded", 1)


def test_redis_away(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """Without Redis a push is recorded quickly, is logged, and can be delivered."""
    host = make_host(redis_url="redis://127.0.0.1:1/0")
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.run_job()
    assert host.one_delivery(webhook)["state"] == "succeeded"
    assert "no worker was woken, Redis cannot be reached" in caplog.text


# Signals


def test_signals(host: Host) -> None:
    """The host gets a signal for each finished delivery and for the whole chain, after the commit, with all details."""
    with Receiver() as receiver, heard(delivery_finished, chain_finished) as told:
        webhook = host.create(receiver.url, receiver.url, expect_final_callback=False)
        host.push(tag="v1")
        host.deliver()
        assert told == []  # the first hook awaits its callback
        host.call_back(receiver.requests[0].body)
        [finished] = told
        assert (finished["delivery"].position, finished["delivery"].status) == (0, Status.SUCCEEDED)
        assert finished["delivery"].callback_state == "success"
        host.deliver()
    _, last, chain = told
    assert (last["delivery"].position, last["delivery"].push.tag) == (1, "v1")
    assert last["delivery"].webhook.id == webhook["id"]
    assert last["delivery"].hook.hook_url == receiver.url
    assert [(each.position, each.status) for each in chain["deliveries"]] == [
        (0, Status.SUCCEEDED),
        (1, Status.SUCCEEDED),
    ]


def test_signals_of_a_failure(host: Host) -> None:
    """The signals of a failed delivery say that it ended its chain."""
    with Receiver(301) as receiver, heard(delivery_finished, chain_finished) as told:
        host.create(receiver.url, receiver.url)
        host.push()
        host.deliver()
    finished, chain = told
    assert (finished["delivery"].status, finished["delivery"].reason[:16]) == (Status.FAILED, "Redirected (301)")
    assert [each.status for each in chain["deliveries"]] == [Status.FAILED, Status.SKIPPED]


def test_signal_of_another_app(make_host: MakeHost) -> None:
    """The sender of a signal is the app, so that a host can tell two apps apart."""
    host, other = make_host(), make_host()
    heard_by: list[str] = []
    with (
        Receiver() as receiver,
        delivery_finished.connected_to(lambda *_, **__: heard_by.append("host"), host.app),
        delivery_finished.connected_to(lambda *_, **__: heard_by.append("other"), other.app),
    ):
        push_to(host, receiver)
    assert heard_by == ["host"]


@pytest.mark.parametrize("signal", [delivery_finished, chain_finished])
def test_a_receiver_that_raises(host: Host, signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """A signal's receiver that raises is logged, and harms neither the delivery nor the next receiver."""

    def fail(sender: object, **details: Any) -> None:
        host.db.session.connection()
        raise LookupError("the host's own fault")

    with Receiver() as receiver, signal.connected_to(fail), heard(signal) as told:
        webhook = push_to(host, receiver)
        host.push()
        host.deliver()
    assert host.states(webhook) == ["succeeded"] * 2
    assert len(told) == 2
    assert "the host's own fault" in caplog.text


# Leases


@pytest.mark.parametrize(("second", "state"), [(200, "succeeded"), (500, "pending")])
def test_the_lease_ends_while_on_the_wire(make_host: MakeHost, second: int, state: str) -> None:
    """If a lease ends too soon another worker delivers, and the late response is only recorded."""
    host, other = make_host(), make_host()
    webhook: dict[str, Any] = {}

    def outlive_the_lease(request: Request, _: Connection) -> int:
        host.make_due()
        other.run_job()
        poll(lambda: host.one_delivery(webhook)["attempts"])  # the first worker may have claimed it again
        return 410

    with Receiver(outlive_the_lease, second) as receiver:
        webhook |= host.create(receiver.url)
        host.push()
        host.run_job()
    delivery = host.one_delivery(webhook)
    assert (delivery["state"], codes(delivery)) == (state, [second, 410])
    assert [each["number"] for each in delivery["attempts"]] == [1, 2]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["active"]


def test_redelivered_while_on_the_wire(host: Host) -> None:
    """A response to an older round is recorded, and does not affect the newer one."""
    webhook: dict[str, Any] = {}

    def redeliver(request: Request, _: Connection) -> int:
        host.make_due()  # the lease has ended, or it would be refused
        path = f"acme/app/webhooks/{webhook['id']}/history/{request.headers['webhook-id']}/redeliver/"
        assert host.api("POST", path).status_code == 202
        return 410

    with Receiver(redeliver, 200) as receiver:
        webhook |= host.create(receiver.url)
        host.push()
        host.deliver()  # no other claim can come between
    delivery = host.one_delivery(webhook)
    assert (delivery["state"], delivery["round"]) == ("succeeded", 2)
    assert sorted((each["round"], each["status_code"]) for each in delivery["attempts"]) == [
        (1, 410),
        (2, 200),
    ]
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["active"]


def test_called_back_while_on_the_wire(host: Host) -> None:
    """A callback before the response decides the delivery; the response is only recorded."""

    def call_back(request: Request, _: Connection) -> int:
        assert host.call_back(request.body, state="failure").status_code == 200
        return 410

    with Receiver(call_back) as receiver:
        webhook = push_to(host, receiver, expect_final_callback=True)
    delivery = host.one_delivery(webhook)
    assert (delivery["state"], delivery["callback"]["state"], codes(delivery)) == ("failed", "failure", [410])
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["active"]


def test_a_dead_worker(host: Host) -> None:
    """What a dead worker has claimed is sent by another one once the lease has ended, and not before.

    The lease of a delivery lasts 45 s longer than its hook's time-out.
    """
    with Receiver() as receiver:
        webhook = host.create(hooks=[{"hook_url": receiver.url, "timeout_s": 30}])
        host.push()
        with host.writing() as session:
            assert len(claims.claim(session, 10)[0]) == 1
        host.deliver()
        assert not receiver.requests
        assert host.one_delivery(webhook)["next_attempt_at"] is None  # as far as anybody knows it is under way
        with host.writing() as session:
            [lease_ends] = session.scalars(select(Delivery.next_attempt_at))
        assert lease_ends is not None
        assert timedelta(seconds=55) < lease_ends - utcnow() <= timedelta(seconds=75)
        host.make_due()
        host.deliver()
        assert len(receiver.requests) == 1
    assert host.one_delivery(webhook)["state"] == "succeeded"


@on_postgresql
def test_claims_at_the_same_time(host: Host) -> None:
    """Two overlapping claims take different deliveries, and neither waits for the other."""
    with Receiver() as receiver:
        host.create(receiver.url)
        for number in range(10):
            host.push(tag=f"v{number}")
    with host.writing() as one, host.writing() as other:
        taken = [[claim.tag for claim in claims.claim(session, 6)[0]] for session in (one, other)]
    assert [len(tags) for tags in taken] == [6, 4]
    assert set(taken[0]).isdisjoint(taken[1])


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
def test_claims_of_named_hooks(host: Host) -> None:
    """What a wake-up names is claimed first, unless the hook is excluded; then come the others."""
    for repository in ("acme/app", "acme/other"):
        host.create("http://127.0.0.1:9/", repository=repository)
        host.push(repository)
        host.push(repository)
    with host.writing() as session:
        hook = session.scalars(select(Hook.id).order_by(Hook.id.desc())).first() or 0
    named = [(repository_key("acme/other"), hook)]

    def claimed(limit: int, excluded: list[int]) -> list[str]:
        with host.writing() as session:
            return [each.repository for each in claims.claim(session, limit, excluded, named=named)[0]]

    assert claimed(1, []) == ["acme/other"]
    assert claimed(1, [hook]) == ["acme/app"]
    assert claimed(5, []) == ["acme/other"]
    assert claimed(5, []) == ["acme/app"], "nothing named is left"
    assert claimed(5, []) == []


def test_a_wake_up_leaves_urgent_deliveries_urgent(host: Host) -> None:
    """A test that is due with a push is not claimed as part of it, but as the urgent delivery that it is."""
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
    with host.writing() as session:
        named = [(repository_key("acme/app"), session.scalars(select(Hook.id)).one())]
    for expected in ([False], [True]):
        with host.writing() as session:
            assert [each.urgent for each in claims.claim(session, 5, named=named)[0]] == expected


def test_workers_at_the_same_time(make_host: MakeHost) -> None:
    """Several workers on one database deliver every push exactly once."""
    hosts = [make_host() for _ in range(3)]
    with Receiver() as receiver:
        webhook = hosts[0].create(receiver.url)
        for number in range(60):
            hosts[0].push(tag=f"v{number}")
        workers = [threading.Thread(target=host.run_job) for host in hosts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
    tags = [json.loads(request.body)["push_data"]["tag"] for request in receiver.requests]
    assert sorted(tags) == sorted(f"v{number}" for number in range(60))
    with hosts[0].writing() as session:
        assert session.execute(select(Attempt.number)).scalars().all() == [1] * 60
    assert {each["state"] for each in hosts[0].history(webhook)} == {"succeeded"}


def test_release(host: Host) -> None:
    """A released claim is due again with no attempt used up."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        with host.writing() as session:
            taken = claims.claim(session, 10)[0]
            claims.release(session, [claims.Released(each) for each in taken])
        host.deliver()
        assert len(receiver.requests) == 1
    assert host.one_delivery(webhook)["attempts"][0]["trigger"] == "push"
