"""Asks the registry for the tags that pushes wait for, and makes deliveries due once it shows them.

CNCF Distribution sends its event before it writes the tag. So deliveries of such a push are due only after a minute
(`outbox.WAIT_FOR_TAG`), unless a look-up finds the tag earlier. Until then they take no room in claims and limits, and
they come due by themselves if no worker finds the tag. The rows of pushes hold the time of the next look-up. Workers
share the look-ups under leases, as they share deliveries, so others carry on if one dies.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import Float, Integer, and_, bindparam, exists, func, literal_column, null, select, update
from sqlalchemy.orm import Session

from ..dialects import DATABASE_AWAY, UTCDateTime, now_plus, one_of
from ..outages import Outage
from ..outbox import WAIT_FOR_TAG
from ..records import transitions
from ..records.locks import lock_free
from ..records.models import Status, deliveries, pushes
from ..state import State
from .registry_client import LOOK_UP_S, RegistryClient, Send, Shown

logger = logging.getLogger(__name__)

MAX_LOOK_UPS = 8
"""Look-ups of a worker at once."""
LEASE_S = LOOK_UP_S + 5.0
"""When another worker may look up a tag that one has begun to look up."""
MIN_DELAY_S, MAX_DELAY_S = 0.2, 5.0
"""Between two look-ups: half of the time that the push has waited, within these bounds."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
"""Between two searches for tags that are to be looked up."""
MAX_FAULTS = 3
"""After so many faults in a row we log them. If the registry does not answer at all, one tag is then looked up at a
time, each `MAX_PAUSE_S`, until it does: thousands of look-ups would keep the worker from sending, and burden a registry
that comes back. Being refused one repository must not delay others, so it does not count for that."""
PUSHED_BEFORE = timedelta(minutes=10)
"""How much earlier than an older push a newer one may claim to have been pushed, by the registries' clocks."""
MAX_GIVEN_UP = 1024


class Awaited(NamedTuple):
    """A tag that is being looked up, and the pushes that wait for it."""

    repository: str
    tag: str
    pushed_since: datetime
    delays: dict[int, float]
    """By the ids of pushes, the seconds until the next look-up."""


class AwaitedTags:
    """The look-ups of one dispatcher, on whose thread all methods run.

    `send` is the transport's, and `wake` is called, on its thread, when there is an answer.
    """

    def __init__(self, state: State, send: Send, wake: Callable[[], object]) -> None:
        config = state.config
        self._client = RegistryClient(send, config.registry_url, config.registry_auth) if config.registry_url else None
        self._wake = wake
        self._asked: dict[int, Awaited] = {}
        """Look-ups that have no answer yet, by their numbers."""
        self._number = 0
        self._answers: SimpleQueue[tuple[int, Shown]] = SimpleQueue()
        self._outage = Outage("the registry at HUBHOOKS_REGISTRY_URL", ())
        self._faults = 0
        self._unanswered = 0
        """Faults in a row in which the registry did not even refuse a repository."""
        self._not_before = 0.0 if self._client else inf

    @property
    def look_ups(self) -> int:
        """The number of look-ups that have no answer yet."""
        return len(self._asked)

    @property
    def wait_s(self) -> float:
        """How long to wait before `attend` is called again."""
        return max(MIN_PAUSE_S, self._not_before - monotonic())

    def hurry(self) -> None:
        """Note that there may be a new push."""
        if self._client and not self._is_down:
            self._not_before = 0.0

    @property
    def _is_down(self) -> bool:
        return self._unanswered >= MAX_FAULTS

    def attend(self, writing: Callable[[], AbstractContextManager[Session]]) -> bool:
        """Record what the registry has answered, and ask for the tags that are due; returns whether deliveries are.

        `writing` begins a transaction.
        """
        answers = self._take_answers()
        down = self._is_down
        may_ask = monotonic() >= self._not_before or (answers and not down)
        room = max(0, (1 if down else MAX_LOOK_UPS) - len(self._asked)) if may_ask else 0
        if self._client is None or not (answers or room):
            return False
        with writing() as session:
            any_due = bool(answers) and record(session, answers)
            awaited = take(session, room)
            first = session.execute(_NEXT).first()
        if may_ask:
            pause_s = (first.tag_look_up_at - first.now).total_seconds() if first and not down else MAX_PAUSE_S
            self._not_before = monotonic() + min(max(MIN_PAUSE_S, pause_s), MAX_PAUSE_S)
        for each in awaited:
            self._number += 1
            self._asked[self._number] = each
            self._client.look_up(each.repository, each.tag, partial(self._answered, self._number))
        return any_due

    def _answered(self, number: int, shown: Shown) -> None:
        self._answers.put((number, shown))
        self._wake()

    def _take_answers(self) -> list[tuple[Awaited, Shown]]:
        answers = []
        with suppress(Empty):
            while True:
                number, shown = self._answers.get_nowait()
                if awaited := self._asked.pop(number, None):
                    answers.append((awaited, shown))
                    self._faults = self._faults + 1 if shown.fault else 0
                    self._unanswered = self._unanswered + 1 if shown.fault and not shown.refused else 0
                    if self._faults >= MAX_FAULTS:
                        self._outage.noticed(Exception(shown.fault))
                    elif not shown.fault:
                        self._outage.over()
        return answers

    def give_back(self, writing: Callable[[], AbstractContextManager[Session]]) -> None:
        """Leave look-ups that have no answer yet to other workers."""
        if not self._asked:
            return
        ids = [push for each in self._asked.values() for push in each.delays]
        self._asked.clear()
        with suppress(*DATABASE_AWAY), writing() as session:  # their leases end soon
            _look_up_in(session, dict.fromkeys(ids, 0.0))


