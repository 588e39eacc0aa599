"""The heartbeats of workers, and why deliveries wait."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import chain

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from ..dialects import now_plus, utcnow
from ..state import current_state
from ..transport.hook_url import BadURL, canonical_origin, origin
from .models import Delivery, Status, workers

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
"""How often a worker writes its row."""
MISSED_S = 3 * HEARTBEAT_S
"""A worker counts as gone after this time without a heartbeat."""
FORGOTTEN_S = 3600.0
"""Other workers delete the row of one that is gone after this. The last worker's row stays, and says since when there
is none."""
CLOCKS_DIFFER = timedelta(seconds=5)
"""How far the clocks of workers, web servers and the database may be apart without a reason getting lost."""


@dataclass(frozen=True)
class OpenBreaker:
    """A hook, or a whole host, that a worker sends nothing to for a while because it does not answer."""

    hook_id: int | None
    """None: all hooks of the host."""
    origin: str
    """Of the host, as `canonical_origin` writes it; empty if it is a hook's."""
    next_try_at: str
    """In ISO 8601. In the past if a request is just trying it."""


@dataclass(frozen=True)
class Heartbeat:
    """What a worker says of itself."""

    name: str
    host: str
    version: str
    stopped: bool
    suspended: bool
    in_flight: int
    open_breakers: Sequence[OpenBreaker]


def write(session: Session, heartbeat: Heartbeat) -> None:
    """Write a worker's row: one small UPDATE, or an INSERT for the first heartbeat."""
    row = vars(heartbeat) | {"open_breakers": [asdict(each) for each in heartbeat.open_breakers]}
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
_SEEN = select(
    workers.c.last_beat,
    workers.c.stopped,
    workers.c.suspended,
    workers.c.open_breakers,
    now_plus(-MISSED_S).label("gone_before"),
).order_by(workers.c.last_beat)


def waiting_reasons(session: Session, rows: Sequence[Delivery]) -> dict[uuid.UUID, str]:
    """Why pending deliveries are not sent though they are due, by their ids. One statement, if any is pending.

    Those in flight have no reason, nor have those whose next attempt is yet to come. Readers see the reasons, too.
    """
    pending = [each for each in rows if each.status is Status.PENDING]
    if not pending:
        return {}
    seen = session.execute(_SEEN).all()
    alive = [each for each in seen if not each.stopped and each.last_beat >= each.gone_before]
    now = utcnow()
    due = [each for each in pending if each.lease_token or (each.next_attempt_at and each.next_attempt_at <= now)]
    if not alive:
        last_seen = seen[-1].last_beat if seen else None
        if due:
            _warn(last_seen)
        since = f"since {_shown(last_seen)}" if last_seen else "yet"
        return dict.fromkeys((each.id for each in due), f"Waiting for a worker: none has been seen {since}.")
    if any(each.suspended for each in alive):
        suspended = "Waiting: RQ workers are suspended. Resume them with `rq resume`."
        return {each.id: suspended for each in due if not each.lease_token}
    next_tries = _next_tries([[OpenBreaker(**each) for each in worker.open_breakers] for worker in alive], now)
    return {each.id: reason for each in pending if (reason := _reason(each, next_tries, now))}


def _next_tries(told: Sequence[Sequence[OpenBreaker]], now: datetime) -> dict[int | str, datetime]:
    """When hooks and hosts are tried again, by ids and origins, given the open breakers of each worker.

    A breaker is half-open if its time has come. If other workers have it closed, it holds nothing back: one that gets
    no deliveries of the hook does not notice that the receiver is back.
    """
    times: defaultdict[int | str, list[datetime]] = defaultdict(list)
    for each in chain.from_iterable(told):
        times[each.hook_id or each.origin].append(datetime.fromisoformat(each.next_try_at))
    return {key: min(found) for key, found in times.items() if max(found) > now or len(found) == len(told)}


def _reason(delivery: Delivery, next_tries: Mapping[int | str, datetime], now: datetime) -> str:
    due_at = delivery.due_at
    if due_at is None:
        return ""
    if delivery.reason:
        return "" if delivery.push.tag_look_up_at else f"{delivery.reason} Next try at {_shown(due_at)}."
    next_try = next_tries.get(_canonical(delivery.hook.hook_url)) or next_tries.get(delivery.hook_id)
    if next_try is None or due_at > max(now, next_try) + CLOCKS_DIFFER:  # it waits for its own time
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


def _warn(last_seen: datetime | None) -> None:
    """Log that there is no worker, once for each time that they went away."""
    state = current_state()
    if state.missed_worker_since != last_seen:
        state.missed_worker_since = last_seen
        logger.warning(
            "deliveries wait for a worker: none has been seen %s. Start one with `flask hubhooks worker`.",
            f"since {_shown(last_seen)}" if last_seen else "yet",
        )
