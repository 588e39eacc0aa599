"""Taking due deliveries under a lease, and giving them back.

Repositories take turns, and within a repository its hooks do. Both are found by skipping through an index from one to
the next, so a hundred thousand due rows of one hook cost as much as a single one.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Float,
    Integer,
    all_,
    and_,
    any_,
    bindparam,
    case,
    column,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from ..dialects import among, now_plus
from ..records.chains import HEAD_START_S, SWITCHED_OFF, Changes, advance, ended, lock_free, lock_waiting, switched_off
from ..records.models import GIVE_UP_AFTER, Kind, Status, deliveries, hooks, pushes, webhooks
from ..records.repositories import settle

LEASE_S = 60.0
"""How long a claimed delivery is ours. A worker that dies leaves its rows to come due again after this."""

WALK = 128
"""How many repositories with something pending a claim looks at before it takes what it has found."""
URGENT_MOST = 8
"""How many deliveries of a hook that a person waits for are taken at once."""
FRUITLESS_S = 0.25
"""How long a repository is passed over after all its hooks with something due were left out of a claim."""
LOWEST = -(2**63)
"""The repository key that all turns begin with."""

# Statements are built once: building one anew takes SQLAlchemy longer than PostgreSQL takes to run it.
_now = now_plus(literal(0.0))
_first: Any = literal_column("1")  # a parameter would not tell the planner how little is wanted
_pending = deliveries.c.next_attempt_at.is_not(None)
_due = deliveries.c.next_attempt_at <= now_plus(bindparam("until_s", type_=Float))
_overdue = and_(
    deliveries.c.give_up_at <= _now,
    or_(deliveries.c.lease_token.is_(None), deliveries.c.next_attempt_at <= _now),  # not on the wire
)


_KEY, _HOOK, _AT = deliveries.c.repository_key, deliveries.c.hook_id, deliveries.c.next_attempt_at


def _first_of(column: Any, *conditions: Any) -> Any:
    # ORDER BY and LIMIT instead of a minimum, for which the planner may read the whole index. The time of the next
    # attempt is there so that no other index on the column has the same order.
    return select(column).where(_pending, *conditions).order_by(column, _AT).limit(_first)


def _repositories() -> Any:
    """Repositories with something pending, each with whether it is due and whether a person waits for it."""
    after, steps = bindparam("after", type_=BigInteger), bindparam("steps", type_=Integer)
    first = select(_first_of(_KEY, after < _KEY).scalar_subquery().label("key"), literal_column("1").label("step"))
    walk = first.cte("walk", recursive=True)
    following = select(_first_of(_KEY, walk.c.key < _KEY).scalar_subquery(), walk.c.step + 1)
    walk = walk.union_all(following.where(walk.c.key.is_not(None), walk.c.step < steps))
    due_at = _first_of(_AT, walk.c.key == _KEY).scalar_subquery()
    urgent = (due_at <= now_plus(literal(-HEAD_START_S))).label("urgent")
    return select(walk.c.key, (due_at <= _now).label("due"), urgent).where(walk.c.key.is_not(None))


def _due_in(key: Any, after: Any) -> Any:
    """The hooks of a repository, those behind `after`, that have something due."""
    first = select(_first_of(_HOOK, key == _KEY, after < _HOOK).scalar_subquery().label("hook_id"))
    walk = first.cte("hook_walk", recursive=True, nesting=True)
    following = _first_of(_HOOK, key == _KEY, walk.c.hook_id < _HOOK).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.hook_id.is_not(None)))
    due_at = _first_of(_AT, key == _KEY, walk.c.hook_id == _HOOK).scalar_subquery()
    return select(walk.c.hook_id).where(due_at <= now_plus(bindparam("until_s", type_=Float)))


_REPOSITORIES = _repositories()
_OVERDUE = select(deliveries.c.id).where(_overdue).order_by(deliveries.c.give_up_at)
_FOUND = _REPOSITORIES.subquery()
_ANYTHING_DUE = select(
    or_(
        select(_FOUND).where(_FOUND.c.due).exists(),
        _OVERDUE.limit(_first).scalar_subquery().is_not(None),
        exists().where(webhooks.c.unsettled),
    )
)
_lease = update(deliveries).values(lease_token=bindparam("lease"), next_attempt_at=now_plus(literal(LEASE_S)))


def _oldest(its: Any) -> Any:
    """The deliveries of a hook that have been due for longest, as many as its share."""
    of_hook = select(deliveries.c.id).where(_due, its.key == _KEY, its.hook == _HOOK)
    return of_hook.order_by(_AT).limit(its.share)


_parameters = SimpleNamespace(
    **{name: bindparam(name, type_=BigInteger) for name in ("key", "after", "hook", "share")},
)
_HOOKS_DUE_OF_ONE = _due_in(_parameters.key, _parameters.after)
_TAKE_OF_ONE = _lease.where(deliveries.c.id.in_(_oldest(_parameters))).returning(deliveries.c.id)


def _named(*names: str) -> Any:
    """Columns of parameters: each is an array of 64-bit numbers."""
    arrays = func.unnest(*(bindparam(name, type_=ARRAY(BigInteger)) for name in names))
    return arrays.table_valued(*(column(name, BigInteger) for name in names)).render_derived("named")


def _hooks_due_of_many() -> Any:
    """`_HOOKS_DUE_OF_ONE` for many repositories, at most `most` hooks of each: for PostgreSQL."""
    named = _named("key", "after")
    # In plain text: these stand too deep in the statement for SQLAlchemy to see which table they are of.
    found = _due_in(literal_column("named.key"), literal_column("named.after"))
    left_out = bindparam("left_out", type_=ARRAY(BigInteger))
    wanted = literal_column("hook_walk.hook_id", BigInteger) != all_(left_out)
    hooks_of = found.where(wanted).limit(bindparam("most", type_=Integer)).lateral("hooks_of")
    return select(named.c.key, hooks_of.c.hook_id).select_from(named.join(hooks_of, true()))


_HOOKS_DUE_OF_MANY = _hooks_due_of_many()


def _read(its: Any) -> Any:
    """All that a `Claim` is made of, in its order, and what else `claim` goes by; `its` are a delivery's columns."""
    columns = (
        its.id,
        its.lease_token,
        its.round,
        its.retry_step,
        its.position,
        its.chain_length,
        its.callback_expected,
        its.push_id,
        its.webhook_id,
        its.hook_id,
        hooks.c.hook_url,
        its.repository_key,
        webhooks.c.encrypted_secret,
        case((webhooks.c.former_secret_until > _now, webhooks.c.encrypted_former_secret)),
        webhooks.c.encrypted_headers,
        pushes.c.kind,
        webhooks.c.repository,
        pushes.c.tag,
        pushes.c.pusher,
        pushes.c.pushed_at,
        pushes.c.snapshot,
        switched_off.label("switched_off"),
        (its.give_up_at <= _now).label("gave_up"),
        and_(webhooks.c.deleted_id == 0, pushes.c.repository != webhooks.c.repository).label("misnamed"),
    )
    return select(*columns).where(
        hooks.c.id == its.hook_id, webhooks.c.id == its.webhook_id, pushes.c.id == its.push_id
    )


