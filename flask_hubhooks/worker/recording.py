"""Writing down what came of claims: their attempts, where their deliveries go, and how their hooks do."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Float, and_, bindparam, case, literal, or_, select, update
from sqlalchemy.orm import Session

from ..dialects import UTCDateTime, among, insert_rows, now_plus, try_lock_repository, utcnow
from ..records.chains import Changes, advance, leases, lock_free, locking, unsent
from ..records.models import GIVE_UP_AFTER, Status, attempts, deliveries, hooks, unsucceeded, webhooks
from ..records.webhooks import disable
from ..transport import Concern, Outcome
from ..transport.hook_url import origin
from .claims import Claim
from .retry import Judgement, Verdict

FAILING_DAYS = 5
FAILING_GAP = timedelta(days=3)
"""A webhook is disabled when one of its hooks has failed for 5 days (`GIVE_UP_AFTER`): attempts failed on at least 5
days, none succeeded, and never were there 3 days without an attempt. Retries of one delivery are two days apart at
most, so a gap means that nothing was pushed, which says nothing about the receiver."""
NOTED_EVERY = timedelta(hours=1)
"""How often it is written down that a hook is still failing."""


@dataclass(frozen=True)
class Result:
    """What came of one claim: the request's headers, the outcome and what it means."""

    claim: Claim
    request_headers: dict[str, str]
    outcome: Outcome
    judgement: Judgement


def record(
    session: Session, results: Sequence[Result], callback_ttl_s: float, *, with_attempts: bool = True
) -> Changes:
    """Write every attempt; move a delivery only where lease, round and pending still hold.

    A callback, a cancellation or a redelivery in between has cleared the lease: then the attempt is history and
    the delivery stays as they left it, but for its having been received. Nothing is written of a delivery that
    another transaction has locked, nor where a webhook is to be switched off whose repository is locked: a host's
    transaction may be open for long. The changes name these, to be recorded later. What an earlier URL of a hook
    answered, unless it received the delivery, is not held against the present one: that is tried at once.
    """
    rows, locked, off = _lock(session, results)
    results = [result for result in results if result.claim.id in rows]  # a row may have been deleted meanwhile
    if not results:
        return Changes(locked=locked)
    if with_attempts:
        _add_attempts(session, results)
    held = [result for result in results if _still_held(rows[result.claim.id], result.claim)]
    _note_receipt(session, [each for each in results if _cancelled_meanwhile(rows[each.claim.id], each)])
    stale = _of_earlier_urls(session, held)
    held = [replace(each, judgement=_AT_ONCE) if each.claim.id in stale else each for each in held]
    _put_off(session, [each for each in held if each.judgement.verdict is Verdict.RETRY])
    ended = [each for each in held if each.judgement.verdict is not Verdict.RETRY]
    finished = [claim for move, claims in _moves(ended, callback_ttl_s) for claim in _apply(session, move, claims)]
    chains = {(each.push_id, each.webhook_id) for each in finished if each.position + 1 < each.chain_length}
    goes_on = bool(chains) and advance(session, chains)
    telling = [
        each
        for each in held
        if each.claim.id not in stale and not each.claim.is_test and each.outcome.concern is not Concern.NOBODY
    ]
    disabled = _note_health(session, telling, off)
    return Changes([each.id for each in finished], disabled, goes_on or bool(stale), locked)


_AT_ONCE = Judgement(Verdict.RETRY, delay_s=0.0)


def _of_earlier_urls(session: Session, held: Sequence[Result]) -> set[uuid.UUID]:
    """The deliveries that failed at a URL which their hook does not have any more."""
    failed = [each.claim for each in held if each.judgement.verdict is not Verdict.RECEIVED and not each.claim.is_test]
    if not failed:
        return set()
    urls = {row.id: row.hook_url for row in session.execute(_HOOK_URLS, {"ids": [each.hook_id for each in failed]})}
    return {each.id for each in failed if urls.get(each.hook_id, each.hook_url) != each.hook_url}


def _cancelled_meanwhile(row: Any, result: Result) -> bool:
    received = result.judgement.verdict is Verdict.RECEIVED
    return received and row.status == Status.CANCELLED and bool(row.round == result.claim.round)


def _note_receipt(session: Session, results: Sequence[Result]) -> None:
    """Note that what was cancelled on the wire has arrived: the history says so, and recovering does not repeat it."""
    if results:
        these = {"ids": [each.claim.id for each in results]}
        session.execute(_RECEIVED, these)


_RECEIVED = (
    update(deliveries)
    .where(among(deliveries.c.id, bindparam("ids", expanding=True)))
    .values(received_at=now_plus(literal(0.0)))
)


