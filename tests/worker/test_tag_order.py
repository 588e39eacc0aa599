"""Hooks that supersede get the pushes of a tag one at a time, the newest first, and no older one after a newer."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from sqlalchemy import text, update

from flask_hubhooks import ImagePush
from flask_hubhooks.records import superseding, transitions
from flask_hubhooks.records.models import Delivery, Webhook
from flask_hubhooks.worker import claims, tag_order
from flask_hubhooks.worker.claims import Claim, Released

from ..support.host import Host
from ..support.marks import MakeHost, on_postgresql
from ..support.plans import analyze, check_flat, explained
from ..support.receivers import Connection, Receiver, Request, http

SUPERSEDED = "Superseded by a newer push of this tag."


def create(host: Host, *receivers: Receiver, **more: Any) -> dict[str, Any]:
    hooks = [{"hook_url": each.url, "supersede": True} for each in receivers]
    return host.create(hooks=hooks, **more)


def push(host: Host, *pushers: str, tag: str = "latest") -> None:
    """Push a tag for each of these, which tell the pushes apart."""
    for pusher in pushers:
        host.push(tag=tag, pusher=pusher)


def pushers(receiver: Receiver) -> list[str]:
    return [json.loads(each.body)["push_data"]["pusher"] for each in receiver.requests]


def deliver_later(host: Host) -> None:
    """Deliver what waits for a retry, too."""
    host.make_due()
    host.deliver()


def take(host: Host, limit: int = 100) -> tuple[list[Claim], list[Released]]:
    """Claim as a worker does before it sends."""
    with host.writing() as session:
        taken = claims.claim(session, limit)[0]
    with host.writing() as session:
        sendable, released = tag_order.keep_order(session, taken)
    with host.writing() as session:
        claims.release(session, released)
    return sendable, released


def reasons(host: Host, webhook: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The state and reason of each delivery, by who pushed."""
    return {each["push"]["pusher"]: (each["state"], each["reason"]) for each in host.history(webhook)}


def test_superseded(host: Host) -> None:
    """When a push is received, earlier pushes of its tag at its hook are cancelled, and nothing else is."""
    with Receiver(500) as receiver, Receiver(500) as other:
        webhook, wants_all = create(host, receiver), host.create(other.url, name="ci")
        push(host, "one")
        push(host, "another", tag="v1")
        host.deliver()
        receiver.answers = [200]
        push(host, "two")
        host.deliver()
        assert reasons(host, webhook) == {
            "two": ("succeeded", ""),
            "another": ("pending", ""),
            "one": ("cancelled", SUPERSEDED),
        }
        assert {state for state, _ in reasons(host, wants_all).values()} == {"pending"}
        deliver_later(host)
        assert sorted(pushers(receiver)) == ["another", "another", "one", "two"]
        assert sorted(pushers(other)) == ["another", "another", "one", "one", "two", "two"]


def test_newest_first(host: Host) -> None:
    """Of several pushes that are due the newest is sent, and those before it never are."""
    with Receiver() as receiver:
        webhook = create(host, receiver)
        push(host, "one", "two", "three")
        host.deliver()
        deliver_later(host)
        assert pushers(receiver) == ["three"]
    assert [each["reason"] for each in host.history(webhook)] == ["", SUPERSEDED, SUPERSEDED]


