"""Our own connections: a request of the host's, or of ours, never needs a second one of the host's pool."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Response, request
from flask_sqlalchemy.track_modifications import models_committed
from sqlalchemy import Engine, NullPool, event, insert, make_url, select, text, update
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from flask_hubhooks import ImagePush, Repository, engines, state
from flask_hubhooks.engines import POOL_SIZE
from flask_hubhooks.records.models import Push
from flask_hubhooks.signals import push_not_recorded

from .support.host import Host, problem, things
from .support.marks import URL, MakeHost, on_postgresql, on_sqlite
from .support.processes import Process, free_port, until
from .support.receivers import Receiver

pytestmark = pytest.mark.own_host
PUSH = ImagePush("acme/app", "latest")
THREADS = 8
SMALL_POOL = {"pool_size": THREADS, "max_overflow": 0, "pool_timeout": 5}


def in_threads(work: Callable[[int], Any], number: int) -> list[Any]:
    """What `work` returns for each number, from as many threads as the host's pool has connections."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(number)))


def uses_database(host: Host) -> None:
    """Have the host's authorizer and loader read from its database, as README's do; they leave the session open."""

    def authorize(action: str, repository: str) -> str | None:
        host.db.session.execute(text("SELECT 1"))
        return request.headers.get("X-User")

    def load(name: str) -> Repository:
        return Repository(description=host.db.session.scalar(text("SELECT 'from the database'")))

    host.hubhooks.authorizer(authorize)
    host.hubhooks.repository_loader(load)


def push_within_a_request(host: Host, number: int = 0) -> None:
    """Push while the host's session holds a connection."""
    with host.app.app_context():
        host.db.session.execute(text("SELECT 1"))
        host.hubhooks.push(ImagePush("acme/app", f"v{number}"))


# The host's pool


@on_postgresql
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("options", [SMALL_POOL, {"poolclass": NullPool}], ids=["small", "null"])
def test_pushes_need_no_second_connection(
    make_host: MakeHost, database_uri: str, driver: str, options: dict[str, Any]
) -> None:
    """Threads that all hold a connection of the host's pool lose no push."""
    uri = make_url(database_uri).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
    host = make_host(database_uri=uri, config={"SQLALCHEMY_ENGINE_OPTIONS": options})
    uses_database(host)
    host.create(URL)
    in_threads(lambda number: push_within_a_request(host, number), 320)
    assert host.count(Push) == 320


@on_postgresql
def test_a_loader_that_raises_keeps_no_connection(make_host: MakeHost) -> None:
    """A loader that fails in the middle of a statement costs the details alone, however often it does."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": SMALL_POOL})

    @host.hubhooks.repository_loader
    def fail(name: str) -> None:
        host.db.session.execute(text("SELECT no_such_column"))

    host.create(URL)
    in_threads(lambda number: push_within_a_request(host, number), 80)
    assert host.count(Push) == 80


@on_postgresql
def test_slow_loaders(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Loaders that keep their connection cost later pushes their details after a while, and no push is lost."""
    monkeypatch.setattr(engines, "LOADER_WAIT_S", 0.1)
    host, released, refused = make_host(), threading.Event(), []

    def load(name: str) -> Repository:
        try:
            host.db.session.execute(text("SELECT 1"))
        except NoConnectionLeft:
            refused.append(name)
            if len(refused) == THREADS - POOL_SIZE:
                released.set()
            raise
        assert released.wait(30)
        return Repository(description="loaded")

    with Receiver() as receiver:
        host.create(receiver.url)
        host.hubhooks.repository_loader(load)
        in_threads(lambda number: host.push(tag=f"v{number}"), THREADS)
        host.deliver()
    sent = [json.loads(each.body)["repository"] for each in receiver.requests]
    assert sorted((each["description"], each["is_private"]) for each in sent) == [
        *[("", True)] * (THREADS - POOL_SIZE),
        *[("loaded", False)] * POOL_SIZE,
    ]
    assert "all connections are taken" in caplog.text
    assert "db.session.close()" in caplog.text