_READ = _read(deliveries.c).where(among(deliveries.c.id, bindparam("taken", expanding=True)))


def _take_of_many() -> Any:
    """`_TAKE_OF_ONE` for many hooks, and `_READ`, at once, passing over what is locked: for PostgreSQL."""
    named = _named("key", "hook", "share")
    oldest = _oldest(named.c).with_for_update(skip_locked=True).lateral("oldest")
    chosen = select(oldest.c.id).select_from(named.join(oldest, true())).cte("chosen")
    # As an array, so that it is read by the index: to join 512 rows the planner would read 100,000 through.
    taken = _lease.where(deliveries.c.id == any_(func.array(select(chosen.c.id).scalar_subquery())))
    return _read(taken.returning(*deliveries.c).cte("taken").c)


_TAKE_OF_MANY = _take_of_many()
_TAKE_OVERDUE = _OVERDUE.limit(bindparam("most", type_=Integer)).with_for_update(skip_locked=True)
GAVE_UP = f"not delivered within {GIVE_UP_AFTER.days} days"
_EXPIRE = (
    update(deliveries)
    .where(
        among(deliveries.c.id, bindparam("ids", expanding=True)),
        deliveries.c.status.in_([Status.PENDING, Status.AWAITING_CALLBACK]),  # others have no time to give up
    )
    .values(
        ended(Status.EXPIRED, "the callback never came")
        | {
            "status": case((_pending, Status.FAILED), else_=Status.EXPIRED),
            "reason": case((_pending, GAVE_UP), else_="the callback never came"),
        }
    )
    .returning(deliveries.c.id, deliveries.c.push_id, deliveries.c.webhook_id)
)


