"""Redelivering one delivery and the rest of its chain, recovering lost ones, and test pushes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import update
from werkzeug.test import TestResponse

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records import redelivery
from flask_hubhooks.records.models import Delivery, Hook, Status

from ..support.host import Host, problem
from ..support.receivers import Receiver, counts

NEVER = "http://127.0.0.1:9/hook"
LONG_AGO = "2000-01-01T00:00:00Z"


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Receiver()) for _ in range(2)]


def api(host: Host, method: str, webhook: dict[str, Any], below: str = "", content: object = None) -> TestResponse:
    return host.api(method, f"acme/app/webhooks/{webhook['id']}/{below}", json=content)


def recover(host: Host, webhook: dict[str, Any], since: str = LONG_AGO, **more: Any) -> dict[str, Any]:
    answer = api(host, "POST", webhook, "recover/", {"since": since, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def queued(host: Host) -> int:
    """Empty the queue; return how many jobs it held."""
    queue = Queue("hubhooks", connection=host.state.redis, serializer=JSONSerializer)
    number = queue.count
    queue.empty()
    host.state.redis.delete("hubhooks:wake")
    return number


# Redelivering


def test_an_earlier_hook_is_under_way(host: Host, receivers: list[Receiver]) -> None:
    """A hook cannot be redelivered while the chain is at an earlier one: 409, and nothing changes."""
    webhook = host.create(*(receiver.url for receiver in receivers), NEVER)
    host.push()
    for _ in range(2):  # pending, and then awaiting its callback
        before = host.history(webhook)
        for position in (1, 2):
            assert "earlier hook" in problem(host.redeliver(webhook, position), 409)["detail"]
        assert host.history(webhook) == before
        host.deliver()
    assert counts(receivers) == [1, 0]
    assert host.redeliver(webhook, 0).status_code == 202


def test_a_removed_hook(host: Host, receivers: list[Receiver]) -> None:
    """A removed hook is not redelivered; an earlier one is, and then the chain ends before the removed one."""
    webhook = host.create(*(receiver.url for receiver in receivers))
    host.push()
    host.deliver()
    assert api(host, "DELETE", webhook, f"hooks/{webhook['hooks'][1]['id']}/").status_code == 204
    assert "removed" in problem(host.redeliver(webhook, 1), 409)["detail"]
    assert host.redeliver(webhook, 0).status_code == 202
    assert host.states(webhook) == ["pending", "waiting"]
    host.deliver()
    assert host.call_back(receivers[0].requests[1].body).status_code == 200
    host.deliver()
    assert host.states(webhook) == ["succeeded", "cancelled"]
    assert counts(receivers) == [2, 0]


def test_after_a_pause(host: Host, receivers: list[Receiver]) -> None:
    """What a pause has held can be redelivered with the rest of its chain afterwards, not during it: 409."""
    webhook = host.create(*(receiver.url for receiver in receivers))
    host.push()
    api(host, "PATCH", webhook, content={"active": False})
    assert "not active" in problem(host.redeliver(webhook, 0), 409)["detail"]
    api(host, "PATCH", webhook, content={"active": True})
    answer = host.redeliver(webhook, 0)
    assert answer.status_code == 202
    delivery = answer.get_json()
    assert answer.headers["Location"].endswith(f"/webhooks/{webhook['id']}/history/{delivery['id']}/")
    assert (delivery["state"], delivery["reason"], delivery["round"]) == ("pending", "", 2)
    assert host.states(webhook) == ["pending", "waiting"]
    host.deliver()
    assert counts(receivers) == [1, 0]


# Recovering


def lose(host: Host, webhook: dict[str, Any], number: int) -> None:
    """Have this many pushes fail."""
    for push in range(number):
        host.push(tag=f"v{push}")
    host.deliver()
    assert set(host.states(webhook)) <= {"failed", "skipped"}


def test_recover_in_batches(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed deliveries are recovered oldest first, batch by batch, each once, until none remains."""
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", 2)
    with Receiver(*[308] * 5, 200) as receiver:
        webhook = host.create(receiver.url)
        lose(host, webhook, 5)
        queued(host)
        for recovered, remaining in ((2, 3), (2, 1), (1, 0)):
            assert recover(host, webhook) == {"recovered": recovered, "remaining": remaining}
            assert queued(host) == 1
            assert host.states(webhook) == ["failed"] * remaining + ["pending"] * (5 - remaining)
        assert recover(host, webhook) == {"recovered": 0, "remaining": 0}
        assert queued(host) == 0
        host.deliver()
        assert len(receiver.requests) == 10
    assert host.states(webhook) == ["succeeded"] * 5
    assert {(each["round"], each["attempt_count"]) for each in host.history(webhook)} == {(2, 2)}


