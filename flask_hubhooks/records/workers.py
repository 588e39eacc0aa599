"""The heartbeats of workers, and why deliveries wait."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy import bindparam, delete, insert, or_, select, true, update
from sqlalchemy.orm import Session

from ..dialects import now_plus
from ..state import current_state
from ..transport.hook_url import BadURL, canonical_origin, origin
from .models import Delivery, Kind, Status, workers
from .transitions import HELD_DISABLED, HELD_PAUSED

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
"""How often a worker writes its row."""
MISSED_S = 3 * HEARTBEAT_S
"""A worker counts as gone after this time without a heartbeat."""
FORGOTTEN_S = 3600.0
"""Other workers delete the row of one that is gone after this. The last worker's row stays, and says since when there
is none."""
LATE = timedelta(seconds=5)
"""By how much deliveries that a breaker holds back may be due later than their hook is tried again."""


@dataclass(frozen=True)
class OpenBreaker:
    """A hook, or a whole host, that a worker sends nothing to for a while because it does not answer.

    Machines' clocks may differ, so its row says in how many seconds it is tried, from the heartbeat on.
    """

    hook_id: int | None
    """None: all hooks of the host."""
    origin: str
    """Of the host, as `canonical_origin` writes it; empty if it is a hook's."""
    open_until: float
    """In `monotonic` seconds. In the past if a request is just trying it."""

    def as_stored(self) -> dict[str, Any]:
        return {
            "hook_id": self.hook_id,
            "origin": self.origin,
            "next_try_in_s": round(self.open_until - monotonic(), 1),
        }


@dataclass(frozen=True)
class Heartbeat:
    """What a worker says of itself."""

    name: str
    host: str
    version: str
    stopped: bool
    suspended: bool
    redis_away: bool
    in_flight: int
    open_breakers: Sequence[OpenBreaker]


def write(session: Session, heartbeat: Heartbeat) -> None:
    """Write a worker's row: one small UPDATE, or an INSERT for the first heartbeat."""
    row = vars(heartbeat) | {"open_breakers": [each.as_stored() for each in heartbeat.open_breakers]}
    if not session.execute(_UPDATE, row | {"worker": heartbeat.name}).rowcount:  # type: ignore[attr-defined]
        session.execute(_INSERT, row)


def forget_others(session: Session, name: str) -> None:
    """Delete the rows of workers that have stopped or were gone for `FORGOTTEN_S`, but not this worker's."""
    session.execute(_FORGET, {"worker": name})


_UPDATE = update(workers).where(workers.c.name == bindparam("worker")).values(last_beat=now_plus(0.0))
_INSERT = insert(workers).values(last_beat=now_plus(0.0))
_FORGET = delete(workers).where(
    workers.c.name != bindparam("worker"), or_(workers.c.stopped, workers.c.last_beat < now_plus(-FORGOTTEN_S))
)
_now: Any = select(now_plus(0.0).label("now")).subquery()
_SEEN = (
    select(
        _now.c.now,
        workers.c.name,
        workers.c.last_beat,
        workers.c.stopped,
        workers.c.suspended,
        workers.c.redis_away,
        workers.c.open_breakers,
    )
    .select_from(_now.outerjoin(workers, true()))
    .order_by(workers.c.last_beat)
)
"""The database's time, and the heartbeats of all workers. Without any, there is one row, which has no name."""

SUSPENDED = "Waiting: RQ workers are suspended. Resume them with `rq resume`."
REDIS_AWAY = "Waiting: the workers cannot reach Redis."
RESUMED = "Waiting: the webhook is active again, and what was held is sent in batches."


