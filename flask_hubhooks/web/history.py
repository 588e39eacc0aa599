"""The history of a webhook: its deliveries, newest push first, in pages that stay fast however long it grows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import Any

from flask import request
from sqlalchemy import ColumnElement, and_, literal, not_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, contains_eager, joinedload

from ..database import UTCDateTime
from ..delivery.causes import cause
from ..models import ID_LIMIT, Attempt, Delivery, Push, Status, Webhook, unsucceeded
from .documents import Around
from .problems import invalid

_CURSOR = re.compile(r"(older|newer):(-?[0-9]{1,18}):([0-9]{1,10}):([0-9]{1,4})")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UNDER_WAY = (Status.WAITING, Status.PENDING)


@dataclass(frozen=True)
class Page:
    """Some deliveries, and the queries of the pages before and after it; None where there are none."""

    deliveries: list[Delivery]
    older: dict[str, Any] | None
    newer: dict[str, Any] | None


def page(session: Session, webhook: Webhook, wanted: Mapping[str, Any]) -> Page:
    """The page that a query, as `HistorySchema` loads it, asks for."""
    order = _order(wanted)
    newer, start = _cursor(wanted["cursor"], order)
    size = wanted["page_size"]
    query = (
        select(Delivery)
        .join(Delivery.push)
        .where(Delivery.webhook_id == webhook.id, *_filters(webhook, wanted, order), *start)
        .options(contains_eager(Delivery.push), joinedload(Delivery.hook))
        .order_by(*order.oldest_first() if newer else order.newest_first())
        .limit(size + 1)
    )
    rows = list(session.scalars(query))
    more = len(rows) > size
    rows = rows[:size][::-1] if newer else rows[:size]
    has_older, has_newer = (bool(rows), more) if newer else (more, bool(start))
    return Page(
        rows,
        _query("older", rows[-1]) if has_older and rows else None,
        _query("newer", rows[0]) if has_newer and rows else None,
    )


def around(session: Session, deliveries: Sequence[Delivery]) -> Around:
    """The chains that some deliveries of one webhook are part of, and what was wrong with each at last."""
    return Around(_chains(session, deliveries), _causes(session, deliveries))


def _causes(session: Session, deliveries: Sequence[Delivery]) -> dict[uuid.UUID, str]:
    tried = (
        select(Attempt.delivery_id, Attempt.status_code, Attempt.error)
        .where(Attempt.delivery_id.in_([each.id for each in deliveries]))
        .order_by(Attempt.delivery_id, Attempt.number)
    )
    return {each.delivery_id: cause(each.status_code, each.error) for each in session.execute(tried)}


def _chains(session: Session, deliveries: Sequence[Delivery]) -> dict[int, list[Delivery]]:
    found = {each.push_id: [each] for each in deliveries}
    long = {each.push_id for each in deliveries if each.chain_length > 1}
    if long:
        all_ = session.scalars(
            select(Delivery)
            .where(Delivery.push_id.in_(long), Delivery.webhook_id == deliveries[0].webhook_id)
            .options(joinedload(Delivery.hook))
            .order_by(Delivery.push_id, Delivery.position)
        )
        found |= {push_id: list(chain) for push_id, chain in groupby(all_, lambda each: each.push_id)}
    return found


@dataclass(frozen=True)
class _Order:
    """What pages are ordered by. Where the push's columns lead, its indexes of tags and pushers do."""

    pushed_at: InstrumentedAttribute[datetime]
    push_id: InstrumentedAttribute[int]

    def newest_first(self) -> Iterator[Any]:
        yield from (self.pushed_at.desc(), self.push_id.desc(), Delivery.position)

    def oldest_first(self) -> Iterator[Any]:
        yield from (self.pushed_at, self.push_id, Delivery.position.desc())


def _order(wanted: Mapping[str, Any]) -> _Order:
    if wanted["tag"] is not None or wanted["pusher"] is not None:
        return _Order(Push.pushed_at, Push.id)
    return _Order(Delivery.pushed_at, Delivery.push_id)


def _filters(webhook: Webhook, wanted: Mapping[str, Any], order: _Order) -> Iterator[ColumnElement[bool]]:
    if wanted["status"]:
        yield from _with_status(wanted["status"])
    if wanted["tag"] is not None:
        yield from (Push.repository == webhook.repository, Push.tag == wanted["tag"])
    if wanted["pusher"] is not None:
        yield from (Push.repository == webhook.repository, Push.pusher == wanted["pusher"])
    if wanted["since"]:
        yield order.pushed_at >= wanted["since"]
    if wanted["until"]:
        yield order.pushed_at < wanted["until"]


def _with_status(word: str) -> Iterator[ColumnElement[bool]]:
    if word not in ("success", Status.SUCCEEDED):
        yield unsucceeded
    if word == "success":
        yield Delivery.received_at.is_not(None)
    elif word == "pending":
        yield Delivery.status.in_(_UNDER_WAY)
    elif word == "error":
        yield from (Delivery.received_at.is_(None), Delivery.status.not_in(_UNDER_WAY))
    else:
        yield Delivery.status == Status(word)


def _cursor(text: str | None, order: _Order) -> tuple[bool, list[ColumnElement[bool]]]:
    """Whether it leads to newer ones, and the conditions of where it starts."""
    if text is None:
        return False, []
    direction, pushed_at, push_id, position = _parsed(text)
    edge = tuple_(order.pushed_at, order.push_id)
    here = tuple_(literal(pushed_at, UTCDateTime()), literal(push_id))
    if direction == "newer":
        return True, [edge >= here, not_(and_(order.push_id == push_id, Delivery.position >= position))]
    return False, [edge <= here, not_(and_(order.push_id == push_id, Delivery.position <= position))]


def _parsed(cursor: str) -> tuple[str, datetime, int, int]:
    match = _CURSOR.fullmatch(cursor)
    try:
        if match and int(match[3]) <= ID_LIMIT:
            return match[1], _EPOCH + timedelta(microseconds=int(match[2])), int(match[3]), int(match[4])
    except OverflowError:  # a year that there is not
        pass
    raise invalid({"cursor": ["Not a cursor of ours: take the one in next or previous."]})


def _query(direction: str, edge: Delivery) -> dict[str, Any]:
    """The present query with another cursor."""
    microseconds = (edge.pushed_at - _EPOCH) // timedelta(microseconds=1)
    cursor = f"{direction}:{microseconds}:{edge.push_id}:{edge.position}"
    return request.args.to_dict() | {"cursor": cursor}
