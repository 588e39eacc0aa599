"""From a push to its rows and to the job that wakes a worker, in a transaction of our own and in the host's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from flask_hubhooks import ImagePush, Repository
from flask_hubhooks.records.models import Push
from flask_hubhooks.signals import push_not_recorded

from .support.host import Host, kept, things
from .support.marks import URL, MakeHost
from .support.receivers import Receiver

pytestmark = pytest.mark.own_host
PUSH = ImagePush("acme/app", "latest")


@pytest.fixture
def joined(make_host: MakeHost) -> Host:
    """A host app with a transactional outbox, on each database in turn."""
    return make_host(join_session=True)


def queue(host: Host) -> Queue:
    return Queue(host.state.config.queue, connection=host.state.redis, serializer=JSONSerializer)


def jobs(host: Host) -> int:
    return queue(host).count


# A transaction of our own


def test_the_hosts_rollback_undoes_nothing(host: Host) -> None:
    """By default a push is recorded at once, in a transaction of its own."""
    webhook, thing = host.create(URL), things(host)
    with host.app.app_context():
        host.db.session.add(thing(name="a"))
        host.hubhooks.push(PUSH)
        host.db.session.rollback()
    assert len(host.history(webhook)) == 1
    assert kept(host, thing) == []
    assert jobs(host) == 1


def test_the_hosts_session_stays_as_it_is(host: Host) -> None:
    """By default what the host has pending stays pending, and its objects stay loaded."""
    host.create(URL)
    thing = things(host)
    with host.app.app_context():
        host.db.session.add(thing(name="a"))
        host.db.session.commit()
        loaded, pending = host.db.session.get_one(thing, "a"), thing(name="b")
        host.db.session.rollback()
        host.db.session.add(pending)
        host.hubhooks.push(PUSH)
        assert list(host.db.session.new) == [pending]
        assert loaded in host.db.session
        host.db.session.commit()
    assert kept(host, thing) == ["a", "b"]


def test_a_broken_session_of_the_hosts(host: Host) -> None:
    """By default a host whose own transaction has failed still gets its push recorded."""
    webhook = host.create(URL)
    with host.app.app_context():
        with pytest.raises((OperationalError, ProgrammingError)):
            host.db.session.execute(text("SELECT nonsense"))
        host.hubhooks.push(PUSH)
    assert len(host.history(webhook)) == 1


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_locked_by_the_caller(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """On SQLite a caller that holds the write lock itself loses nothing of its own, and the log says what to do."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0.1}}})
    webhook, thing = host.create(URL), things(host)
    with host.app.app_context():
        host.db.session.add(thing(name="a"))
        host.db.session.flush()
        host.hubhooks.push(PUSH)
        host.db.session.commit()
    assert kept(host, thing) == ["a"]
    assert host.history(webhook) == []
    assert "push of acme/app:latest not recorded: database is locked" in caplog.text
    assert "Commit before you send the signal" in caplog.text
    assert "HubHooks(db, join_session=True)" in caplog.text


# The host's transaction


def test_lives_with_the_hosts_commit(joined: Host) -> None:
    """With join_session a push is there, and a worker woken, once the host has committed, and not before."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        joined.db.session.add(thing(name="a"))
        joined.hubhooks.push(PUSH)
        assert (joined.history(webhook), jobs(joined)) == ([], 0)
        joined.db.session.commit()
        assert (len(joined.history(webhook)), jobs(joined)) == (1, 1)
    assert kept(joined, thing) == ["a"]


def test_dies_with_the_hosts_rollback(joined: Host) -> None:
    """With join_session a rollback takes the push along and wakes nobody, nor does what is committed later."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        joined.db.session.add(thing(name="a"))
        joined.hubhooks.push(PUSH)
        joined.db.session.rollback()
        joined.db.session.add(thing(name="b"))
        joined.db.session.commit()
    assert (joined.history(webhook), jobs(joined)) == ([], 0)
    assert kept(joined, thing) == ["b"]


def test_alone_in_the_hosts_transaction(joined: Host) -> None:
    """With join_session a push dies with the rollback also where it is all that the transaction holds."""
    webhook = joined.create(URL)
    with joined.app.app_context():
        joined.hubhooks.push(PUSH)
        joined.db.session.rollback()
    assert (joined.history(webhook), jobs(joined)) == ([], 0)


