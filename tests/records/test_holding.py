"""Pausing and disabling hold what is pending, and making a webhook active again sends it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text

from flask_hubhooks.records import holding, transitions
from flask_hubhooks.records.models import Delivery, Webhook
from flask_hubhooks.records.webhooks import disable
from flask_hubhooks.worker import claims

from ..support.host import Host
from ..support.marks import on_postgresql
from ..support.receivers import Receiver

PAUSED, DISABLED = transitions.HELD_PAUSED, transitions.HELD_DISABLED


def pause(host: Host, webhook: dict[str, Any]) -> None:
    _set_active(host, webhook, False)


def resume(host: Host, webhook: dict[str, Any]) -> None:
    _set_active(host, webhook, True)


def _set_active(host: Host, webhook: dict[str, Any], active: bool) -> None:
    answer = host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": active})
    assert (answer.status_code, answer.get_json()["active"]) == (200, active)


def disable_it(host: Host, webhook: dict[str, Any]) -> None:
    with host.writing() as session:
        assert disable(session, webhook["id"], "gone")


def tags(receiver: Receiver) -> list[str]:
    return [json.loads(each.body)["push_data"]["tag"] for each in receiver.requests]


@pytest.mark.parametrize(("switch_off", "reason"), [(pause, PAUSED), (disable_it, DISABLED)])
def test_held_and_sent(host: Host, switch_off: Callable[[Host, dict[str, Any]], None], reason: str) -> None:
    """What is pending is held, with its retries' step and its time to give up, and sent once resumed; tests pass."""
    with Receiver(500, 500, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="tried")
        host.deliver()
        host.push(tag="new")
        with host.writing() as session:
            give_up = {each.id: each.give_up_at for each in session.scalars(select(Delivery))}
        switch_off(host, webhook)
        host.push(tag="unheard")
        host.make_due()
        host.deliver()
        assert tags(receiver) == ["tried"]
        assert [
            (each["push"]["tag"], each["state"], each["reason"], each["cause"]) for each in host.history(webhook)
        ] == [
            ("new", "pending", reason, reason),
            ("tried", "pending", reason, reason),
        ]
        with host.writing() as session:
            rows = session.scalars(select(Delivery).order_by(Delivery.push_id)).all()
            assert {each.id: each.give_up_at for each in rows} == give_up
            assert [(each.retry_step, each.next_attempt_at) for each in rows] == [(1, None), (0, None)]
        assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
        host.deliver()
        assert tags(receiver) == ["tried", "hubhooks-test"]
        resume(host, webhook)
        host.deliver()
        assert sorted(tags(receiver)[2:]) == ["new", "tried"]
        tried = host.details(webhook, host.history(webhook)[-1])
        assert [(each["trigger"], each["round"]) for each in tried["attempts"]] == [("push", 1), ("retry", 1)]
        assert host.history(webhook)[-1]["reason"] == ""
        with host.writing() as session:
            assert session.scalars(select(Webhook.holds)).all() == [False]


def test_pausing_touches_no_delivery(host: Host) -> None:
    """Pausing and resuming take no longer however much is pending: a worker holds it, and makes it due again."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        for set_active in (pause, resume):
            with host.statements("hubhooks_delivery") as statements:
                set_active(host, webhook)
            assert not statements


def test_in_batches(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog is held and released in batches, of which one job goes through all."""
    monkeypatch.setattr(holding, "MAX_HELD", 2)
    with Receiver() as receiver:
        webhook, other = host.create(receiver.url), host.create(receiver.url, name="other")
        expected = []
        for number in range(7):
            host.push(tag=f"v{number}")
            expected.append(f"v{number}")
        pause(host, webhook)
        with host.writing() as session:
            claims.claim(session, 1)
        with host.writing() as session:
            held = select(Delivery.id).where(Delivery.reason == PAUSED)
            assert len(session.scalars(held).all()) <= 3  # the one that was claimed, and a batch
        host.make_due()
        host.run_job()
        assert host.states(other) == ["succeeded"] * 7
        assert [each["reason"] for each in host.history(webhook)] == [PAUSED] * 7
        resume(host, webhook)
        host.run_job()
        assert host.states(webhook) == ["succeeded"] * 7
        assert sorted(tags(receiver)[7:]) == expected