# Statements are built once, see `claims`.
_now = now_plus(0.0)
_awaited = pushes.c.tag_look_up_at.is_not(None)
_first: Any = literal_column("1")

_any_left = exists().where(deliveries.c.push_id == pushes.c.id, deliveries.c.status != Status.CANCELLED)
"""Whether a push has deliveries that were not cancelled while they waited."""
_columns = [pushes.c[name] for name in ("id", "repository", "tag", "pushed_at", "tag_awaited_until")]
_DUE = (
    select(*_columns, _any_left.label("any_left"), _now.label("now"))
    .where(pushes.c.tag_look_up_at <= _now, pushes.c.tag_awaited_until > _now)
    .order_by(pushes.c.tag_look_up_at)
    .limit(bindparam("max_rows", type_=Integer))
    .with_for_update(skip_locked=True, key_share=True)
)
_NEXT = (
    select(pushes.c.tag_look_up_at, _now.label("now")).where(_awaited).order_by(pushes.c.tag_look_up_at).limit(_first)
)
_LOOK_UP_IN = (
    update(pushes)
    .where(pushes.c.id == bindparam("push_id"), _awaited)
    .values(tag_look_up_at=now_plus(bindparam("delay_s", type_=Float)))
)


def take(session: Session, limit: int) -> list[Awaited]:
    """Put at most `limit` pushes under a lease whose tags are to be looked up now. Several may wait for one tag."""
    due = session.execute(_DUE, {"max_rows": limit}).all() if limit else []
    rows = [row for row in due if row.any_left]
    if cancelled := [row.id for row in due if not row.any_left]:
        session.execute(_END, {"ids": cancelled})
    if rows:
        session.execute(_LOOK_UP_IN, [{"push_id": row.id, "delay_s": LEASE_S} for row in rows])
    by_tag = defaultdict(list)
    for row in rows:
        by_tag[row.repository, row.tag].append(row)
    return [
        Awaited(*image, min(row.pushed_at for row in same) - PUSHED_BEFORE, {row.id: _delay_s(row) for row in same})
        for image, same in by_tag.items()
    ]


def _delay_s(row: Any) -> float:
    left_s: float = (row.tag_awaited_until - row.now).total_seconds()
    return min(max(MIN_DELAY_S, (WAIT_FOR_TAG.seconds - left_s) / 2), MAX_DELAY_S)


_FREE = (
    select(pushes.c.id)
    .where(one_of(pushes.c.id, "ids"), _awaited)
    .with_for_update(skip_locked=True, key_share=True)  # a host may be renaming the repository
)


