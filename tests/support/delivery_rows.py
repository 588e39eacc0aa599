"""The rows of deliveries beside the model of them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sqlalchemy import select

from flask_hubhooks.records.models import attempts, deliveries, hooks, pushes, webhooks

from .delivery_model import CODES, UNDER_WAY, Model
from .delivery_records import Chain, Delivery
from .host import Host
from .stopped_clock import seconds


def check_rows(host: Host, model: Model) -> None:
    """Hold every row against the model; what the package may choose, when a retry is due, the model learns."""
    with host.writing() as session:
        rows = {row.id: row for row in session.execute(select(deliveries))}
        made = session.execute(select(attempts).order_by(attempts.c.delivery_id, attempts.c.number)).all()
        attempts_of = {id: list(these) for id, these in groupby(made, lambda row: row.delivery_id)}
        active = dict(session.execute(select(webhooks.c.id, webhooks.c.active)).all())
        holds = set(session.scalars(select(webhooks.c.id).where(webhooks.c.holds)))
        hook_rows = {row.id: row for row in session.execute(select(hooks))}
        push_rows = {row.id: row for row in session.execute(select(pushes))}
    assert len(push_rows) == len(model.pushes)
    for push in model.pushes:
        row = push_rows[push.id]
        if push.cancelled and row.tag_look_up_at is None:  # a look-up that came due has ended the waiting
            push.awaited_until = None
        awaits_tag = push.awaited_until is not None
        assert (row.tag_look_up_at is not None) == awaits_tag
        assert (row.tag_awaited_until is not None) == (awaits_tag or push.sent_without_tag)
    assert rows.keys() == {each.id for _, _, each in model.all()}
    assert attempts_of.keys() <= rows.keys()
    for _, chain, each in model.all():
        _compare(chain, each, rows[each.id])
        _compare_attempts(each, attempts_of.get(each.id, []))
        assert hook_rows[each.hook.id].webhook_id == chain.webhook.id
    for webhook in model.live:
        assert active[webhook.id] == webhook.active
        for hook in webhook.hooks:
            row = hook_rows[hook.id]
            assert (row.hook_url, row.removed_at is None) == (hook.url, True)
            assert seconds(row.failing_since) == hook.failing_here
    for chain in model.chains:
        _check_order([rows[each.id] for each in chain.deliveries], chain.start, chain.webhook.id in holds)


def _compare(chain: Chain, expected: Delivery, row: Any) -> None:
    if isinstance(expected.due, tuple):
        due = seconds(row.next_attempt_at)
        assert due is not None and expected.due[0] - 0.02 <= due <= expected.due[1] + 0.02
        expected.due = due
    assert {
        "shape": (row.webhook_id, row.hook_id, row.position, row.chain_length, row.callback_expected),
        "status": row.status.value,
        "round": row.round,
        "step": row.retry_step,
        "due": seconds(row.next_attempt_at),
        "give_up": seconds(row.give_up_at),
        "token": row.lease_token,
        "received": seconds(row.received_at),
        "finished": seconds(row.finished_at),
        "said": row.callback_state,
    } == {
        "shape": (
            chain.webhook.id,
            expected.hook.id,
            chain.deliveries.index(expected),
            len(chain.deliveries),
            expected.callback_expected,
        ),
        "status": expected.status,
        "round": expected.round,
        "step": expected.step,
        "due": expected.due,
        "give_up": expected.give_up if expected.status in UNDER_WAY else None,
        "token": expected.token,
        "received": expected.received,
        "finished": expected.finished,
        "said": expected.said,
    }


def _compare_attempts(expected: Delivery, rows: list[Any]) -> None:
    assert [each.number for each in rows] == list(range(1, len(rows) + 1))
    told = [(each.round, each.trigger, each.hook_url, each.status_code) for each in rows]
    assert told == [(round_, trigger, url, CODES[said]) for round_, trigger, url, said in expected.attempts]


def _check_order(chain: list[Any], start: int, may_be_held: bool) -> None:
    """What is true of every chain, whatever the model says."""
    states = [each.status.value for each in chain]
    assert sum(each in UNDER_WAY for each in states) <= 1, "two of a chain are under way"
    for position, each in enumerate(chain):
        assert (each.status.value == "pending") or each.lease_token is None
        is_held = each.status.value == "pending" and each.next_attempt_at is None
        assert may_be_held or not is_held, "it would be stuck"
        assert is_held or (each.next_attempt_at is not None) == (each.status.value == "pending"), "it would be stuck"
        assert (each.give_up_at is not None) == (each.status.value in UNDER_WAY), "it would be stuck"
        assert (each.finished_at is None) == (each.status.value in UNDER_WAY | {"waiting"})
        if each.status.value == "waiting":
            assert UNDER_WAY & set(states[:position]), "nothing would have it go on"
        elif position > start and each.status.value not in ("skipped", "cancelled"):
            assert states[position - 1] == "succeeded", "it ran though the one before did not succeed"
