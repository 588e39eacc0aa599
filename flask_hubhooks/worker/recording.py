"""Recording results: the attempts, the next states of deliveries, and the health of hooks.

`record` has three passes: it locks the deliveries and reads what it goes by, it decides in plain Python, and it writes
what it has decided in one statement for each kind of transition.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Float, bindparam, case, or_, select, update
from sqlalchemy.orm import Session

from ..dialects import UTCDateTime, insert_rows, one_of, try_lock_repository, utcnow
from ..records import transitions
from ..records.chains import Changes, advance
from ..records.locks import lock_free
from ..records.models import GIVE_UP_AFTER, Run, Status, attempts, deliveries, hooks, webhooks
from ..records.superseding import Received, supersede
from ..records.webhooks import disable
from ..transport import Concern, Outcome
from ..transport.hook_url import origin
from .claims import Claim
from .retry import Judgement, Verdict

MIN_FAILED_DAYS = 5
MAX_GAP = timedelta(days=3)
"""A webhook is disabled when one of its hooks has failed for 5 days (`GIVE_UP_AFTER`): attempts failed on at least 5
days, none succeeded, and there was no gap of 3 days without an attempt. Retries of one delivery are at most two days
apart, so a longer gap means that nothing was pushed, not that the receiver is well."""
FAILURE_NOTED_EVERY = timedelta(hours=1)
"""How often it is written that a hook is still failing."""


class Result(NamedTuple):
    """The result of a claim: the request, the outcome, and its judgement."""

    claim: Claim
    url: str
    """With its placeholders filled."""
    request_headers: dict[str, str]
    request_body: str
    """Without its callback token."""
    outcome: Outcome
    judgement: Judgement
    has_callback: bool = True
    """Whether the request carried a callback URL."""

    @property
    def received(self) -> bool:
        return self.judgement.verdict is Verdict.RECEIVED


@dataclass
class Decisions:
    """The transitions of deliveries, by their ids, and the health of their hooks."""

    succeeded: list[uuid.UUID] = field(default_factory=list)
    awaiting_callback: list[uuid.UUID] = field(default_factory=list)
    failed: defaultdict[str, list[uuid.UUID]] = field(default_factory=lambda: defaultdict(list))
    """By their reasons."""
    retries: dict[uuid.UUID, float] = field(default_factory=dict)
    """Each with the seconds until its next attempt."""
    received: list[uuid.UUID] = field(default_factory=list)
    """Cancelled deliveries that were received nevertheless."""
    ended_runs: set[Run] = field(default_factory=set)
    """Runs in which a delivery ended that is not the last."""
    more_due: bool = False
    working_hooks: set[int] = field(default_factory=set)
    failing_hooks: set[int] = field(default_factory=set)
    gone_hooks: dict[int, str] = field(default_factory=dict)
    """Hooks whose receivers want no more requests, with the reason."""


def record(
    session: Session, results: Sequence[Result], callback_ttl_s: float, *, with_attempts: bool = True
) -> Changes:
    """Write every attempt, and change the deliveries whose claims still hold.

    A callback, a cancellation or a redelivery has ended the claims of others: their attempts are history, and their
    deliveries stay as they are. Nothing is written of a delivery that another transaction has locked, nor of one whose
    webhook is to be disabled while its repository is locked, since a host's transaction may be open for long. The
    changes name these as `locked`, to be recorded later.
    """
    failed = [each for each in results if not each.received and not each.claim.is_test]
    rows, locked, may_disable = _lock(session, results, failed)
    results = [result for result in results if result.claim.id in rows]  # a row may have been deleted meanwhile
    if not results:
        return Changes(locked=locked)
    decisions = decide(results, rows, _present_urls(session, failed, rows))

    if with_attempts:
        _insert_attempts(session, results)
    _write_transitions(session, decisions, callback_ttl_s)
    supersede(
        session,
        {
            Received(each.claim.hook_id, each.claim.ordered_image, each.claim.push_id)
            for each in results
            if each.claim.ordered_image and each.received
        },
    )
    more_due = bool(decisions.ended_runs) and advance(session, decisions.ended_runs)
    reasons = _write_health(session, decisions)
    finished = [*decisions.succeeded, *(each for ids in decisions.failed.values() for each in ids)]
    changes = Changes(finished, more_due=more_due or decisions.more_due, locked=locked)
    if decisions.failed:
        webhooks_of = {each.claim.id: each.claim.webhook_id for each in results}
        for reason, ids in decisions.failed.items():
            for each in ids:
                changes.log_failure(each, webhooks_of[each], Status.FAILED, reason)
    webhook_of = {each.claim.hook_id: each.claim.webhook_id for each in failed}
    for hook, reason in reasons.items():
        webhook_id = webhook_of[hook]
        if webhook_id in may_disable and disable(session, webhook_id, reason):
            changes.disabled.append(webhook_id)
            changes.log.append((logging.WARNING, f"webhook {webhook_id} was disabled: {reason}"))
    return changes


# Lock


def _lock(
    session: Session, results: Sequence[Result], failed: Sequence[Result]
) -> tuple[dict[uuid.UUID, Any], frozenset[uuid.UUID], frozenset[int]]:
    """Lock all deliveries that can be locked, before any hook or webhook.

    Returns their `leases` rows by id, the deliveries to be recorded later, and the webhooks that may be disabled: their
    repositories are locked, so that disabling waits for no host's transaction.
    """
    may_disable, busy = _lock_repositories(session, failed)
    later = {each.claim.id for each in failed if each.claim.webhook_id in busy}
    rows, locked = lock_free(session, {each.claim.id for each in results} - later)
    return rows, locked | later, may_disable


def _lock_repositories(session: Session, failed: Sequence[Result]) -> tuple[frozenset[int], frozenset[int]]:
    """Lock the repositories of webhooks that these failures may disable, without waiting.

    Returns the webhooks whose repositories are locked now, and those whose repositories somebody else has locked.
    """
    if not failed:
        return frozenset(), frozenset()
    which = {
        "ids": [each.claim.hook_id for each in failed],
        "failing_before": utcnow() - GIVE_UP_AFTER,
        "min_days": MIN_FAILED_DAYS - 1,  # today may be the last one
    }
    candidates = {each.claim.webhook_id for each in failed if each.judgement.verdict is Verdict.GONE}
    candidates |= {row.webhook_id for row in session.execute(_FAILING_TOO_LONG, which)}
    if not candidates:
        return frozenset(), frozenset()
    repository_of = {row.id: row.scope for row in session.execute(_LIVE, {"ids": list(candidates)})}
    free = {each for each in sorted(set(repository_of.values())) if try_lock_repository(session, each)}
    may_disable = frozenset(each for each, repository in repository_of.items() if repository in free)
    return may_disable, frozenset(repository_of) - may_disable


_LIVE = select(webhooks.c.id, webhooks.c.scope).where(one_of(webhooks.c.id, "ids"), webhooks.c.deleted_id == 0)
_FAILING_TOO_LONG = select(hooks.c.id, hooks.c.webhook_id, hooks.c.hook_url, hooks.c.failing_since).where(
    one_of(hooks.c.id, "ids"),
    hooks.c.failing_since <= bindparam("failing_before", type_=UTCDateTime),
    hooks.c.failed_days >= bindparam("min_days"),
)


def _present_urls(session: Session, failed: Sequence[Result], rows: Mapping[uuid.UUID, Any]) -> dict[int, str]:
    """The present URLs of hooks to which a delivery failed, by the hook's id."""
    failing = [
        each.claim.hook_id for each in failed if each.claim.id in rows and holds(each.claim, rows[each.claim.id])
    ]
    return {row.id: row.hook_url for row in session.execute(_HOOK_URLS, {"ids": failing})} if failing else {}