def test_recover_a_chain(host: Host, receivers: list[Receiver]) -> None:
    """Recovering a chain resends the failed hook, and the later ones follow; succeeded ones stay as they are."""
    with Receiver(308, 200) as flaky:
        webhook = host.create(receivers[0].url, flaky.url, receivers[1].url, expect_final_callback=False)
        host.push()
        host.deliver()
        host.call_back(receivers[0].requests[0].body)
        host.deliver()
        assert host.states(webhook) == ["succeeded", "failed", "skipped"]
        assert recover(host, webhook) == {"recovered": 1, "remaining": 0}
        assert host.states(webhook) == ["succeeded", "pending", "waiting"]
        assert [each["round"] for each in host.history(webhook)] == [1, 2, 2]
        host.deliver()
        host.call_back(flaky.requests[1].body)
        host.deliver()
    assert host.states(webhook) == ["succeeded"] * 3
    assert counts(receivers) == [1, 1]


def test_what_is_not_lost(host: Host) -> None:
    """A callback with "failure", an expired one, a success, a test, and anything under way are not lost."""
    with Receiver() as receiver, Receiver(308) as moved:
        decided = host.create(receiver.url, NEVER)
        host.push()
        host.deliver()
        host.call_back(receiver.requests[0].body, state="failure")
        host.push()
        host.deliver()
        host.make_overdue()
        host.deliver()
        assert host.states(decided) == ["expired", "skipped", "failed", "skipped"]
        host.push()
        host.deliver()
        other = host.create(moved.url, name="other")
        assert api(host, "POST", other, "test/").status_code == 202
        host.deliver()
        assert host.states(other) == ["failed"]
        succeeded = host.create(receiver.url, name="succeeded")
        host.push()
        host.deliver()
        assert host.states(succeeded) == ["succeeded"]
    assert host.states(other) == ["failed", "failed"]
    before = host.history(decided), host.history(succeeded)
    for webhook in (decided, succeeded):
        assert recover(host, webhook) == {"recovered": 0, "remaining": 0}
    assert (host.history(decided), host.history(succeeded)) == before
    assert recover(host, other) == {"recovered": 1, "remaining": 0}
    assert host.states(other) == ["pending", "failed"]


def test_recover_after_a_pause(host: Host, receivers: list[Receiver]) -> None:
    """What failed because a pause was too long is recovered after it, except at removed hooks; during it: 409."""
    webhook = host.create(*(receiver.url for receiver in receivers))
    host.push()
    api(host, "PATCH", webhook, content={"active": False})
    host.deliver()
    host.make_overdue()
    host.deliver()
    failed = host.history(webhook)[0]
    assert (failed["state"], failed["reason"]) == ("failed", "Not delivered within 5 days: the webhook was paused.")
    assert "not active" in problem(api(host, "POST", webhook, "recover/", {"since": LONG_AGO}), 409)["detail"]
    api(host, "PATCH", webhook, content={"active": True})
    assert recover(host, webhook) == {"recovered": 1, "remaining": 0}
    assert host.states(webhook) == ["pending", "waiting"]
    api(host, "DELETE", webhook, f"hooks/{webhook['hooks'][0]['id']}/")
    assert host.states(webhook) == ["cancelled", "cancelled"]
    assert recover(host, webhook) == {"recovered": 0, "remaining": 0}


def test_since_and_until(host: Host) -> None:
    """Only what was lost between the two times is recovered, in any time format; without an end, until now."""
    webhook = host.create(NEVER)
    day = datetime(2026, 3, 1, tzinfo=timezone.utc)
    for number in range(4):
        host.push(tag=f"v{number}")
        with host.writing() as session:
            latest = update(Delivery).where(Delivery.status == Status.PENDING)
            session.execute(latest.values(status=Status.FAILED, finished_at=day + timedelta(days=number)))
    for since, until in (
        ("2026-03-05T00:00:00Z", None),
        ("2026-03-01T00:00:01Z", "2026-03-01T23:59:59Z"),
        ("2026-03-04T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", None),
        (LONG_AGO, "0001-01-01T00:00:00Z"),
    ):
        assert recover(host, webhook, since, until=until) == {"recovered": 0, "remaining": 0}
    assert recover(host, webhook, "2026-03-02T01:00:00+01:00", until="2026-03-02T12:00")["recovered"] == 1
    assert host.states(webhook) == ["failed", "failed", "pending", "failed"]
    assert recover(host, webhook, "2026-03-02", until="2026-03-03T23:59:59.999999Z")["recovered"] == 1
    assert recover(host, webhook, "0001-01-01T00:00:00Z") == {"recovered": 2, "remaining": 0}


