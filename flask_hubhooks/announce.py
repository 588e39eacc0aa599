"""Logs failures after their commit, and signals to the host which deliveries finished and webhooks were disabled."""

from __future__ import annotations

import logging
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import joinedload

from .records.chains import Changes
from .records.models import Delivery, Status, Webhook, same_run
from .signals import chain_finished, delivery_finished, send_signal, webhook_disabled
from .state import State

logger = logging.getLogger(__name__)


def announce(state: State, changes: Changes) -> None:
    """Log failures, and send the signals for deliveries that ended and for webhooks that we disabled.

    Receivers run in an app context of their own, so that their use of `db.session` affects nobody else. Nothing is read
    from the database for a signal without receivers. Errors are logged, never raised: the changes are committed.
    """
    for level, text in changes.log:
        logger.log(level, "%s", text)
    try:
        if changes.finished and (delivery_finished.receivers or chain_finished.receivers):
            _announce_finished(state, changes)
        if changes.disabled and webhook_disabled.receivers:
            with state.reading() as session:
                webhooks = session.scalars(select(Webhook).where(Webhook.id.in_(changes.disabled))).all()
            for webhook in webhooks:
                _send(webhook_disabled, webhook=webhook)
    except Exception:
        logger.exception("cannot send the signals for %d deliveries that have finished", len(changes.finished))


def _announce_finished(state: State, changes: Changes) -> None:
    with state.reading() as session:
        deliveries = session.scalars(_with_parents(Delivery.id.in_(changes.finished))).all()
        ends_its_run = (
            each for each in deliveries if each.status is not Status.SUCCEEDED or each.position == each.chain_length - 1
        )
        runs = [list(session.scalars(_with_parents(same_run(Delivery, each)))) for each in ends_its_run]
    for delivery in deliveries:
        _send(delivery_finished, delivery=delivery)
    for run in runs:
        _send(chain_finished, deliveries=run)


def _with_parents(condition: ColumnElement[bool]) -> Any:
    parents = joinedload(Delivery.push), joinedload(Delivery.webhook), joinedload(Delivery.hook)
    return select(Delivery).where(condition).options(*parents).order_by(Delivery.position)


def _send(signal: Any, **details: Any) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    with app.app_context():
        send_signal(signal, app, **details)