@pytest.mark.parametrize("join_session", [False, True])
def test_a_loader_that_pushes(make_host: MakeHost, join_session: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A push that the loader sends is recorded as well, without calling the loader again."""
    host = make_host(join_session=join_session)

    def load(name: str) -> Repository:
        host.db.session.execute(text("SELECT 1"))
        host.hubhooks.push(ImagePush(name, "of-the-loader"))
        return Repository()

    webhook = host.create(URL)
    host.hubhooks.repository_loader(load)
    with host.app.app_context():
        host.hubhooks.push(PUSH)
        host.db.session.commit()
    host.hubhooks.repository_loader(lambda name: Repository())
    assert {each["push"]["tag"] for each in host.history(webhook)} == {"latest", "of-the-loader"}
    assert "the repository_loader sent a push to 'acme/app'" in caplog.text


@on_postgresql
def test_requests_need_no_second_connection(make_host: MakeHost) -> None:
    """As many API calls, pages and callbacks at once as the host's pool has connections are all answered."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": SMALL_POOL})
    uses_database(host)
    with Receiver() as receiver:
        webhook = host.create(receiver.url, expect_final_callback=True)
        for number in range(40):
            host.push(tag=f"v{number}")
        host.deliver()
        bodies = [each.body for each in receiver.requests]
    paths = [
        "/v2/repositories/acme/app/webhooks/",
        f"/v2/repositories/acme/app/webhooks/{webhook['id']}/history/",
        "/r/acme/app/webhooks/",
        f"/r/acme/app/webhooks/{webhook['id']}/history/",
    ]
    visit = host.app.test_client
    pages = in_threads(lambda n: visit().get(paths[n % 4], headers={"X-User": "alice"}).status_code, 160)
    changes = in_threads(lambda n: host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={}).status_code, 40)
    callbacks = in_threads(lambda n: host.call_back(bodies[n]).status_code, 40)
    assert set(pages + changes + callbacks) == {200}
    assert {each["state"] for each in host.history(webhook)} == {"succeeded"}