def test_the_newest_of_each_tag(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a hook that supersedes only the newest push of each tag is sent after a pause, also in batches."""
    monkeypatch.setattr(holding, "MAX_HELD", 2)
    with Receiver() as receiver:
        webhook = host.create(hooks=[{"hook_url": receiver.url, "payload_format": "harbor"}])
        for digit in "123":
            for tag in ("one", "two"):
                host.push(tag=tag, digest=f"sha256:{digit * 64}")
        pause(host, webhook)
        host.deliver()
        resume(host, webhook)
        host.deliver()
        sent = [json.loads(each.body)["event_data"]["resources"][0] for each in receiver.requests]
        assert sorted((each["tag"], each["digest"][7]) for each in sent) == [("one", "3"), ("two", "3")]
        host.make_due()
        host.deliver()
        assert len(receiver.requests) == 2
        assert [each["reason"] for each in host.history(webhook)[2:]] == [transitions.SUPERSEDED] * 4


@pytest.mark.parametrize(
    ("switch_off", "reason"), [(pause, transitions.GAVE_UP_PAUSED), (disable_it, transitions.GAVE_UP_DISABLED)]
)
def test_held_for_five_days(
    host: Host,
    switch_off: Callable[[Host, dict[str, Any]], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is held for 5 days, or was about to be held, fails with the reason, and can be recovered."""
    caplog.set_level(logging.INFO, "flask_hubhooks")
    monkeypatch.setattr(holding, "MAX_HELD", 0)
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="held")
        host.push(tag="due")
        switch_off(host, webhook)
        with host.writing() as session:
            assert claims.claim(session, 1)[0] == []
        host.make_overdue()
        host.deliver()
        assert [(each["state"], each["reason"]) for each in host.history(webhook)] == [("failed", reason)] * 2
        assert sum(each.message.endswith(f"failed for good: {reason}") for each in caplog.records) == 2
        resume(host, webhook)
        recovered = host.api(
            "POST", f"acme/app/webhooks/{webhook['id']}/recover/", json={"since": "2020-01-01T00:00:00Z"}
        )
        assert recovered.get_json() == {"recovered": 2, "remaining": 0}
        host.deliver()
        assert sorted(tags(receiver)) == ["due", "held"]


@on_postgresql
def test_resumed_while_it_is_held(host: Host) -> None:
    """A webhook that becomes active while a worker is about to hold a delivery is sent it nevertheless."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        pause(host, webhook)
        done: list[bool] = []

        def meanwhile(statement: str, *_: object) -> None:
            if "SET holds" in statement and not done:
                done.append(True)
                resume(host, webhook)

        with host.listening(meanwhile), host.writing() as session:
            assert claims.claim(session, 1)[0] == []
        assert done
        host.make_due()
        host.deliver()
        assert len(receiver.requests) == 1


@on_postgresql
def test_held_while_a_host_has_locked_the_webhook(host: Host) -> None:
    """A worker waits for no host that has the webhook's row locked: it looks again later."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        pause(host, webhook)
        with host.writing() as session, ThreadPoolExecutor() as pool:
            session.execute(text("UPDATE hubhooks_webhook SET unsettled = true"))
            pool.submit(host.run_job).result(10)
        assert [each["reason"] for each in host.history(webhook)] == [""]
        host.make_due()
        host.deliver()
        assert [each["reason"] for each in host.history(webhook)] == [PAUSED]
        with host.writing() as session, ThreadPoolExecutor() as pool:
            resume(host, webhook)
            session.execute(text("UPDATE hubhooks_webhook SET unsettled = true"))
            pool.submit(host.run_job).result(10)
        assert not receiver.requests
        host.deliver()
        assert len(receiver.requests) == 1


def test_deleted_while_it_is_held(host: Host) -> None:
    """Deleting a webhook cancels what is held."""
    webhook = host.create("http://127.0.0.1:9/")
    host.push()
    pause(host, webhook)
    host.deliver()
    assert host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/").status_code == 204
    with host.writing() as session:
        assert session.scalars(select(Delivery.reason)).all() == ["The webhook was deleted."]
