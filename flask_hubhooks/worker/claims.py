"""Claiming due deliveries under a lease, and releasing them.

Repositories take turns, and so do the hooks of each. Both are found by skipping through an index from one to the next,
so a hundred thousand due rows of one hook cost as much as a single one.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    Integer,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from ..dialects import array_parameter, now_plus, one_of
from ..records import transitions
from ..records.cancelling import REMOVED, removed
from ..records.chains import Changes, advance
from ..records.holding import any_to_release, hold, paused, release_held
from ..records.locks import lock_free, lock_waiting
from ..records.models import UNDER_WAY, Kind, deliveries, hooks, pushes, webhooks
from ..records.repositories import settle
from ..records.scopes import has_pattern
from ..records.transitions import URGENT_S
from ..wakeups import DueHook

LEASE_MARGIN_S = 45.0
"""A lease lasts this much longer than the time-out of its hook. If the worker dies, its deliveries are due again then.
At most `MAX_WAIT_S` of it pass before the request begins; the rest is for writing the result."""

WALK_STEPS = 128
"""How many repositories with pending deliveries a claim looks at before it takes what it has found."""
MAX_URGENT = 8
"""How many urgent deliveries of a hook are claimed or sent at once."""
PASS_OVER_S = 0.25
"""How long a repository is passed over after all its hooks with due deliveries were excluded from a claim."""
LONG_AGO_S = 100 * URGENT_S
"""Earlier than any delivery is due, in seconds from now."""
_URGENT = timedelta(seconds=URGENT_S)
LOWEST_KEY = -(2**63)
"""Below or equal to all repository keys."""


class Claim(NamedTuple):
    """A delivery under our lease, with all that is needed to send it."""

    id: uuid.UUID
    lease_token: uuid.UUID
    round: int
    redelivered: bool
    retry_step: int
    position: int
    chain_length: int
    callback_expected: bool
    push_id: int
    webhook_id: int
    hook_id: int
    hook_url: str
    payload_format: str
    template: str | None
    tls: dict[str, str] | None
    timeout_s: int
    encrypted_authorization: bytes | None
    repository_key: int
    ordered_image: str | None
    encrypted_secret: bytes
    encrypted_former_secret: bytes | None
    """Only while requests are signed with it too."""
    encrypted_headers: bytes | None
    kind: Kind
    scope: str
    """The webhook's, whose owners are the tenant."""
    repository: str
    tag: str
    digest: str
    media_type: str
    images: list[str] | None
    pusher: str
    pushed_at: datetime
    snapshot: str
    """A `Repository.snapshot`, in JSON."""
    urgent: bool = False
    """A person waits for it: it is sent whatever its hook's limit and breaker say."""

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


class Released(NamedTuple):
    """A claim that is given back: nothing was sent, and no attempt is used up."""

    claim: Claim
    delay_s: float = 0.0
    reason: str = ""
    """For the history, if the reason is an error of ours."""


# Statements are built once: building one anew takes SQLAlchemy longer than PostgreSQL takes to run it.
_now = now_plus(0.0)
_one: Any = literal_column("1")  # a parameter would not tell the planner how few rows are wanted
_pending = deliveries.c.next_attempt_at.is_not(None)
_due = deliveries.c.next_attempt_at <= now_plus(bindparam("until_s", type_=Float))
_overdue = and_(
    deliveries.c.give_up_at <= _now,
    or_(deliveries.c.lease_token.is_(None), deliveries.c.next_attempt_at <= _now),  # not in flight
)
_repository_and_hook = attrgetter("repository_key", "hook_id")
_KEY, _HOOK, _AT = deliveries.c.repository_key, deliveries.c.hook_id, deliveries.c.next_attempt_at


def _first(of: Any, order: Sequence[Any], begins: Any) -> Any:
    """A value of the first pending delivery, in the order of an index, from where it `begins`.

    The order and the limit are those of the index, and `begins` compares whole rows instead of testing columns for
    equality. So no other plan looks cheaper to PostgreSQL, even if the table had one row when it was last analyzed.
    """
    return select(of).where(_pending, begins).order_by(*order, _AT).limit(_one).scalar_subquery()


