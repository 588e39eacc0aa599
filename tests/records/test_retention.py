"""Deleting what ended long ago, and nothing else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from flask_hubhooks import outbox
from flask_hubhooks.dialects import first_uuid, time_ordered_uuid, utcnow
from flask_hubhooks.records import retention
from flask_hubhooks.records.models import Attempt, Base, Delivery, Hook, Push, Status, Webhook

from ..support.host import Host
from ..support.marks import MakeHost, on_postgresql
from ..support.processes import PROJECT
from ..support.receivers import Receiver

OLD = timedelta(days=91)
"""More than the 90 days that are the default."""
pytestmark = pytest.mark.usefixtures("roomy_pool")


@contextmanager
def long_ago(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give deliveries ids from 91 days ago in the block."""
    shift = first_uuid(utcnow()).int - first_uuid(utcnow() - OLD).int
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "time_ordered_uuid", lambda: UUID(int=time_ordered_uuid().int - shift))
        yield


def end(host: Host, tag: str, ago: timedelta = OLD) -> None:
    """Record that all deliveries of a push ended this long ago."""
    with host.writing() as session:
        of_push = Delivery.push_id.in_(select(Push.id).where(Push.tag == tag))
        ended = {"status": Status.SUCCEEDED, "finished_at": utcnow() - ago, "next_attempt_at": None}
        session.execute(update(Delivery).where(of_push).values(ended))


def count(host: Host, *models: type[Base]) -> list[int]:
    with host.writing() as session:
        return [session.scalar(select(func.count()).select_from(model)) or 0 for model in models]


def tags(host: Host) -> set[str]:
    with host.writing() as session:
        return set(session.scalars(select(Push.tag)))