_HOOK_URLS = select(hooks.c.id, hooks.c.hook_url).where(one_of(hooks.c.id, "ids"))


# Decide


def holds(claim: Claim, row: Any) -> bool:
    """Whether a claim is still valid: nothing has moved its delivery since."""
    return bool(row.status is Status.PENDING and row.round == claim.round and row.lease_token == claim.lease_token)


def decide(results: Sequence[Result], rows: Mapping[uuid.UUID, Any], urls: Mapping[int, str]) -> Decisions:
    """Decide the transitions of deliveries from their `leases` rows, and the health of hooks from their present URLs.

    A failure at an earlier URL of a hook does not count against its present URL, which is tried at once. A failure that
    concerns nobody, such as one of the proxy, a push that the receiver declined, and the result of a test say nothing
    about the hook.
    """
    decisions = Decisions()
    for result in results:
        claim, row = result.claim, rows[result.claim.id]
        if not holds(claim, row):
            if result.received and row.status is Status.CANCELLED and row.round == claim.round:
                decisions.received.append(claim.id)
        elif not result.received and not claim.is_test and urls.get(claim.hook_id, claim.hook_url) != claim.hook_url:
            decisions.retries[claim.id] = 0.0
            decisions.more_due = True
        else:
            _decide_delivery(result, decisions)
            says_nothing = result.outcome.concern is Concern.NOBODY or result.judgement.verdict is Verdict.DECLINED
            if not claim.is_test and not says_nothing:
                _decide_health(result, decisions)
    decisions.failing_hooks -= decisions.working_hooks
    return decisions