def waiting_reasons(session: Session, rows: Sequence[Delivery]) -> dict[uuid.UUID, str]:
    """Why pending deliveries are not sent though they are due, by their ids. One statement, if any is pending.

    Those in flight have no reason, nor have those whose next attempt is yet to come. Readers see the reasons, too. What
    workers have held has its reason in its row; only if its webhook is active again, there is one here.
    """
    pending = [each for each in rows if each.status is Status.PENDING]
    if not pending:
        return {}
    now, alive, last_seen = _look(session)
    reasons = {}
    next_tries = _next_tries(alive, now)
    for each in pending:
        is_to_be_held = not each.webhook.active and each.push.kind is not Kind.TEST
        is_due = not is_to_be_held if each.next_attempt_at is None else each.next_attempt_at <= now
        if is_to_be_held and each.next_attempt_at is None:
            reason = ""
        elif is_to_be_held and not each.lease_token:
            reason = HELD_DISABLED if each.webhook.disabled_reason else HELD_PAUSED
        elif not alive and (is_due or each.lease_token):
            reason = _report_no_worker(last_seen)
        elif each.lease_token:
            reason = ""
        elif is_due and all(worker.suspended for worker in alive):
            reason = SUSPENDED
        elif is_due and all(worker.redis_away for worker in alive):
            reason = REDIS_AWAY
        elif each.next_attempt_at is None:
            reason = RESUMED
        else:
            reason = _reason(each, each.due_at or now, next_tries, now)
        if reason:
            reasons[each.id] = reason
    return reasons


def no_worker(session: Session) -> str:
    """Say that no worker is running; "" if one is."""
    _, alive, last_seen = _look(session)
    return "" if alive else _report_no_worker(last_seen)


def _look(session: Session) -> tuple[datetime, list[Any], datetime | None]:
    """Return the database's time, the rows of the workers that are alive, and when one was last seen."""
    seen = session.execute(_SEEN).all()
    now: datetime = seen[0].now
    heartbeats = [each for each in seen if each.name is not None]
    alive = [each for each in heartbeats if not each.stopped and each.last_beat >= now - timedelta(seconds=MISSED_S)]
    return now, alive, heartbeats[-1].last_beat if heartbeats else None


def _next_tries(alive: Sequence[Any], now: datetime) -> dict[int | str, datetime]:
    """When hooks and hosts are tried again, by ids and origins, given the rows of the workers.

    A breaker is half-open if its time has come. If other workers have it closed, it holds nothing back: one that gets
    no deliveries of the hook does not notice that the receiver is back.
    """
    times: defaultdict[int | str, list[datetime]] = defaultdict(list)
    for worker in alive:
        for each in worker.open_breakers:
            next_try_at = worker.last_beat + timedelta(seconds=each["next_try_in_s"])
            times[each["hook_id"] or each["origin"]].append(next_try_at)
    return {key: min(found) for key, found in times.items() if max(found) > now or len(found) == len(alive)}


def _reason(delivery: Delivery, due_at: datetime, next_tries: Mapping[int | str, datetime], now: datetime) -> str:
    if delivery.reason:
        return "" if delivery.push.tag_look_up_at else f"{delivery.reason} Next try at {_shown(due_at)}."
    next_try = next_tries.get(_canonical(delivery.hook.hook_url)) or next_tries.get(delivery.hook_id)
    if next_try is None or due_at > max(now, next_try) + LATE:  # it waits for its own time
        return ""
    when = f"next try at {_shown(next_try)}" if next_try > now else "it is being tried again"
    return f"Waiting: {origin(delivery.hook.hook_url)} does not answer; {when}."


def _canonical(url: str) -> str:
    try:
        return canonical_origin(url)
    except BadURL:  # an earlier version accepted it
        return ""


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _report_no_worker(last_seen: datetime | None) -> str:
    """Say that there is no worker, and log it once for each time that they went away."""
    since = f"since {_shown(last_seen)}" if last_seen else "yet"
    state = current_state()
    if state.missed_worker_since != last_seen:
        state.missed_worker_since = last_seen
        logger.warning(
            "deliveries wait for a worker: none has been seen %s. Start one with `flask hubhooks worker`.", since
        )
    return f"Waiting for a worker: none has been seen {since}."