_of_renamed = (
    select(webhooks.c.repository)
    .join(deliveries, deliveries.c.webhook_id == webhooks.c.id)
    .where(deliveries.c.push_id == pushes.c.id, webhooks.c.deleted_id == 0)
    .limit(1)
)
_unlocked = select(pushes.c.id).where(among(pushes.c.id, bindparam("ids", expanding=True)))
_RENAME = (
    update(pushes)
    .where(pushes.c.id.in_(_unlocked.with_for_update(skip_locked=True, key_share=True)))
    .values(repository=_of_renamed.scalar_subquery())
)
"""Pushes that were recorded under the former name while their repository was renamed."""


class Claim(NamedTuple):
    """A delivery under our lease, with all that is needed to send it."""

    id: uuid.UUID
    lease_token: uuid.UUID
    round: int
    retry_step: int
    position: int
    chain_length: int
    callback_expected: bool
    push_id: int
    webhook_id: int
    hook_id: int
    hook_url: str
    repository_key: int
    encrypted_secret: bytes
    encrypted_former_secret: bytes | None
    encrypted_headers: bytes | None
    kind: Kind
    repository: str
    tag: str
    pusher: str
    pushed_at: datetime
    snapshot: dict[str, Any]
    urgent: bool = False
    """A person waits for it: neither its hook's limit nor a breaker holds it up."""

    @property
    def is_test(self) -> bool:
        return self.kind is Kind.TEST

    @property
    def trigger(self) -> str:
        if self.retry_step:
            return "retry"
        if self.round > 1:
            return "redelivery"
        return "chain" if self.position else self.kind.value


@dataclass(frozen=True)
class Unsent:
    """A claim that is given back: nothing was sent, no attempt is used up."""

    claim: Claim
    delay_s: float = 0.0
    reason: str = ""
    """For the history, where it is a fault of ours."""


def anything_due(session: Session) -> bool:
    """Whether `claim` or `expire_overdue` would find work now."""
    return bool(session.scalar(_ANYTHING_DUE, {"after": LOWEST, "steps": 2**31 - 1}))


