"""The history by chain requests, as the pages show it: one line for each push, however many hooks were called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, select, union_all
from sqlalchemy.orm import Session, aliased, contains_eager, joinedload

from . import history
from .chains import OUTCOMES, outcome
from .history import Around
from .models import Delivery, Push, Status, Webhook, deliveries, unsucceeded

LAST_POSITION = 9999
"""Of all hooks of a push, for a cursor that leads beyond the whole chain."""

RECENT = 20
"""Chain requests whose outcome the list of webhooks shows."""


@dataclass(frozen=True)
class ChainPage:
    """Some chain requests, each its deliveries in order, and the cursors of the pages before and after."""

    chains: list[list[Delivery]]
    around: Around
    older: str | None
    newer: str | None


@dataclass(frozen=True)
class Recent:
    """A chain request of late: how it ended, or where it stands."""

    pushed_at: datetime
    state: Status


def page(session: Session, webhook: Webhook, wanted: Mapping[str, Any], size: int) -> ChainPage:
    """The `size` chain requests that a query, as `ChainHistorySchema` loads it, asks for; in three statements."""
    order = history.order_of(by_push=bool(wanted["tag"]))
    newer, start = history.start_of(wanted["cursor"] or None, order)
    found = (
        select(order.pushed_at, order.push_id)
        .distinct()
        .select_from(Delivery)
        .where(Delivery.webhook_id == webhook.id, *_filters(webhook, wanted), *start)
        .limit(size + 1)
    )
    if wanted["tag"]:
        found = found.join(Delivery.push)
    if newer:
        found = found.order_by(order.pushed_at, order.push_id)
    else:
        found = found.order_by(order.pushed_at.desc(), order.push_id.desc())
    read = [(pushed_at, push_id) for pushed_at, push_id in session.execute(found)]
    pushes, has_older, has_newer = history.cut(read, size, newer, bool(start))
    chains = _chains(session, webhook, [push_id for _, push_id in pushes])
    edges = [(*each, 0) for each in pushes[:1]] + [(*each, LAST_POSITION) for each in pushes[-1:]]
    return ChainPage(
        chains,
        Around(
            {chain[0].push_id: chain for chain in chains},
            history.latest(session, [each for chain in chains for each in chain]),
        ),
        *history.cursors(edges, has_older, has_newer),
    )


def _filters(webhook: Webhook, wanted: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    if wanted["tag"]:
        yield from (Push.repository == webhook.repository, Push.tag == wanted["tag"])
    if wanted["outcome"] == "succeeded":  # the last hook is called when all before it have succeeded
        yield and_(Delivery.status == Status.SUCCEEDED, Delivery.position == Delivery.chain_length - 1)
    elif wanted["outcome"]:
        earlier = aliased(Delivery)
        decided_before = exists().where(
            earlier.push_id == Delivery.push_id,
            earlier.webhook_id == Delivery.webhook_id,
            earlier.position < Delivery.position,
            earlier.status != Status.SUCCEEDED,
        )
        yield from (unsucceeded, Delivery.status.in_(OUTCOMES[wanted["outcome"]]), ~decided_before)


def _chains(session: Session, webhook: Webhook, push_ids: Sequence[int]) -> list[list[Delivery]]:
    rows = session.scalars(
        select(Delivery)
        .join(Delivery.push)
        .where(Delivery.webhook_id == webhook.id, Delivery.push_id.in_(push_ids))
        .options(contains_eager(Delivery.push), joinedload(Delivery.hook))
        .order_by(Delivery.pushed_at.desc(), Delivery.push_id.desc(), Delivery.position)
    )
    return [list(chain) for _, chain in groupby(rows, lambda each: each.push_id)]


def recent(session: Session, webhooks: Sequence[Webhook]) -> dict[int, list[Recent]]:
    """The latest chain requests of each webhook, by its id, newest first; in one statement."""
    found: dict[int, list[Recent]] = {each.id: [] for each in webhooks}
    if not found:
        return found
    rows = session.execute(union_all(*(_latest_of(each) for each in webhooks)))
    in_order = sorted(rows, key=lambda row: (row.webhook_id, row.pushed_at, row.push_id, -row.position), reverse=True)
    for (webhook_id, _), chain in groupby(in_order, lambda row: (row.webhook_id, row.push_id)):
        steps = list(chain)
        found[webhook_id].append(Recent(steps[0].pushed_at, outcome([each.status for each in steps])))
    return found


def _latest_of(webhook: Webhook) -> Any:
    """All deliveries of its latest pushes, since a chain that is cut has no outcome."""
    columns = deliveries.c
    pushed = (
        select(columns.pushed_at, columns.push_id)
        .distinct()
        .where(columns.webhook_id == webhook.id)
        .order_by(columns.pushed_at.desc(), columns.push_id.desc())
        .limit(RECENT)
        .subquery()
    )
    return (
        select(columns.webhook_id, columns.push_id, columns.pushed_at, columns.position, columns.status)
        .join(pushed, pushed.c.push_id == columns.push_id)
        .where(columns.webhook_id == webhook.id)
    )