def _decide_delivery(result: Result, decisions: Decisions) -> None:
    claim, judgement = result.claim, result.judgement
    if judgement.verdict is Verdict.RETRY:
        decisions.retries[claim.id] = judgement.delay_s
        return
    if result.received and claim.callback_expected and result.has_callback:
        decisions.awaiting_callback.append(claim.id)
        return
    (decisions.succeeded if result.received else decisions.failed[judgement.reason]).append(claim.id)
    if claim.position + 1 < claim.chain_length:
        decisions.ended_runs.add((claim.push_id, claim.webhook_id))


def _decide_health(result: Result, decisions: Decisions) -> None:
    hook_id = result.claim.hook_id
    if result.received:
        decisions.working_hooks.add(hook_id)
        return
    decisions.failing_hooks.add(hook_id)
    if result.judgement.verdict is Verdict.GONE:
        decisions.gone_hooks[hook_id] = result.judgement.reason


# Write


def _insert_attempts(session: Session, results: Sequence[Result]) -> None:
    """Insert the attempts, numbered on from those that each delivery has: it is locked, so numbers cannot collide.

    An attempt that is there already was committed, but the commit's answer was lost: the batch is written again.
    """
    known: defaultdict[uuid.UUID, list[tuple[datetime, int, str | None]]] = defaultdict(list)
    # Not read with the locks: a statement that waits for locks has read before.
    for row in session.execute(_EARLIER, {"ids": list({each.claim.id for each in results})}).all():
        known[row.delivery_id].append((row.started_at, row.round, row.request_body))
    rows: list[dict[str, Any]] = []
    for result in results:
        claim, earlier = result.claim, known[result.claim.id]
        if all(began != result.outcome.started_at for began, _, _ in earlier):
            bodies = [each for _, round_, each in earlier if round_ == claim.round and each is not None]
            body = None if bodies[-1:] == [result.request_body] else result.request_body
            earlier.append((result.outcome.started_at, claim.round, body))
            rows.append(_attempt_row(result, len(earlier), body))
    if rows:
        insert_rows(session, attempts, rows)


_EARLIER = (
    select(attempts.c.delivery_id, attempts.c.round, attempts.c.started_at, attempts.c.request_body)
    .where(one_of(attempts.c.delivery_id, "ids"))
    .order_by(attempts.c.delivery_id, attempts.c.number)
)