class Turns:
    """Whose turn it is: a claim goes on behind the repository, and in it the hook, that the last one ended with."""

    def __init__(self) -> None:
        self._after = LOWEST
        self._after_hook: dict[int, int] = {}
        self._fruitless: dict[int, float] = {}  # repositories, and until when they are passed over
        self.more_due = False
        """Whether the last claim left something behind that it could have taken."""

    def freed(self, keys: Collection[int] | None = None) -> None:
        """Note that hooks of these repositories, or of all, may be sent to again."""
        for key in list(self._fruitless) if keys is None else keys:
            self._fruitless.pop(key, None)

    def claim(self, session: Session, limit: int, left_out: Collection[int]) -> list[tuple[Any, bool]]:
        """Put deliveries under a lease, at most `limit` of those that nobody waits for.

        Returns them in the order of their ids, each with whether a person waits for it.
        """
        now = monotonic()
        self._fruitless = {key: until for key, until in self._fruitless.items() if until > now}
        walk = _walk_around(session, self._after)
        taken: list[tuple[Any, bool]] = []
        ended = False
        while not taken and not ended:  # all hooks of the repositories that are due may be left out
            due, urgent, ended = self._due(walk)
            if urgent:
                taken += [(row, True) for row in _take_urgent(session, urgent, limit)]
            left = limit - len(taken)
            self.more_due = not ended or bool(due and not left)
            for start in range(0, len(due), left) if left else ():
                served = due[start : start + left]
                rows = self._serve(session, served, left, left_out)
                if rows:
                    taken += [(row, False) for row in rows]
                    self._after = served[-1]
                    self.more_due |= start + left < len(due)
                    break
        if not self.more_due:
            self._after = LOWEST
        return sorted(taken, key=lambda each: each[0].id)

    def _due(self, walk: Iterator[list[Any]]) -> tuple[list[int], list[int], bool]:
        """The next repositories with something due, those that a person waits for, and whether there are no more."""
        due: list[int] = []
        urgent: list[int] = []
        seen = 0
        for rows in walk:
            seen += len(rows)
            due += [row.key for row in rows if row.due and row.key not in self._fruitless]
            urgent += [row.key for row in rows if row.urgent]
            if seen >= WALK and (due or urgent):
                return due, urgent, False
        return due, urgent, True

    def _serve(self, session: Session, keys: Sequence[int], limit: int, left_out: Collection[int]) -> list[Any]:
        """Take of each repository its part of the limit, at most a quarter where others wait, and divide it by hook."""
        part = limit if len(keys) == 1 else max(1, limit // max(len(keys), 4))
        after = {key: self._after_hook.pop(key, 0) for key in keys}
        hooks_of: defaultdict[int, list[int]] = defaultdict(list)
        for key, hook in _hooks_due(session, keys, after, part, left_out):
            hooks_of[key].append(hook)
        if ended := [key for key in keys if after[key] and len(hooks_of[key]) < part]:  # on from the first hook
            for key, hook in _hooks_due(session, ended, {}, part, left_out):
                if hook <= after[key] and len(hooks_of[key]) < part:
                    hooks_of[key].append(hook)
        for key in keys:
            if len(hooks_of[key]) == part:
                self._after_hook[key] = hooks_of[key][-1]
                self.more_due = True
            elif not hooks_of[key]:
                self._fruitless[key] = monotonic() + FRUITLESS_S
        shares = {(key, hook): part // len(its) for key, its in hooks_of.items() for hook in its}
        taken = _lease_oldest(session, shares)
        counts = Counter((row.repository_key, row.hook_id) for row in taken)
        self.more_due |= any(counts[pair] >= share for pair, share in shares.items())
        return taken


def _walk_around(session: Session, start: int) -> Iterator[list[Any]]:
    """Repositories with something pending, once around: from the one behind `start` to `start` itself."""
    after, wrapped = start, False
    while True:
        rows = session.execute(_REPOSITORIES, {"after": after, "steps": WALK}).all()
        yield [row for row in rows if not wrapped or row.key <= start]
        if len(rows) == WALK and not (wrapped and rows[-1].key >= start):
            after = rows[-1].key
        elif wrapped or start == LOWEST:
            return
        else:
            after, wrapped = LOWEST, True


def _take_urgent(session: Session, keys: Sequence[int], limit: int) -> list[Any]:
    """Take what a person waits for in these repositories, at most `limit`."""
    found = _hooks_due(session, keys[:limit], {}, URGENT_MOST, until_s=-HEAD_START_S)[:limit]
    shares = dict.fromkeys(found, min(URGENT_MOST, limit // max(1, len(found))))
    return _lease_oldest(session, shares, until_s=-HEAD_START_S)


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _hooks_due(
    session: Session,
    keys: Sequence[int],
    after: Mapping[int, int],
    most: int,
    left_out: Collection[int] = (),
    until_s: float = 0.0,
) -> list[tuple[int, int]]:
    """Of each repository the hooks that have something due, at most `most`: its key and the hook's id."""
    if _is_postgresql(session):
        which = {"key": keys, "after": [after.get(key, 0) for key in keys], "left_out": list(left_out)}
        found = session.execute(_HOOKS_DUE_OF_MANY, which | {"most": most, "until_s": until_s})
        return [(row.key, row.hook_id) for row in found]
    pairs: list[tuple[int, int]] = []
    for key in keys:
        of_one = session.scalars(_HOOKS_DUE_OF_ONE, {"key": key, "after": after.get(key, 0), "until_s": until_s})
        pairs += [(key, hook) for hook in of_one if hook not in left_out][:most]
    return pairs


def _lease_oldest(session: Session, shares: Mapping[tuple[int, int], int], until_s: float = 0.0) -> list[Any]:
    """Take the deliveries that have been due for longest: of each hook, named by its repository's key and its id, its
    share.

    All of it is due since `until_s` from now: what was seen to be urgent may have been taken by others meanwhile.
    """
    if not shares:
        return []
    values = {"lease": uuid.uuid4(), "until_s": until_s}
    if _is_postgresql(session):
        keys, hook_ids = zip(*shares, strict=True)
        which = {"key": list(keys), "hook": list(hook_ids), "share": list(shares.values())}
        return list(session.execute(_TAKE_OF_MANY, values | which).all())
    taken: list[uuid.UUID] = []
    for (key, hook), share in shares.items():
        taken += session.scalars(_TAKE_OF_ONE, values | {"key": key, "hook": hook, "share": share})
    return list(session.execute(_READ, {"taken": taken}).all())


def claim(
    session: Session, limit: int, left_out: Collection[int] = frozenset(), turns: Turns | None = None
) -> tuple[list[Claim], Changes]:
    """Take at most `limit` due deliveries, of each hook its oldest; nobody else has them until the lease ends.

    Hooks that are `left_out` are passed over, but for what a person waits for. The database's clock decides what is
    due. What can no longer be sent ends here instead: its webhook was switched off, or its time to give up has come,
    which the changes tell.
    """
    changes = Changes()
    turns = turns or Turns()
    while taken := turns.claim(session, limit, left_out):
        if misnamed := {row.push_id for row, _ in taken if row.misnamed}:
            session.execute(_RENAME, {"ids": list(misnamed)})
        changes.finished += _end_unsendable(session, [row for row, _ in taken])
        if sendable := [each for each in taken if not each[0].switched_off and not each[0].gave_up]:
            return [Claim(*(*row[:-3], urgent)) for row, urgent in sendable], changes
    return [], changes


def _end_unsendable(session: Session, rows: Sequence[Any]) -> list[uuid.UUID]:
    """Cancel what was switched off, fail what has to be given up; returns the ids of the latter."""
    cancelled = [row for row in rows if row.switched_off]
    gave_up = [row for row in rows if row.gave_up and not row.switched_off]
    for unsendable, status, reason in (
        (cancelled, Status.CANCELLED, SWITCHED_OFF),
        (gave_up, Status.FAILED, GAVE_UP),
    ):
        if unsendable:
            these = deliveries.c.id.in_([row.id for row in unsendable])
            session.execute(update(deliveries).where(these).values(ended(status, reason)))
            advance(session, {(row.push_id, row.webhook_id) for row in unsendable})
    return [row.id for row in gave_up]


def let_go(session: Session, unsent: Collection[Unsent]) -> frozenset[uuid.UUID]:
    """Give claims back, each due again after its `delay_s`, and before all else where a person waits for it.

    Returns the ids of deliveries that another transaction has locked: these are not given back.
    """
    free, locked = lock_free(session, {each.claim.id for each in unsent})
    rows = [
        {
            "claim_id": each.claim.id,
            "claim_lease": each.claim.lease_token,
            "delay_s": -HEAD_START_S if each.claim.urgent and not each.delay_s else each.delay_s,
            "why": each.reason,
        }
        for each in unsent
        if each.claim.id in free
    ]
    if rows:
        session.execute(_LET_GO, rows)
    return locked


_LET_GO = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("claim_id"), deliveries.c.lease_token == bindparam("claim_lease"))
    .values(lease_token=None, reason=bindparam("why"), next_attempt_at=now_plus(bindparam("delay_s", type_=Float)))
)


def expire_overdue(session: Session, limit: int) -> Changes:
    """End at most `limit` deliveries whose time is over, and with them their chains.

    Their callback never came, or they were never delivered, such as to a destination that is left out of claims.
    What belongs to repositories that were deleted or renamed lately is settled first.
    """
    settle(session)
    overdue = session.scalars(_TAKE_OVERDUE, {"most": limit}).all()
    expired = session.execute(_EXPIRE, {"ids": overdue}).all() if overdue else []
    if expired:
        chains = {(row.push_id, row.webhook_id) for row in expired}
        lock_waiting(session, chains)
        advance(session, chains)
    return Changes([row.id for row in expired])
