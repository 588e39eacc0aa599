"""Two act at the same moment: one of them wins, and history, chains and queue stay consistent."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count, groupby, product
from random import Random
from time import monotonic
from typing import Any

import pytest
from flask import current_app
from sqlalchemy import select, update
from sqlalchemy.orm import selectinload
from werkzeug.test import TestResponse

from flask_hubhooks import Repository
from flask_hubhooks.dialects import insert_rows, utcnow
from flask_hubhooks.records import redelivery
from flask_hubhooks.records.models import Delivery, Hook, Status
from flask_hubhooks.transport import Outcome
from flask_hubhooks.worker import claims, recording
from flask_hubhooks.worker.claims import Claim
from flask_hubhooks.worker.dispatcher import Dispatcher
from flask_hubhooks.worker.recording import Result
from flask_hubhooks.worker.retry import judge, judge_test

from ..support.host import Host, failing_for
from ..support.marks import on_postgresql
from ..support.receivers import Connection, Receiver, Request, http, poll
from ..support.threads import at_once, in_pair

SINCE = "2000-01-01T00:00:00Z"
UNDER_WAY = {Status.PENDING, Status.AWAITING_CALLBACK}
ANSWERS = (200, 308, 410, 500)
"""Received, failed, gone, and to be retried."""
pytestmark = pytest.mark.usefixtures("roomy_pool")


class Held:
    """An answer that a receiver holds back until it is released."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self._released = threading.Event()

    def __call__(self, request: Request, connection: Connection) -> int:
        self._released.wait(10)
        return self.status

    def release(self) -> None:
        self._released.set()


@contextmanager
def on_the_wire(host: Host, receiver: Receiver, held: Held, number: int = 1) -> Iterator[None]:
    """A worker has sent this many requests to the receiver; the response comes at the end, and is recorded."""
    worker = threading.Thread(target=host.run_job)
    worker.start()
    try:
        receiver.wait_for(number)
        yield
    finally:
        held.release()
        worker.join(20)
    assert not worker.is_alive()


def ask(host: Host, method: str, path: str, **options: Any) -> TestResponse:
    """Send a request as alice to the API of `acme/app`, from any thread."""
    headers = {"X-User": "alice", "Content-Type": "application/json"} | options.pop("headers", {})
    answer = host.app.test_client().open(
        f"/v2/repositories/acme/app/webhooks/{path}", method=method, headers=headers, **options
    )
    assert answer.status_code < 500, answer.text
    return answer


def redeliver(host: Host, delivery: dict[str, Any], webhook: dict[str, Any]) -> int:
    return ask(host, "POST", f"{webhook['id']}/history/{delivery['id']}/redeliver/").status_code


def recover(host: Host, webhook: dict[str, Any]) -> tuple[int, int]:
    answer = ask(host, "POST", f"{webhook['id']}/recover/", json={"since": SINCE})
    assert answer.status_code == 200, answer.text
    return answer.get_json()["recovered"], answer.get_json()["remaining"]


def call_back(host: Host, request: Request, state: str = "success") -> int:
    path = json.loads(request.body)["callback_url"].removeprefix(host.state.config.external_url)
    answer = host.app.test_client().post(path, json={"state": state})
    assert answer.status_code < 500, answer.text
    return answer.status_code


def is_called_back(host: Host, request: Request) -> bool:
    return call_back(host, request) == 200


def answered(claim: Claim, status_code: int = 200) -> Result:
    outcome = Outcome(utcnow(), 1, status_code)
    judgement = judge_test(outcome) if claim.is_test else judge(outcome, claim.retry_step)
    return Result(claim, claim.hook_url, {}, "{}", outcome, judgement)


def take(host: Host, limit: int = 100) -> list[Claim]:
    """Claim as a worker does before it sends."""
    with host.writing() as session:
        return claims.claim(session, limit)[0]


def record(host: Host, *results: Result) -> None:
    """Record as a worker does, which retries later what others have locked."""
    while results:
        with host.writing() as session:
            locked = recording.record(session, results, 60).locked
        results = tuple(each for each in results if each.claim.id in locked)


def waits_for_a_lock(host: Host) -> bool:
    with host.app.app_context(), host.db.engine.connect() as connection:  # ours may all be taken
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(connection.exec_driver_sql(query).scalar())


def stored(host: Host, webhook: dict[str, Any] | None = None) -> list[Delivery]:
    """Return all deliveries, or a webhook's, chain by chain, with their attempts; also those of deleted webhooks."""
    with host.writing() as session:
        rows = select(Delivery).options(selectinload(Delivery.attempts), selectinload(Delivery.push))
        if webhook:
            rows = rows.where(Delivery.webhook_id == webhook["id"])
        return list(session.scalars(rows.order_by(Delivery.webhook_id, Delivery.push_id, Delivery.position)))


def first_by_tag(host: Host) -> dict[str, dict[str, Any]]:
    """Return the first delivery of each push to one webhook, as far as `redeliver` needs it."""
    return {each.push.tag: {"id": each.id} for each in stored(host) if each.position == 0}


def states(host: Host, webhook: dict[str, Any] | None = None) -> list[str]:
    return [each.status.value for each in stored(host, webhook)]


def tried(delivery: Delivery) -> list[tuple[int, int | None]]:
    """Return the round and the response's status of each attempt."""
    return [(each.round, each.status_code) for each in delivery.attempts]


@contextmanager
def webhook_of(host: Host, *urls: str, **more: Any) -> Iterator[dict[str, Any]]:
    """A temporary webhook: one test can have many of them, one after another."""
    webhook = host.create(*urls, name=f"n{next(_names)}", **more)
    yield webhook
    ask(host, "DELETE", f"{webhook['id']}/")


_names = count()


def is_active(host: Host, webhook: dict[str, Any]) -> bool:
    return bool(ask(host, "GET", f"{webhook['id']}/").get_json()["active"])


def failing_since(host: Host, webhook: dict[str, Any]) -> list[str | None]:
    return [hook["failing_since"] for hook in ask(host, "GET", f"{webhook['id']}/").get_json()["hooks"]]