def test_a_savepoint_of_the_hosts(joined: Host) -> None:
    """With join_session a push lives or dies with the savepoint of the host's it was made in."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        joined.hubhooks.push(ImagePush("acme/app", "before"))
        undone = joined.db.session.begin_nested()
        joined.hubhooks.push(ImagePush("acme/app", "undone"))
        undone.rollback()
        with joined.db.session.begin_nested():
            joined.hubhooks.push(ImagePush("acme/app", "released"))
            joined.db.session.add(thing(name="a"))
        assert jobs(joined) == 0
        joined.db.session.commit()
    assert [each["push"]["tag"] for each in joined.history(webhook)] == ["released", "before"]
    assert (kept(joined, thing), jobs(joined)) == (["a"], 1)


def test_the_hosts_own_fault(joined: Host) -> None:
    """With join_session an error in what the host has pending is raised to the host, as its own flush would."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        joined.db.session.execute(insert(thing).values(name="a"))
        joined.db.session.add(thing(name="a"))
        with pytest.raises(IntegrityError):
            joined.hubhooks.push(PUSH)
        joined.db.session.rollback()
    assert (joined.history(webhook), kept(joined, thing), jobs(joined)) == ([], [], 0)


@pytest.mark.parametrize("table", ["hubhooks_webhook", "hubhooks_push", "hubhooks_delivery"])
def test_a_fault_of_ours(joined: Host, table: str, caplog: pytest.LogCaptureFixture) -> None:
    """With join_session a fault of ours is logged, leaves nothing half recorded, and the host's transaction usable."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        rename(joined, table, "away")
        joined.db.session.add(thing(name="a"))
        joined.hubhooks.push(PUSH)
        joined.db.session.add(thing(name="b"))
        joined.db.session.commit()
        rename(joined, "away", table)
    assert "push of acme/app:latest not recorded" in caplog.text
    assert kept(joined, thing) == ["a", "b"]
    assert (joined.history(webhook), joined.count(Push), jobs(joined)) == ([], 0, 0)


def rename(host: Host, table: str, to: str) -> None:
    with host.db.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {to}"))


def test_a_loader_that_breaks_the_session(joined: Host, caplog: pytest.LogCaptureFixture) -> None:
    """With join_session a loader whose SQL fails costs the details only: neither the push nor the host's rows."""
    webhook, thing = joined.create(URL), things(joined)

    @joined.hubhooks.repository_loader
    def load(name: str) -> Repository:
        joined.db.session.add(thing(name="by the loader"))
        joined.db.session.flush()
        joined.db.session.execute(text("SELECT nonsense"))
        raise AssertionError

    with joined.app.app_context():
        joined.db.session.add(thing(name="a"))
        joined.hubhooks.push(PUSH)
        joined.db.session.add(thing(name="b"))
        joined.db.session.commit()
    assert "the repository_loader failed for 'acme/app'" in caplog.text
    assert kept(joined, thing) == ["a", "b"]
    assert len(joined.history(webhook)) == 1


@pytest.mark.parametrize("loads", [False, True])
def test_the_hosts_session_has_no_savepoint_afterwards(joined: Host, loads: bool) -> None:
    """With join_session a push leaves no savepoint open in the host's session, with and without a loader."""
    joined.create(URL)
    if not loads:
        joined.state.handlers.repository_loader = None
    with joined.app.app_context():
        joined.hubhooks.push(PUSH)
        assert not joined.db.session().in_nested_transaction()


def test_one_job_for_a_transaction(joined: Host) -> None:
    """With join_session several pushes in a transaction make one job, and a later commit without one makes none."""
    webhook, thing = joined.create(URL), things(joined)
    with joined.app.app_context():
        for _ in range(3):
            joined.hubhooks.push(PUSH)
        joined.db.session.commit()
        assert (len(joined.history(webhook)), jobs(joined)) == (3, 1)
        joined.state.redis.flushall()
        joined.db.session.add(thing(name="a"))
        joined.db.session.commit()
        assert jobs(joined) == 0
        joined.hubhooks.push(PUSH)
        joined.db.session.commit()
        assert jobs(joined) == 1


# In both


def push(host: Host, push: ImagePush = PUSH) -> None:
    """Push, and commit as hosts do."""
    with host.app.app_context():
        host.hubhooks.push(push)
        host.db.session.commit()