def _lock(
    session: Session, results: Sequence[Result]
) -> tuple[dict[uuid.UUID, Any], frozenset[uuid.UUID], frozenset[int]]:
    """Lock what can be locked: all deliveries before any hook or webhook.

    Returns the rows by id, the deliveries to be recorded later, and the webhooks that may be switched off. Of these
    all that is cancelled then is locked first, in one order; only short transactions are waited for there, since the
    repository is locked before that, as owners and hosts do.
    """
    failed = [each for each in results if each.judgement.verdict is not Verdict.RECEIVED and not each.claim.is_test]
    off = {each.claim.webhook_id for each in failed if each.judgement.verdict is Verdict.GONE}
    if failed:
        which = {
            "ids": [each.claim.hook_id for each in failed],
            "limit": utcnow() - GIVE_UP_AFTER,
            "days": FAILING_DAYS - 1,  # today may be the last one
        }
        off |= {row.webhook_id for row in session.execute(_FAILING_TOO_LONG, which)}
    repository_of = {row.id: row.repository for row in session.execute(_LIVE, {"ids": list(off)})} if off else {}
    free = {each for each in sorted(set(repository_of.values())) if try_lock_repository(session, each)}
    lockable = frozenset(each for each, repository in repository_of.items() if repository in free)
    later = {each.claim.id for each in failed if each.claim.webhook_id in repository_of.keys() - lockable}
    whole = {each.claim.id for each in results if each.claim.webhook_id in lockable} - later
    rows: dict[uuid.UUID, Any] = {}
    if lockable:
        rows = {row.id: row for row in session.execute(_LOCK_WHOLE, {"ids": list(whole), "webhooks": list(lockable)})}
    others, locked = lock_free(session, {each.claim.id for each in results} - later - whole)
    return rows | others, locked | later, lockable


_LIVE = select(webhooks.c.id, webhooks.c.repository).where(
    among(webhooks.c.id, bindparam("ids", expanding=True)), webhooks.c.deleted_id == 0
)
_these = among(deliveries.c.id, bindparam("ids", expanding=True))
_whole = and_(among(deliveries.c.webhook_id, bindparam("webhooks", expanding=True)), unsucceeded, unsent)
_LOCK_WHOLE = locking(leases.where(or_(_these, _whole)))


def _still_held(row: Any, claim: Claim) -> bool:
    return bool(row.lease_token == claim.lease_token) and row.round == claim.round and row.status == Status.PENDING


def _add_attempts(session: Session, results: Sequence[Result]) -> None:
    """Number the attempts on from what each delivery has; the rows are locked, so numbers cannot collide.

    Those that are there already are of a commit whose answer was lost: the batch is being written again.
    """
    rows: list[dict[str, Any]] = []
    began = _attempts_began(session, {each.claim.id for each in results})
    for result in results:
        its = began[result.claim.id]
        if result.outcome.started_at not in its:
            its.append(result.outcome.started_at)
            rows.append(_attempt_row(result, len(its)))
    if rows:
        insert_rows(session, attempts, rows)


def _attempts_began(session: Session, ids: Iterable[uuid.UUID]) -> defaultdict[uuid.UUID, list[datetime]]:
    """When each attempt began. Read when the deliveries are locked: a statement that waits for locks reads before."""
    began: defaultdict[uuid.UUID, list[datetime]] = defaultdict(list)
    for row in session.execute(_ATTEMPTS_BEGAN, {"ids": list(ids)}).all():
        began[row.delivery_id].append(row.started_at)
    return began


_ATTEMPTS_BEGAN = select(attempts.c.delivery_id, attempts.c.started_at).where(
    among(attempts.c.delivery_id, bindparam("ids", expanding=True))
)


def _attempt_row(result: Result, number: int) -> dict[str, Any]:
    claim, outcome = result.claim, result.outcome
    return {
        "delivery_id": claim.id,
        "number": number,
        "round": claim.round,
        "trigger": claim.trigger,
        "hook_url": claim.hook_url,
        "started_at": outcome.started_at,
        "duration_ms": outcome.duration_ms,
        "connect_ms": outcome.connect_ms,
        "wait_ms": outcome.wait_ms,
        "status_code": outcome.status_code,
        "error": outcome.error,
        "request_headers": list(result.request_headers.items()),
        "response_headers": outcome.response_headers,
        "response_body": outcome.response_body,
        "response_truncated": outcome.truncated,
    }


def _put_off(session: Session, results: Sequence[Result]) -> None:
    """Let each be tried again after its own delay. One round trip: where many hang, many fail together."""
    rows = [
        {"claim_id": each.claim.id, "step": each.claim.retry_step + 1, "delay_s": each.judgement.delay_s}
        for each in results
    ]
    if rows:
        session.execute(_PUT_OFF, rows)


_PUT_OFF = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("claim_id"))
    .values(
        reason="",
        retry_step=bindparam("step"),
        lease_token=None,
        next_attempt_at=now_plus(bindparam("delay_s", type_=Float)),
    )
)


@dataclass(frozen=True)
class _Move:
    """Where an outcome takes a delivery that is not tried again. Times are seconds from now; None becomes NULL."""

    new_status: Status
    new_reason: str
    new_retry_step: int
    expires_in_s: float | None = None
    received_in_s: float | None = None
    finished_in_s: float | None = None