def check(host: Host, *sent: Receiver, in_order: bool = True) -> None:
    """Check that nothing is stuck or lost, and that no chain has skipped a hook or continued after a failure.

    `sent` are all the receivers: each request is an attempt in the history. Not `in_order` is a chain of which a
    later hook was redelivered by itself.
    """
    rows = stored(host)
    for each in rows:
        assert [attempt.number for attempt in each.attempts] == list(range(1, len(each.attempts) + 1))
        is_held = each.reason.startswith("Held: the webhook")
        assert (each.next_attempt_at is not None) == (each.status is Status.PENDING and not is_held)
        assert each.give_up_at or each.status not in UNDER_WAY
        assert (each.finished_at is None) == (each.status in {*UNDER_WAY, Status.WAITING})
        assert each.lease_token is None or each.status is Status.PENDING
    for _, steps in groupby(rows, lambda each: (each.webhook_id, each.push_id)):
        _check_chain(list(steps), in_order)
    if sent:
        assert sum(len(each.attempts) for each in rows) == sum(len(receiver.requests) for receiver in sent)


def _check_chain(chain: list[Delivery], in_order: bool) -> None:
    for position, each in enumerate(chain):
        before = chain[:position]
        assert each.position == position
        if each.status is Status.WAITING:
            assert any(other.status in UNDER_WAY for other in before), "waits for nothing"
        if in_order and each.status in {*UNDER_WAY, Status.SUCCEEDED}:
            assert all(other.status is Status.SUCCEEDED for other in before), "runs on without those before it"
        for attempt in each.attempts if in_order and before else ():
            assert any(other.started_at <= attempt.started_at for other in before[-1].attempts), "out of order"


def nothing_is_sent(host: Host, *receivers: Receiver) -> None:
    """Check that nothing more is sent, however much time passes."""
    before = [len(receiver.requests) for receiver in receivers]
    host.make_due()
    host.deliver()
    assert [len(receiver.requests) for receiver in receivers] == before


def nothing_is_due(host: Host, *receivers: Receiver) -> None:
    """Check that nothing more is sent or left to send, however much time passes."""
    nothing_is_sent(host, *receivers)
    assert not {Status.PENDING, Status.WAITING} & {each.status for each in stored(host)}


def finish(host: Host, *receivers: Receiver) -> None:
    """Continue all chains to their end: each receiver calls back once for each payload."""
    for receiver in receivers:
        host.deliver()
        for request in receiver.requests:
            call_back(host, request)
    host.deliver()


# A callback and a redelivery


def test_a_callback_and_then_a_redelivery(host: Host, receivers: list[Receiver]) -> None:
    """A redelivery after the callback withdraws what is unsent, and the old callback URL is refused."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    host.push()
    host.deliver()
    assert call_back(host, one.requests[0]) == 200
    assert redeliver(host, host.history(webhook)[0], webhook) == 202
    assert call_back(host, one.requests[0]) == 409
    host.deliver()
    assert states(host) == ["awaiting_callback", "waiting"]
    finish(host, one, two)
    assert states(host) == ["succeeded", "succeeded"]
    assert (len(one.requests), len(two.requests)) == (2, 1)
    check(host, one, two)


def test_a_redelivery_and_then_a_callback(host: Host, receivers: list[Receiver]) -> None:
    """A callback of the previous round decides nothing; one of the new round does."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    host.push()
    host.deliver()
    assert redeliver(host, host.history(webhook)[0], webhook) == 202
    assert call_back(host, one.requests[0]) == 409
    assert states(host) == ["pending", "waiting"]
    host.deliver()
    assert call_back(host, one.requests[0]) == 409
    assert call_back(host, one.requests[1]) == 200
    finish(host, one, two)
    assert states(host) == ["succeeded", "succeeded"]
    assert (len(one.requests), len(two.requests)) == (2, 1)
    check(host, one, two)


def test_a_callback_and_a_redelivery_at_once(host: Host, receivers: list[Receiver]) -> None:
    """Whichever comes first, the new round counts, and calls the next hook once."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    for number in range(20):
        host.push(tag=f"v{number}")
    host.deliver()
    first = first_by_tag(host)
    for request in list(one.requests):
        delivery = first[json.loads(request.body)["push_data"]["tag"]]
        called_back, sent_again = at_once(
            partial(call_back, host, request),
            partial(redeliver, host, delivery, webhook),
        )
        assert sent_again == 202
        assert called_back in (200, 409)
        assert call_back(host, request) == 409
    assert states(host) == ["pending", "waiting"] * 20
    finish(host, one, two)
    assert states(host) == ["succeeded"] * 40
    assert (len(one.requests), len(two.requests)) == (40, 20)
    assert {each.round for each in stored(host)} == {2}
    check(host, one, two)


def test_a_failure_and_a_redelivery_at_once(host: Host, receivers: list[Receiver]) -> None:
    """A failure by callback skips only the rest of its own round: a redelivery makes it wait again."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    for number in range(10):
        host.push(tag=f"v{number}")
    host.deliver()
    first = first_by_tag(host)
    for request in list(one.requests):
        delivery = first[json.loads(request.body)["push_data"]["tag"]]
        called_back, sent_again = at_once(
            partial(call_back, host, request, "failure"),
            partial(redeliver, host, delivery, webhook),
        )
        assert (called_back in (200, 409), sent_again) == (True, 202)
    assert states(host) == ["pending", "waiting"] * 10
    check(host, one, two)


def test_a_callback_and_a_redelivery_beside_a_worker(host: Host) -> None:
    """Beside a worker a redelivery is refused or begins a round; each calls the next hook once."""
    with Receiver() as one, Receiver() as two, working(host):
        webhook = host.create(one.url, two.url)
        for number in range(20):
            host.push(tag=f"v{number}")
        requests = one.wait_for(20)
        poll(lambda: states(host).count("awaiting_callback") == 20)
        first = first_by_tag(host)
        rounds: Counter[str] = Counter()
        for request in requests:
            tag = json.loads(request.body)["push_data"]["tag"]
            codes = at_once(
                partial(call_back, host, request),
                partial(redeliver, host, first[tag], webhook),
            )
            assert codes in ([200, 202], [409, 202], [200, 409])
            rounds[tag] = 1 + (codes[1] == 202)
        again = sum(each == 2 for each in rounds.values())
        for request in one.wait_for(20 + again)[20:]:
            poll(partial(is_called_back, host, request))
        poll(lambda: states(host).count("awaiting_callback") == 20)
    rows = stored(host)
    for delivery in rows:
        of_round = Counter(attempt.round for attempt in delivery.attempts)
        assert set(of_round.values()) <= {1}, "a hook was called twice in a round"
        assert delivery.round == rounds[delivery.push.tag]
        assert of_round[delivery.round] == 1
    check(host, one, two)


