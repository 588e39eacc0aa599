"""Why deliveries wait: what the history says while no worker runs, or while workers hold deliveries back."""

from __future__ import annotations

import logging
import re
import signal
import threading
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Worker as RQWorker
from rq.suspension import resume, suspend
from sqlalchemy import insert, select, text, update

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records import transitions
from flask_hubhooks.records.models import Hook, Worker, workers
from flask_hubhooks.records.workers import REDIS_AWAY, RESUMED, SUSPENDED
from flask_hubhooks.version import VERSION
from flask_hubhooks.worker.heartbeat import Heart
from flask_hubhooks.worker.jobs import dispatchers

from ..support.host import Host, failing_for
from ..support.marks import URL
from ..support.receivers import Receiver, poll
from .test_worker import Start, database_uri, start, worker  # noqa: F401 - fixtures

SECONDS = 60
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


def cause(host: Host, webhook: dict[str, Any], user: str = "reader") -> str:
    """The cause of a webhook's latest delivery, which the pages show as well."""
    path = f"acme/app/webhooks/{webhook['id']}/history/"
    said = str(host.api("GET", path, user=user).get_json()["results"][0]["cause"])
    if said:
        assert said.replace("'", "&#39;") in host.api("GET", f"/r/{path}", user=user).text
    return said


def rows(host: Host) -> list[Any]:
    with host.writing() as session:
        return list(session.execute(select(workers)).all())


def missed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if "wait for a worker" in each.message]