def test_nobody_wants_to_know(either: Host) -> None:
    """Without an active webhook of the repository nothing is written, no job queued, and the loader not called."""
    either.hubhooks.repository_loader(lambda name: pytest.fail("called") if name == "acme/app" else Repository())
    push(either)
    either.create(URL, repository="acme/other")
    push(either)
    assert (either.count(Push), jobs(either)) == (0, 0)


def test_recorded_once(either: Host) -> None:
    """Of two pushes of a tag with the same event id only the first is recorded, one without an id always."""
    webhook = either.create(URL)
    for event_id, tag in [("1", "a"), ("1", "b"), ("1", "a"), ("2", "a"), (None, "d"), (None, "d")]:
        push(either, ImagePush("acme/app", tag, event_id=event_id))
    assert [each["push"]["tag"] for each in either.history(webhook)] == ["d", "d", "a", "b", "a"]


def test_odd_event_ids(either: Host) -> None:
    """An event id that no column can hold tells pushes apart all the same."""
    webhook = either.create(URL)
    for odd in ("\0", "\ud800", "x" * 255, "日本 🚀" * 100):
        for event_id in (odd + "1", odd + "2", odd + "1"):
            push(either, ImagePush("acme/app", "latest", event_id=event_id))
    assert len(either.history(webhook)) == 8


def test_text_of_any_kind(either: Host) -> None:
    """No other text in a push or in what the loader tells loses a push; what cannot be stored is replaced."""
    webhook = either.create(URL)
    for odd in ("日本 🚀 עברית", "a\0b", "\ud800", "\udfff\0", "<b>'\"\\&", "\x1b[31m"):
        details = Repository(odd, odd, odd, owner=odd, repo_url=odd, status=odd)
        either.hubhooks.repository_loader(lambda name, details=details: details)
        push(either, ImagePush("acme/app", "latest", odd, odd, odd))
        latest = either.history(webhook)[0]["push"]
        expected = odd.replace("\0", "\ufffd").replace("\ud800", "?").replace("\udfff", "?")
        assert {latest[key] for key in ("digest", "media_type", "pusher")} == {expected}
        with either.app.app_context():
            snapshot = either.db.session.scalars(select(Push.snapshot).order_by(Push.id.desc())).first() or {}
        assert {value for value in snapshot.values() if isinstance(value, str)} == {expected}


