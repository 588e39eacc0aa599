"""The history of a webhook by runs, as the pages show it: one entry for each push, however many hooks it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, select, union_all
from sqlalchemy.orm import Session, contains_eager, joinedload

from . import history
from .history import Context
from .models import OUTCOMES, Delivery, Push, Status, Webhook, deliveries
from .workers import waiting_reasons

MAX_POSITION = 9999
"""Behind all hooks of a webhook, for a cursor that leads beyond a whole run."""
RECENT_RUNS = 20
"""Runs of a webhook whose outcome the list of webhooks shows."""


def deciding_state(states: Iterable[Status]) -> Status:
    """The state of the delivery that decides a run: the first that has neither succeeded nor been skipped."""
    deciding = (state for state in states if state not in (Status.SUCCEEDED, Status.SKIPPED))
    return next(deciding, Status.SUCCEEDED)


def outcome_of(states: Iterable[Status]) -> str:
    """The outcome of a run, by the states of its deliveries in order."""
    return _OUTCOME_OF.get(deciding_state(states), "under_way")


_OUTCOME_OF = {state: name for name, states in OUTCOMES.items() for state in states}


@dataclass(frozen=True)
class RunPage:
    """Some runs, each a list of its deliveries in order, and the cursors of the pages before and after."""

    runs: list[list[Delivery]]
    context: Context
    older: str | None
    newer: str | None


@dataclass(frozen=True)
class RunSummary:
    """When the tag of a run was pushed, and the state of the delivery that decides the run."""

    pushed_at: datetime
    state: Status


def page(session: Session, webhook: Webhook, wanted: Mapping[str, Any], size: int, scope: str) -> RunPage:
    """The `size` runs that a query, as `HistoryPageSchema` loads it, asks for, as users of `scope` see them.

    It takes three statements, and a fourth if a delivery is pending.
    """
    repository = wanted["repository"] or None
    order = history.order_for(webhook, scope, repository, wanted["tag"] or None)
    newer, start = history.start_of(wanted["cursor"] or None, order)
    found = (
        select(order.pushed_at, order.push_id)
        .distinct()
        .select_from(Delivery)
        .where(*history.shown(webhook, scope, repository), *_filters(webhook, wanted), *start)
        .limit(size + 1)
    )
    if wanted["tag"] or repository or webhook.scope != scope:
        found = found.join(Delivery.push)
    if newer:
        found = found.order_by(order.pushed_at, order.push_id)
    else:
        found = found.order_by(order.pushed_at.desc(), order.push_id.desc())
    read = [(pushed_at, push_id) for pushed_at, push_id in session.execute(found)]
    pushes, has_older, has_newer = history.cut(read, size, newer, bool(start))
    runs = _runs_of(session, webhook, [push_id for _, push_id in pushes])
    rows = [each for run in runs for each in run]
    edges = [(*each, 0) for each in pushes[:1]] + [(*each, MAX_POSITION) for each in pushes[-1:]]
    return RunPage(
        runs,
        Context(
            {run[0].push_id: run for run in runs},
            history.last_attempts(session, rows),
            waiting_reasons(session, rows),
        ),
        *history.cursors(edges, has_older, has_newer),
    )


def _filters(webhook: Webhook, wanted: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    if wanted["tag"]:
        yield from (*history.of_own_repository(webhook), Push.tag == wanted["tag"])
    if wanted["outcome"]:
        yield from history.deciding(wanted["outcome"])


def _runs_of(session: Session, webhook: Webhook, push_ids: Sequence[int]) -> list[list[Delivery]]:
    rows = session.scalars(
        select(Delivery)
        .join(Delivery.push)
        .where(Delivery.webhook_id == webhook.id, Delivery.push_id.in_(push_ids))
        .options(contains_eager(Delivery.push), joinedload(Delivery.hook))
        .order_by(Delivery.pushed_at.desc(), Delivery.push_id.desc(), Delivery.position)
    )
    return [list(run) for _, run in groupby(rows, lambda each: each.push_id)]


def recent(session: Session, webhooks: Sequence[Webhook], scope: str) -> dict[int, list[RunSummary]]:
    """The latest runs of each webhook that users of `scope` see, by its id, newest first; in one statement."""
    found: dict[int, list[RunSummary]] = {each.id: [] for each in webhooks}
    if not found:
        return found
    rows = session.execute(union_all(*(_latest_of(each, scope) for each in webhooks)))
    in_order = sorted(rows, key=lambda row: (row.webhook_id, row.pushed_at, row.push_id, -row.position), reverse=True)
    for (webhook_id, _), run in groupby(in_order, lambda row: (row.webhook_id, row.push_id)):
        steps = list(run)
        found[webhook_id].append(RunSummary(steps[0].pushed_at, deciding_state(each.status for each in steps)))
    return found


def _latest_of(webhook: Webhook, scope: str) -> Any:
    """Select all deliveries of a webhook's latest pushes, since the outcome of a run depends on all of them."""
    columns = deliveries.c
    order = history.order_for(webhook, scope, None)
    found = select(order.pushed_at.label("pushed_at"), order.push_id.label("push_id")).distinct().select_from(Delivery)
    if webhook.scope != scope:
        found = found.join(Delivery.push)
    pushed = (
        found.where(*history.shown(webhook, scope))
        .order_by(order.pushed_at.desc(), order.push_id.desc())
        .limit(RECENT_RUNS)
        .subquery()
    )
    return (
        select(columns.webhook_id, columns.push_id, columns.pushed_at, columns.position, columns.status)
        .join(pushed, pushed.c.push_id == columns.push_id)
        .where(columns.webhook_id == webhook.id)
    )