def test_an_older_push_while_the_newer_waits(host: Host) -> None:
    """An older push waits while a newer one waits for its retry: the receiver may have acted on it all the same."""
    with Receiver(500, 200) as receiver:
        create(host, receiver)
        push(host, "one", "two")
        host.deliver()  # two fails
        with host.writing() as session:
            taken = {each.pusher: each for each in claims.claim(session, 9)[0]}
        assert not taken  # both wait: one for the newer push, two for its retry
        deliver_later(host)
        assert pushers(receiver) == ["two", "two"]


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_one_at_a_time(make_host: MakeHost, order: tuple[str, str]) -> None:
    """While a worker has a push of a tag, no other worker starts with another push of it at the same hook."""
    host, other = make_host(), make_host()
    with Receiver() as receiver:
        webhook = create(host, receiver)
        push(host, "one", "two")
        push(host, "third", tag="v1")
        with host.writing() as session:
            taken = {each.pusher: each for each in claims.claim(session, 9)[0]}
        with host.writing() as session:
            claims.release(session, [Released(each) for pusher, each in taken.items() if pusher != order[0]])
        sendable, released = take(other)
        assert [each.pusher for each in sendable] == ["third"]
        assert [(each.claim.pusher, each.reason) for each in released] == [(order[1], tag_order.HELD)]
        assert reasons(host, webhook)[order[1]] == ("pending", tag_order.HELD)


@on_postgresql
def test_two_claims_at_the_same_time(make_host: MakeHost) -> None:
    """If two workers claim two pushes of a tag before either has committed, at most one is sent."""
    host = make_host()
    with Receiver() as receiver:
        create(host, receiver)
        push(host, "one", "two")
        with host.writing() as one, host.writing() as other:
            taken = [claims.claim(session, 1)[0] for session in (one, other)]
        assert [len(each) for each in taken] == [1, 1]
        with host.writing() as session:
            assert [tag_order.keep_order(session, each)[0] for each in taken] == [[], []]


def test_after_a_worker_was_killed(host: Host) -> None:
    """What a dead worker had claimed counts as on the wire until its lease ends, and is then superseded as usual."""
    with Receiver() as receiver:
        webhook = create(host, receiver)
        push(host, "one")
        assert len(take(host)[0]) == 1
        push(host, "two")
        assert take(host)[0] == []
        deliver_later(host)
        assert pushers(receiver) == ["two"]
    assert reasons(host, webhook)["one"] == ("cancelled", SUPERSEDED)


def test_an_owner_sends_again(host: Host) -> None:
    """A redelivery that an owner asks for is sent although a newer push was received, and it is not superseded."""
    with Receiver(200) as receiver:
        webhook = create(host, receiver)
        push(host, "one", "two")
        host.deliver()
        receiver.answers = [500, 200]
        assert host.redeliver(webhook, 1).status_code == 202
        receiver.requests.clear()
        host.deliver()
        push(host, "three")
        host.deliver()
        assert reasons(host, webhook)["one"] == ("pending", "")
        deliver_later(host)
        assert pushers(receiver) == ["one", "three", "one"]


def test_chains(host: Host) -> None:
    """A chain of which one hook has received the push goes on, and one of which none has is cancelled as a whole."""
    with Receiver(500, 200) as first, Receiver() as second:
        webhook = create(host, first, second)
        push(host, "one")
        host.deliver()
        push(host, "two", "three")
        host.deliver()
        assert pushers(first) == ["one", "three"]
        states = [(each["push"]["pusher"], each["state"]) for each in host.history(webhook)]
        assert states == [
            ("three", "awaiting_callback"),
            ("three", "waiting"),
            ("two", "cancelled"),
            ("two", "cancelled"),
            ("one", "cancelled"),
            ("one", "cancelled"),
        ]
        push(host, "four")
        host.deliver()
        for request in first.requests[-2:]:
            assert host.call_back(request.body).status_code == 200
        deliver_later(host)  # the older first, since neither supersedes the other
        deliver_later(host)
        assert pushers(second) == ["three", "four"]


def test_a_callback_is_receipt(host: Host) -> None:
    """A receiver that calls back and then fails has received the push."""
    with Receiver(500) as receiver:
        webhook = create(host, receiver, expect_final_callback=True)
        push(host, "one", "two")
        host.deliver()
        assert pushers(receiver) == ["two"]
        assert host.call_back(receiver.requests[0].body, state="failure").status_code == 200
    assert reasons(host, webhook) == {"two": ("failed", ""), "one": ("cancelled", SUPERSEDED)}