def _look_up_in(session: Session, delays: dict[int, float]) -> None:
    """Have tags looked up after a number of seconds, given by the ids of their pushes."""
    if free := session.scalars(_FREE, {"ids": list(delays)}).all():
        session.execute(_LOOK_UP_IN, [{"push_id": each, "delay_s": delays[each]} for each in free])


_image = [pushes.c[name] == bindparam(name) for name in ("repository", "tag")]
_pushed_since = pushes.c.pushed_at >= bindparam("pushed_since", type_=UTCDateTime)
_newest_shown = select(func.max(pushes.c.id)).where(*_image, _pushed_since, pushes.c.digest == bindparam("digest"))
_SHOWN = (
    select(pushes.c.id)
    .where(*_image, _pushed_since, _awaited, pushes.c.id <= _newest_shown.scalar_subquery())
    .with_for_update(skip_locked=True, key_share=True)
)
"""The pushes that need not wait any longer: the one whose digest the registry shows, and older ones, whose digests it
will not show any more."""
_held = and_(
    deliveries.c.status == Status.PENDING,
    deliveries.c.lease_token.is_(None),
    deliveries.c.round == 1,
    deliveries.c.retry_step == 0,
    deliveries.c.next_attempt_at > _now,
)
_HELD = select(deliveries.c.id, deliveries.c.push_id).where(one_of(deliveries.c.push_id, "ids"), _held)
_MAKE_DUE = update(deliveries).where(one_of(deliveries.c.id, "ids"), _held).values(transitions.tag_shown())
_END = update(pushes).where(one_of(pushes.c.id, "ids")).values(tag_look_up_at=null(), tag_awaited_until=null())


def record(session: Session, answers: Sequence[tuple[Awaited, Shown]]) -> bool:
    """Write what the registry has shown; returns whether that made deliveries due."""
    shown: set[int] = set()
    for awaited, answer in answers:
        if answer.digest:
            image = {"repository": awaited.repository, "tag": awaited.tag, "pushed_since": awaited.pushed_since}
            shown.update(session.scalars(_SHOWN, image | {"digest": answer.digest}))
    ended = _make_due(session, shown) if shown else frozenset[int]()
    delays = {push: delay_s for awaited, _ in answers for push, delay_s in awaited.delays.items()}
    _look_up_in(session, {push: delay_s for push, delay_s in delays.items() if push not in ended})
    return bool(ended)


def _make_due(session: Session, push_ids: Collection[int]) -> frozenset[int]:
    """Make the deliveries of pushes due that wait for their tags; returns the pushes of which none is left.

    Deliveries that another transaction has locked are left for the next look-up.
    """
    held = {row.id: row.push_id for row in session.execute(_HELD, {"ids": list(push_ids)})}
    _, locked = lock_free(session, held.keys())
    session.execute(_MAKE_DUE, {"ids": [each for each in held if each not in locked]})
    ended = frozenset(push_ids) - {held[each] for each in locked}
    session.execute(_END, {"ids": list(ended)})
    return ended


_LATE = (
    select(pushes.c.id, pushes.c.repository, pushes.c.tag, _any_left.label("any_left"))
    .where(_awaited, pushes.c.tag_awaited_until <= _now)
    .order_by(pushes.c.tag_look_up_at)  # the order of the partial index, which holds only pushes that wait
    .limit(MAX_GIVEN_UP)
    .with_for_update(skip_locked=True, key_share=True)
)
_GIVE_UP = update(pushes).where(one_of(pushes.c.id, "ids")).values(tag_look_up_at=null())


def give_up(session: Session) -> None:
    """End waiting for tags that the registry has not shown in time. Their deliveries have come due by themselves."""
    late = session.execute(_LATE).all()
    if cancelled := [row.id for row in late if not row.any_left]:
        session.execute(_END, {"ids": cancelled})
    if sent := [row for row in late if row.any_left]:
        session.execute(_GIVE_UP, {"ids": [row.id for row in sent]})
        logger.warning(
            "pushes are sent although the registry did not show their tags within %.0f s: %d, such as %s:%s",
            WAIT_FOR_TAG.seconds,
            len(sent),
            sent[0].repository,
            sent[0].tag,
        )
