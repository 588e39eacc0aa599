"""Chains: each hook is called after the one before it has succeeded, whatever happens in between."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest
import requests
from rq import Queue
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from flask_hubhooks.records import transitions
from flask_hubhooks.records.models import Delivery, Webhook

from ..support.host import Host
from ..support.receivers import Connection, Receiver, Request, counts
from ..support.threads import at_once


def chain(host: Host, receivers: list[Receiver], **more: Any) -> dict[str, Any]:
    """Push to a chain of these receivers, and deliver what is due."""
    webhook = host.create(*(receiver.url for receiver in receivers), **more)
    host.push()
    host.deliver()
    return webhook


def carry_on(host: Host, receiver: Receiver, **callback: Any) -> None:
    """Post the callback of the receiver's latest payload, and deliver what follows."""
    assert host.call_back(receiver.requests[-1].body, **callback).status_code == 200
    host.deliver()


def finish(host: Host, receivers: list[Receiver]) -> None:
    for receiver in receivers:
        carry_on(host, receiver)


# One after the other


def test_order(host: Host, receivers: list[Receiver]) -> None:
    """Each hook is called after the callback of the one before; the history shows the whole chain from the start."""
    webhook = chain(host, receivers)
    assert host.states(webhook) == ["awaiting_callback", "waiting", "waiting"]
    assert counts(receivers) == [1, 0, 0]
    carry_on(host, receivers[0])
    assert host.states(webhook) == ["succeeded", "awaiting_callback", "waiting"]
    assert counts(receivers) == [1, 1, 0]
    carry_on(host, receivers[1])
    assert host.states(webhook) == ["succeeded", "succeeded", "awaiting_callback"]
    carry_on(host, receivers[2])
    assert host.states(webhook) == ["succeeded"] * 3
    assert counts(receivers) == [1, 1, 1]
    deliveries = [host.details(webhook, each) for each in host.history(webhook)]
    assert [each["attempts"][0]["trigger"] for each in deliveries] == ["push", "chain", "chain"]
    assert [(each["position"], each["chain_length"]) for each in deliveries] == [(0, 3), (1, 3), (2, 3)]
    assert all(each["callback_expected"] for each in deliveries)


def test_all_in_one_run(served: Host) -> None:
    """A chain goes through at once if each receiver calls back before it answers."""

    def call_back(request: Request, _: Connection) -> int:
        url = json.loads(request.body)["callback_url"]
        return requests.post(url, json={"state": "success"}, timeout=10).status_code

    with Receiver(call_back) as one, Receiver(call_back) as two, Receiver(call_back) as three:
        webhook = served.create(one.url, two.url, three.url)
        served.push()
        served.run_job()
        assert counts([one, two, three]) == [1, 1, 1]
    assert served.states(webhook) == ["succeeded"] * 3


def test_the_same_but_for_the_callback(host: Host, receivers: list[Receiver]) -> None:
    """All hooks of a chain get the same payload, except that each delivery has its own callback URL."""
    chain(host, receivers)
    finish(host, receivers)
    payloads = [json.loads(receiver.requests[0].body) for receiver in receivers]
    assert len({payload.pop("callback_url") for payload in payloads}) == 3
    assert payloads[0] == payloads[1] == payloads[2]


def test_a_callback_wakes_a_worker(host: Host, receivers: list[Receiver]) -> None:
    """A callback that lets the next hook be called wakes a worker; any other callback does not."""
    host.create(receivers[0].url, receivers[1].url)
    host.push()
    host.run_job()
    queue = Queue("hubhooks", connection=host.state.redis, serializer=JSONSerializer)
    queue.empty()
    host.call_back(receivers[0].requests[0].body)
    assert queue.count == 1
    host.run_job()
    queue.empty()
    host.call_back(receivers[1].requests[0].body)
    assert queue.count == 0


