"""The history of a webhook by deliveries, newest push first, in pages that stay fast however long it grows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, and_, func, literal, not_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, contains_eager, joinedload

from ..dialects import UTCDateTime
from ..transport.causes import cause
from .models import ID_LIMIT, OUTCOMES, UNSENT, Attempt, Delivery, Push, Status, Webhook, same_run, unsucceeded
from .scopes import is_pattern
from .workers import waiting_reasons

_CURSOR = re.compile(r"(older|newer):(-?[0-9]{1,18}):([0-9]{1,19}):([0-9]{1,4})")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Row = TypeVar("_Row")
Edge = tuple[datetime, int, int]
"""The place of a row: the time and id of its push, and its position in the run."""


class BadCursor(ValueError):
    """The text is not one of our cursors."""


@dataclass(frozen=True)
class LastAttempt:
    """The last attempt of a delivery; its cause is empty if nothing went wrong."""

    cause: str = ""
    duration_ms: int | None = None


@dataclass(frozen=True)
class Context:
    """What is shown along with deliveries of a webhook."""

    runs: Mapping[int, Sequence[Delivery]]
    """The run of each push, by the push's id."""
    last_attempts: Mapping[uuid.UUID, LastAttempt]
    """The last attempt of each delivery that has one, by the delivery's id."""
    waiting: Mapping[uuid.UUID, str]
    """Why deliveries wait, by their ids."""


@dataclass(frozen=True)
class Page:
    """Some deliveries, and the cursors of the pages before and after; None if there is none."""

    deliveries: list[Delivery]
    older: str | None
    newer: str | None


def page(session: Session, webhook: Webhook, wanted: Mapping[str, Any], scope: str) -> Page:
    """The page that a query, as `HistorySchema` loads it, asks for, as users of `scope` see it."""
    order = order_for(webhook, scope, wanted["repository"], wanted["tag"], wanted["pusher"])
    newer, start = start_of(wanted["cursor"], order)
    size = wanted["page_size"]
    query = (
        select(Delivery)
        .join(Delivery.push)
        .where(*shown(webhook, scope, wanted["repository"]), *_filters(webhook, wanted, order), *start)
        .options(contains_eager(Delivery.push), joinedload(Delivery.hook))
        .order_by(*order.oldest_first() if newer else order.newest_first())
        .limit(size + 1)
    )
    rows = list(session.scalars(query))
    rows, has_older, has_newer = cut(rows, size, newer, bool(start))
    edges = [(each.pushed_at, each.push_id, each.position) for each in rows]
    return Page(rows, *cursors(edges, has_older, has_newer))


def shown(webhook: Webhook, scope: str, repository: str | None = None) -> Iterator[ColumnElement[bool]]:
    """The deliveries of a webhook that users of `scope` see, or only those of one repository.

    Of an inherited webhook a repository's users see what was pushed to their repository, and nothing of an earlier one
    of that name. All but the first condition need the push.
    """
    yield Delivery.webhook_id == webhook.id
    if webhook.scope != scope:
        yield from (Push.repository == scope, Delivery.former_repository.is_(None))
    if repository is not None:
        name = func.coalesce(Delivery.former_repository, Push.repository)
        yield from (Push.repository == repository, name == repository)  # the first one for the index


def cut(rows: list[_Row], size: int, newer: bool, started: bool) -> tuple[list[_Row], bool, bool]:
    """The rows of a page, newest first, from one row more; and whether there are older and newer ones."""
    more = len(rows) > size
    if newer:
        return rows[:size][::-1], bool(rows), more
    return rows[:size], more, started


def cursors(edges: Sequence[Edge], older: bool, newer: bool) -> tuple[str | None, str | None]:
    """The cursors of the pages before and after the one whose rows have these edges."""
    if not edges:
        return None, None
    return (
        _cursor_text("older", *edges[-1]) if older else None,
        _cursor_text("newer", *edges[0]) if newer else None,
    )


def context(session: Session, deliveries: Sequence[Delivery]) -> Context:
    """The runs of some deliveries of one webhook, and the last attempts of these deliveries."""
    return Context(_runs(session, deliveries), last_attempts(session, deliveries), waiting_reasons(session, deliveries))


def last_attempts(session: Session, deliveries: Sequence[Delivery]) -> dict[uuid.UUID, LastAttempt]:
    """The last attempt of each delivery that has one, by the delivery's id."""
    tried = (
        select(Attempt.delivery_id, Attempt.status_code, Attempt.error, Attempt.duration_ms)
        .where(Attempt.delivery_id.in_([each.id for each in deliveries]))
        .order_by(Attempt.delivery_id, Attempt.number)
    )
    return {
        each.delivery_id: LastAttempt(cause(each.status_code, each.error), each.duration_ms)
        for each in session.execute(tried)
    }


def _runs(session: Session, deliveries: Sequence[Delivery]) -> dict[int, list[Delivery]]:
    found = {each.push_id: [each] for each in deliveries}
    long = {each.push_id for each in deliveries if each.chain_length > 1}
    if long:
        all_ = session.scalars(
            select(Delivery)
            .where(Delivery.push_id.in_(long), Delivery.webhook_id == deliveries[0].webhook_id)
            .options(joinedload(Delivery.hook))
            .order_by(Delivery.push_id, Delivery.position)
        )
        found |= {push_id: list(run) for push_id, run in groupby(all_, lambda each: each.push_id)}
    return found