# A decision by hand


def decide(host: Host, delivery: dict[str, Any], webhook: dict[str, Any], state: str) -> int:
    path = f"{webhook['id']}/history/{delivery['id']}/decide/"
    return ask(host, "POST", path, json={"state": state}).status_code


def test_a_callback_and_a_decision_by_hand_at_once(host: Host, receivers: list[Receiver]) -> None:
    """Exactly one of a callback and a decision by hand counts, and the chain follows it."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    for number in range(20):
        host.push(tag=f"v{number}")
    host.deliver()
    first, called_back = first_by_tag(host), 0
    for request in list(one.requests):
        delivery = first[json.loads(request.body)["push_data"]["tag"]]
        codes = at_once(partial(call_back, host, request), partial(decide, host, delivery, webhook, "failure"))
        assert codes in ([200, 409], [409, 200])
        called_back += codes[0] == 200
    host.deliver()
    assert len(two.requests) == called_back
    ends = ["succeeded", "awaiting_callback"] * called_back + ["failed", "skipped"] * (20 - called_back)
    assert sorted(states(host)) == sorted(ends)
    check(host, one, two)


def test_a_decision_by_hand_and_expiry_at_once(host: Host, receivers: list[Receiver]) -> None:
    """A decision when the time for the callback ends counts, or is refused and the delivery has expired."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    decided = 0
    for number in range(10):
        host.push(tag=f"v{number}")
        host.deliver()
        host.make_overdue()

        def expire() -> None:
            with host.app.app_context(), host.state.writing() as session:
                claims.expire_overdue(session, 100)

        delivery = first_by_tag(host)[f"v{number}"]
        code, _ = in_pair(partial(decide, host, delivery, webhook, "success"), expire)
        assert code in (200, 409)
        decided += code == 200
        host.deliver()
        assert len(two.requests) == decided
        row = next(each for each in stored(host) if each.id == delivery["id"])
        assert row.status is (Status.SUCCEEDED if code == 200 else Status.EXPIRED)
    check(host, one, two)


# A redelivery and a lease


def test_a_redelivery_and_a_worker_that_is_late(host: Host) -> None:
    """During the lease: 409. After it: 202, and the old worker's result is only recorded."""
    for late in ANSWERS:
        with webhook_of(host, "http://127.0.0.1:9/", "http://127.0.0.1:9/2") as webhook:
            host.push()
            (lost,) = take(host)
            first, second = host.history(webhook)
            assert [redeliver(host, each, webhook) for each in (first, second)] == [409, 409]
            host.make_due()
            assert redeliver(host, second, webhook) == 409
            assert redeliver(host, first, webhook) == 202
            before = [(each.status, each.round, each.next_attempt_at, each.retry_step) for each in stored(host)]
            record(host, answered(lost, late))
            assert before == [(each.status, each.round, each.next_attempt_at, each.retry_step) for each in stored(host)]
            (held,) = take(host)
            record(host, answered(lost, late))
            assert stored(host, webhook)[0].lease_token == held.lease_token
            record(host, answered(held))
            record(host, answered(lost, late))
            assert states(host, webhook) == ["awaiting_callback", "waiting"]
            assert tried(stored(host, webhook)[0]) == [(1, late), (1, late), (2, 200), (1, late)]
            assert is_active(host, webhook)
            assert failing_since(host, webhook) == [None, None]
    check(host)


def test_a_redelivery_while_the_answer_is_held(host: Host) -> None:
    """While a POST is in flight nothing of its chain is redelivered, and the chain continues as usual."""
    held = Held()
    with Receiver(held) as one, Receiver() as two:
        webhook = host.create(one.url, two.url)
        host.push()
        with on_the_wire(host, one, held):
            assert [redeliver(host, each, webhook) for each in host.history(webhook)] == [409, 409]
        assert {each.round for each in stored(host)} == {1}
        finish(host, one, two)
        assert states(host) == ["succeeded", "succeeded"]
        check(host, one, two)


def test_a_redelivery_and_a_claim_at_once(host: Host, receivers: list[Receiver]) -> None:
    """Of a claim and a redelivery at once, either the claim has the delivery, or it is due in a new round."""
    webhook = host.create(receivers[0].url)
    for _ in range(10):
        host.push()
        delivery = host.history(webhook)[0]
        claimed, sent_again = in_pair(partial(take, host), partial(redeliver, host, delivery, webhook))
        assert sent_again in (202, 409)
        row = next(each for each in stored(host) if str(each.id) == delivery["id"])
        assert row.round == (2 if sent_again == 202 else 1)
        results = [answered(each) for each in claimed]
        if results and sent_again == 202:
            assert results[0].claim.round == 2, "a claim was taken away while it was on the wire"
        record(host, *results, *(answered(each) for each in take(host)))
    assert states(host) == ["succeeded"] * 10
    assert all(len(each.attempts) == 1 for each in stored(host))
    check(host)


# A redelivery and the rest of its chain


def test_a_redelivery_before_its_turn(host: Host, receivers: list[Receiver]) -> None:
    """A hook is not redelivered while an earlier one is pending, leased or awaiting its callback: 409."""
    webhook = host.create(*(each.url for each in receivers))

    def refused() -> bool:
        before = host.history(webhook)
        codes = [redeliver(host, each, webhook) for each in before[1:]]
        return codes == [409, 409] and host.history(webhook) == before

    host.push()
    assert refused()
    (claim,) = take(host)
    assert refused()
    record(host, answered(claim))
    assert states(host) == ["awaiting_callback", "waiting", "waiting"]
    assert refused()
    check(host)