@pytest.mark.parametrize(
    ("expect", "last"), [(None, "awaiting_callback"), (True, "awaiting_callback"), (False, "succeeded")]
)
def test_final_callback(host: Host, receivers: list[Receiver], expect: bool | None, last: str) -> None:
    """The last hook's callback is awaited unless the webhook says otherwise; the earlier ones always are."""
    webhook = chain(host, receivers[:2], **({} if expect is None else {"expect_final_callback": expect}))
    assert host.states(webhook) == ["awaiting_callback", "waiting"]
    carry_on(host, receivers[0])
    assert host.states(webhook) == ["succeeded", last]


@pytest.mark.parametrize(("expect", "state"), [(None, "succeeded"), (False, "succeeded"), (True, "awaiting_callback")])
def test_final_callback_of_one_hook(host: Host, receivers: list[Receiver], expect: bool | None, state: str) -> None:
    """The callback of a single hook is awaited only if the webhook says so."""
    webhook = chain(host, receivers[:1], **({} if expect is None else {"expect_final_callback": expect}))
    assert host.states(webhook) == [state]


def test_other_pushes_are_not_held_back(host: Host, receivers: list[Receiver]) -> None:
    """A chain that waits for its callback holds back neither other pushes nor other webhooks."""
    webhook = chain(host, receivers[:2])
    other = host.create(receivers[2].url, name="other")
    host.push(tag="v2")
    host.deliver()
    assert counts(receivers) == [2, 0, 1]
    carry_on(host, receivers[0])  # the second push's
    assert host.states(webhook) == ["succeeded", "awaiting_callback", "awaiting_callback", "waiting"]
    assert host.states(other) == ["succeeded"]


# Interrupted


@pytest.mark.parametrize("state", ["failure", "error"])
@pytest.mark.parametrize("position", [0, 1])
def test_interrupted_by_a_callback(host: Host, receivers: list[Receiver], state: str, position: int) -> None:
    """A callback with failure or error interrupts the chain: the rest is skipped and never sent."""
    webhook = chain(host, receivers)
    finish(host, receivers[:position])
    carry_on(host, receivers[position], state=state)
    assert host.states(webhook) == ["succeeded"] * position + ["failed"] + ["skipped"] * (2 - position)
    assert counts(receivers) == [1] * (position + 1) + [0] * (2 - position)
    skipped = host.history(webhook)[-1]
    assert (skipped["status"], skipped["reason"]) == ("error", "An earlier hook of the chain failed.")


def test_interrupted_by_a_failure(host: Host, receivers: list[Receiver]) -> None:
    """A failed delivery interrupts the chain."""
    with Receiver(308) as moved:
        webhook = chain(host, [moved, *receivers[1:]])
    assert host.states(webhook) == ["failed", "skipped", "skipped"]


def test_a_retry_does_not_interrupt(host: Host, receivers: list[Receiver]) -> None:
    """While a hook is being retried, the rest of the chain waits for it."""
    with Receiver(500, 200) as flaky:
        webhook = chain(host, [flaky, receivers[1]])
        assert host.states(webhook) == ["pending", "waiting"]
        host.make_due()
        host.deliver()
        carry_on(host, flaky)
    assert host.states(webhook) == ["succeeded", "awaiting_callback"]


def test_interrupted_by_expiry(host: Host, receivers: list[Receiver]) -> None:
    """An expired callback interrupts the chain."""
    webhook = chain(host, receivers)
    host.make_overdue()
    host.deliver()
    assert host.states(webhook) == ["expired", "skipped", "skipped"]
    assert counts(receivers) == [1, 0, 0]


def test_interrupted_by_giving_up(host: Host, receivers: list[Receiver]) -> None:
    """A delivery that was given up unsent interrupts the chain."""
    webhook = host.create(*(receiver.url for receiver in receivers))
    host.push()
    host.make_overdue()
    host.deliver()
    assert host.states(webhook) == ["failed", "skipped", "skipped"]
    assert counts(receivers) == [0, 0, 0]