@on_postgresql
def test_one_pool_for_all_threads(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that push for the first time at once share one pool."""
    host, made, second = make_host(), [], threading.Barrier(2)
    uses_database(host)

    def make(engine: Engine) -> Engine:
        made.append(engine)
        with suppress(threading.BrokenBarrierError):
            second.wait(0.2)  # for a thread that should not come
        return engines.loader_engine(engine)

    monkeypatch.setattr(state, "loader_engine", make)
    host.create(URL)
    in_threads(lambda number: host.push(tag=f"v{number}"), THREADS)
    assert len(made) == 1


@on_postgresql
def test_few_connections(make_host: MakeHost) -> None:
    """A process keeps `POOL_SIZE` connections of its own, and as many for loaders, beside those of the host's pool."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": SMALL_POOL})
    uses_database(host)
    host.create(URL)
    in_threads(lambda number: push_within_a_request(host, number), 80)
    with host.writing() as session:
        open_ = session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"))
    assert open_ is not None
    assert open_ <= THREADS + 2 * POOL_SIZE


@on_postgresql
def test_connects_as_the_host_does(make_host: MakeHost) -> None:
    """Listeners of the host's engine hear our connections being opened, and `connect_args` hold for them."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"application_name": "the registry"}}})
    heard: list[str] = []
    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "do_connect", lambda *_: heard.append("do_connect"))
    event.listen(engine, "connect", lambda *_: heard.append("connect"))
    engine.dispose()
    with host.writing() as session:
        assert session.scalar(text("SHOW application_name")) == "the registry"
    assert heard == ["do_connect", "connect"]
    host.state.engine.pool.dispose()
    event.listen(engine, "connect", lambda *_: heard.append("added later"))
    with host.writing() as session:
        session.execute(text("SELECT 1"))
    assert heard[2:] == ["do_connect", "connect", "added later"]


@on_postgresql
def test_a_host_that_begins_with_a_statement(make_host: MakeHost) -> None:
    """A statement of the host's at the beginning of each transaction, as for row security, runs in ours as well."""
    host = make_host()
    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SET LOCAL hub.tenant = 'acme'"))
    with host.writing() as session:
        assert session.scalar(text("SHOW hub.tenant")) == "acme"
    webhook = host.create(URL)
    host.push()
    assert [each["push"]["tag"] for each in host.history(webhook)] == ["latest"]


@on_sqlite
def test_pragmas_of_the_host(make_host: MakeHost) -> None:
    """What a host sets up on each SQLite connection is set up on ours."""
    host = make_host()
    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 1234"))
    engine.dispose()
    with host.writing() as session:
        assert session.scalar(text("PRAGMA busy_timeout")) == 1234


def test_closes_with_the_host(make_host: MakeHost) -> None:
    """A host that disposes of its engine, as at the end of its tests, leaves none of our connections open."""
    host = make_host()
    host.create(URL)
    with host.app.app_context():
        host.db.engine.dispose()
    assert host.state.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


# Forks


@on_postgresql
def test_fork_after_use(make_host: MakeHost, tmp_path: Path, database_uri: str, redis_url: str) -> None:
    """Connections that an app opened before Gunicorn forked its workers are not used by them: no push is lost."""
    host, port = make_host(), free_port()
    host.create(URL)
    environment = {"FLASK_SQLALCHEMY_DATABASE_URI": database_uri, "FLASK_HUBHOOKS_REDIS_URL": redis_url}
    options = ["--preload", "--workers=2", "--threads=4", f"--bind=127.0.0.1:{port}"]
    server = Process(tmp_path / "gunicorn.log", environment, "gunicorn", *options, "tests.support.preloaded_app:app")
    try:
        until(lambda: server.log.count("Booting worker") == 2)

        def push(number: int) -> int:
            return requests.post(f"http://127.0.0.1:{port}/push/v{number}", timeout=30).status_code

        assert set(in_threads(push, 80)) == {200}, server.log
    finally:
        server.stop()
    assert host.count(Push) == 81, server.log


# The state of the host's session


@contextmanager
def told_by(host: Host, source: str, tell: Callable[[], None]) -> Iterator[None]:
    """A transaction of the host's that writes something; `tell` is called within its commit."""

    def hear(*_: object, **__: object) -> None:
        tell()

    thing = things(host)
    with host.app.app_context():
        session = host.db.session()
        if source == "after_commit":
            event.listen(session, "after_commit", hear, once=True)
        else:
            models_committed.connect(hear)
        session.add(thing(name="a"))
        yield
        try:
            session.commit()
        finally:
            models_committed.disconnect(hear)


@pytest.mark.parametrize("source", ["after_commit", "models_committed"])
def test_sent_within_the_hosts_commit(make_host: MakeHost, source: str) -> None:
    """A signal sent within the host's commit, when its session takes no statements, loses neither push nor details."""
    host = make_host(config={"SQLALCHEMY_TRACK_MODIFICATIONS": True})
    host.hubhooks.repository_loader(
        lambda name: Repository(description=host.db.session.scalar(text("SELECT 'loaded'")) or "")
    )
    with Receiver() as receiver:
        host.create(receiver.url)
        with told_by(host, source, lambda: host.hubhooks.push(PUSH)):
            pass
        host.deliver()
    repository = json.loads(receiver.requests[0].body)["repository"]
    assert (repository["description"], repository["is_private"]) == ("loaded", False)


def test_joining_a_session_that_commits(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """With join_session a signal sent within the host's commit comes too late; log and signal say so."""
    host, lost = make_host(join_session=True), []

    def note(sender: object, push: ImagePush, error: Exception) -> None:
        lost.append((sender, push.repository, push.tag))

    host.create(URL)
    with push_not_recorded.connected_to(note), told_by(host, "after_commit", lambda: host.hubhooks.push(PUSH)):
        pass
    assert lost == [(host.app, "acme/app", "latest")]
    assert "push of acme/app:latest not recorded" in caplog.text
    assert "Send the signal before your commit, or use HubHooks(db) without join_session" in caplog.text


@pytest.mark.parametrize("ends", ["commit", "rollback", "close", "remove"])
def test_joining_a_session_that_the_loader_ends(make_host: MakeHost, ends: str) -> None:
    """With join_session a loader that ends the transaction of `db.session` costs neither push nor details."""
    host = make_host(join_session=True)

    def load(name: str) -> Repository:
        host.db.session.execute(text("SELECT 1"))
        getattr(host.db.session, ends)()
        return Repository(description="loaded")

    with Receiver() as receiver:
        host.create(receiver.url)
        host.hubhooks.repository_loader(load)
        with host.app.app_context():
            host.hubhooks.push(PUSH)
            host.db.session.commit()
        host.deliver()
    assert [json.loads(each.body)["repository"]["description"] for each in receiver.requests] == ["loaded"]


def test_joining_a_block_that_the_loader_ends(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """Within `with db.session.begin()` a loader that commits costs the push; the log says what to change."""
    host = make_host(join_session=True)

    def load(name: str) -> Repository:
        host.db.session.commit()
        return Repository()

    webhook = host.create(URL)
    host.hubhooks.repository_loader(load)
    with host.app.app_context(), host.db.session.begin():
        host.hubhooks.push(PUSH)
    assert "push of acme/app:latest not recorded" in caplog.text
    assert "The repository_loader ended the transaction of db.session" in caplog.text
    host.hubhooks.repository_loader(lambda name: Repository())
    assert host.history(webhook) == []


def begins_immediately(host: Host) -> None:
    """Have SQLite transactions of the host take the write lock at their beginning."""
    with host.app.app_context():
        engine = host.db.engine

    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()


@on_sqlite
def test_begin_immediate(make_host: MakeHost) -> None:
    """What authorizer and loader began is ended before our own transaction, which would wait for its lock."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0.5}}})
    begins_immediately(host)
    uses_database(host)
    webhook = host.create(URL)
    host.push()
    assert [each["push"]["tag"] for each in host.history(webhook)] == ["latest"]
    assert host.client.get("/r/acme/app/webhooks/", headers={"X-User": "alice"}).status_code == 200


@on_sqlite
def test_a_lock_of_the_hosts_own(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """A lock that the host took before our route is not ended: the answer is a 503, and the log names the lock."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0.1}}})
    begins_immediately(host)

    @host.app.before_request
    def lock() -> None:
        host.db.session.execute(text("SELECT 1"))

    problem(host.api("POST", "acme/app/webhooks/", json={"name": "a", "hook_url": URL}), 503)
    assert "Another transaction holds the write lock of the SQLite file" in caplog.text


@on_sqlite
@pytest.mark.parametrize("way", ["WITH", "commit"])
def test_reading_with_begin_immediate(make_host: MakeHost, way: str) -> None:
    """An authorizer that reads by raw SQL, or reads again after a commit, keeps no lock from our transactions."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0.1}}})
    begins_immediately(host)
    thing = things(host)
    with host.app.app_context():
        host.db.session.execute(insert(thing).values(name="a"))
        host.db.session.commit()

    def authorize(action: str, repository: str) -> str:
        if way == "commit":
            host.db.session.execute(update(thing).values(name="b"))
            host.db.session.commit()
        host.db.session.execute(text("WITH read AS (SELECT 1) SELECT * FROM read"))
        return "alice"

    host.hubhooks.authorizer(authorize)
    host.create(URL)


def test_a_streamed_response(make_host: MakeHost) -> None:
    """A response of the authorizer's may use what the authorizer loaded until its last byte."""
    host = make_host()
    thing = things(host)
    with host.app.app_context():
        host.db.session.add(thing(name="a"))
        host.db.session.commit()

    def authorize(action: str, repository: str) -> Response:
        loaded = host.db.session.scalars(select(thing)).one()
        return Response(loaded.name for _ in range(3))

    host.hubhooks.authorizer(authorize)
    assert host.api("GET", "acme/app/webhooks/").text == "aaa"


@pytest.mark.parametrize("way", ["pending", "flushed", "executed", "bulk", "connection"])
def test_what_an_authorizer_writes(make_host: MakeHost, way: str) -> None:
    """What the host's authorizer writes is still there when the host commits at the end of the request."""
    host = make_host()
    thing = things(host)

    def authorize(action: str, repository: str) -> str:
        if host.db.session.get(thing, "a"):
            return "alice"  # asked a second time
        if way == "executed":
            host.db.session.execute(insert(thing).values(name="a"))
        elif way == "bulk":
            host.db.session.bulk_insert_mappings(thing, [{"name": "a"}])
        elif way == "connection":
            host.db.session.connection().execute(insert(thing).values(name="a"))
        else:
            host.db.session.add(thing(name="a"))
        if way == "flushed":
            host.db.session.flush()
        return "alice"

    def commit(response: Response) -> Response:
        host.db.session.commit()
        return response

    host.hubhooks.authorizer(authorize)
    host.app.after_request(commit)
    assert host.api("GET", "acme/app/webhooks/").status_code == 200
    with host.app.app_context():
        assert host.db.session.scalars(select(thing.name)).all() == ["a"]


# Pushes that cannot be recorded


@on_postgresql
@pytest.mark.parametrize("event_id", [None, "event-1"])
def test_sequence_behind(make_host: MakeHost, caplog: pytest.LogCaptureFixture, event_id: str | None) -> None:
    """An id that is taken, as after a restore, is no repeated event: it is an error, with the cure."""
    host, lost = make_host(), []

    def note(sender: object, push: ImagePush, error: Exception) -> None:
        lost.append(push)

    webhook = host.create(URL)
    host.push(tag="first")
    with host.writing() as session:
        session.execute(text("SELECT setval(pg_get_serial_sequence('hubhooks_push', 'id'), 1, false)"))
    with push_not_recorded.connected_to(note):
        host.push(tag="second", event_id=event_id)
    assert [each.tag for each in lost] == ["second"]
    assert "ERROR" in caplog.text and "push of acme/app:second not recorded" in caplog.text
    assert "setval" in caplog.text
    assert "recorded before" not in caplog.text
    host.push(tag="third", event_id=event_id)
    assert [each["push"]["tag"] for each in host.history(webhook)] == ["third", "first"]