def test_from_start_to_end(host: Host, worker: Start, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    """Deliveries say that there is no worker, and since when, or that RQ is suspended. Logs say each once."""
    with Redis.from_url(redis_url) as redis, Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        assert cause(host, webhook) == "Waiting for a worker: none has been seen yet."
        assert "none has been seen yet." in host.api("GET", "/r/acme/app/webhooks/").text
        assert len(missed(caplog)) == 1
        process = worker()
        receiver.wait_for(1, SECONDS)
        poll(lambda: cause(host, webhook) == "", SECONDS)
        assert "none has been seen" not in host.api("GET", "/r/acme/app/webhooks/").text
        [row] = rows(host)
        assert row.name.startswith(f"{row.host}.")
        assert (row.version, row.in_flight, row.open_breakers, row.stopped) == (VERSION, 0, [], False)

        suspend(redis)
        poll(lambda: rows(host)[0].suspended, SECONDS)
        poll(lambda: [each.get_state() for each in RQWorker.all(connection=redis)] == ["suspended"], SECONDS)
        host.push(tag="held")
        assert cause(host, webhook) == "Waiting: RQ workers are suspended. Resume them with `rq resume`."
        burst = host.app.test_cli_runner().invoke(args=["hubhooks", "worker", "--burst"])
        assert burst.exit_code == 1
        assert "RQ workers are suspended, so nothing was delivered" in burst.output
        resume(redis)
        receiver.wait_for(2, SECONDS)
        poll(lambda: process.log.count("RQ workers are") == 2, SECONDS)

        process.send(signal.SIGTERM)
        assert process.ends(SECONDS) == 0
        host.push()
        since = re.fullmatch(f"Waiting for a worker: none has been seen since ({TIME})\\.", cause(host, webhook))
        assert since and f"{max(each.last_beat for each in rows(host)):%H:%M:%S}" in since[1]
        assert cause(host, webhook)
        assert len(missed(caplog)) == 2
        assert re.search(
            r"(?m)^\d{4}-\d\d-\d\d [\d:,]+ WARNING flask_hubhooks.worker.process: RQ workers are", process.log
        )
        assert "`flask hubhooks worker`" in missed(caplog)[1]


def test_a_busy_worker_is_suspended(host: Host, worker: Start, redis_url: str) -> None:  # noqa: F811
    """A worker with requests in flight sends nothing new once RQ is suspended, and goes on when it is resumed."""
    answering = threading.Event()

    def answer(*_: Any) -> int:
        answering.wait(SECONDS)
        return 200

    with Redis.from_url(redis_url) as redis, Receiver(answer) as slow, Receiver() as receiver:
        host.create(name="slow", hooks=[{"hook_url": slow.url, "timeout_s": SECONDS}])
        process = worker()
        host.push()
        slow.wait_for(1, SECONDS)
        suspend(redis)
        poll(lambda: rows(host)[0].suspended, SECONDS)
        webhook = host.create(receiver.url)
        host.push(tag="held")
        answering.set()
        poll(lambda: [each.get_state() for each in RQWorker.all(connection=redis)] == ["suspended"], SECONDS)
        assert len(slow.requests) == 1 and not receiver.requests
        assert cause(host, webhook).startswith("Waiting: RQ workers are suspended.")
        resume(redis)
        receiver.wait_for(1, SECONDS)
        slow.wait_for(2, SECONDS)
        process.send(signal.SIGTERM)
        assert process.ends(SECONDS) == 0


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_a_worker_that_died(host: Host) -> None:
    """A worker that was killed counts as gone after 30 s, with what it had claimed. One that beats is not missed."""
    webhook = host.create(URL)
    host.push()
    with host.writing() as session:
        died = {"name": "a", "host": "secret-host", "version": "1", "open_breakers": []}
        session.execute(insert(workers), died | {"last_beat": utcnow() - timedelta(seconds=10)})
    assert cause(host, webhook) == ""
    host.set_all(Worker, last_beat=utcnow() - timedelta(seconds=40))
    assert cause(host, webhook).startswith("Waiting for a worker: none has been seen since 20")
    assert "secret-host" not in cause(host, webhook, "alice")


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
def test_behind_a_breaker(host: Host) -> None:
    """A delivery that an open breaker holds back names the receiver, without its path, and the next try.

    Its worker deletes the rows of workers that stopped, or that have been gone for an hour.
    """
    dead = {"host": "a", "version": "1", "open_breakers": []}
    with host.writing() as session:
        for name, minutes, stopped in (("gone", 61, False), ("stopped", 0, True), ("late", 59, False)):
            last_beat = utcnow() - timedelta(minutes=minutes)
            session.execute(insert(workers), dead | {"name": name, "last_beat": last_beat, "stopped": stopped})
    with Receiver(503) as receiver:
        webhook = host.create(f"{receiver.url}/secret-path")
        for _ in range(4):
            host.push()
        host.run_job()
        origin = receiver.url.removesuffix("/hook")
        shown = f"Waiting: {re.escape(origin)} does not answer; (next try at {TIME}|it is being tried again)\\."
        with host.app.app_context():
            Heart(host.state, dispatchers[host.state]).beat()
        assert re.fullmatch(shown, cause(host, webhook))
        assert {row.name for row in rows(host) if row.version == "1"} == {"late"}
        [breaker] = next(row.open_breakers for row in rows(host) if row.open_breakers)
        half_open = [breaker | {"next_try_in_s": -0.1}]
        host.set_all(Worker, last_beat=utcnow(), open_breakers=half_open)
        host.make_due()
        assert cause(host, webhook) == f"Waiting: {origin} does not answer; it is being tried again."
        with host.writing() as session:
            session.execute(update(workers).where(workers.c.name == "late").values(open_breakers=[]))
        assert cause(host, webhook) == "", "a worker whose breaker is closed sends it"


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
def test_paused_and_resumed(host: Host) -> None:
    """What is to be held says so before a worker holds it, and what was held no longer does once it may be sent."""
    alive = {"host": "a", "version": "1", "open_breakers": []}
    with Receiver(500) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        path = f"acme/app/webhooks/{webhook['id']}/"
        for held in (False, True):
            host.api("PATCH", path, json={"active": False})
            if held:
                host.deliver()
            [delivery] = host.history(webhook)
            assert (delivery["reason"] if held else cause(host, webhook)) == transitions.HELD_PAUSED
            host.api("PATCH", path, json={"active": True})
            assert cause(host, webhook) == "Waiting for a worker: none has been seen yet."
            assert host.history(webhook)[0]["reason"] == ""
        with host.writing() as session:
            session.execute(insert(workers), alive | {"name": "a", "last_beat": utcnow()})
        assert cause(host, webhook) == RESUMED
        host.deliver()
        host.set_all(Worker, last_beat=utcnow())
        assert cause(host, webhook).startswith("The receiver answered 500")


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_only_some_workers_wait(host: Host) -> None:
    """Deliveries wait only if all workers are suspended, or none of them reaches Redis."""
    webhook = host.create(URL)
    host.push()
    alive = {"host": "a", "version": "1", "open_breakers": [], "last_beat": utcnow()}
    with host.writing() as session:
        session.execute(insert(workers), [alive | {"name": name} for name in "ab"])
    for column, reason in (("suspended", SUSPENDED), ("redis_away", REDIS_AWAY)):
        host.set_all(Worker, **{column: True})
        assert cause(host, webhook) == reason
        with host.writing() as session:
            session.execute(update(workers).where(workers.c.name == "a").values({column: False}))
        assert cause(host, webhook) == ""
        host.set_all(Worker, **{column: False})


def test_a_locked_table(host: Host, worker: Start) -> None:  # noqa: F811
    """A worker that cannot write its heartbeat, because a migration has locked the table, delivers and stops."""
    with Receiver() as receiver:
        host.create(receiver.url)
        process = worker()
        poll(lambda: len(rows(host)) == 1, SECONDS)
        with host.writing() as session:
            session.execute(text("LOCK TABLE hubhooks_worker IN ACCESS EXCLUSIVE MODE"))
            for number in (1, 2):
                host.push()
                receiver.wait_for(number, SECONDS)
            process.send(signal.SIGTERM)
            assert process.ends(SECONDS) == 0
    assert "Traceback" not in process.log
    assert not rows(host)[0].stopped


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """The log names deliveries that failed for good, callbacks that expired, and webhooks that were disabled."""
    caplog.set_level(logging.INFO, "flask_hubhooks")
    with Receiver() as silent, Receiver(308) as moved, Receiver(410) as gone, Receiver(500) as failing:
        receivers = {"silent": silent, "moved": moved, "gone": gone, "failing": failing}
        webhooks = {name: host.create(each.url, name=name) for name, each in receivers.items()}
        host.api("PATCH", f"acme/app/webhooks/{webhooks['silent']['id']}/", json={"expect_final_callback": True})
        host.set_all(Hook, **failing_for(days=5, minutes=1))
        host.push()
        host.deliver()
        host.make_overdue()
        host.deliver()
    ids = {name: (host.history(each)[0]["id"], each["id"]) for name, each in webhooks.items()}
    delivery = {name: "delivery {} of webhook {}".format(*each) for name, each in ids.items()}
    logged = {f"{each.levelname} {each.message}" for each in caplog.records if each.name == "flask_hubhooks.announce"}
    for begin in (
        f"INFO {delivery['silent']} expired: The callback never came.",
        f"INFO {delivery['moved']} failed for good: Redirected (308) without a Location header.",
        f"INFO {delivery['gone']} failed for good: The receiver answered 410 Gone.",
        f"WARNING webhook {ids['gone'][1]} was disabled: The receiver answered 410 Gone.",
        f"WARNING webhook {ids['failing'][1]} was disabled: Deliveries to http://127.0.0.1:",
        f"INFO {delivery['failing']} failed for good: Not delivered within 5 days: the webhook was disabled.",
    ):
        assert any(each.startswith(begin) for each in logged), (begin, logged)
    assert len(logged) == 6