def prune(host: Host) -> str:
    """Run the command; return its output."""
    ran = host.app.test_cli_runner().invoke(args=["hubhooks", "prune"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture
def pushed(host: Host, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A chain of two with an old push that was delivered, and a new one."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url + "second")
        with long_ago(monkeypatch):
            host.push(tag="old")
        host.deliver()
        host.push(tag="new")
        host.deliver()
    end(host, "old")
    end(host, "new", timedelta(days=89))
    return webhook


def test_what_ended_long_ago_goes(host: Host, pushed: dict[str, Any]) -> None:
    """A push that ended 91 days ago is deleted with its deliveries; one that ended 89 days ago stays whole."""
    assert count(host, Push, Delivery, Attempt) == [2, 4, 2]
    assert prune(host) == "hubhooks: deleted 2 deliveries that ended more than 90 days ago\n"
    assert tags(host) == {"new"}
    assert count(host, Push, Delivery, Attempt, Hook, Webhook) == [1, 2, 1, 2, 1]
    assert "0 deliveries" in prune(host)


@pytest.mark.parametrize("status", [Status.WAITING, Status.PENDING, Status.AWAITING_CALLBACK])
def test_what_is_under_way_stays(host: Host, pushed: dict[str, Any], status: Status) -> None:
    """A push stays whole while one of its deliveries is under way, or was until recently."""
    with host.writing() as session:
        second = session.scalars(select(Delivery).join(Push).where(Push.tag == "old", Delivery.position == 1)).one()
        second.status, second.finished_at = status, None
    prune(host)
    assert count(host, Push, Delivery, Attempt) == [2, 4, 2]
    with host.writing() as session:
        session.add(second)
        second.status, second.finished_at = Status.FAILED, utcnow() - timedelta(days=1)
    prune(host)
    assert count(host, Push, Delivery, Attempt) == [2, 4, 2]


@on_postgresql
def test_what_is_sent_again_meanwhile_stays(
    host: Host, pushed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that an owner redelivers between being found and being locked is not deleted."""
    lock_ended = retention._lock_ended
    old = host.history(pushed)[-1]
    assert old["push"]["tag"] == "old"

    def late(*arguments: Any) -> Any:
        again = f"acme/app/webhooks/{pushed['id']}/history/{old['id']}/redeliver/"
        assert host.api("POST", again).status_code == 202
        return lock_ended(*arguments)

    monkeypatch.setattr(retention, "_lock_ended", late)
    prune(host)
    assert tags(host) == {"old", "new"}


@on_postgresql
def test_what_somebody_sends_again_stays(host: Host, pushed: dict[str, Any]) -> None:
    """A delivery that an open transaction is redelivering is skipped, and remains after the commit."""
    with host.writing() as session:
        rows = session.scalars(select(Delivery).join(Push).where(Push.tag == "old").with_for_update()).all()
        with ThreadPoolExecutor() as pool:
            pool.submit(prune, host).result(timeout=10)
        for row in rows:
            row.status, row.finished_at = Status.PENDING, None
    assert tags(host) == {"old", "new"}


def test_in_batches(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are deleted in batches, one transaction each, and those that must stay are skipped."""
    monkeypatch.setattr(retention, "BATCH", 3)
    host.create("http://127.0.0.1:9/")
    with long_ago(monkeypatch):
        for number in range(8):
            host.push(tag=f"{number}")
    for number in range(8):
        end(host, f"{number}", timedelta(days=1) if number == 4 else OLD)
    with host.app.app_context():
        assert retention.prunable(host.state) == 7
        assert list(retention.prune(host.state)) == [3, 3, 1]
    assert tags(host) == {"4"}


def test_webhooks_and_hooks_that_nothing_tells_of(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted webhooks and removed hooks go with their last delivery, unless deleted recently."""
    host = make_host()
    kept = host.create("http://127.0.0.1:9/1", "http://127.0.0.1:9/2", name="kept")
    deleted = host.create("http://127.0.0.1:9/3", name="deleted")
    with long_ago(monkeypatch):
        host.push(tag="old")
    host.set_all(Webhook, last_updated=utcnow() - OLD)
    assert host.api("DELETE", f"acme/app/webhooks/{kept['id']}/hooks/{kept['hooks'][1]['id']}/").status_code == 204
    assert host.api("DELETE", f"acme/app/webhooks/{deleted['id']}/").status_code == 204
    with host.writing() as session:
        gone = session.scalars(select(Webhook).where(Webhook.deleted_id != 0)).one()
        assert gone.last_updated > utcnow() - timedelta(days=1), "it tells when that was"
    delete_all(host, OLD)
    prune(host)
    assert count(host, Webhook, Hook, Push) == [2, 3, 1], "the push is under way"
    delete_all(host, timedelta(days=89))
    end(host, "old")
    prune(host)
    assert count(host, Webhook, Hook, Push) == [2, 3, 0], "they were deleted lately"
    delete_all(host, OLD)
    prune(host)
    assert count(host, Webhook, Hook) == [1, 1]
    assert host.api("GET", f"acme/app/webhooks/{kept['id']}/").get_json()["hooks"][0]["id"] == kept["hooks"][0]["id"]


def delete_all(host: Host, ago: timedelta) -> None:
    """Record that everything was deleted or removed this long ago."""
    with host.writing() as session:
        session.execute(update(Webhook).values(last_updated=utcnow() - ago))
        session.execute(update(Hook).where(Hook.removed_at.is_not(None)).values(removed_at=utcnow() - ago))


def test_kept_for_ever(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """HUBHOOKS_RETENTION_DAYS = None deletes nothing; a number sets the age."""
    host = make_host(config={"HUBHOOKS_RETENTION_DAYS": None})
    host.create("http://127.0.0.1:9/")
    with long_ago(monkeypatch):
        host.push(tag="old")
    end(host, "old")
    assert prune(host) == "hubhooks: nothing to delete, because HUBHOOKS_RETENTION_DAYS is None\n"
    assert tags(host) == {"old"}
    for days, left in ((92, {"old"}), (90, set())):
        assert "hubhooks:" in prune(make_host(config={"HUBHOOKS_RETENTION_DAYS": days}))
        assert tags(host) == left


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_progress_is_shown_on_a_terminal(host: Host, pushed: dict[str, Any], database_uri: str) -> None:
    """A progress bar appears on a terminal; elsewhere only the result is printed."""
    environment = os.environ | {
        "FLASK_APP": "tests.support.worker_app",
        "FLASK_SQLALCHEMY_DATABASE_URI": database_uri,
        "FLASK_HUBHOOKS_REDIS_URL": host.redis_url,
        "TERM": "xterm",
    }
    terminal, child = pty.openpty()
    command = [sys.executable, "-m", "flask", "hubhooks", "prune"]
    ran = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=child, check=True)
    os.close(child)
    drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "100%" in drawn
    assert ran.stdout == b"hubhooks: deleted 2 deliveries that ended more than 90 days ago\n"


def test_once_a_day(make_host: MakeHost) -> None:
    """One worker of a queue prunes, once a day."""
    host, other = make_host(), make_host(config={"HUBHOOKS_QUEUE": "other"})
    assert [retention.takes_turn(each.state) for each in (host, host, other)] == [True, False, True]
    assert 86_000 < host.state.redis.ttl("hubhooks:pruned") <= 86_400


@on_postgresql
def test_what_a_host_has_locked_stays(host: Host, pushed: dict[str, Any]) -> None:
    """Pruning does not wait for the host's transactions: rows they lock are deleted the next time."""
    end(host, "old")
    with host.app.app_context():
        host.hubhooks.repository_renamed("acme/app", "acme/new")
        with ThreadPoolExecutor() as pool:
            pool.submit(prune, host).result(timeout=10)
        host.db.session.rollback()
    assert tags(host) == {"old", "new"}
    prune(host)
    assert tags(host) == {"new"}