def test_two_redeliveries_at_once(host: Host, receivers: list[Receiver]) -> None:
    """Two redeliveries begin one round, or two in turn; the whole chain is in the same round."""
    one, two, _ = receivers
    webhook = host.create(one.url, two.url)
    host.push()
    finish(host, one, two)
    first = host.history(webhook)[0]
    rounds = 1
    for _ in range(10):
        codes = at_once(*[lambda: redeliver(host, first, webhook)] * 2)
        rounds += codes.count(202)
        assert set(codes) <= {202, 409}
        assert [each.round for each in stored(host)] == [rounds, rounds]
        assert states(host) == ["pending", "waiting"]
    finish(host, one, two)
    assert states(host) == ["succeeded", "succeeded"]
    assert (len(one.requests), len(two.requests)) == (2, 2)
    check(host, one, two)


def test_redeliveries_of_two_hooks_at_once(host: Host, receivers: list[Receiver]) -> None:
    """Redelivering an earlier and a later hook at once keeps the chain intact: the later one waits."""
    webhook = host.create(*(each.url for each in receivers))
    host.push()
    for _ in range(6):
        finish(host, *receivers)
        before = [each.round for each in stored(host)]
        codes = at_once(*(partial(redeliver, host, each, webhook) for each in host.history(webhook)[:2]))
        assert codes in ([202, 202], [202, 409])
        assert states(host) == ["pending", "waiting", "waiting"]
        grown = [each.round - old for each, old in zip(stored(host), before, strict=True)]
        assert grown == ([1, 2, 2] if codes[1] == 202 else [1, 1, 1])
    check(host, *receivers)


# Switching off, and an attempt on the wire