def _attempt_row(result: Result, number: int, request_body: str | None) -> dict[str, Any]:
    claim, outcome = result.claim, result.outcome
    return {
        "delivery_id": claim.id,
        "number": number,
        "round": claim.round,
        "trigger": claim.trigger,
        "hook_url": result.url,
        "payload_format": claim.payload_format,
        "started_at": outcome.started_at,
        "duration_ms": outcome.duration_ms,
        "connect_ms": outcome.connect_ms,
        "wait_ms": outcome.wait_ms,
        "status_code": outcome.status_code,
        "error": outcome.error,
        "request_headers": list(result.request_headers.items()),
        "request_body": request_body,
        "response_headers": outcome.response_headers,
        "response_body": outcome.response_body,
        "response_truncated": outcome.truncated,
        "certificate": outcome.certificate.content() if outcome.certificate else None,
    }


def _write_transitions(session: Session, decisions: Decisions, callback_ttl_s: float) -> None:
    if decisions.received:
        session.execute(_RECEIVE, {"ids": decisions.received})
    if decisions.retries:  # in one round trip: where many receivers hang, many deliveries fail together
        delays = decisions.retries.items()
        session.execute(_RETRY, [{"delivery_id": each, "delay_s": delay_s} for each, delay_s in delays])
    if decisions.succeeded:
        session.execute(_SUCCEED, {"ids": decisions.succeeded})
    if decisions.awaiting_callback:
        session.execute(_AWAIT_CALLBACK, {"ids": decisions.awaiting_callback, "ttl_s": callback_ttl_s})
    for reason, ids in decisions.failed.items():
        session.execute(_FAIL, {"ids": ids, "new_reason": reason})


_update_these = update(deliveries).where(one_of(deliveries.c.id, "ids"))
_RECEIVE = _update_these.values(transitions.received())
_SUCCEED = _update_these.values(transitions.succeeded())
_AWAIT_CALLBACK = _update_these.values(transitions.awaiting_callback(bindparam("ttl_s", type_=Float)))
_FAIL = _update_these.values(transitions.failed(bindparam("new_reason")))
_RETRY = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery_id"))
    .values(transitions.retry_in(bindparam("delay_s", type_=Float)))
)


def _write_health(session: Session, decisions: Decisions) -> dict[int, str]:
    """Write since when hooks have been failing; returns the reasons to disable webhooks, by the ids of their hooks."""
    if decisions.working_hooks:
        session.execute(_HOOKS_WORK, {"ids": list(decisions.working_hooks)})
    failing = _write_failures(session, decisions.failing_hooks) if decisions.failing_hooks else {}
    return failing | decisions.gone_hooks


def _write_failures(session: Session, hook_ids: Iterable[int]) -> dict[int, str]:
    now, ids = utcnow(), list(hook_ids)
    times = {
        "now": now,
        "today": now.replace(hour=0, minute=0, second=0, microsecond=0),
        "gap_began": now - MAX_GAP,
        "noted_before": now - FAILURE_NOTED_EVERY,
    }
    session.execute(_HOOKS_FAIL, times | {"ids": ids})
    which = {"ids": ids, "failing_before": now - GIVE_UP_AFTER, "min_days": MIN_FAILED_DAYS}
    return {
        row.id: f"Deliveries to {origin(row.hook_url)} have failed since {row.failing_since:%Y-%m-%d %H:%M} UTC."
        for row in session.execute(_FAILING_TOO_LONG, which)
    }


_these_hooks = update(hooks).where(one_of(hooks.c.id, "ids"))
_HOOKS_WORK = _these_hooks.where(hooks.c.failing_since.is_not(None)).values(failing_since=None)
_now, _today = bindparam("now", type_=UTCDateTime), bindparam("today", type_=UTCDateTime)
_begins_to_fail = or_(
    hooks.c.failing_since.is_(None),
    hooks.c.failed_at.is_(None),
    hooks.c.failed_at < bindparam("gap_began", type_=UTCDateTime),
)
_HOOKS_FAIL = _these_hooks.where(
    or_(_begins_to_fail, hooks.c.failed_at < _today, hooks.c.failed_at < bindparam("noted_before", type_=UTCDateTime))
).values(
    failing_since=case((_begins_to_fail, _now), else_=hooks.c.failing_since),
    failed_days=case(
        (_begins_to_fail, 1), (hooks.c.failed_at < _today, hooks.c.failed_days + 1), else_=hooks.c.failed_days
    ),
    failed_at=_now,
)
