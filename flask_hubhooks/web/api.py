"""The JSON API under `/v2/repositories/<repository>/webhooks/`."""

from __future__ import annotations

import re
import unicodedata
import uuid
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, selectinload

from ..chains import cancel_unsent, redeliver
from ..delivery.signing import new_secret
from ..models import ID_LIMIT, Delivery, Hook, Webhook, destination
from ..outbox import wake
from . import documents, history
from .pipeline import Call, external_url, json_response, read_json, reads, route, whole_number, writes
from .problems import Problem, invalid, not_found
from .schemas import WebhookSchema

PAGE_SIZE, PAGE_SIZE_LIMIT = 25, 100


def add_routes(blueprint: Blueprint) -> None:
    webhooks = "/v2/repositories/<path:repository>/webhooks/"
    webhook = webhooks + "<int:webhook_id>/"
    delivery = webhook + "history/<uuid:delivery_id>/"
    route(blueprint, webhooks, "webhooks", GET=reads(list_webhooks), POST=writes(create_webhook))
    route(blueprint, webhook, "webhook", GET=reads(read_webhook), DELETE=writes(delete_webhook))
    route(blueprint, webhook + "history/", "history", GET=reads(list_history))
    route(blueprint, delivery, "delivery", GET=reads(read_delivery))
    route(blueprint, delivery + "redeliver/", "redeliver", POST=writes(post_redeliver))


def list_webhooks(call: Call) -> Response:
    page = whole_number("page", 1, 1, 10**6)
    size = whole_number("page_size", PAGE_SIZE, 1, PAGE_SIZE_LIMIT)
    with call.state.reading() as session:
        mine = _live(call)
        count = session.scalar(select(func.count()).select_from(mine.subquery())) or 0
        query = mine.options(selectinload(Webhook.hooks)).order_by(Webhook.id)
        rows = session.scalars(query.limit(size).offset((page - 1) * size)).all()
    here = _url(call)
    return json_response(
        {
            "count": count,
            "next": f"{here}?page={page + 1}&page_size={size}" if page * size < count else None,
            "previous": f"{here}?page={page - 1}&page_size={size}" if page > 1 else None,
            "results": [documents.webhook(row) for row in rows],
        }
    )


def create_webhook(call: Call) -> Response:
    """Answer 201 with the webhook, and with its secret, which is shown this once."""
    wanted = read_json(WebhookSchema())
    secret = new_secret()
    try:
        with call.state.writing() as session:
            row = _new_webhook(session, call, wanted, secret)
            session.flush()
            content = documents.webhook(row)
    except IntegrityError:
        raise invalid({"name": ["This repository has a webhook of this name."]}) from None
    return json_response(content | {"secret": secret}, 201, {"Location": _url(call, content["id"])})


def _new_webhook(session: Session, call: Call, wanted: dict[str, Any], secret: str) -> Webhook:
    taken = set(session.scalars(_live(call).with_only_columns(Webhook.slug)))
    by = {"creator": call.user, "last_updater": call.user}
    row = Webhook(
        repository=call.repository,
        name=wanted["name"],
        slug=_slug(wanted["name"], taken),
        active=True,
        disabled_reason="",
        expect_final_callback=wanted["expect_final_callback"],
        encrypted_secret=call.state.secrets.encrypt(secret),
        hooks=[
            Hook(position=position, hook_url=url, destination=destination(url), **by)
            for position, url in enumerate(wanted["hook_urls"])
        ],
        **by,
    )
    session.add(row)
    return row


def _slug(name: str, taken: set[str]) -> str:
    """The name for a URL: letters and digits of any script, and hyphens; a number follows where it is taken."""
    text = unicodedata.normalize("NFKC", name).lower()
    base = re.sub(r"[\W_]+", "-", text).strip("-")[:200] or "webhook"
    return next(
        slug for slug in (base, *(f"{base}-{number}" for number in range(2, len(taken) + 3))) if slug not in taken
    )


def read_webhook(call: Call, webhook_id: int) -> Response:
    with call.state.reading() as session:
        return json_response(documents.webhook(_find(session, call, webhook_id)))


def delete_webhook(call: Call, webhook_id: int) -> Response:
    """Delete at once: the name is free, the history unreadable, nothing more is sent."""
    with call.state.writing() as session:
        row = _find(session, call, webhook_id)
        cancel_unsent(session, row.id, "the webhook was deleted")  # before the webhook: workers lock in this order
        row.deleted_id = row.id
        row.last_updater = call.user
    return Response(status=204)


def list_history(call: Call, webhook_id: int) -> Response:
    size = whole_number("page_size", PAGE_SIZE, 1, PAGE_SIZE_LIMIT)
    with call.state.reading() as session:
        rows, older, newer = history.page(session, _find(session, call, webhook_id), size)
    here = _url(call, webhook_id, "history")
    return json_response(
        {
            "next": here + older if older else None,
            "previous": here + newer if newer else None,
            "results": [documents.delivery(row) for row in rows],
        }
    )


def read_delivery(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    with call.state.reading() as session:
        row = _find_delivery(session, call, webhook_id, delivery_id)
        return json_response(documents.delivery_with_attempts(row, call.state.config))


def post_redeliver(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    """Send a delivery again, and after it the rest of its chain. Answer 202 with the delivery, or 409."""
    with call.state.writing() as session:
        row = _find_delivery(session, call, webhook_id, delivery_id)
        refusal = redeliver(session, row)
        if refusal:
            raise Problem(409, f"Nothing was sent: {refusal}.")
        session.expire(row)
        content = documents.delivery(row)
    wake(call.state)
    return json_response(content, 202)


def _live(call: Call) -> Any:
    return select(Webhook).where(Webhook.repository == call.repository, Webhook.deleted_id == 0)


def _find(session: Session, call: Call, webhook_id: int) -> Webhook:
    row = None
    if webhook_id <= ID_LIMIT:
        row = session.scalar(_live(call).where(Webhook.id == webhook_id).options(selectinload(Webhook.hooks)))
    if row is None:
        raise not_found()
    return row  # type: ignore[no-any-return]


def _find_delivery(session: Session, call: Call, webhook_id: int, delivery_id: uuid.UUID) -> Delivery:
    query = (
        select(Delivery)
        .where(Delivery.webhook_id == _find(session, call, webhook_id).id, Delivery.id == delivery_id)
        .options(joinedload(Delivery.push), joinedload(Delivery.hook), selectinload(Delivery.attempts))
    )
    row = session.scalar(query)
    if row is None:
        raise not_found()
    return row


def _url(call: Call, *path: object) -> str:
    return external_url(call.state, "v2", "repositories", call.repository, "webhooks", *path)