_MOVE = (
    update(deliveries)
    .where(among(deliveries.c.id, bindparam("ids", expanding=True)))
    .values(
        status=bindparam("new_status"),
        reason=bindparam("new_reason"),
        retry_step=bindparam("new_retry_step"),
        lease_token=None,
        next_attempt_at=None,
        give_up_at=now_plus(bindparam("expires_in_s", type_=Float)),
        received_at=now_plus(bindparam("received_in_s", type_=Float)),
        finished_at=now_plus(bindparam("finished_in_s", type_=Float)),
    )
)


def _moves(results: Sequence[Result], callback_ttl_s: float) -> Iterable[tuple[_Move, list[Claim]]]:
    """The moves, each with all the claims that make it: most of a batch makes the same one."""
    grouped: dict[_Move, list[Claim]] = {}
    for result in results:
        grouped.setdefault(_move(result.claim, result.judgement, callback_ttl_s), []).append(result.claim)
    return grouped.items()


def _move(claim: Claim, judgement: Judgement, callback_ttl_s: float) -> _Move:
    step = claim.retry_step
    if judgement.verdict is not Verdict.RECEIVED:
        return _Move(Status.FAILED, judgement.reason, step + 1, finished_in_s=0.0)
    if claim.callback_expected:
        return _Move(Status.AWAITING_CALLBACK, "", step, expires_in_s=callback_ttl_s, received_in_s=0.0)
    return _Move(Status.SUCCEEDED, "", step, received_in_s=0.0, finished_in_s=0.0)


def _apply(session: Session, move: _Move, claims: list[Claim]) -> list[Claim]:
    """Make a move; returns the claims whose deliveries are finished with it."""
    session.execute(_MOVE, vars(move) | {"ids": [each.id for each in claims]})
    return claims if move.finished_in_s is not None else []


_these_hooks = update(hooks).where(among(hooks.c.id, bindparam("ids", expanding=True)))
_HOOKS_ARE_WELL = _these_hooks.where(hooks.c.failing_since.is_not(None)).values(failing_since=None)
_now, _today = bindparam("now", type_=UTCDateTime), bindparam("today", type_=UTCDateTime)
_begins_anew = or_(
    hooks.c.failing_since.is_(None),
    hooks.c.failed_at.is_(None),
    hooks.c.failed_at < bindparam("gap_began", type_=UTCDateTime),
)
_HOOKS_FAIL = _these_hooks.where(
    or_(_begins_anew, hooks.c.failed_at < _today, hooks.c.failed_at < bindparam("noted_before", type_=UTCDateTime))
).values(
    failing_since=case((_begins_anew, _now), else_=hooks.c.failing_since),
    failed_days=case(
        (_begins_anew, 1), (hooks.c.failed_at < _today, hooks.c.failed_days + 1), else_=hooks.c.failed_days
    ),
    failed_at=_now,
)
_HOOK_URLS = select(hooks.c.id, hooks.c.hook_url).where(among(hooks.c.id, bindparam("ids", expanding=True)))
_FAILING_TOO_LONG = select(hooks.c.id, hooks.c.webhook_id, hooks.c.hook_url, hooks.c.failing_since).where(
    among(hooks.c.id, bindparam("ids", expanding=True)),
    hooks.c.failing_since <= bindparam("limit", type_=UTCDateTime),
    hooks.c.failed_days >= bindparam("days"),
)


def _note_health(session: Session, results: Sequence[Result], off: Collection[int]) -> list[int]:
    """Note since when hooks have been failing; switch off webhooks whose receiver is gone or failed too long.

    `results` are those that tell of a hook's present URL, and are no tests; only webhooks in `off` may be switched off,
    since what they have to deliver is locked. Returns the ids of the webhooks that
    were switched off.
    """
    received = {each.claim.hook_id for each in results if each.judgement.verdict is Verdict.RECEIVED}
    if received:
        session.execute(_HOOKS_ARE_WELL, {"ids": list(received)})
    failed = [each for each in results if each.judgement.verdict is not Verdict.RECEIVED]
    failing = {each.claim.hook_id for each in failed} - received
    reasons = _failing_too_long(session, failing) if failing else {}
    reasons |= {each.claim.hook_id: each.judgement.reason for each in failed if each.judgement.verdict is Verdict.GONE}
    webhook_of = {each.claim.hook_id: each.claim.webhook_id for each in results}
    failing_for_good = [(webhook_of[hook], reason) for hook, reason in reasons.items() if webhook_of[hook] in off]
    return [webhook for webhook, reason in failing_for_good if disable(session, webhook, reason)]


def _failing_too_long(session: Session, hook_ids: Collection[int]) -> dict[int, str]:
    now = utcnow()
    times = {
        "now": now,
        "today": now.replace(hour=0, minute=0, second=0, microsecond=0),
        "gap_began": now - FAILING_GAP,
        "noted_before": now - NOTED_EVERY,
    }
    session.execute(_HOOKS_FAIL, times | {"ids": list(hook_ids)})
    which = {"ids": list(hook_ids), "limit": now - GIVE_UP_AFTER, "days": FAILING_DAYS}
    return {
        row.id: f"deliveries to {origin(row.hook_url)} have failed since {row.failing_since:%Y-%m-%d %H:%M} UTC"
        for row in session.execute(_FAILING_TOO_LONG, which)
    }