# Tests


def test_a_test(host: Host, receivers: list[Receiver]) -> None:
    """A test goes to the first hook only, despite filter and pause, and is marked as a test in the history."""
    webhook = host.create(*(receiver.url for receiver in receivers), active=False, tag_filter=["v*"])
    host.create(receivers[1].url, name="other")
    queued(host)
    answer = api(host, "POST", webhook, "test/")
    assert (answer.status_code, queued(host)) == (202, 1)
    delivery = answer.get_json()
    assert answer.headers["Location"].endswith(f"/webhooks/{webhook['id']}/history/{delivery['id']}/")
    assert (delivery["push"]["kind"], delivery["push"]["tag"], delivery["push"]["pusher"]) == (
        "test",
        "hubhooks-test",
        "alice",
    )
    assert delivery["chain_length"] == len(delivery["chain"]) == 1
    api(host, "PATCH", webhook, content={"active": True})
    api(host, "PATCH", webhook, content={"active": False})
    host.deliver()
    assert counts(receivers) == [1, 0]
    assert host.details(webhook, delivery)["attempts"][0]["trigger"] == "test"


@pytest.mark.parametrize(("content", "called"), [({"chain": True}, 2), ({"chain": False}, 1), ({}, 1)])
def test_of_a_chain(host: Host, receivers: list[Receiver], content: object, called: int) -> None:
    """A test goes through the whole chain on request, callback by callback."""
    webhook = host.create(*(receiver.url for receiver in receivers), active=False)
    assert api(host, "POST", webhook, "test/", content).status_code == 202
    host.deliver()
    assert host.call_back(receivers[0].requests[0].body).status_code == 200
    host.deliver()
    assert counts(receivers) == [1, called - 1]
    assert len(host.states(webhook)) == called


def test_that_fails(host: Host) -> None:
    """A test has one attempt; its failure, or 410, neither counts towards disabling the webhook nor disables it."""
    with Receiver(500, 410) as receiver:
        webhook = host.create(receiver.url, receiver.url)
        for sent in (1, 2):
            api(host, "POST", webhook, "test/", {"chain": True})
            host.deliver()
            host.make_due()
            host.deliver()
            assert len(receiver.requests) == sent
    assert host.states(webhook) == ["failed", "skipped"] * 2
    now = api(host, "GET", webhook).get_json()
    assert (now["active"], now["disabled_reason"]) == (True, "")
    assert [hook["failing_since"] for hook in now["hooks"]] == [None, None]


def test_that_succeeds_while_failing(host: Host) -> None:
    """A test that arrives does not reset how long a hook has been failing; a push does."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.set_all(Hook, failing_since=utcnow())
        api(host, "POST", webhook, "test/")
        host.deliver()
        host.call_back(receiver.requests[0].body)
        assert host.states(webhook) == ["succeeded"]
        assert api(host, "GET", webhook).get_json()["hooks"][0]["failing_since"]
        host.push()
        host.deliver()
        assert api(host, "GET", webhook).get_json()["hooks"][0]["failing_since"] is None


def test_of_what_is_gone(host: Host, receivers: list[Receiver]) -> None:
    """Testing a webhook without hooks is a 409; a test sends nothing once its hook or webhook is gone."""
    empty = host.create(name="empty")
    assert "no hooks" in problem(api(host, "POST", empty, "test/"), 409)["detail"]
    removed, deleted = host.create(receivers[0].url), host.create(receivers[1].url, name="deleted")
    for webhook in (removed, deleted):
        assert api(host, "POST", webhook, "test/", {"chain": True}).status_code == 202
    api(host, "DELETE", removed, f"hooks/{removed['hooks'][0]['id']}/")
    api(host, "DELETE", deleted)
    host.deliver()
    assert counts(receivers) == [0, 0]
    assert host.states(removed) == ["cancelled"]
    problem(api(host, "POST", deleted, "test/"), 404)
    problem(api(host, "POST", removed, "test/"), 409)


def test_a_redelivery_goes_to_the_present_url(host: Host) -> None:
    """A redelivery goes to the URL that its hook has now."""
    with Receiver(301) as old, Receiver() as new:
        webhook = host.create(old.url)
        host.push()
        host.deliver()
        hook = webhook["hooks"][0]["id"]
        host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/hooks/{hook}/", json={"hook_url": new.url})
        delivery = host.history(webhook)[0]
        host.api("POST", f"acme/app/webhooks/{webhook['id']}/history/{delivery['id']}/redeliver/")
        host.deliver()
        assert len(new.requests) == 1
