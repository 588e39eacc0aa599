"""One SQLite file with a web process that pushes, reads and edits, and two workers that deliver and prune."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker import claims, recording
from flask_hubhooks.worker.recording import Result
from flask_hubhooks.worker.retry import judge

from ..support.host import Host
from ..support.processes import Process
from ..support.receivers import Receiver, poll

THREADS, PUSHES = 4, 30
"""What the web process does at once, and how many pushes each of its threads reports."""


@pytest.fixture
def database_uri(sqlite_uri: str, request: pytest.FixtureRequest) -> str:
    """A file in the journal mode given by the test."""
    with sqlite3.connect(str(make_url(sqlite_uri).database)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {request.param}").fetchone() == (request.param,)
    connection.close()
    return sqlite_uri


@pytest.fixture
def workers(database_uri: str, redis_url: str, tmp_path: Path) -> Iterator[Callable[[], list[Process]]]:
    """A function that starts two workers."""
    processes: list[Process] = []
    environment = {
        "FLASK_APP": "tests.support.worker_app",
        "FLASK_SQLALCHEMY_DATABASE_URI": database_uri,
        "FLASK_HUBHOOKS_REDIS_URL": redis_url,
    }

    def start() -> list[Process]:
        for number in (1, 2):
            processes.append(Process(tmp_path / f"{number}.log", environment, "flask", "hubhooks", "worker"))
        return processes

    yield start
    for process in processes:
        process.stop()
        print(process.log)


@pytest.mark.parametrize("database_uri", ["delete", "wal"], indirect=True)
def test_nobody_finds_it_locked(
    make_host: Callable[..., Host], workers: Callable[[], list[Process]], caplog: pytest.LogCaptureFixture
) -> None:
    """Every push is delivered once and every page is answered without a "database is locked" error."""
    host = make_host()
    with Receiver() as receiver:
        webhook = host.create(receiver.url, f"{receiver.url}second", expect_final_callback=False)
        started = workers()

        def use(thread: int) -> None:
            for number in range(PUSHES):
                host.push(tag=f"{thread}-{number}")
                answers(host, webhook, number)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(use, range(THREADS)))
        poll(lambda: len(receiver.requests) >= THREADS * PUSHES, seconds=60)
        ids = Counter(request.headers["webhook-id"] for request in receiver.requests)
        assert (len(ids), set(ids.values())) == (THREADS * PUSHES, {1})
        poll(lambda: awaiting(host) == THREADS * PUSHES)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [each for each in warnings if "wait for a worker" not in each] == []
    assert [process.log for process in started] == ["hubhooks: delivering from queue 'hubhooks'\n"] * 2


@pytest.mark.parametrize("database_uri", ["delete", "wal"], indirect=True)
def test_who_writes_later_waits_before_it_reads(make_host: Callable[..., Host]) -> None:
    """Simultaneous recordings of attempts of one delivery number them consecutively."""
    host = make_host()
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    with host.writing() as session:
        (claim,) = claims.claim(session, 5)[0]
    other_writes = threading.Event()

    def note(statement: str, *_: object) -> None:
        if threading.current_thread() is other and not statement.startswith("SELECT"):
            other_writes.set()

    def record() -> None:
        outcome = Outcome(utcnow(), 1, 500)
        with host.writing() as session:
            recording.record(session, [Result(claim, claim.hook_url, {}, "{}", outcome, judge(outcome, 0))], 60)
            if threading.current_thread() is not other:
                other.start()
                assert other_writes.wait(10)

    other = threading.Thread(target=record)
    with host.listening(note):
        record()
        other.join(10)
    assert host.history(webhook)[0]["attempt_count"] == 2


def answers(host: Host, webhook: dict[str, Any], number: int) -> None:
    """Read the history, and sometimes edit the webhook and prune."""
    history = host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/?page_size=100")
    assert history.status_code == 200
    if number % 5 == 0:
        edited = host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"tag_filter": [f"!no-{number}*"]})
        assert edited.status_code == 200
    if number % 7 == 0:
        pruned = host.app.test_cli_runner().invoke(args=["hubhooks", "prune"])
        assert pruned.exit_code == 0


def awaiting(host: Host) -> int:
    """Count the deliveries that are recorded as received."""
    with host.writing() as session:
        query = "SELECT count(*) FROM hubhooks_delivery WHERE status = 'awaiting_callback'"
        return int(session.connection().exec_driver_sql(query).scalar_one())
