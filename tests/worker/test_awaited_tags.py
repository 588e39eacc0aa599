"""Pushes of CNCF Distribution, which tells of them before it writes the tag, wait until the registry shows it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, literal, select, update

from flask_hubhooks import ImagePush
from flask_hubhooks.dialects import now_plus
from flask_hubhooks.records.models import Delivery, Push
from flask_hubhooks.worker import registry_client
from flask_hubhooks.worker.awaited_tags import MAX_DELAY_S
from flask_hubhooks.worker.dispatcher import Dispatcher

from ..support.host import Host
from ..support.marks import URL, WITH_SOURCES, MakeHost, on_postgresql, on_sqlite
from ..support.receivers import Answer, Receiver, close, hang, http, poll
from ..support.registries import Registry, post_push
from ..support.visitor import Visitor, text_of

WAITING = "Waiting for the registry to show the tag."
HostOf = Callable[[Registry], Host]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(auth="ann:s3cr3t") as registry:
        yield registry


@pytest.fixture
def waiting(registry: Registry, make_host: MakeHost) -> Host:
    """A host app that asks the registry for the tags of pushes, on each database in turn."""
    return make_host(
        config=WITH_SOURCES | {"HUBHOOKS_REGISTRY_URL": registry.base, "HUBHOOKS_REGISTRY_AUTH": "ann:s3cr3t"}
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def look_up_again(host: Host) -> None:
    """Let the time of every next look-up come, and run a worker's job."""
    with host.writing() as session:
        awaited = update(Push).where(Push.tag_look_up_at.is_not(None))
        session.execute(awaited.values(tag_look_up_at=now_plus(literal(0.0))))
    host.run_job()


def let_a_minute_pass(host: Host) -> None:
    """As if all that waits had been recorded a minute earlier."""
    with host.writing() as session:
        awaited = update(Push).where(Push.tag_awaited_until.is_not(None))
        session.execute(awaited.values(tag_awaited_until=now_plus(literal(0.0))))
    host.make_due()


def sent_tags(receiver: Receiver) -> list[str]:
    return [json.loads(each.body)["push_data"]["tag"] for each in receiver.requests]


# Waiting