@on_postgresql
def test_an_older_push_is_committed_late(make_host: MakeHost) -> None:
    """An older push whose transaction commits after a newer one was received is not sent any more."""
    host = make_host(join_session=True)
    with Receiver() as receiver:
        webhook = create(host, receiver)
        with host.app.app_context():
            host.hubhooks.push(ImagePush("acme/app", "latest", pusher="one"))

            def newer() -> None:
                with host.app.app_context():
                    host.hubhooks.push(ImagePush("acme/app", "latest", pusher="two"))
                    host.db.session.commit()
                host.deliver()

            thread = threading.Thread(target=newer)
            thread.start()
            thread.join()
            assert pushers(receiver) == ["two"]
            host.db.session.commit()
        host.deliver()
        assert pushers(receiver) == ["two"]
    assert reasons(host, webhook)["one"] == ("cancelled", SUPERSEDED)


def test_recovered(host: Host) -> None:
    """Recovering sends the newest push of each tag that was lost, unless a newer one was received meanwhile."""
    with Receiver() as receiver:
        webhook = create(host, receiver)
        push(host, "one", "two")
        push(host, "before", tag="v1")
        path = f"acme/app/webhooks/{webhook['id']}/"
        host.make_overdue()
        assert take(host) == ([], [])
        push(host, "after", tag="v1")
        host.deliver()
        recovered = host.api("POST", f"{path}recover/", json={"since": "2000-01-01T00:00:00Z"}).get_json()
        assert recovered == {"recovered": 1, "remaining": 0}
        push(host, "three")
        host.deliver()
        deliver_later(host)
        assert pushers(receiver) == ["after", "three"]
        assert reasons(host, webhook)["two"] == ("cancelled", SUPERSEDED)
        recovered = host.api("POST", f"{path}recover/", json={"since": "2000-01-01T00:00:00Z"}).get_json()
        assert recovered == {"recovered": 0, "remaining": 0}


def test_switched_on_and_off(host: Host) -> None:
    """A change of the setting holds for what is pending, too."""
    with Receiver(500) as receiver:
        webhook = host.create(receiver.url)
        hook = f"acme/app/webhooks/{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
        push(host, "one", "two")
        host.deliver()
        assert sorted(pushers(receiver)) == ["one", "two"]
        assert host.api("PATCH", hook, json={"payload_format": "harbor"}).status_code == 200
        host.make_due()
        assert [each.pusher for each in take(host)[0]] == ["two"]
        assert host.api("PATCH", hook, json={"supersede": False}).status_code == 200
        host.make_due()
        assert sorted(each.pusher for each in take(host)[0]) == ["one", "two"]


def test_tests_keep_out(host: Host) -> None:
    """A test is sent at once, whatever was pushed, and supersedes nothing."""
    with Receiver(500) as receiver:
        webhook = create(host, receiver)
        push(host, "one", tag="hubhooks-test")
        host.deliver()
        receiver.answers = [200]
        assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
        host.deliver()
    assert [each["state"] for each in host.history(webhook)] == ["succeeded", "pending"]


def test_renamed(host: Host) -> None:
    """A push under the repository's new name supersedes those under its old one."""
    with Receiver(500, 200) as receiver:
        webhook = create(host, receiver)
        push(host, "one")
        host.deliver()
        with host.app.app_context():
            host.hubhooks.repository_renamed("acme/app", "acme/new")
            host.db.session.commit()
        host.deliver()  # settles
        host.push("acme/new", pusher="two")
        host.deliver()
        assert [each["state"] for each in host.history(webhook, "acme/new")] == ["succeeded", "cancelled"]


def test_repositories_of_a_namespace(host: Host) -> None:
    """Tags of the same name of two repositories have nothing to do with each other at a hook that gets both."""
    with Receiver() as receiver:
        create(host, receiver)
        host.set_all(Webhook, scope="acme/*")
        for repository in ("acme/app", "acme/other"):
            host.push(repository, pusher=repository)
        assert sorted(each.pusher for each in take(host)[0]) == ["acme/app", "acme/other"]


