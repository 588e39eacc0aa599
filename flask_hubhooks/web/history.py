"""The history of a webhook: its deliveries, newest push first, in pages that stay fast however long it grows."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from flask import request
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session, joinedload

from ..models import ID_LIMIT, Delivery, Webhook
from .problems import invalid

_CURSOR = re.compile(r"(older|newer):([0-9]{1,10}):([0-9]{1,4})")


def page(session: Session, webhook: Webhook, size: int) -> tuple[list[Delivery], str | None, str | None]:
    """The deliveries of the page that `?cursor=` asks for, and the query strings of the next and previous page."""
    newer, start = _cursor(request.args.get("cursor"))
    order = (Delivery.push_id, Delivery.position.desc()) if newer else (Delivery.push_id.desc(), Delivery.position)
    query = (
        select(Delivery)
        .where(Delivery.webhook_id == webhook.id)
        .options(joinedload(Delivery.push), joinedload(Delivery.hook))
        .order_by(*order)
        .limit(size + 1)
    )
    rows = list(session.scalars(query if start is None else query.where(start)))
    more = len(rows) > size
    rows = rows[:size][::-1] if newer else rows[:size]
    has_older, has_newer = (bool(rows), more) if newer else (more, start is not None)
    older = _query("older", rows[-1], size) if has_older and rows else None
    return rows, older, _query("newer", rows[0], size) if has_newer and rows else None


def _cursor(text: str | None) -> tuple[bool, ColumnElement[bool] | None]:
    if text is None:
        return False, None
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[2]) > ID_LIMIT:
        raise invalid({"cursor": ["Not a cursor of ours: take the one in next or previous."]})
    push_id, position = int(match[2]), int(match[3])
    if match[1] == "newer":
        return True, or_(Delivery.push_id > push_id, and_(Delivery.push_id == push_id, Delivery.position < position))
    return False, or_(Delivery.push_id < push_id, and_(Delivery.push_id == push_id, Delivery.position > position))


def _query(direction: str, edge: Delivery, size: int) -> str:
    cursor: dict[str, Any] = {"cursor": f"{direction}:{edge.push_id}:{edge.position}", "page_size": size}
    return "?" + urlencode(cursor, safe=":")