def test_sent_once_the_tag_is_shown(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """A push is sent once the registry shows its digest. Waiting uses up no attempt, and the history says so."""
    webhook = waiting.create(receiver.url)
    registry.shows["acme/app:latest"] = "sha256:old"
    post_push(waiting)
    waiting.run_job()
    delivery = waiting.one_delivery(webhook)
    assert (delivery["state"], delivery["reason"], delivery["attempt_count"]) == ("pending", WAITING, 0)
    assert receiver.requests == []
    registry.shows["acme/app:latest"] = "sha256:new"
    look_up_again(waiting)
    delivery = waiting.one_delivery(webhook)
    assert (delivery["state"], delivery["reason"], delivery["attempt_count"]) == ("succeeded", "", 1)
    assert not delivery["push"]["sent_without_tag"]
    before = len(registry.requests)
    look_up_again(waiting)
    assert (len(receiver.requests), len(registry.requests)) == (1, before)


@on_sqlite
def test_every_kind_of_manifest_is_accepted(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """Images and indexes of OCI and of Docker are asked for, or Distribution would answer with 404 or a child."""
    waiting.create(receiver.url)
    post_push(waiting, tag="1.0", repository="acme/app")
    waiting.run_job()
    [request] = registry.requests
    assert (request.method, request.path) == ("HEAD", "/v2/acme/app/manifests/1.0")
    assert set(request.headers["accept"].split(", ")) == {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }


@on_sqlite
def test_asked_more_and_more_seldom(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """A tag is looked up at once, after 0.2 s, and then after half of the time that it has waited, up to 5 s."""
    waiting.create(receiver.url)
    post_push(waiting)
    for waited_s, delay_s in ((0, 0.2), (2, 1.0), (20, 5.0), (50, 5.0)):
        with waiting.writing() as session:
            until = now_plus(literal(60.0 - waited_s))
            session.execute(update(Push).values(tag_awaited_until=until, tag_look_up_at=now_plus(literal(0.0))))
        waiting.run_job()
        with waiting.writing() as session:
            push = session.scalars(select(Push)).one()
        assert push.tag_look_up_at and push.tag_awaited_until
        left_s = (push.tag_awaited_until - push.tag_look_up_at).total_seconds()
        assert left_s == pytest.approx(60 - waited_s - delay_s, abs=4)
    assert len(registry.looked_up) == 4


def test_sent_after_a_minute(
    waiting: Host, registry: Registry, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A push whose tag is not shown within a minute is sent nevertheless, and history and log say so."""
    webhook = waiting.create(receiver.url)
    post_push(waiting)
    with waiting.writing() as session:
        push, held = session.scalars(select(Push)).one(), session.scalars(select(Delivery)).one()
        assert held.next_attempt_at and push.tag_awaited_until
        assert abs(held.next_attempt_at - push.tag_awaited_until) < timedelta(seconds=5)
        assert timedelta(seconds=50) < push.tag_awaited_until - held.created_at < timedelta(seconds=65)
    waiting.run_job()
    let_a_minute_pass(waiting)
    before = len(registry.requests)
    waiting.run_job()
    delivery = waiting.one_delivery(webhook)
    assert (delivery["state"], delivery["reason"], delivery["attempt_count"]) == ("succeeded", "", 1)
    assert delivery["push"]["sent_without_tag"]
    page = Visitor(waiting).get(f"{webhook['id']}/history/{delivery['id']}/")
    assert "The registry did not show the tag within 60 s, and it was sent nevertheless." in text_of(page)
    assert "did not show their tags within 60 s: 1, such as acme/app:latest" in caplog.text
    look_up_again(waiting)
    assert len(registry.requests) == before


def test_one_look_up_for_all_that_wait(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """One look-up serves all webhooks of a push, and older pushes of the tag, whose digests are never shown again."""
    for name in ("one", "two"):
        waiting.create(receiver.url, receiver.url, name=name)
    post_push(waiting, "sha256:older")
    post_push(waiting, "sha256:new")
    post_push(waiting, "sha256:not yet")
    post_push(waiting, "sha256:other", tag="v1")
    registry.shows["acme/app:latest"] = "sha256:new"
    waiting.run_job()
    assert sorted(registry.looked_up[:2]) == ["acme/app:latest", "acme/app:v1"]
    assert len(receiver.requests) == 2 * 2
    with waiting.writing() as session:
        left = set(session.scalars(select(Push.digest).where(Push.tag_look_up_at.is_not(None))))
    assert left == {"sha256:not yet", "sha256:other"}


@on_sqlite
def test_redelivered_while_it_waits(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """What an owner sends again is sent at once, and once."""
    webhook = waiting.create(receiver.url)
    post_push(waiting)
    assert waiting.redeliver(webhook).status_code == 202
    waiting.run_job()
    registry.shows["acme/app:latest"] = "sha256:new"
    look_up_again(waiting)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_cancelled_while_it_waits(
    waiting: Host, registry: Registry, receiver: Receiver, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A push that nobody is to get any more is not looked up, and nothing says that it was sent."""
    webhook = waiting.create(receiver.url)
    post_push(waiting)
    waiting.api("DELETE", f"acme/app/webhooks/{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/")
    if late:
        let_a_minute_pass(waiting)
    look_up_again(waiting)
    with waiting.writing() as session:
        push = session.scalars(select(Push)).one()
    assert (push.tag_look_up_at, push.tag_awaited_until) == (None, None)
    assert not waiting.one_delivery(webhook)["push"]["sent_without_tag"]
    assert (registry.requests, receiver.requests) == ([], [])
    assert "are sent" not in caplog.text


# Not waiting


@on_sqlite
def test_what_does_not_wait(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """The host's own pushes, and those without a digest, are sent at once, and the registry is not asked."""
    waiting.create(receiver.url)
    waiting.push(tag="own", digest="sha256:new")
    post_push(waiting, "", tag="without-digest")
    waiting.run_job()
    assert sorted(sent_tags(receiver)) == ["own", "without-digest"]
    assert registry.requests == []


@on_sqlite
def test_other_sources_do_not_wait(registry: Registry, receiver: Receiver, make_host: MakeHost) -> None:
    """The tags of other registries are there when their events come."""
    tokens = {"HUBHOOKS_SOURCE_TOKENS": {"our-own": "x" * 16}, "HUBHOOKS_REGISTRY_URL": registry.base}
    sources = {"our-own": lambda headers, body: [ImagePush("acme/app", "latest", digest="sha256:new")]}
    host = make_host(config=WITH_SOURCES | tokens, sources=sources)
    host.create(receiver.url)
    answer = host.client.post("/hubhooks/sources/our-own/", data=b"", headers={"Authorization": "x" * 16})
    assert answer.get_json() == {"pushes": 1, "recorded": 1}
    host.run_job()
    assert (len(receiver.requests), registry.requests) == (1, [])


@on_postgresql
def test_two_seconds_without_a_url(make_host: MakeHost, receiver: Receiver) -> None:
    """If we do not know where the registry is, the first attempt waits two seconds, and nothing else does."""
    host = make_host(config=WITH_SOURCES)
    webhook = host.create(receiver.url)
    post_push(host)
    host.push(tag="own", digest="sha256:new")
    post_push(host, "", tag="without-digest")
    host.run_job()
    assert sorted(sent_tags(receiver)) == ["own", "without-digest"]
    [held] = [each for each in host.history(webhook) if each["push"]["tag"] == "latest"]
    assert held["reason"] == "Waiting 2 s for the registry to write the tag."
    due_at, recorded_at = (datetime.fromisoformat(held[each]) for each in ("next_attempt_at", "created_at"))
    assert timedelta(seconds=1) < due_at - recorded_at < timedelta(seconds=10)
    host.make_due()
    host.run_job()
    assert (len(receiver.requests), host.states(webhook)) == (3, ["succeeded"] * 3)
    assert not any(each["push"]["sent_without_tag"] for each in host.history(webhook))


# Trouble


FAULTS: dict[str, Answer] = {
    "error": 500,
    "refused": 401,
    "closed": close,
    "nonsense": b"nonsense\r\n\r\n",
    "no digest": 200,
    "nonsense for a digest": http(200, b"", "Docker-Content-Digest: \xff\t,"),
}


@pytest.mark.parametrize("fault", FAULTS)
@on_sqlite
def test_a_registry_that_cannot_be_asked(
    waiting: Host, registry: Registry, receiver: Receiver, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A push waits while the registry gives no useful answer. The log says why, once, without the password."""
    caplog.set_level(logging.DEBUG)
    waiting.create(receiver.url)
    registry.fault = FAULTS[fault]
    post_push(waiting)
    while len(registry.requests) < 5:
        look_up_again(waiting)
    assert receiver.requests == []
    told = [each.getMessage() for each in caplog.records if "HUBHOOKS_REGISTRY_URL" in each.getMessage()]
    assert len(told) == (0 if "digest" in fault else 1), told
    registry.fault = None
    registry.shows["acme/app:latest"] = "sha256:new"
    while not receiver.requests:
        look_up_again(waiting)
    assert ("can be used again" in caplog.text) == bool(told)
    assert "s3cr3t" not in caplog.text


@on_postgresql
def test_a_registry_that_hangs(
    waiting: Host, registry: Registry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 8 tags are looked up at once, and pushes that wait hold up nothing else."""
    monkeypatch.setattr(registry_client, "LOOK_UP_S", 1.0)
    waiting.create(receiver.url)
    registry.fault = hang
    for number in range(20):
        post_push(waiting, tag=f"v{number}")
    dispatcher = Dispatcher(waiting.state)
    thread = threading.Thread(target=_run, args=(waiting, dispatcher))
    thread.start()
    registry.wait_for(8)
    waiting.push(tag="own")
    receiver.wait_for(1)
    assert sent_tags(receiver) == ["own"]
    assert len(registry.requests) == 8 or registry.requests[8].time - registry.requests[0].time > 0.9  # its time-out
    dispatcher.stop()
    thread.join(20)
    with waiting.writing() as session:  # it has left them to other workers
        leased = select(func.count()).where(Push.tag_look_up_at > now_plus(literal(MAX_DELAY_S)))
        assert session.scalar(leased) == 0


def _run(host: Host, dispatcher: Dispatcher) -> None:
    with host.app.app_context():
        dispatcher.run()


@pytest.mark.parametrize(("answer", "again"), [(403, 8), (500, 0)])
@on_sqlite
def test_refused_repositories_delay_no_others(waiting: Host, registry: Registry, answer: int, again: int) -> None:
    """A registry that refuses to show repositories is not down: tags are looked up as often as before."""
    waiting.create(URL)
    registry.fault = answer
    for number in range(8):
        post_push(waiting, tag=f"v{number}")
    waiting.run_job()
    registry.wait_for(8)
    look_up_again(waiting)
    assert len(registry.requests) == 8 + again


@on_postgresql
def test_workers_share_the_look_ups(waiting: Host, registry: Registry, receiver: Receiver, roomy_pool: None) -> None:
    """Several workers look up each tag once."""
    waiting.create(receiver.url)
    tags = [f"v{number}" for number in range(30)]
    for tag in tags:
        post_push(waiting, tag=tag)
        registry.shows[f"acme/app:{tag}"] = "sha256:new"
    workers = [threading.Thread(target=_run, args=(waiting, Dispatcher(waiting.state))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(registry.looked_up) == sorted(f"acme/app:{tag}" for tag in tags)
    waiting.run_job()
    assert sorted(sent_tags(receiver)) == sorted(tags)


@on_postgresql
def test_locked_by_another_transaction(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """What another transaction has locked becomes due with the next look-up, and nobody waits for it."""
    waiting.create(receiver.url)
    waiting.create(receiver.url, name="another")
    post_push(waiting)
    registry.shows["acme/app:latest"] = "sha256:new"
    with waiting.app.app_context(), waiting.db.engine.connect() as other:
        first = select(Delivery.id).order_by(Delivery.id).limit(1)
        other.execute(select(Delivery.id).where(Delivery.id == first.scalar_subquery()).with_for_update())
        waiting.run_job()
        assert len(receiver.requests) == 1
    look_up_again(waiting)
    assert len(receiver.requests) == 2


@on_postgresql
def test_a_worker_looks_by_itself(waiting: Host, registry: Registry, receiver: Receiver) -> None:
    """A worker that lingers looks up again without being woken."""
    waiting.create(receiver.url)
    dispatcher = Dispatcher(waiting.state, linger_s=30.0)
    thread = threading.Thread(target=_run, args=(waiting, dispatcher))
    thread.start()
    try:
        post_push(waiting)
        poll(lambda: len(registry.looked_up) >= 3)
        registry.shows["acme/app:latest"] = "sha256:new"
        receiver.wait_for(1)
    finally:
        dispatcher.stop()
        thread.join(20)