def test_the_request_in_flight_ends_first(make_host: MakeHost) -> None:
    """In one worker, too, a push of a tag waits until the request of another has ended."""
    host = make_host()
    overlapping: list[str] = []
    begun = threading.Semaphore(1)

    def slowly(request: Request, connection: Connection) -> bytes:
        if not begun.acquire(blocking=False):
            overlapping.append(request.body.decode())
            return http(200)
        connection.receiver.stopping.wait(0.05)
        begun.release()
        return http(200)

    with Receiver(slowly) as receiver:
        create(host, receiver)
        worker = threading.Thread(target=host.run_job)
        push(host, "one")
        worker.start()
        for number in range(30):
            push(host, f"number {number}")
        worker.join(30)
        deliver_later(host)
        assert pushers(receiver)[-1] == "number 29"
    assert not overlapping


def test_other_hooks_pay_nothing(make_host: MakeHost) -> None:
    """Where no hook supersedes, a delivery takes no statement more."""
    host = make_host()
    with Receiver() as receiver, host.statements("ordered_image =") as statements:
        host.create(receiver.url)
        push(host, "one", "two")
        host.deliver()
        assert len(receiver.requests) == 2
    assert not statements


@pytest.mark.own_host
@pytest.mark.parametrize("due", [0, 5_000])
@pytest.mark.parametrize("analyzed", [False, True])
@on_postgresql
def test_order_stays_flat(host: Host, analyzed: bool, due: int) -> None:
    """Keeping the order reads only the tags that were claimed, by their own index.

    That holds for plans made while nothing else was due, too: PostgreSQL keeps them when much is due.
    """
    with Receiver() as receiver:
        hook = create(host, receiver)["hooks"][0]["id"]
    push(host, "before", tag="more")
    push_more(host, 1_000)
    with host.writing() as session:
        session.execute(update(Delivery).values(transitions.succeeded()))
    if analyzed:
        analyze(host)
    push(host, *"abc", tag="again")
    for number in range(10):
        push(host, "f", tag=f"v{number}")
    with host.writing() as session:
        taken = claims.claim(session, 13)[0]
    assert len(taken) == 13
    push(host, "later", tag="more")
    push_more(host, due)
    with explained(host) as (session, plans):
        assert len(tag_order.keep_order(session, taken)[0]) == 11
        newest = max(taken, key=lambda claim: claim.push_id)
        superseding.supersede(session, {superseding.Received(hook, "acme/app:again", newest.push_id)})
    check_flat(plans)
    others = [each for each in plans if each.get("Alias", "").startswith(("other", "hubhooks_delivery"))]
    assert {each.get("Index Name") for each in others} == {"ix_hubhooks_delivery_image"}


def push_more(host: Host, count: int) -> None:
    """Push so many other tags as the last one, by SQL."""
    with host.writing() as session:
        session.execute(text(_MORE_PUSHES), {"count": count})
        session.execute(text(_MORE_DELIVERIES))


_MORE_PUSHES = """
INSERT INTO hubhooks_push (kind, repository, tag, digest, media_type, pusher, pushed_at, snapshot)
SELECT kind, repository, tag || id || '-' || number, digest, media_type, pusher, pushed_at, snapshot
FROM hubhooks_push, generate_series(1, :count) AS number WHERE id = (SELECT max(id) FROM hubhooks_push)
"""
_MORE_DELIVERIES = """
INSERT INTO hubhooks_delivery (id, push_id, webhook_id, hook_id, position, chain_length, callback_expected,
    repository_key, pushed_at, ordered_image, status, next_attempt_at, give_up_at, created_at)
SELECT gen_random_uuid(), more.id, d.webhook_id, d.hook_id, 0, 1, false, d.repository_key, d.pushed_at,
    more.repository || ':' || more.tag, d.status, d.next_attempt_at + interval '1 s', d.give_up_at, d.created_at
FROM hubhooks_push AS more, hubhooks_delivery AS d
WHERE d.push_id = (SELECT max(push_id) FROM hubhooks_delivery) AND more.id > d.push_id
"""
