"""The pages of a webhook's history and of one delivery, and the buttons that send or decide."""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from time import monotonic
from typing import Any

from flask import Response
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ...dialects import utcnow
from ...records import history, redelivery, runs, webhooks
from ...records.holding import count_unsent
from ...records.models import NUMBER_LIMIT, OUTCOMES, Attempt, Delivery, Hook
from ...records.runs import deciding_state
from ...records.webhooks import HookWanted, tls_of
from ...transport.causes import received
from ...transport.hook_url import origin
from ...transport.tls import TLS
from ...worker.masking import MASKED
from ..api import deliveries as api
from ..api.webhooks import WEBHOOK_DOCUMENT, editing, find_webhook
from ..authorization import Call
from ..document_fields import time
from ..documents import AttemptDocument, AttemptView, DeliveryView, delivery_views
from ..endpoints import loaded
from ..problems import Problem, not_found
from ..schemas import DecisionSchema, RecoverPageSchema, RecoverSchema
from .chart import read_chart
from .forms import Form
from .rendering import page, pretty, see

MAX_RUNS, MAX_DELIVERIES = 15, 45
"""The most that a page of the history shows: the longer the chain, the fewer runs."""
SILENT_AFTER = 3
"""After how many callbacks of a hook that never came the history gives a hint."""
MAX_ATTEMPTS = 20
"""The most that the page of a delivery lists."""
RECOVERED_SINCE = timedelta(days=7)
"""How far the page to recover looks back by default: longer than the 5 days after which a webhook is disabled."""
RECOVERING_S = 2.0
"""How long one request of that page goes on with batches."""
_ATTEMPT_DOCUMENT = AttemptDocument()