@dataclass(frozen=True)
class Order:
    """The columns that order the pages: those of the push when its indexes by tag or pusher are used."""

    pushed_at: InstrumentedAttribute[datetime]
    push_id: InstrumentedAttribute[int]

    def newest_first(self) -> Iterator[Any]:
        yield from (self.pushed_at.desc(), self.push_id.desc(), Delivery.position)

    def oldest_first(self) -> Iterator[Any]:
        yield from (self.pushed_at, self.push_id, Delivery.position.desc())


def order_for(webhook: Webhook, scope: str, repository: str | None, *filters: str | None) -> Order:
    """The order for one repository, or for filters of the push.

    The indexes of pushes begin with the repository, so they are of no use for a whole namespace.
    """
    filtered = any(each is not None for each in filters) and not is_pattern(webhook.scope)
    if filtered or repository is not None or webhook.scope != scope:
        return Order(Push.pushed_at, Push.id)
    return Order(Delivery.pushed_at, Delivery.push_id)


def _filters(webhook: Webhook, wanted: Mapping[str, Any], order: Order) -> Iterator[ColumnElement[bool]]:
    if wanted["status"]:
        yield from _with_status(wanted["status"])
    if wanted["state"]:
        yield from _with_state(Status(wanted["state"]))
    if wanted["outcome"]:
        yield from deciding(wanted["outcome"])
    if wanted["tag"] is not None:
        yield from (*of_own_repository(webhook), Push.tag == wanted["tag"])
    if wanted["pusher"] is not None:
        yield from (*of_own_repository(webhook), Push.pusher == wanted["pusher"])
    if wanted["since"]:
        yield order.pushed_at >= wanted["since"]
    if wanted["until"]:
        yield order.pushed_at < wanted["until"]


def of_own_repository(webhook: Webhook) -> Iterator[ColumnElement[bool]]:
    """What is true of all pushes of a repository's webhook, for the indexes of pushes."""
    if not is_pattern(webhook.scope):
        yield Push.repository == webhook.scope


def _with_status(word: str) -> Iterator[ColumnElement[bool]]:
    """The deliveries of which Docker Hub would say this."""
    if word == "success":
        yield Delivery.received_at.is_not(None)
    elif word == "pending":
        yield from (unsucceeded, Delivery.status.in_(UNSENT))
    else:
        yield from (unsucceeded, Delivery.received_at.is_(None), Delivery.status.not_in(UNSENT))


def _with_state(state: Status) -> Iterator[ColumnElement[bool]]:
    if state != Status.SUCCEEDED:
        yield unsucceeded
    yield Delivery.status == state


def deciding(outcome: str) -> Iterator[ColumnElement[bool]]:
    """The deliveries that decide the runs with this outcome, one for each run."""
    earlier = aliased(Delivery)
    # PostgreSQL would make a join of NOT EXISTS, misjudge its size, and read all deliveries of a tag. Of `<> 1` it
    # assumes that nearly all rows pass, which is so; of IS NULL or `= 0` that few do, and then it reads them all first.
    decided_before = (
        select(literal(1))
        .where(
            same_run(earlier, Delivery),
            earlier.position < Delivery.position,
            earlier.status.not_in((Status.SUCCEEDED, Status.SKIPPED)),
        )
        .limit(1)
        .scalar_subquery()
    )
    if outcome == "succeeded":
        yield from (Delivery.status == Status.SUCCEEDED, Delivery.position == Delivery.chain_length - 1)
    else:
        yield from (unsucceeded, Delivery.status.in_(OUTCOMES[outcome]))
    yield func.coalesce(decided_before, 0) != 1


def start_of(text: str | None, order: Order) -> tuple[bool, list[ColumnElement[bool]]]:
    """Whether a cursor leads to newer rows, and the conditions for where its page starts."""
    if text is None:
        return False, []
    direction, pushed_at, push_id, position = _parsed(text)
    edge = tuple_(order.pushed_at, order.push_id)
    here = tuple_(literal(pushed_at, UTCDateTime()), literal(push_id, BigInteger))
    if direction == "newer":
        return True, [edge >= here, not_(and_(order.push_id == push_id, Delivery.position >= position))]
    return False, [edge <= here, not_(and_(order.push_id == push_id, Delivery.position <= position))]


def _parsed(cursor: str) -> tuple[str, datetime, int, int]:
    match = _CURSOR.fullmatch(cursor)
    try:
        if match and int(match[3]) <= ID_LIMIT:
            return match[1], _EPOCH + timedelta(microseconds=int(match[2])), int(match[3]), int(match[4])
    except OverflowError:  # no such year
        pass
    raise BadCursor("Not a valid cursor. Use the one in next or previous.")


def _cursor_text(direction: str, pushed_at: datetime, push_id: int, position: int) -> str:
    microseconds = (pushed_at - _EPOCH) // timedelta(microseconds=1)
    return f"{direction}:{microseconds}:{push_id}:{position}"