def _repositories() -> Any:
    """Repositories with pending deliveries, and for each when its first one is due, and the present time."""
    behind, steps = bindparam("after", type_=BigInteger), bindparam("steps", type_=Integer)
    first = select(_first(_KEY, [_KEY], behind < _KEY).label("key"), literal_column("1").label("step"))
    walk = first.cte("walk", recursive=True)
    following = select(_first(_KEY, [_KEY], walk.c.key < _KEY), walk.c.step + 1)
    walk = walk.union_all(following.where(walk.c.key.is_not(None), walk.c.step < steps))
    due_at = _first(_AT, [_KEY], walk.c.key <= _KEY)
    return select(walk.c.key, due_at.label("due_at"), _now.label("now")).where(walk.c.key.is_not(None))


def _due_in(key: Any, behind: Any) -> Any:
    """The hooks of a repository with due deliveries, from the one after the hook `behind` on."""
    order = (_KEY, _HOOK)
    hook_of_repository = case((key == _KEY, _HOOK))
    first = select(_first(hook_of_repository, order, tuple_(key, behind) < tuple_(*order)).label("hook_id"))
    walk = first.cte("hook_walk", recursive=True, nesting=True)
    following = _first(hook_of_repository, order, tuple_(key, walk.c.hook_id) < tuple_(*order))
    walk = walk.union_all(select(following).where(walk.c.hook_id.is_not(None)))
    due_at = _first(_AT, order, tuple_(key, walk.c.hook_id) <= tuple_(*order))
    is_due = due_at <= now_plus(bindparam("until_s", type_=Float))
    return select(walk.c.hook_id).where(walk.c.hook_id.is_not(None), is_due)


_REPOSITORIES = _repositories()
_OVERDUE = select(deliveries.c.id).where(_overdue).order_by(deliveries.c.give_up_at)
_FOUND = _REPOSITORIES.subquery()
_ANYTHING_DUE = select(
    or_(
        select(_FOUND).where(_FOUND.c.due_at <= _FOUND.c.now).exists(),
        _OVERDUE.limit(_one).scalar_subquery().is_not(None),
        exists().where(webhooks.c.unsettled),
        exists().where(pushes.c.tag_look_up_at <= _now),
        any_to_release,
    )
)
# A subquery, in the order of the primary key: for a join, or a test for equality, PostgreSQL would read all of a small
# table for each delivery.
_from_hook = select(hooks.c.timeout_s).where(hooks.c.id >= deliveries.c.hook_id).order_by(hooks.c.id)
_timeout_s = _from_hook.limit(_one).scalar_subquery()
_lease = update(deliveries).values(transitions.leased(bindparam("lease"), _timeout_s + LEASE_MARGIN_S))


def _longest_due(of: Any) -> Any:
    """The deliveries of a hook that have been due for the longest time, as many as its share."""
    of_hook = select(deliveries.c.id).where(_due, now_plus(bindparam("since_s", type_=Float)) < _AT)
    of_hook = of_hook.where(of.key == _KEY, of.hook == _HOOK)
    return of_hook.order_by(_AT).limit(of.share)


_parameters = SimpleNamespace(
    **{name: bindparam(name, type_=BigInteger) for name in ("key", "after", "hook", "share")},
)
_HOOKS_DUE_OF_ONE = _due_in(_parameters.key, _parameters.after)
_TAKE_OF_ONE = _lease.where(deliveries.c.id.in_(_longest_due(_parameters))).returning(deliveries.c.id)


def _named(*names: str) -> Any:
    """A table of parameters, each of which is the array of a column's 64-bit numbers."""
    arrays = func.unnest(*(array_parameter(name, BigInteger()) for name in names))
    return arrays.table_valued(*(column(name, BigInteger) for name in names)).render_derived("named")


def _hooks_due_of_many() -> Any:
    """`_HOOKS_DUE_OF_ONE` for many repositories, at most `max_hooks` of each: for PostgreSQL."""
    named = _named("key", "after")
    # In plain text: these stand too deep in the statement for SQLAlchemy to see which table they are of.
    found = _due_in(literal_column("named.key"), literal_column("named.after"))
    excluded = array_parameter("excluded", BigInteger())
    wanted = literal_column("hook_walk.hook_id", BigInteger) != all_(excluded)
    hooks_of = found.where(wanted).limit(bindparam("max_hooks", type_=Integer)).lateral("hooks_of")
    return select(named.c.key, hooks_of.c.hook_id).select_from(named.join(hooks_of, true()))


