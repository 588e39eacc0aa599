"""Telling the host, after the commit, what has finished or was switched off."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, joinedload

from .records.chains import Changes
from .records.models import Delivery, Status, Webhook
from .signals import chain_finished, delivery_finished, send_signal, webhook_disabled
from .state import State

logger = logging.getLogger(__name__)


def announce(state: State, changes: Changes) -> None:
    """Send the signals for deliveries that succeeded, failed or expired, and for webhooks we switched off.

    Receivers run in an app context of their own, so that what they do with `db.session` touches nobody else's.
    Nothing is read from the database for a signal that nobody listens to. A fault is logged, never raised: what is
    told of has been committed.
    """
    try:
        _announce(state, changes)
    except Exception:
        logger.exception("%d deliveries finished, but the host could not be told", len(changes.finished))


def _announce(state: State, changes: Changes) -> None:
    if changes.finished and (delivery_finished.receivers or chain_finished.receivers):
        _announce_finished(state, changes.finished)
    if changes.disabled and webhook_disabled.receivers:
        with state.reading() as session:
            webhooks = session.scalars(select(Webhook).where(Webhook.id.in_(changes.disabled))).all()
        for webhook in webhooks:
            _tell(webhook_disabled, webhook=webhook)


def _announce_finished(state: State, finished: Sequence[uuid.UUID]) -> None:
    with state.reading() as session:
        deliveries: Sequence[Delivery] = session.scalars(_with_parents(Delivery.id.in_(finished))).all()
        chains = [_chain(session, each) for each in deliveries if _ends_chain(each)]
    for delivery in deliveries:
        _tell(delivery_finished, delivery=delivery)
    for chain in chains:
        _tell(chain_finished, deliveries=chain)


def _ends_chain(delivery: Delivery) -> bool:
    return delivery.status is not Status.SUCCEEDED or delivery.position == delivery.chain_length - 1


def _chain(session: Session, delivery: Delivery) -> list[Delivery]:
    same = (Delivery.push_id == delivery.push_id) & (Delivery.webhook_id == delivery.webhook_id)
    return list(session.scalars(_with_parents(same)))


def _with_parents(condition: ColumnElement[bool]) -> Any:
    parents = joinedload(Delivery.push), joinedload(Delivery.webhook), joinedload(Delivery.hook)
    return select(Delivery).where(condition).options(*parents).order_by(Delivery.position)


def _tell(signal: Any, **details: Any) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    with app.app_context():
        send_signal(signal, app, **details)
