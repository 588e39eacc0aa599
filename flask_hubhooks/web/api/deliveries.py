"""The history of a webhook, and what sends again."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Response, request
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from ...dialects import lock_repository
from ...outbox import record_test
from ...records import history, redelivery
from ...records.models import Delivery, Webhook
from ...records.redelivery import NotNow
from ...wakeups import wake
from .. import documents
from ..pipeline import Call, api_url, json_response
from ..problems import Problem, not_found
from ..rate import count_send
from . import webhooks


def list_all(call: Call, query: dict[str, Any], webhook_id: int) -> Response:
    with call.state.reading() as session:
        page = history.page(session, webhooks.find(session, call, webhook_id), query)
        around = history.context(session, page.deliveries)
    return json_response(
        {
            "next": _page_url(call, webhook_id, page.older),
            "previous": _page_url(call, webhook_id, page.newer),
            "results": [documents.delivery(row, around, call.viewer) for row in page.deliveries],
        }
    )


def _page_url(call: Call, webhook_id: int, cursor: str | None) -> str | None:
    query = request.args.to_dict() | {"cursor": cursor}
    return api_url(call, webhook_id, "history", query=query) if cursor else None


def read(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    with call.state.reading() as session:
        row = find(session, webhooks.find(session, call, webhook_id), delivery_id)
        around = history.context(session, [row])
        return json_response(documents.delivery_with_attempts(row, around, call.viewer))


def redeliver(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    """Send a delivery again, and after it the rest of its chain. Answer 202 with the delivery, or 409."""
    count_send(call)
    with call.state.writing() as session:
        lock_repository(session, call.repository)
        row = find(session, webhooks.find(session, call, webhook_id), delivery_id)
        try:
            redelivery.redeliver(session, row)
        except NotNow as refusal:
            raise _nothing_sent(refusal) from None
    wake(call.state)
    return _accepted(call, webhook_id, delivery_id)


def recover(call: Call, wanted: dict[str, Any], webhook_id: int) -> Response:
    """Send again a batch of what could not be delivered; `remaining` says whether to ask for more."""
    count_send(call)
    with call.state.writing() as session:
        lock_repository(session, call.repository)
        row = webhooks.find(session, call, webhook_id)
        try:
            recovered, remaining = redelivery.recover(session, row, wanted["since"], wanted["until"])
        except NotNow as refusal:
            raise _nothing_sent(refusal) from None
    if recovered:
        wake(call.state)
    return json_response({"recovered": recovered, "remaining": remaining})


def send_test(call: Call, wanted: dict[str, Any], webhook_id: int) -> Response:
    """Push to this webhook alone. Answer 202 with the delivery, or 409 where there is no hook to call."""
    count_send(call)
    with call.state.writing() as session:
        row = webhooks.find(session, call, webhook_id)
        delivery_id = record_test(session, row, call.user, call.details, wanted["chain"])
    if delivery_id is None:
        raise Problem(409, "Nothing was sent: the webhook has no hooks yet.")
    wake(call.state)
    return _accepted(call, webhook_id, delivery_id)


def _accepted(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    with call.state.reading() as session:
        row = find(session, webhooks.find(session, call, webhook_id), delivery_id)
        content = documents.delivery(row, history.context(session, [row]), call.viewer)
    return json_response(content, 202, {"Location": api_url(call, webhook_id, "history", delivery_id)})


def _nothing_sent(refusal: NotNow) -> Problem:
    return Problem(409, f"Nothing was sent: {refusal}.")


def find(session: Session, webhook: Webhook, delivery_id: uuid.UUID) -> Delivery:
    """A delivery of a webhook; raises 404."""
    row = session.scalar(
        select(Delivery)
        .where(Delivery.webhook_id == webhook.id, Delivery.id == delivery_id)
        .options(joinedload(Delivery.push), joinedload(Delivery.hook))
    )
    if row is None:
        raise not_found()
    return row