_HOOKS_DUE_OF_MANY = _hooks_due_of_many()


def _read(delivery: Any) -> Any:
    """The fields of a `Claim` in their order, and then what decides whether it can be sent."""
    fields = {
        "hook_url": hooks.c.hook_url,
        "payload_format": hooks.c.payload_format,
        "template": hooks.c.template,
        "tls": hooks.c.tls,
        "timeout_s": hooks.c.timeout_s,
        "encrypted_authorization": hooks.c.encrypted_authorization,
        "encrypted_secret": webhooks.c.encrypted_secret,
        "encrypted_former_secret": case((webhooks.c.former_secret_until > _now, webhooks.c.encrypted_former_secret)),
        "encrypted_headers": webhooks.c.encrypted_headers,
        "kind": pushes.c.kind,
        "scope": webhooks.c.scope,
        "repository": case((has_pattern, pushes.c.repository), else_=webhooks.c.scope),
        "tag": pushes.c.tag,
        "digest": pushes.c.digest,
        "media_type": pushes.c.media_type,
        "images": pushes.c.images,
        "pusher": pushes.c.pusher,
        "pushed_at": pushes.c.pushed_at,
        "snapshot": cast(pushes.c.snapshot, Text),
        "urgent": bindparam("urgent", type_=Boolean),
    }
    unusual = {
        "removed": removed,
        "paused": paused,
        "gave_up": delivery.give_up_at <= _now,
        "misnamed": and_(webhooks.c.deleted_id == 0, ~has_pattern, pushes.c.repository != webhooks.c.scope),
    }
    return select(
        *((fields[name] if name in fields else delivery[name]).label(name) for name in Claim._fields),
        or_(*unusual.values()).label("unusual"),
        *(condition.label(name) for name, condition in unusual.items()),
    ).where(hooks.c.id == delivery.hook_id, webhooks.c.id == delivery.webhook_id, pushes.c.id == delivery.push_id)


_READ = _read(deliveries.c).where(one_of(deliveries.c.id, "taken"))


def _take_of_many() -> Any:
    """`_TAKE_OF_ONE` for many hooks and `_READ` in one statement, which skips locked rows: for PostgreSQL."""
    named = _named("key", "hook", "share")
    longest_due = _longest_due(named.c).with_for_update(skip_locked=True).lateral("longest_due")
    chosen = select(longest_due.c.id).select_from(named.join(longest_due, true())).cte("chosen")
    # As an array, so that the index is used: to join 512 rows the planner would read 100,000.
    taken = _lease.where(deliveries.c.id == any_(func.array(select(chosen.c.id).scalar_subquery())))
    return _read(taken.returning(*deliveries.c).cte("taken").c)


_TAKE_OF_MANY = _take_of_many()
_TAKE_OVERDUE = _OVERDUE.limit(bindparam("max_rows", type_=Integer)).with_for_update(skip_locked=True)
_these = update(deliveries).where(one_of(deliveries.c.id, "ids"))
_CANCEL = _these.values(transitions.cancelled(REMOVED))
_GIVE_UP = (
    _these.where(deliveries.c.status.in_(UNDER_WAY))  # others have no time to give up
    .values(transitions.overdue())
    .returning(deliveries.c.id, deliveries.c.push_id, deliveries.c.webhook_id, deliveries.c.status, deliveries.c.reason)
)

_of_renamed = (
    select(webhooks.c.scope)
    .join(deliveries, deliveries.c.webhook_id == webhooks.c.id)
    .where(deliveries.c.push_id == pushes.c.id, webhooks.c.deleted_id == 0)
    .limit(1)
)
_of_pattern = exists().where(deliveries.c.push_id == pushes.c.id, webhooks.c.id == deliveries.c.webhook_id, has_pattern)
_unlocked = select(pushes.c.id).where(one_of(pushes.c.id, "ids"), ~_of_pattern)
_RENAME = (
    update(pushes)
    .where(pushes.c.id.in_(_unlocked.with_for_update(skip_locked=True, key_share=True)))
    .values(repository=_of_renamed.scalar_subquery())
)
"""For pushes that were recorded under the former name while their repository was renamed. Those that a namespace's
webhook got, too, keep that name: the namespace may have lost the repository, and must not learn its new name."""