def switch_off(host: Host, webhook: dict[str, Any], how: str) -> None:
    if how == "delete":
        assert ask(host, "DELETE", f"{webhook['id']}/").status_code == 204
    elif how == "pause":
        assert ask(host, "PATCH", f"{webhook['id']}/", json={"active": False}).status_code == 200
    elif how == "remove":
        assert ask(host, "DELETE", f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/").status_code == 204
    else:
        host.push(tag="gone")
        (claim,) = take(host)
        record(host, answered(claim, 410))
        assert not is_active(host, webhook)


def test_switched_off_on_the_wire(host: Host, receivers: list[Receiver]) -> None:
    """If its webhook or hook goes while a POST is in flight, the attempt is kept, the delivery stays cancelled."""
    one, two, _ = receivers
    for how, status in product(("delete", "remove"), ANSWERS):
        with webhook_of(host, one.url, two.url) as webhook:
            host.push()
            (claim,) = take(host)
            switch_off(host, webhook, how)
            record(host, answered(claim, status))
            rows = [each for each in stored(host, webhook) if each.push.tag == "latest"]
            assert [each.status.value for each in rows] == ["cancelled", "cancelled"]
            assert [tried(each) for each in rows] == [[(1, status)], []]
            assert how == "delete" or is_active(host, webhook)
            nothing_is_due(host, one, two)
    check(host)


def test_paused_on_the_wire(host: Host, receivers: list[Receiver]) -> None:
    """If its webhook is paused or disabled while a POST is in flight, its answer counts, and what follows is held."""
    one, two, _ = receivers
    expected = {200: ["awaiting_callback", "waiting"], 500: ["pending", "waiting"]}
    for how, status in product(("pause", "disable"), ANSWERS):
        with webhook_of(host, one.url, two.url) as webhook:
            host.push()
            (claim,) = take(host)
            switch_off(host, webhook, how)
            record(host, answered(claim, status))
            nothing_is_sent(host, one, two)
            rows = [each for each in stored(host, webhook) if each.push.tag == "latest"]
            assert [each.status.value for each in rows] == expected.get(status, ["failed", "skipped"])
            assert [tried(each) for each in rows] == [[(1, status)], []]
            assert rows[0].reason.startswith("Held: the webhook is") == (status == 500)
            assert (rows[0].retry_step, rows[0].next_attempt_at) == (int(status != 200), None)
            check(host)


def test_switched_off_while_the_answer_is_held(host: Host) -> None:
    """A POST answered after its webhook or hook went is kept and cancelled; its callback gets 410."""
    for how in ("delete", "remove"):
        held = Held()
        with Receiver(held) as one, Receiver() as two, webhook_of(host, one.url, two.url) as webhook:
            host.push()
            with on_the_wire(host, one, held):
                switch_off(host, webhook, how)
                assert call_back(host, one.requests[0]) == 410
            rows = stored(host, webhook)
            assert [each.status.value for each in rows] == ["cancelled", "cancelled"]
            assert [tried(each) for each in rows] == [[(1, 200)], []]
            assert call_back(host, one.requests[0]) == 410
            nothing_is_due(host, one, two)
            assert not two.requests
    check(host)


def test_paused_while_the_answer_is_held(host: Host) -> None:
    """A callback of a POST in flight decides while its webhook is paused or disabled; the next hook waits for that."""
    for how in ("pause", "disable"):
        held = Held()
        with Receiver(held, 410) as one, Receiver() as two, webhook_of(host, one.url, two.url) as webhook:
            host.push()
            with on_the_wire(host, one, held):
                if how == "disable":
                    host.push(tag="gone")
                    host.deliver()  # as another worker: the first one waits for an answer
                    assert not is_active(host, webhook)
                else:
                    switch_off(host, webhook, how)
                assert call_back(host, one.requests[0]) == 200
            nothing_is_sent(host, one, two)
            rows = [each for each in stored(host, webhook) if each.push.tag == "latest"]
            assert [each.status.value for each in rows] == ["succeeded", "pending"]
            check(host)
            assert ask(host, "PATCH", f"{webhook['id']}/", json={"active": True}).status_code == 200
            host.deliver()
            assert len(two.requests) == 1
    check(host)


@pytest.mark.parametrize("removed", [0, 1])
def test_a_hook_is_removed_while_a_callback_is_awaited(host: Host, receivers: list[Receiver], removed: int) -> None:
    """A callback still decides after its hook, or the next one, was removed; nothing follows."""
    for state, decided in (("success", "succeeded"), ("failure", "failed")):
        with webhook_of(host, *(each.url for each in receivers)) as webhook:
            host.push()
            host.deliver()
            hook = webhook["hooks"][removed]
            assert ask(host, "DELETE", f"{webhook['id']}/hooks/{hook['id']}/").status_code == 204
            assert call_back(host, receivers[0].requests[-1], state) == 200
            assert states(host, webhook) == [decided, "cancelled", "cancelled"]
            nothing_is_due(host, *receivers)
    check(host, *receivers)


@pytest.mark.parametrize("how", ["delete", "pause", "remove"])
def test_a_callback_and_switching_off_at_once(host: Host, receivers: list[Receiver], how: str) -> None:
    """A callback during a deletion, pause or removal decides its delivery; the next hook is cancelled or held."""
    one, two, _ = receivers
    for number in range(5):
        webhook = host.create(one.url, two.url, name=f"n{number}")
        host.push()
        host.deliver()
        request = one.requests[-1]
        codes = at_once(
            partial(call_back, host, request),
            partial(switch_off, host, webhook, how),
        )
        assert codes[0] == 200
        if how == "remove":
            switch_off(host, webhook, "delete")
    rows = stored(host)
    assert [each.status.value for each in rows if each.position == 0] == ["succeeded"] * 5
    if how != "remove":
        following = "pending" if how == "pause" else "cancelled"
        assert [each.status.value for each in rows if each.position == 1] == [following] * 5
    host.deliver()
    assert not two.requests or how == "remove"
    check(host, one, two)


# A new URL, and an attempt on the wire


def test_a_new_url_and_a_retry(host: Host) -> None:
    """A retry goes to the URL that the hook has by then."""
    with Receiver(500) as old, Receiver() as new:
        webhook = host.create(old.url)
        host.push()
        host.deliver()
        hook = webhook["hooks"][0]
        assert failing_since(host, webhook) != [None]
        edited = ask(host, "PATCH", f"{webhook['id']}/hooks/{hook['id']}/", json={"hook_url": new.url})
        assert (edited.status_code, failing_since(host, webhook)) == (200, [None])
        host.make_due()
        host.deliver()
        (delivery,) = stored(host)
        assert delivery.status is Status.SUCCEEDED
        assert [each.hook_url for each in delivery.attempts] == [old.url, new.url]
        check(host, old, new)


def test_a_new_url_and_a_post_on_the_wire(host: Host) -> None:
    """Whatever the old URL answers after the edit, 410 or days of 500, the new one is tried at once."""
    for status in ANSWERS:
        held = Held(status)
        with Receiver(held) as old, Receiver() as new, webhook_of(host, old.url) as webhook:
            host.push()
            with on_the_wire(host, old, held):
                host.set_all(Hook, **failing_for(days=6))
                hook = webhook["hooks"][0]
                edited = ask(host, "PATCH", f"{webhook['id']}/hooks/{hook['id']}/", json={"hook_url": new.url})
                assert edited.status_code == 200
            assert is_active(host, webhook)
            assert failing_since(host, webhook) == [None]
            host.deliver()
            (delivery,) = stored(host, webhook)
            assert delivery.status is Status.SUCCEEDED
            assert [each.hook_url for each in delivery.attempts] == [old.url, new.url][: 1 if status == 200 else 2]
    check(host)


def test_a_new_url_and_a_callback_of_the_old_one(host: Host) -> None:
    """The receiver at the old URL may still call back, and its chain continues at the new URL."""
    with Receiver() as old, Receiver() as second, Receiver() as new:
        webhook = host.create(old.url, second.url)
        host.push()
        host.deliver()
        hooks = [{"id": hook["id"], "hook_url": new.url} for hook in webhook["hooks"]]
        assert ask(host, "PATCH", f"{webhook['id']}/", json={"hooks": hooks}).status_code == 200
        assert call_back(host, old.requests[0]) == 200
        host.deliver()
        assert [len(each.requests) for each in (old, second, new)] == [1, 0, 1]
        check(host, old, second, new)


# Pausing, and what comes at the same moment


def test_paused_and_resumed_while_on_the_wire(host: Host) -> None:
    """A pause that is over before the POST has been answered changes nothing."""
    for status in ANSWERS:
        held = Held(status)
        with Receiver(held) as receiver, webhook_of(host, receiver.url) as webhook:
            host.push()
            with on_the_wire(host, receiver, held):
                for active in (False, True):
                    assert ask(host, "PATCH", f"{webhook['id']}/", json={"active": active}).status_code == 200
            assert states(host, webhook) == [{200: "succeeded", 500: "pending"}.get(status, "failed")]
            assert is_active(host, webhook) == (status != 410)
            assert len(receiver.requests) == 1
    check(host)


def test_switched_off_between_the_reading_and_the_writing_of_a_push(host: Host, receivers: list[Receiver]) -> None:
    """A push matched before its webhook or hook went and recorded afterwards is cancelled, or held during a pause."""
    todo: list[Callable[[], None]] = []

    def load(name: str) -> Repository:
        if todo:  # the first to ask is the push
            todo.pop()()
        return Repository()

    host.hubhooks.repository_loader(load)
    for how in ("delete", "pause", "remove"):
        with webhook_of(host, *(each.url for each in receivers)) as webhook:
            todo.append(partial(switch_off, host, webhook, how))
            host.push()
            assert states(host, webhook) == ["pending", "waiting", "waiting"]
            assert take(host) == []
            unsent = ["pending", "waiting", "waiting"] if how == "pause" else ["cancelled"] * 3
            assert states(host, webhook) == unsent
            nothing_is_sent(host, *receivers)
            assert states(host, webhook) == unsent
    check(host, *receivers)


@pytest.mark.parametrize("how", ["delete", "pause", "remove"])
def test_a_push_and_switching_off_at_once(host: Host, receivers: list[Receiver], how: str) -> None:
    """A push during a deletion, pause or removal does not fail, and leaves nothing stuck."""
    one, two, _ = receivers
    for number in range(5):
        webhook = host.create(one.url, two.url, name=f"n{number}")
        at_once(host.push, partial(switch_off, host, webhook, how))
        before = len(one.requests)
        host.deliver()
        chain = stored(host)[-2:] if states(host) and stored(host)[-1].webhook_id == webhook["id"] else []
        if chain and chain[0].hook_id == webhook["hooks"][0]["id"]:
            unsent = ["pending", "waiting"] if how == "pause" else ["cancelled"] * 2
            assert [each.status.value for each in chain] == unsent
            assert len(one.requests) == before
        if how != "delete":
            switch_off(host, webhook, "delete")
    nothing_is_due(host, *receivers)
    check(host, *receivers)


# Two editors


def test_two_editors_at_once(host: Host) -> None:
    """Of two edits of the same version one succeeds, and the other gets 412."""
    webhook = host.create("http://127.0.0.1:9/")
    for number in range(10):
        tag = ask(host, "GET", f"{webhook['id']}/").headers["ETag"]

        def edit(name: str, tag: str = tag) -> int:
            return ask(host, "PATCH", f"{webhook['id']}/", json={"name": name}, headers={"If-Match": tag}).status_code

        names = [f"left {number}", f"right {number}"]
        codes = at_once(lambda: edit(names[0]), lambda: edit(names[1]))  # noqa: B023 - called within this turn
        assert sorted(codes) == [200, 412]
        assert ask(host, "GET", f"{webhook['id']}/").get_json()["name"] == names[codes.index(200)]


def test_an_editor_and_who_deletes_at_once(host: Host) -> None:
    """Of an edit and a deletion of the same version one succeeds; the other gets 404 or 412."""
    for number in range(8):
        webhook = host.create("http://127.0.0.1:9/", name=f"n{number}")
        tag = {"If-Match": ask(host, "GET", f"{webhook['id']}/").headers["ETag"]}
        path = f"{webhook['id']}/"
        edited, deleted = at_once(
            partial(ask, host, "PATCH", path, json={"active": False}, headers=tag),
            partial(ask, host, "DELETE", path, headers=tag),
        )
        assert (edited.status_code, deleted.status_code) in ((200, 412), (404, 204))


def create_at_once(host: Host, names: list[str]) -> list[TestResponse]:
    def create(name: str) -> TestResponse:
        return ask(host, "POST", "", json={"name": name, "hook_url": "http://127.0.0.1:9/"})

    return at_once(*(partial(create, name) for name in names))


def listed(host: Host) -> list[dict[str, Any]]:
    return list(ask(host, "GET", "").get_json()["results"])


def test_one_name_at_once(host: Host) -> None:
    """Of eight webhooks created at once with the same name one is created, and seven get "name taken"."""
    answers = create_at_once(host, ["deploy"] * 8)
    assert sorted(each.status_code for each in answers) == [201] + [400] * 7
    assert all("name" in each.get_json()["errors"] for each in answers if each.status_code == 400)
    assert len(listed(host)) == 1


def test_the_limit_at_once(make_host: Callable[..., Host]) -> None:
    """However many are created at once, there are never more webhooks than the limit."""
    host = make_host(config={"HUBHOOKS_MAX_WEBHOOKS": 3})
    answers = create_at_once(host, [f"n{number}" for number in range(8)])
    assert sorted(each.status_code for each in answers) == [201] * 3 + [400] * 5
    assert len(listed(host)) == 3


def test_one_slug_at_once(host: Host) -> None:
    """Names that yield the same slug, created at once, get slugs of their own."""
    names = ["My hook", "my hook", "MY HOOK", "my-hook", "my_hook", "my hook!", "(my hook)", "My-Hook"]
    answers = create_at_once(host, names)
    assert [each.status_code for each in answers] == [201] * 8
    assert sorted(each["slug"] for each in listed(host)) == ["my-hook", *(f"my-hook-{n}" for n in range(2, 9))]


def test_one_name_after_renaming_at_once(host: Host) -> None:
    """Of webhooks renamed at once to the same name one gets it."""
    paths = [f"{host.create('http://127.0.0.1:9/', name=name)['id']}/" for name in "abcd"]
    answers = at_once(*(partial(ask, host, "PATCH", path, json={"name": "same"}) for path in paths))
    assert sorted(each.status_code for each in answers) == [200, 400, 400, 400]


# Recovering


def lose(host: Host, number: int, *urls: str) -> dict[str, Any]:
    """A webhook with this many failed pushes."""
    webhook = host.create(*urls or ("http://127.0.0.1:9/",))
    for each in range(number):
        host.push(tag=f"v{each}")
    record(host, *(answered(claim, 308) for claim in take(host)))
    return webhook


def test_recovering_in_batches(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each batch `remaining` counts down, and each delivery is started once."""
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", 5)
    webhook = lose(host, 12)
    assert [recover(host, webhook) for _ in range(4)] == [(5, 7), (5, 2), (2, 0), (0, 0)]
    assert {each.round for each in stored(host)} == {2}
    check(host)


@pytest.mark.parametrize("most", [5, 500])
def test_recovering_twice_at_once(host: Host, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Two recoveries at once share the work: nothing is started twice."""
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", most)
    webhook = lose(host, 12)
    answers = at_once(*[lambda: recover(host, webhook)] * 2)
    assert sorted(answers) == ([(5, 2), (5, 7)] if most == 5 else [(0, 0), (12, 0)])
    if most == 5:
        assert recover(host, webhook) == (2, 0)
    assert [each.round for each in stored(host)] == [2] * 12
    check(host)


def test_recovering_and_redelivering_at_once(host: Host) -> None:
    """A recovery and a redelivery at once begin one round for each request."""
    webhook = lose(host, 6, "http://127.0.0.1:9/", "http://127.0.0.1:9/2")
    for delivery in [each for each in host.history(webhook) if each["position"] == 0]:
        before = {each.id: each.round for each in stored(host)}
        (recovered, remaining), sent_again = in_pair(
            partial(recover, host, webhook), partial(redeliver, host, delivery, webhook)
        )
        assert remaining == 0
        assert sent_again == 202
        grown = [each.round - before[each.id] for each in stored(host)]
        assert sum(grown) == 2 * (recovered + 1)
        assert all(first == second for first, second in zip(grown[::2], grown[1::2], strict=True))
        assert states(host) == ["pending", "waiting"] * 6
        record(host, *(answered(claim, 308) for claim in take(host)))
    check(host)


def test_recovering_beside_a_post_on_the_wire(host: Host) -> None:
    """A chain with a later hook in flight is not recovered: nothing is started a second time."""
    held = Held()
    with Receiver(308, 200) as one, Receiver(held, 200) as two:
        webhook = host.create(one.url, two.url)
        host.push()
        host.deliver()
        assert redeliver(host, host.history(webhook)[1], webhook) == 202
        with on_the_wire(host, two, held):
            assert recover(host, webhook) == (0, 0)
            assert [each.round for each in stored(host)] == [1, 2]
        assert states(host) == ["failed", "awaiting_callback"]
        assert recover(host, webhook) == (1, 0)
        finish(host, one, two)
        assert states(host) == ["succeeded", "succeeded"]
        check(host, one, two)


@on_postgresql
def test_recovering_waits_for_who_claims(host: Host) -> None:
    """A chain with a later hook that is just being claimed is not recovered either."""
    webhook = lose(host, 1, "http://127.0.0.1:9/", "http://127.0.0.1:9/2")
    assert redeliver(host, host.history(webhook)[1], webhook) == 202
    answers: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: answers.append(recover(host, webhook)))
    with host.writing() as session:
        (claim,) = claims.claim(session, 5)[0]
        thread.start()
        poll(lambda: waits_for_a_lock(host))
    thread.join(20)
    assert answers == [(0, 0)]
    record(host, answered(claim))
    assert states(host) == ["failed", "awaiting_callback"]
    check(host, in_order=False)


def test_recovering_beside_a_worker(host: Host) -> None:
    """Recovering repeatedly while a worker delivers starts nothing that is under way: each round is one POST."""
    with Receiver(308) as receiver, working(host):
        webhook = host.create(receiver.url)
        for number in range(10):
            host.push(tag=f"v{number}")
        poll(lambda: "failed" in states(host))
        recovered = sum(recover(host, webhook)[0] for _ in range(30))
        poll(lambda: states(host) == ["failed"] * 10)
    assert recovered
    assert len(receiver.requests) == 10 + recovered
    for delivery in stored(host):
        assert [each.round for each in delivery.attempts] == list(range(1, delivery.round + 1))
    check(host, receiver)


# Tests


def test_a_test_and_a_deletion(host: Host) -> None:
    """A test of a paused webhook deleted meanwhile is cancelled; its POST is kept, and nothing follows."""
    for whole in (False, True):
        held = Held()
        with Receiver(held) as one, Receiver() as two, webhook_of(host, one.url, two.url, active=False) as webhook:
            assert ask(host, "POST", f"{webhook['id']}/test/", json={"chain": whole}).status_code == 202
            with on_the_wire(host, one, held):
                switch_off(host, webhook, "delete")
                assert call_back(host, one.requests[0]) == 410
            assert states(host, webhook) == ["cancelled"] * (2 if whole else 1)
            assert tried(stored(host, webhook)[0]) == [(1, 200)]
            nothing_is_due(host, one, two)
    check(host)


def test_tests_and_a_deletion_at_once(host: Host, receivers: list[Receiver]) -> None:
    """A test requested during the deletion gets 404, or is cancelled and never sent."""
    for number in range(5):
        webhook = host.create(receivers[0].url, name=f"n{number}", active=False)
        path = f"{webhook['id']}/test/"
        answer, _ = in_pair(
            partial(ask, host, "POST", path),
            partial(switch_off, host, webhook, "delete"),
        )
        assert answer.status_code in (202, 404)
    nothing_is_due(host, receivers[0])
    assert set(states(host)) <= {"cancelled"}
    assert not receivers[0].requests
    check(host)


@pytest.mark.parametrize("active", [True, False])
def test_a_test_that_fails(host: Host, active: bool) -> None:
    """A test that fails or gets 410 is tried once, and has no effect on its webhook and its deliveries."""
    for status in ANSWERS[1:]:
        held = Held(status)
        with Receiver(held, 200) as receiver, webhook_of(host, receiver.url, active=active) as webhook:
            assert ask(host, "POST", f"{webhook['id']}/test/").status_code == 202
            with on_the_wire(host, receiver, held):
                host.push()
            assert failing_since(host, webhook) == [None]
            assert is_active(host, webhook) == active
            host.deliver()
            assert states(host, webhook) == (["failed", "succeeded"] if active else ["failed"])
            assert len(receiver.requests) == (2 if active else 1)
    check(host)


# Locks


@on_postgresql
@pytest.mark.parametrize("later", [410, 500])
def test_two_workers_one_of_which_disables(host: Host, monkeypatch: pytest.MonkeyPatch, later: int) -> None:
    """A worker that records a 410 and one that records another result never deadlock."""
    webhook = host.create("http://127.0.0.1:9/")
    for number in range(3):
        host.push(tag=f"v{number}")
    first, second, third = sorted(take(host), key=lambda claim: claim.id)
    locked: list[bool] = []

    def record_other() -> None:
        with host.writing() as session:
            locked.append(bool(recording.record(session, [answered(second, 410)], 60).locked))

    other = threading.Thread(target=record_other)

    def insert_and_meet(*arguments: Any) -> None:
        insert_rows(*arguments)
        if threading.current_thread() is not other:
            monkeypatch.setattr(recording, "insert_rows", insert_rows)
            other.start()
            poll(lambda: locked or waits_for_a_lock(host))

    monkeypatch.setattr(recording, "insert_rows", insert_and_meet)
    record(host, answered(first, later))
    other.join(20)
    assert locked == [later == 410]
    record(host, *[answered(second, 410)] * locked[0])
    assert not is_active(host, webhook)
    record(host, answered(third, 410))
    assert states(host) == ["failed" if later == 410 else "pending", "failed", "failed"]
    assert all(len(each.attempts) == 1 for each in stored(host))
    check(host)


@contextmanager
def working(host: Host, workers: int = 1) -> Iterator[None]:
    """This many workers deliver during the block, each with its own dispatcher, and finish their claims at the end."""
    ending = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            with host.app.app_context():
                dispatcher = Dispatcher(current_app.extensions["hubhooks"])
                while not ending.is_set():
                    dispatcher.run()
                    ending.wait(0.005)
                dispatcher.run()
        except BaseException as fault:  # it is the test's to fail
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join(30)
    assert not faults
    assert not any(thread.is_alive() for thread in threads)


ACTIONS = {"edit", "recover", "redeliver", "create", "remove", "delete", "callback"}


class Storm:
    """Actors that all work on one repository, each on a thread of its own, until the time is over."""

    def __init__(self, host: Host, one: Receiver, two: Receiver) -> None:
        self.host, self.receivers = host, (one, two)
        self.webhook = host.create(one.url, two.url, name="storm")
        self.codes: Counter[tuple[str, int]] = Counter()
        self._tags = count()
        self._lock = threading.Lock()

    def run(self, seconds: float, *actors: Callable[[Random], None]) -> None:
        ends = monotonic() + seconds

        def act(number: int) -> None:
            random = Random(number)  # noqa: S311 - it picks what to do
            while monotonic() < ends or (monotonic() < ends + 20 and not self.all_have_acted):
                actors[number](random)

        with ThreadPoolExecutor(len(actors)) as pool:
            for ended in [pool.submit(act, number) for number in range(len(actors))]:
                ended.result()

    @property
    def all_have_acted(self) -> bool:
        with self._lock:
            return {what for what, _ in self.codes} == ACTIONS

    def _ask(self, what: str, method: str, path: str, **options: Any) -> TestResponse:
        answer = ask(self.host, method, path, **options)
        with self._lock:
            self.codes[what, answer.status_code] += 1
        return answer

    def push(self, random: Random) -> None:
        self.host.push(tag=f"v{next(self._tags)}")

    def edit(self, random: Random) -> None:
        hooks = [
            {"id": hook["id"], "hook_url": f"{receiver.url}?{random.randrange(3)}"}
            for hook, receiver in zip(self.webhook["hooks"], self.receivers, strict=True)
        ]
        wanted = random.choice([{"hooks": hooks}, {"hooks": hooks}, {"active": False}, {"name": f"{random.random()}"}])
        self._ask("edit", "PATCH", f"{self.webhook['id']}/", json=wanted)
        self.resume(random)

    def resume(self, random: Random) -> None:
        self._ask("edit", "PATCH", f"{self.webhook['id']}/", json={"active": True})

    def recover(self, random: Random) -> None:
        self.resume(random)
        self._ask("recover", "POST", f"{self.webhook['id']}/recover/", json={"since": SINCE})

    def redeliver(self, random: Random) -> None:
        if (
            history := self.host.app.test_client()
            .get(f"/v2/repositories/acme/app/webhooks/{self.webhook['id']}/history/", headers={"X-User": "alice"})
            .get_json()["results"]
        ):
            delivery = random.choice(history)
            self._ask("redeliver", "POST", f"{self.webhook['id']}/history/{delivery['id']}/redeliver/")

    def come_and_go(self, random: Random) -> None:
        hooks = [{"hook_url": receiver.url} for receiver in self.receivers]
        other = self._ask("create", "POST", "", json={"name": f"{random.random()}", "hooks": hooks}).get_json()
        self.push(random)
        hook = random.choice(other["hooks"])
        if random.random() < 0.5:
            self._ask("remove", "DELETE", f"{other['id']}/hooks/{hook['id']}/")
        self._ask("delete", "DELETE", f"{other['id']}/")

    def call_back(self, random: Random) -> None:
        if requests := random.choice(self.receivers).requests[-50:]:
            state = random.choice(["success", "success", "success", "failure"])
            code = call_back(self.host, random.choice(requests), state)
            with self._lock:
                self.codes["callback", code] += 1


@pytest.mark.parametrize(("database_uri", "seconds"), [("sqlite", 1.5), ("postgresql", 4)], indirect=["database_uri"])
def test_all_at_once(host: Host, caplog: pytest.LogCaptureFixture, seconds: float) -> None:
    """All act on one webhook at once: none gets a 500 or 503, none fails, and the result is consistent."""
    codes, random = [200, 200, 200, 200, 500, 503, 308, 410], Random(7)  # noqa: S311 - it picks answers

    def answer(request: Request, connection: Connection) -> int:
        if random.random() < 0.3:
            call_back(host, request, random.choice(["success", "failure"]))
        return random.choice(codes)

    with Receiver(answer) as one, Receiver(answer) as two:
        storm = Storm(host, one, two)
        with working(host, 2):
            storm.run(
                seconds,
                storm.push,
                storm.edit,
                storm.recover,
                storm.redeliver,
                storm.come_and_go,
                storm.call_back,
            )
            storm.resume(random)
        host.deliver()
        check(host, one, two, in_order=False)
        for delivery in stored(host):
            received = Counter(each.round for each in delivery.attempts if each.status_code == 200)
            assert set(received.values()) <= {1}, "sent again in a round that it had arrived in"
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    # 503 may be answered three times in a row, 410 disables a webhook, and jobs that run in a test have no heartbeat.
    expected = ("(breaker ", "was disabled: The receiver answered 410", "wait for a worker")
    assert not [each for each in warnings if not any(part in each for part in expected)]
    assert storm.all_have_acted
    assert {code for _, code in storm.codes} <= {200, 201, 202, 204, 409, 410}


@on_postgresql
def test_a_callback_while_its_failure_is_written(host: Host) -> None:
    """A callback that waits for the recording of its hook's failure proves that the hook works."""
    with Receiver(http(500)) as receiver:
        host.create(receiver.url, expect_final_callback=True)
        host.push()
        host.deliver()
        host.set_all(Hook, failing_since=None)
        with ThreadPoolExecutor() as pool:
            with host.writing() as session:  # a worker that writes what came of a second attempt
                session.execute(select(Delivery.id).with_for_update()).all()
                with host.statements("NOWAIT") as tried:
                    answer = pool.submit(host.call_back, receiver.requests[-1].body)
                    poll(lambda: tried)
                session.execute(update(Hook).values(failing_since=utcnow()))
            assert answer.result(10).status_code == 200
    with host.writing() as session:
        assert session.scalars(select(Hook.failing_since)).all() == [None]