def test_paused_in_between(host: Host, receivers: list[Receiver]) -> None:
    """A callback while the webhook is paused decides; the next hook is called once the webhook is active again."""
    webhook = chain(host, receivers)
    here = f"acme/app/webhooks/{webhook['id']}/"
    assert host.api("PATCH", here, json={"active": False}).status_code == 200
    carry_on(host, receivers[0])
    assert host.states(webhook) == ["succeeded", "pending", "waiting"]
    assert counts(receivers) == [1, 0, 0]
    assert host.history(webhook)[1]["reason"] == "Held: the webhook is paused."
    assert host.api("PATCH", here, json={"active": True}).status_code == 200
    host.deliver()
    assert host.states(webhook) == ["succeeded", "awaiting_callback", "waiting"]
    assert counts(receivers) == [1, 1, 0]


# Sent again


def test_redeliver_in_the_middle(host: Host, receivers: list[Receiver]) -> None:
    """Redelivering a hook begins a new round for it and all later hooks; earlier ones stay as they are."""
    webhook = chain(host, receivers)
    finish(host, receivers)
    first = [host.details(webhook, each) for each in host.history(webhook)]
    answer = host.redeliver(webhook, 1)
    assert answer.status_code == 202
    assert (answer.get_json()["state"], answer.get_json()["round"]) == ("pending", 2)
    assert host.states(webhook) == ["succeeded", "pending", "waiting"]
    assert [each["round"] for each in host.history(webhook)] == [1, 2, 2]
    assert [bool(each["callback"]) for each in host.history(webhook)] == [True, False, False]
    host.deliver()
    assert counts(receivers) == [1, 2, 1]
    finish(host, receivers[1:])
    assert counts(receivers) == [1, 2, 2]
    second = [host.details(webhook, each) for each in host.history(webhook)]
    assert [each["state"] for each in second] == ["succeeded"] * 3
    assert second[0] == first[0]
    assert [each["id"] for each in second] == [each["id"] for each in first]
    for each in second[1:]:
        assert [(one["number"], one["round"]) for one in each["attempts"]] == [(1, 1), (2, 2)]
        assert each["attempts"][1]["trigger"] == "redelivery"


def test_redeliver_after_an_interruption(host: Host, receivers: list[Receiver]) -> None:
    """After the failed hook is redelivered, the skipped ones wait again, and the chain can finish."""
    webhook = chain(host, receivers)
    carry_on(host, receivers[0], state="error")
    assert host.redeliver(webhook, 0).status_code == 202
    assert host.states(webhook) == ["pending", "waiting", "waiting"]
    host.deliver()
    finish(host, receivers)
    assert host.states(webhook) == ["succeeded"] * 3
    assert counts(receivers) == [2, 1, 1]


def test_redeliver_a_skipped_one(host: Host, receivers: list[Receiver]) -> None:
    """A skipped hook can be redelivered by itself, and the rest follows it."""
    webhook = chain(host, receivers)
    carry_on(host, receivers[0], state="failure")
    host.redeliver(webhook, 1)
    host.deliver()
    finish(host, receivers[1:])
    assert host.states(webhook) == ["failed", "succeeded", "succeeded"]


def test_redeliver_starts_the_schedule_anew(host: Host, receivers: list[Receiver]) -> None:
    """A new round starts with the full retry schedule and its own five days."""
    webhook = chain(host, receivers[:1])
    host.set_all(Delivery, **transitions.failed("") | {"retry_step": 10})
    host.redeliver(webhook, 0)
    host.deliver()
    assert host.states(webhook) == ["succeeded"]
    assert counts(receivers) == [2, 0, 0]


