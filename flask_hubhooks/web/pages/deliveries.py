"""The pages of a webhook's history and of one delivery, and what sends."""

from __future__ import annotations

import json
import uuid
from typing import Any

from flask import Response

from ...dialects import utcnow
from ...records import history
from ...records import runs as chain_history
from ...records.models import Status
from ...records.runs import OUTCOMES, deciding_state
from .. import documents
from ..api import deliveries as api
from ..api.webhooks import find
from ..pipeline import Call
from . import attempts, week
from .forms import Form
from .rendering import page, see

CHAIN_REQUESTS, DELIVERIES = 15, 45
"""Of a page, at most: the longer the chain, the fewer of them."""


def show_history(call: Call, query: dict[str, Any], webhook_id: int) -> Response:
    with call.state.reading() as session:
        row = find(session, call, webhook_id)
        size = min(CHAIN_REQUESTS, max(1, DELIVERIES // max(1, len(row.hooks))))
        found = chain_history.page(session, row, query, size)
        chart = week.chart(week.read(session, row), utcnow())
        webhook = documents.webhook(row, call.viewer)
    chains = [[documents.delivery(each, found.context, call.viewer) for each in chain] for chain in found.runs]
    return page(
        call,
        "history.html",
        webhook=webhook,
        chains=[{"deliveries": chain, "state": _outcome(chain)} for chain in chains],
        chart=chart,
        outcomes=list(OUTCOMES),
        query={name: query[name] for name in ("outcome", "tag") if query[name]},
        older=found.older,
        newer=found.newer,
    )


def _outcome(chain: list[dict[str, Any]]) -> str:
    return deciding_state(Status(each["state"]) for each in chain).value


def show(call: Call, query: dict[str, Any], webhook_id: int, delivery_id: uuid.UUID) -> Response:
    with call.state.reading() as session:
        webhook = find(session, call, webhook_id)
        row = api.find(session, webhook, delivery_id)
        around = history.context(session, [row])
        chain = [documents.delivery(each, around, call.viewer) for each in around.runs[row.push_id]]
        tried = attempts.read(session, row, query["attempt"])
    sent = documents.sent_body(row, call.state.config)
    laid_out = sent if query["payload"] == "raw" else json.dumps(json.loads(sent), indent=2, ensure_ascii=False)
    return page(
        call,
        "delivery.html",
        webhook={"id": webhook.id, "name": webhook.name},
        delivery=documents.delivery(row, around, call.viewer),
        chain={"deliveries": chain, "state": _outcome(chain)},
        attempts=tried,
        shown=documents.attempt(tried.shown, sent, call.viewer) if tried.shown else None,
        payload=laid_out if call.viewer.may_write else None,
        is_raw=query["payload"] == "raw",
    )


def redeliver(call: Call, sent: Form, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    api.redeliver(call, webhook_id, delivery_id)
    return _see(call, webhook_id, delivery_id, "redelivered")


def send_test(call: Call, sent: Form, webhook_id: int) -> Response:
    """Push to this webhook alone, to its first hook or to the whole chain, and lead to the delivery."""
    answer = api.send_test(call, {"chain": sent.get("chain") == "yes"}, webhook_id)
    return _see(call, webhook_id, uuid.UUID(answer.get_json()["id"]), "test")


def _see(call: Call, webhook_id: int, delivery_id: uuid.UUID, notice: str) -> Response:
    here = {"repository": call.repository, "webhook_id": webhook_id, "delivery_id": delivery_id}
    return see(".pages_delivery", **here, notice=notice)