def show_history(call: Call, query: dict[str, Any], webhook_id: int) -> Response:
    with call.state.reading() as session:
        row = find_webhook(session, call, webhook_id, with_hooks=True)
        size = min(MAX_RUNS, max(1, MAX_DELIVERIES // max(1, len(row.hooks))))
        found = runs.page(session, row, query, size, call.scope)
        chart = read_chart(session, row, call.scope)
        unsent = 0 if row.active else count_unsent(session, row.id)
    chains = [_shown_run(call, delivery_views(run, found.context)) for run in found.runs]
    return page(
        call,
        "history.html",
        unsent=unsent,
        webhook=call.viewer.document(WEBHOOK_DOCUMENT, row),
        chains=chains,
        silent=_silent(chains),
        external_url=call.state.config.external_url,
        chart=chart,
        outcomes=list(OUTCOMES),
        query={name: query[name] for name in ("outcome", "repository", "tag") if query[name]},
        older=found.older,
        newer=found.newer,
    )


def _silent(chains: Sequence[Mapping[str, Any]]) -> list[str]:
    """The URLs of hooks of which the latest `SILENT_AFTER` callbacks on the page never came."""
    states: defaultdict[str, list[str]] = defaultdict(list)
    for each in chain.from_iterable(run["deliveries"] for run in chains):
        if each["callback_expected"] and each["received_at"] and each["finished_at"]:
            states[each["hook"]["hook_url"]].append(each["state"])
    return [url for url, latest in states.items() if latest[:SILENT_AFTER] == ["expired"] * SILENT_AFTER]


def _shown_run(call: Call, views: Sequence[DeliveryView]) -> dict[str, Any]:
    return {
        "deliveries": [call.viewer.document(api.DELIVERY_DOCUMENT, each) for each in views],
        "state": deciding_state(each.row.status for each in views).value,
    }


def show_recovery(call: Call, query: dict[str, Any], webhook_id: int) -> Response:
    """How many pushes failed since a time, and how many of them are being sent again already."""
    now = utcnow()
    since, until = query["since"] or now - RECOVERED_SINCE, query["until"] or now
    return _recovery(call, webhook_id, since, until, query["recovered"])


def _recovery(
    call: Call, webhook_id: int, since: datetime, until: datetime, recovered: int, *, goes_on: bool = False
) -> Response:
    with call.state.reading() as session:
        row = find_webhook(session, call, webhook_id, with_hooks=True)
        count = redelivery.count_recoverable(session, row, since, until)
    return page(
        call,
        "recover.html",
        webhook=call.viewer.document(WEBHOOK_DOCUMENT, row),
        since=f"{since:%Y-%m-%dT%H:%M}",
        until_time=time(until),
        count=count,
        recovered=recovered,
        goes_on=goes_on,
    )


def recover(call: Call, sent: Form, webhook_id: int) -> Response:
    """Send again what failed in a time, for some seconds, and show how far that is.

    The time ends when the page was opened, so that what fails again is not sent for ever. While there is more, the
    response is a page that sends the form again: no link can begin that, since the form has a CSRF token.
    """
    wanted = loaded(RecoverSchema(), {name: sent[name] for name in ("since", "until") if sent.get(name)})
    until = wanted["until"] = wanted["until"] or utcnow()
    before: int = loaded(RecoverPageSchema(), {"recovered": sent.get("recovered", "0")})["recovered"]
    recovered, ends = before, monotonic() + RECOVERING_S
    while True:
        batch = api.recover(call, wanted, webhook_id)
        recovered += batch.recovered
        if not (batch.recovered and batch.remaining):
            here: dict[str, Any] = {"repository": call.scope, "webhook_id": webhook_id, "since": sent["since"]}
            return see(".pages_recover", **here, until=time(until), recovered=recovered)
        if monotonic() >= ends:
            return _recovery(call, webhook_id, wanted["since"], until, recovered, goes_on=True)


def show(call: Call, query: dict[str, Any], webhook_id: int, delivery_id: uuid.UUID) -> Response:
    with call.state.reading() as session:
        webhook = find_webhook(session, call, webhook_id)
        row = api.find_delivery(session, call, webhook, delivery_id)
        context = history.context(session, [row])
        attempts = _read_attempts(session, row, query["attempt"])
        run = _shown_run(call, delivery_views(context.runs[row.push_id], context))
        pin = _pin(row.hook, attempts.shown.row) if attempts.shown else ""
    payload = attempts.shown.body if attempts.shown and call.viewer.may_write else ""
    return page(
        call,
        "delivery.html",
        webhook={"id": webhook.id, "name": webhook.name},
        delivery=next(each for each in run["deliveries"] if each["id"] == str(row.id)),
        chain=run,
        attempts=attempts,
        shown=call.viewer.document(_ATTEMPT_DOCUMENT, attempts.shown) if attempts.shown else None,
        pin=pin,
        payload=payload if query["payload"] == "raw" else pretty(payload),
        has_callback=MASKED in payload,
        is_raw=query["payload"] == "raw",
    )


def _pin(hook: Hook, attempt: Attempt) -> str:
    """Whether the key of a refused certificate can be pinned: "offered", "done", or "" if it cannot."""
    if attempt.certificate is None or hook.removed_at or origin(attempt.hook_url) != origin(hook.hook_url):
        return ""
    return "done" if tls_of(hook) == _pinned(attempt) else "offered"


def _pinned(attempt: Attempt) -> TLS:
    return TLS(public_key_sha256=(attempt.certificate or {})["public_key_sha256"])


@dataclass(frozen=True)
class Attempts:
    """Some attempts, newest first, the one that is shown, and the numbers at which older and newer pages start."""

    lines: Sequence[dict[str, Any]]
    shown: AttemptView | None
    older: int | None
    newer: int | None


def _read_attempts(session: Session, delivery: Delivery, number: int | None) -> Attempts:
    """Read the attempts around a number, or the latest. Raises 404 if there is no such attempt."""
    newest = number + MAX_ATTEMPTS // 2 if number else NUMBER_LIMIT
    rows = session.execute(
        select(Attempt.number, Attempt.trigger, Attempt.started_at, Attempt.status_code)
        .where(Attempt.delivery_id == delivery.id, Attempt.number <= newest)
        .order_by(Attempt.number.desc())
        .limit(MAX_ATTEMPTS)
    ).all()
    shown = None
    if number or rows:
        its = (Attempt.delivery_id == delivery.id) & (Attempt.number == (number or rows[0].number))
        found = session.execute(select(Attempt, _SENT_BODY).where(its)).one_or_none()
        if found is None:
            raise not_found()
        shown = AttemptView(found[0], found[1] or "")
    lines = [
        {
            "number": each.number,
            "trigger": each.trigger,
            "started_at": time(each.started_at),
            "status_code": each.status_code,
            "received": each.status_code is not None and received(each.status_code),
        }
        for each in rows
    ]
    older = rows[-1].number - 1 if rows and rows[-1].number > 1 else None
    newer = rows[0].number + 1 if rows and rows[0].number < delivery.attempt_count else None
    return Attempts(lines, shown, older, newer)


_earlier = aliased(Attempt)
_SENT_BODY = (
    select(_earlier.request_body)
    .where(
        _earlier.delivery_id == Attempt.delivery_id,
        _earlier.round == Attempt.round,
        _earlier.number <= Attempt.number,
        _earlier.request_body.is_not(None),
    )
    .order_by(_earlier.number.desc())
    .limit(1)
    .scalar_subquery()
)


def redeliver(call: Call, sent: Form, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    api.redeliver(call, webhook_id, delivery_id)
    return _see(call, webhook_id, delivery_id, "redelivered")


def decide(call: Call, sent: Form, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    typed = {name: sent.get(name, "") for name in ("state", "description")}
    api.decide(call, loaded(DecisionSchema(), typed), webhook_id, delivery_id)
    return _see(call, webhook_id, delivery_id, "decided")


def pin_key(call: Call, sent: Form, webhook_id: int, delivery_id: uuid.UUID) -> Response:
    """Pin the key of the certificate that an attempt was shown; the hook's other settings stay."""
    number = sent.get("attempt", "")
    with editing(call, webhook_id) as (session, webhook):
        delivery = api.find_delivery(session, call, webhook, delivery_id)
        attempt = session.get(Attempt, (delivery.id, int(number))) if re.fullmatch("[0-9]{1,9}", number) else None
        if attempt is None:
            raise not_found()
        if not _pin(delivery.hook, attempt):
            raise Problem(409, "Nothing was pinned: the hook was removed, or its URL leads to another host now.")
        hooks = [
            HookWanted(id=each.id, tls=_pinned(attempt) if each.id == delivery.hook_id else None)
            for each in webhook.hooks
        ]
        webhooks.edit(session, call.owner, webhook, {"hooks": hooks})
    return _see(call, webhook_id, delivery_id, "pinned")


def send_test(call: Call, sent: Form, webhook_id: int) -> Response:
    """Send a test to the first hook or the whole chain, and redirect to the delivery."""
    delivery = api.send_test(call, {"chain": sent.get("chain") == "yes", "repository": None}, webhook_id)
    return _see(call, webhook_id, delivery.row.id, "test")


def _see(call: Call, webhook_id: int, delivery_id: uuid.UUID, notice: str) -> Response:
    here = {"repository": call.scope, "webhook_id": webhook_id, "delivery_id": delivery_id}
    return see(".pages_delivery", **here, notice=notice)
