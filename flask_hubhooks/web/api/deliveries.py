"""The API's endpoints for a webhook's history, tests, redelivery, recovery and decisions by hand.

Pages call the same functions.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from flask import request
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager, joinedload

from ...announce import announce
from ...dialects import lock_repository
from ...outbox import record_test
from ...records import history, redelivery
from ...records.callbacks import Callback, CallbackRefused, decide_by_hand, lock_called_back
from ...records.models import Delivery, Webhook
from ...records.redelivery import NotNow
from ...records.scopes import covers, is_pattern, sample_repository
from ...wakeups import wake
from ..authorization import Call
from ..documents import (
    DeliveryDocument,
    DeliveryPageDocument,
    DeliveryView,
    DeliveryWithAttemptsDocument,
    Page,
    RecoveredDocument,
    attempt_views,
    delivery_views,
)
from ..endpoints import Endpoint, api_url
from ..problems import Problem, invalid, not_found
from ..schemas import MAX_CONTEXT_LENGTH, DecisionSchema, HistorySchema, RecoverSchema, SendTestSchema
from . import DELIVERY, WEBHOOK
from .webhooks import find_webhook

DELIVERY_DOCUMENT = DeliveryDocument()
WINDOW_S = 60
"""Tests, redeliveries and recoveries are counted in windows of this length."""


@Endpoint(
    "POST",
    WEBHOOK + "test/",
    summary="Send a test push to this webhook only",
    tag="deliveries",
    access="write",
    body=SendTestSchema(),
    body_optional=True,
    returns=DELIVERY_DOCUMENT,
    status=202,
    location="{webhook_id}/history/{id}/",
    problems=(409, 429),
)
def send_test(call: Call, wanted: dict[str, Any], webhook_id: int) -> DeliveryView:
    """Push to this webhook only. Raises 409 if it has no hooks."""
    repository, details = _subject_of_test(call, wanted["repository"])
    count_send(call)
    with call.state.writing() as session:
        row = find_webhook(session, call, webhook_id)
        delivery_id = record_test(session, row, repository, call.user, details, wanted["chain"])
    if delivery_id is None:
        raise Problem(409, "Nothing was sent: the webhook has no hooks yet.")
    wake(call.state)
    return _read(call, webhook_id, delivery_id)


def _subject_of_test(call: Call, wanted: str | None) -> tuple[str, dict[str, Any]]:
    """The repository of a test and its details; of a namespace by default a made-up one."""
    if wanted is None:
        return sample_repository(call.scope), call.details
    if is_pattern(wanted) or not covers(call.scope, wanted):
        raise invalid({"repository": [f"Must be a repository of {call.scope}."]})
    with call.state.visiting_host_session():
        details = call.state.details_of(wanted)
    if details is None:
        raise invalid({"repository": ["There is no such repository."]})
    return wanted, details


@dataclass(frozen=True)
class Recovered:
    recovered: int
    remaining: int


@Endpoint(
    "POST",
    WEBHOOK + "recover/",
    summary="Redeliver everything that could not be delivered, 500 runs at a time",
    tag="deliveries",
    access="write",
    body=RecoverSchema(),
    returns=RecoveredDocument(),
    problems=(409, 429),
)
def recover(call: Call, wanted: dict[str, Any], webhook_id: int) -> Recovered:
    """Redeliver one batch. Clients repeat this while some remain."""
    count_send(call)
    with call.state.writing() as session:
        lock_repository(session, call.scope)
        row = find_webhook(session, call, webhook_id)
        try:
            recovered, remaining = redelivery.recover(session, row, wanted["since"], wanted["until"])
        except NotNow as refusal:
            raise Problem(409, f"Nothing was sent: {refusal}.") from None
    if recovered:
        wake(call.state)
    return Recovered(recovered, remaining)


@Endpoint(
    "GET",
    WEBHOOK + "history/",
    summary="List deliveries, newest push first",
    tag="deliveries",
    access="read",
    query=HistorySchema(),
    returns=DeliveryPageDocument(),
)
def list_deliveries(call: Call, query: dict[str, Any], webhook_id: int) -> Page:
    with call.state.reading() as session:
        page = history.page(session, find_webhook(session, call, webhook_id), query, call.scope)
        around = history.context(session, page.deliveries)

    def url(cursor: str | None) -> str | None:
        query = request.args.to_dict() | {"cursor": cursor}
        return api_url(call, f"{webhook_id}/history/", query) if cursor else None

    return Page(delivery_views(page.deliveries, around), next=url(page.older), previous=url(page.newer))


@Endpoint(
    "GET",
    DELIVERY,
    summary="Read a delivery with all its attempts",
    tag="deliveries",
    access="read",
    returns=DeliveryWithAttemptsDocument(),
)
def read_delivery(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> DeliveryView:
    return _read(call, webhook_id, delivery_id, with_attempts=True)


@Endpoint(
    "POST",
    DELIVERY + "redeliver/",
    summary="Redeliver a delivery, and then the rest of its run",
    tag="deliveries",
    access="write",
    returns=DELIVERY_DOCUMENT,
    status=202,
    location="{webhook_id}/history/{id}/",
    problems=(409, 415, 429),
)
def redeliver(call: Call, webhook_id: int, delivery_id: uuid.UUID) -> DeliveryView:
    """Begin a new round. Raises 409 if that is not possible at the moment."""
    count_send(call)
    with call.state.writing() as session:
        lock_repository(session, call.scope)
        row = find_delivery(session, call, find_webhook(session, call, webhook_id), delivery_id)
        try:
            redelivery.redeliver(session, row)
        except NotNow as refusal:
            raise Problem(409, f"Nothing was sent: {refusal}.") from None
    wake(call.state)
    return _read(call, webhook_id, delivery_id)


@Endpoint(
    "POST",
    DELIVERY + "decide/",
    summary="Decide a delivery that awaits its callback",
    tag="deliveries",
    access="write",
    body=DecisionSchema(),
    returns=DELIVERY_DOCUMENT,
    problems=(409,),
)
def decide(call: Call, decision: Callback, webhook_id: int, delivery_id: uuid.UUID) -> DeliveryView:
    """Decide as a callback would, in the name of the user. Raises 409 if the delivery awaits none."""
    with call.state.writing() as session:
        find_delivery(session, call, find_webhook(session, call, webhook_id), delivery_id)
        delivery = lock_called_back(session, delivery_id)
        if delivery is None or delivery.deleted_id:  # meanwhile
            raise not_found()
        try:
            changes = decide_by_hand(session, delivery, replace(decision, context=call.user[:MAX_CONTEXT_LENGTH]))
        except CallbackRefused as refused:
            raise Problem(refused.status_code, str(refused)) from None
    if changes.more_due:
        wake(call.state)
    announce(call.state, changes)
    return _read(call, webhook_id, delivery_id)


def _read(call: Call, webhook_id: int, delivery_id: uuid.UUID, *, with_attempts: bool = False) -> DeliveryView:
    with call.state.reading() as session:
        row = find_delivery(session, call, find_webhook(session, call, webhook_id), delivery_id)
        [view] = delivery_views([row], history.context(session, [row]))
        if not with_attempts:
            return view
        return replace(view, attempts=attempt_views(row.attempts))


def find_delivery(session: Session, call: Call, webhook: Webhook, delivery_id: uuid.UUID) -> Delivery:
    """Return a delivery of a webhook that the call may see; raises 404."""
    row = session.scalar(
        select(Delivery)
        .join(Delivery.push)
        .where(Delivery.id == delivery_id, *history.shown(webhook, call.scope))
        .options(contains_eager(Delivery.push), joinedload(Delivery.hook))
    )
    if row is None:
        raise not_found()
    return row


def count_send(call: Call) -> None:
    """Count a test, a redelivery or a recovery: a repository or namespace must not become a scanner or a flood.

    Raises 429 if there were too many within a minute, and 503 if Redis is away, since nothing would be sent then.
    """
    if call.counted:  # the request is repeated after a conflict
        return
    call.counted = True
    limit = call.state.config.max_sends_per_minute
    window, passed_s = divmod(int(time.time()), WINDOW_S)
    name = hashlib.sha256(call.scope.encode()).hexdigest()[:32]
    key = f"{call.state.config.queue}:sends:{name}:{window}"
    try:
        commands = call.state.redis.pipeline()
        commands.incr(key)
        commands.expire(key, 2 * WINDOW_S)
        count = int(commands.execute()[0])
    except (RedisError, OSError):
        retry = {"Retry-After": "5"}
        raise Problem(503, "The registry's Redis server is unavailable. Try again later.", headers=retry) from None
    if count > limit:
        detail = f"More than {limit} tests, redeliveries and recoveries were asked for within a minute."
        raise Problem(429, detail, headers={"Retry-After": str(WINDOW_S - passed_s)})