def test_no_repository_and_no_tag(either: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A push of what is no repository or no tag is refused, not cut: in one log line, by the signal, and no error.

    The host's session stays usable, and the tags of the OCI specification are all taken.
    """
    webhook, thing, refused = either.create(URL), things(either), []
    no_names: list[Any] = ["", " ", "a\0b", "\ud800", "a" * 256, None, 5]
    no_tags: list[Any] = ["", "a" * 129, ".a", "-a", "a b", "a\n", "é", "a/b", "sha256:0a", "a\0", "\ud800", None, 5]
    pushes = [ImagePush(name, "latest") for name in no_names] + [ImagePush("acme/app", tag) for tag in no_tags]

    def note(_: object, push: ImagePush, error: Exception) -> None:
        assert isinstance(error, ValueError)
        refused.append(push)

    with push_not_recorded.connected_to(note):
        for number, each in enumerate(pushes):
            with either.app.app_context():
                either.hubhooks.push(each)
                either.db.session.add(thing(name=str(number)))
                either.db.session.commit()
    assert refused == pushes
    assert len(kept(either, thing)) == len(pushes)
    assert [each.getMessage().partition("not recorded: ")[2].partition(":")[0] for each in caplog.records] == (
        ["not a repository name"] * len(no_names) + ["not a tag"] * len(no_tags)
    )
    assert all(each.exc_info is None and "\n" not in each.getMessage() for each in caplog.records)
    assert (either.history(webhook), either.count(Push)) == ([], 0)
    tags = ["a" * 128, "_", "0", "V1.2.3-rc_1", "latest"]
    for tag in tags:
        push(either, ImagePush("acme/app", tag))
    assert [each["push"]["tag"] for each in either.history(webhook)] == tags[::-1]


def test_deliveries_share_a_push(either: Host) -> None:
    """A push has a delivery for each hook of each active webhook of its repository, the first of a chain pending."""
    one, chain = either.create(URL), either.create(URL, URL, name="chain")
    other = either.create(URL, repository="acme/other")
    push(either)
    assert either.count(Push) == 1
    assert either.states(one) == ["pending"]
    assert either.states(chain) == ["pending", "waiting"]
    assert either.history(other, "acme/other") == []


@pytest.mark.parametrize("webhooks", [1, 5])
def test_statements_of_a_push(host: Host, webhooks: int) -> None:
    """A push costs three statements however many webhooks its repository and namespaces have.

    On SQLite one more takes the lock.
    """
    for number in range(webhooks):
        host.create(URL, URL, URL, name=str(number))
        for base in ("/v2/namespaces/acme/webhooks/", "/v2/registry/webhooks/"):
            wanted = {"name": str(number), "hook_url": URL, "repository_filter": ["acme/a*"]}
            assert host.api("POST", base, user="root", json=wanted).status_code == 201
    verbs: list[str] = []
    with host.app.app_context():
        event.listen(host.db.engine, "before_cursor_execute", lambda *args: verbs.append(args[2].split()[0]))
        host.hubhooks.push(PUSH)
        lock = ["DELETE"] if host.db.engine.dialect.name == "sqlite" else []
        assert verbs == ["SELECT", *lock, "INSERT", "INSERT"]
        verbs.clear()
        host.hubhooks.push(ImagePush("acme/other", "latest"))
    assert verbs == ["SELECT"]


# The job


def test_a_job_holds_nothing(host: Host) -> None:
    """A job is a name without arguments: nothing of the push and no secret is in Redis."""
    secret = host.create(URL)["secret"]
    host.push(tag="a-tag")
    (job,) = queue(host).jobs
    assert job.func_name == "flask_hubhooks.worker.jobs.deliver_due"
    assert (list(job.args), dict(job.kwargs), job.meta) == ([], {}, {})
    redis = host.state.redis
    stored = b"".join(key + (redis.dump(key) or b"") for key in redis.scan_iter())
    texts = [job.data, str(job.description).encode(), stored]
    for private in (secret, "acme/app", "a-tag", host.app.config["SECRET_KEY"]):
        assert all(private.encode() not in each for each in texts)


def test_one_job_until_a_worker_looks(host: Host) -> None:
    """Any number of pushes makes one job, until a worker has begun to look: then a push makes one again."""
    host.create(URL)
    host.push()
    host.push()
    assert jobs(host) == 1
    queue(host).empty()
    host.push()
    assert jobs(host) == 0
    host.run_job()
    host.push()
    assert jobs(host) == 1


def test_two_apps_share_a_redis(make_host: MakeHost) -> None:
    """Each app's HUBHOOKS_QUEUE is its own queue and wake-up."""
    one, other = make_host(), make_host(config={"HUBHOOKS_QUEUE": "other"})
    one.create(URL)
    one.push()
    assert (jobs(one), jobs(other)) == (1, 0)
    other.push()
    assert (jobs(one), jobs(other)) == (1, 1)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a Redis that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.fixture(params=["closed", "black_hole"])
def no_redis(request: pytest.FixtureRequest) -> str:
    """The URL of a Redis that is away, in each way of being away."""
    if request.param == "black_hole":
        return str(request.getfixturevalue("black_hole"))
    return "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("join_session", [False, True], ids=["own", "joined"])
def test_without_redis(
    make_host: MakeHost, no_redis: str, join_session: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Redis a push is recorded, soon and with a line in the log, and goes out once a worker looks."""
    host, with_redis = make_host(redis_url=no_redis, join_session=join_session), make_host()
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        began = monotonic()
        push(host)
        assert monotonic() - began < 2
        assert "no worker was woken, Redis cannot be reached" in caplog.text
        assert host.states(webhook) == ["pending"]
        with_redis.run_job()
        assert len(receiver.requests) == 1


def test_redis_is_asked_once(make_host: MakeHost) -> None:
    """A push asks a Redis that never answers once, and waits for it, connecting included, less than a second."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = make_host(redis_url=f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        host.create(URL)
        host.push()
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()
        limits = host.state.redis.connection_pool.connection_kwargs
        assert limits["socket_connect_timeout"] + limits["socket_timeout"] < 1


def test_a_fault_of_ours_in_our_own_transaction(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """By default a fault of ours is logged, raises nothing to the host, and leaves nothing half recorded."""
    webhook = host.create(URL)
    with host.app.app_context():
        rename(host, "hubhooks_delivery", "away")
        host.hubhooks.push(PUSH)
        rename(host, "away", "hubhooks_delivery")
    assert "push of acme/app:latest not recorded" in caplog.text
    assert (host.history(webhook), host.count(Push), jobs(host)) == ([], 0, 0)