def anything_due(session: Session) -> bool:
    """Whether `claim`, `expire_overdue` or `AwaitedTags` would find work now."""
    return bool(session.scalar(_ANYTHING_DUE, {"after": LOWEST_KEY, "steps": 2**31 - 1}))


class Turns:
    """Keeps whose turn it is: each claim starts after the repository and hook where the last claim ended."""

    def __init__(self) -> None:
        self._after = LOWEST_KEY
        self._after_hook: dict[int, int] = {}
        self._passed_over: dict[int, float] = {}  # repositories, and until when
        self.more_due = False
        """Whether the last claim left something behind that it could have taken."""

    def freed(self, keys: Collection[int] | None = None) -> None:
        """Note that hooks of these repositories, or of all, may be sent to again."""
        for key in list(self._passed_over) if keys is None else keys:
            self._passed_over.pop(key, None)

    def claim(
        self, session: Session, limit: int, excluded: Collection[int], named: Collection[DueHook] = ()
    ) -> list[Any]:
        """Put at most `limit` due deliveries under a lease; returns their rows in the order of their ids.

        If `named` hooks have due deliveries that are not urgent, only those are taken. Otherwise urgent ones come
        first, and all others take turns. Hooks that are `excluded` are passed over, except for urgent deliveries.
        """
        wanted = [pair for pair in named if pair[1] not in excluded][:limit]
        shares = dict.fromkeys(wanted, limit // max(1, len(wanted)))
        if taken := _take(session, shares, since_s=URGENT_S):
            self.more_due = True  # perhaps: it has not looked
        else:
            taken = self._claim_in_turn(session, limit, excluded)
        return sorted(taken, key=lambda row: row.id.int)

    def _claim_in_turn(self, session: Session, limit: int, excluded: Collection[int]) -> list[Any]:
        now = monotonic()
        self._passed_over = {key: until for key, until in self._passed_over.items() if until > now}
        walk = _walk_around(session, self._after)
        taken: list[Any] = []
        exhausted = False
        while not taken and not exhausted:  # all hooks of the due repositories may be excluded
            due, urgent, exhausted = self._next_due(walk)
            if urgent:
                taken = _take_urgent(session, urgent, limit)
            self.more_due = not exhausted
            taken += self._take_turns(session, due, limit - len(taken), excluded)
        if not self.more_due:
            self._after = LOWEST_KEY
        return taken

    def _next_due(self, walk: Iterator[list[Any]]) -> tuple[list[int], list[int], bool]:
        """The next repositories with due deliveries, those with urgent ones, and whether there are no more."""
        due: list[int] = []
        urgent: list[int] = []
        seen = 0
        for rows in walk:
            seen += len(rows)
            for key, due_at, now in rows:
                if due_at <= now:
                    if key not in self._passed_over:
                        due.append(key)
                    if due_at <= now + _URGENT:
                        urgent.append(key)
            if seen >= WALK_STEPS and (due or urgent):
                return due, urgent, False
        return due, urgent, True

    def _take_turns(self, session: Session, due: Sequence[int], limit: int, excluded: Collection[int]) -> list[Any]:
        """Take at most `limit` deliveries of these repositories, of as many as it takes to find some."""
        if not limit:
            self.more_due |= bool(due)
            return []
        for start in range(0, len(due), limit):
            keys = due[start : start + limit]
            if taken := self._take_parts(session, keys, limit, excluded):
                self._after = keys[-1]
                self.more_due |= start + limit < len(due)
                return taken
        return []

    def _take_parts(self, session: Session, keys: Sequence[int], limit: int, excluded: Collection[int]) -> list[Any]:
        """Take from each repository its part of the limit, at most a quarter while others wait, divided by hook."""
        part = limit if len(keys) == 1 else max(1, limit // max(len(keys), 4))
        hooks_of = self._hooks_in_turn(session, keys, part, excluded)
        shares = {(key, hook): part // len(hook_ids) for key, hook_ids in hooks_of.items() for hook in hook_ids}
        taken = _take(session, shares)
        counts = Counter(map(_repository_and_hook, taken))
        self.more_due |= any(counts[pair] >= share for pair, share in shares.items())
        return taken

    def _hooks_in_turn(
        self, session: Session, keys: Sequence[int], max_hooks: int, excluded: Collection[int]
    ) -> Mapping[int, list[int]]:
        """At most `max_hooks` hooks of each repository that have due deliveries.

        They continue after the last hook that had its turn, and after the last of all with the first. A repository
        without any is passed over for a while.
        """
        after = {key: self._after_hook.pop(key, 0) for key in keys}
        hooks_of: defaultdict[int, list[int]] = defaultdict(list)
        for key, hook in _hooks_due(session, keys, after, max_hooks, excluded):
            hooks_of[key].append(hook)
        if exhausted := [key for key in keys if after[key] and len(hooks_of[key]) < max_hooks]:
            for key, hook in _hooks_due(session, exhausted, {}, max_hooks, excluded):
                if hook <= after[key] and len(hooks_of[key]) < max_hooks:
                    hooks_of[key].append(hook)
        for key in keys:
            if len(hooks_of[key]) == max_hooks:
                self._after_hook[key] = hooks_of[key][-1]
                self.more_due = True
            elif not hooks_of[key]:
                self._passed_over[key] = monotonic() + PASS_OVER_S
        return hooks_of


def _walk_around(session: Session, start: int) -> Iterator[list[Any]]:
    """Repositories with pending deliveries, once around: from the one behind `start` to `start` itself."""
    after, wrapped = start, False
    while True:
        rows = session.execute(_REPOSITORIES, {"after": after, "steps": WALK_STEPS}).all()
        yield [row for row in rows if not wrapped or row.key <= start]
        if len(rows) == WALK_STEPS and not (wrapped and rows[-1].key >= start):
            after = rows[-1].key
        elif wrapped or start == LOWEST_KEY:
            return
        else:
            after, wrapped = LOWEST_KEY, True


def _take_urgent(session: Session, keys: Sequence[int], limit: int) -> list[Any]:
    """Take at most `limit` urgent deliveries of these repositories."""
    found = _hooks_due(session, keys[:limit], {}, MAX_URGENT, until_s=URGENT_S)[:limit]
    return _take(session, dict.fromkeys(found, min(MAX_URGENT, limit // max(1, len(found)))), urgent=True)


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _hooks_due(
    session: Session,
    keys: Sequence[int],
    after: Mapping[int, int],
    max_hooks: int,
    excluded: Collection[int] = (),
    until_s: float = 0.0,
) -> list[tuple[int, int]]:
    """At most `max_hooks` hooks of each repository with deliveries due since `until_s` from now.

    Returns pairs of a repository's key and a hook's id. Of each repository the hooks come `after` an id.
    """
    if _is_postgresql(session):
        arrays = {"key": keys, "after": [after.get(key, 0) for key in keys], "excluded": list(excluded)}
        found = session.execute(_HOOKS_DUE_OF_MANY, arrays | {"max_hooks": max_hooks, "until_s": until_s})
        return [(row.key, row.hook_id) for row in found]
    pairs: list[tuple[int, int]] = []
    for key in keys:
        of_one = session.scalars(_HOOKS_DUE_OF_ONE, {"key": key, "after": after.get(key, 0), "until_s": until_s})
        pairs += [(key, hook) for hook in of_one if hook not in excluded][:max_hooks]
    return pairs


def _take(
    session: Session, shares: Mapping[tuple[int, int], int], *, urgent: bool = False, since_s: float = LONG_AGO_S
) -> list[Any]:
    """Put deliveries under a lease: of each hook, named by its repository's key and its id, as many as its share.

    Those that have been due for the longest time come first, but not those that were due before `since_s` from now.
    With `urgent` only urgent ones are taken: others may have taken those that were seen.
    """
    if not shares:
        return []
    lease = {"lease": uuid.uuid4(), "until_s": URGENT_S if urgent else 0.0, "since_s": since_s}
    if _is_postgresql(session):
        keys, hook_ids = zip(*shares, strict=True)
        arrays = {"key": list(keys), "hook": list(hook_ids), "share": list(shares.values())}
        return list(session.execute(_TAKE_OF_MANY, lease | arrays | {"urgent": urgent}).all())
    taken: list[uuid.UUID] = []
    for (key, hook), share in shares.items():
        taken += session.scalars(_TAKE_OF_ONE, lease | {"key": key, "hook": hook, "share": share})
    return list(session.execute(_READ, {"taken": taken, "urgent": urgent}).all())


def claim(
    session: Session,
    limit: int,
    excluded: Collection[int] = frozenset(),
    turns: Turns | None = None,
    named: Collection[DueHook] = (),
) -> tuple[list[Claim], Changes]:
    """Claim at most `limit` due deliveries, of each hook its oldest; nobody else has them until their lease ends.

    Those of hooks that are `named` come first, which saves looking for whose turn it is. Hooks that are `excluded` are
    passed over, except for urgent deliveries. The database's clock decides what is due. Deliveries that cannot be sent
    any more end here instead, because their webhook or hook was removed or their time is over; the changes name the
    latter. Those of paused webhooks are held, and the changes say whether more of them are due.
    """
    changes = Changes()
    turns = turns or Turns()
    while rows := turns.claim(session, limit, excluded, named):
        sendable = rows
        if unusual := [row for row in rows if row.unusual]:
            _settle_unusual(session, unusual, changes)
            sendable = [row for row in rows if not (row.removed or row.gave_up or row.paused)]
        if sendable or changes.more_due:
            return [Claim._make(row[: len(Claim._fields)]) for row in sendable], changes
    return [], changes


def _settle_unusual(session: Session, rows: Collection[Any], changes: Changes) -> None:
    """Rename pushes, and end or hold what cannot be sent."""
    if misnamed := {row.push_id for row in rows if row.misnamed}:
        session.execute(_RENAME, {"ids": list(misnamed)})
    cancelled = [row for row in rows if row.removed]
    gave_up = [row for row in rows if row.gave_up and not row.removed]
    if cancelled:
        session.execute(_CANCEL, {"ids": [row.id for row in cancelled]})
    failed = session.execute(_GIVE_UP, {"ids": [row.id for row in gave_up]}).all() if gave_up else []
    if ended := [*cancelled, *failed]:
        advance(session, {(row.push_id, row.webhook_id) for row in ended})
    changes.finished += [row.id for row in failed]
    for row in failed:
        changes.log_failure(row.id, row.webhook_id, row.status, row.reason)
    # After the others, since this locks webhooks
    if to_hold := [row for row in rows if row.paused and not (row.removed or row.gave_up)]:
        changes.more_due = hold(session, to_hold)


def release(session: Session, released: Collection[Released]) -> frozenset[uuid.UUID]:
    """Give claims back, each due again after its delay. Urgent ones stay urgent unless they are delayed.

    Returns the ids of deliveries that another transaction has locked: these are not given back.
    """
    free, locked = lock_free(session, {each.claim.id for each in released})
    rows = [
        {
            "claim_id": each.claim.id,
            "claim_lease": each.claim.lease_token,
            "delay_s": URGENT_S if each.claim.urgent and not each.delay_s else each.delay_s,
            "new_reason": each.reason,
        }
        for each in released
        if each.claim.id in free
    ]
    if rows:
        session.execute(_RELEASE, rows)
    return locked


_RELEASE = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("claim_id"), deliveries.c.lease_token == bindparam("claim_lease"))
    .values(transitions.released(bindparam("delay_s", type_=Float), bindparam("new_reason")))
)


def expire_overdue(session: Session, limit: int) -> Changes:
    """End at most `limit` deliveries whose time is over, and their chains.

    Their callback never came, or they were never sent, such as those of a hook that was excluded from claims. Before
    that, what belongs to repositories that were lately deleted or renamed is settled. Afterwards held deliveries whose
    webhook is active again are released; the changes say whether there were any.
    """
    settle(session)
    overdue = session.scalars(_TAKE_OVERDUE, {"max_rows": limit}).all()
    expired = session.execute(_GIVE_UP, {"ids": overdue}).all() if overdue else []
    if expired:
        runs = {(row.push_id, row.webhook_id) for row in expired}
        lock_waiting(session, runs)
        advance(session, runs)
    changes = Changes([row.id for row in expired], more_due=release_held(session))
    for row in expired:
        changes.log_failure(row.id, row.webhook_id, row.status, row.reason)
    return changes