def test_redeliver_while_on_the_wire(host: Host, receivers: list[Receiver]) -> None:
    """While a delivery of the chain is in flight, redelivering any of them is a 409 and changes nothing."""
    refused: list[TestResponse] = []
    webhook: dict[str, Any] = {}

    def try_to_redeliver(request: Request, _: Connection) -> int:
        refused.extend(host.redeliver(webhook, position) for position in range(3))
        return 200

    with Receiver(try_to_redeliver) as second:
        webhook |= chain(host, [receivers[0], second, receivers[2]])
        carry_on(host, receivers[0])
    assert [answer.status_code for answer in refused] == [409] * 3
    assert "is being sent" in refused[0].get_json()["detail"]
    assert host.states(webhook) == ["succeeded", "awaiting_callback", "waiting"]
    assert {each["round"] for each in host.history(webhook)} == {1}


def test_redeliver_while_inactive(host: Host, receivers: list[Receiver]) -> None:
    """An inactive webhook redelivers nothing: 409."""
    webhook = chain(host, receivers)
    host.set_all(Webhook, active=False)
    before = host.history(webhook)
    answer = host.redeliver(webhook, 0)
    assert answer.status_code == 409
    assert "not active" in answer.get_json()["detail"]
    assert host.history(webhook) == before


def test_redeliver_wakes_a_worker(host: Host, receivers: list[Receiver]) -> None:
    """A redelivery wakes a worker."""
    webhook = host.create(receivers[0].url)
    host.push()
    host.run_job()
    queue = Queue("hubhooks", connection=host.state.redis, serializer=JSONSerializer)
    queue.empty()
    host.redeliver(webhook, 0)
    assert queue.count == 1


# At the same time


def decide(url: str, state: str) -> int:
    """Post a state to a callback URL; return the status code."""
    return requests.post(url, json={"state": state}, timeout=20).status_code


def test_different_callbacks_at_once(served: Host, receivers: list[Receiver]) -> None:
    """Of simultaneous callbacks with different states exactly one decides, and the chain follows it."""
    webhook = served.create(*(receiver.url for receiver in receivers[:2]))
    for number in range(8):
        served.push(tag=f"v{number}")
    served.deliver()
    succeeded = 0
    for request in receivers[0].requests:
        url = json.loads(request.body)["callback_url"]
        codes = at_once(*[partial(decide, url, "success"), partial(decide, url, "failure")] * 2)
        assert sorted(codes) == [200, 200, 409, 409]
        assert codes in ([200, 409] * 2, [409, 200] * 2)
        succeeded += codes[0] == 200
    served.deliver()
    assert counts(receivers) == [8, succeeded, 0]
    assert sorted(served.states(webhook)) == sorted(
        ["succeeded", "awaiting_callback"] * succeeded + ["failed", "skipped"] * (8 - succeeded)
    )


def test_equal_callbacks_at_once(served: Host, receivers: list[Receiver]) -> None:
    """Simultaneous callbacks with the same state all get 200, and the next hook is called once."""
    webhook = chain(served, receivers[:2])
    url = json.loads(receivers[0].requests[0].body)["callback_url"]
    assert at_once(*[partial(decide, url, "success")] * 6) == [200] * 6
    served.deliver()
    served.deliver()
    assert counts(receivers) == [1, 1, 0]
    assert served.states(webhook) == ["succeeded", "awaiting_callback"]


def test_two_workers_carry_on(served: Host, receivers: list[Receiver]) -> None:
    """Two workers that deliver while callbacks arrive call each hook once."""

    def call_back(request: Request, _: Connection) -> int:
        url = json.loads(request.body)["callback_url"]
        return requests.post(url, json={"state": "success"}, timeout=20).status_code

    with Receiver(call_back) as one, Receiver(call_back) as two:
        webhook = served.create(one.url, two.url)
        for number in range(12):
            served.push(tag=f"v{number}")
        workers = [threading.Thread(target=served.run_job), threading.Thread(target=deliver_as_another, args=[served])]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        served.run_job()
        assert counts([one, two]) == [12, 12]
    assert served.states(webhook) == ["succeeded"] * 24


def deliver_as_another(host: Host) -> None:
    """Deliver as another process would, on the same database."""
    other = Host(host.database_uri, host.redis_url, config=host.config)
    other.run_job()
    other.close()
