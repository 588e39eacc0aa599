"""Sends the pushes of a tag one at a time, the newest first, to hooks where newer pushes supersede older ones.

An older push also waits while a newer one waits for its retry, or is held, since a receiver may have acted on an
attempt that we think has failed.

A claim takes deliveries under a lease first. After its commit, this looks in another transaction whether other pushes
of their tags are under a lease. If two workers take two pushes of a tag at once, at least the one that commits later
sees the lease of the other, and gives its own delivery back. So neither waits for a lock, and hooks that do not
supersede cost nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, literal_column, not_, or_, select, update
from sqlalchemy.orm import Session

from ..dialects import now_plus, one_of
from ..records import transitions
from ..records.chains import advance
from ..records.locks import in_flight, is_scheduled, lock_free
from ..records.models import Status, deliveries
from .claims import Claim, Released

HELD_S = 0.25
"""When a delivery is looked at again while another push of its tag is in flight."""
OUTRANKED_S, MAX_OUTRANKED_S = 15.0, 300.0
"""How long after a newer push of its tag is due a delivery is looked at again, and how long that takes at most. Usually
the newer push is received, and supersedes it."""
HELD = "Waiting: another push of this tag is being sent."
OUTRANKED = "Waiting: a newer push of this tag is sent first."


def keep_order(session: Session, claims: Sequence[Claim]) -> tuple[list[Claim], list[Released]]:
    """Return which of these claims may be sent, and which are to be given back; end those that are superseded.

    The transaction that made the claims has committed.
    """
    of_tags: defaultdict[tuple[int, str], list[Claim]] = defaultdict(list)
    for each in claims:
        if each.ordered_image:
            of_tags[each.hook_id, each.ordered_image].append(each)
    single = [queue[0].id for queue in of_tags.values() if len(queue) == 1]
    free = set(single) - set(session.scalars(_CONTENDED, {"ids": single}) if single else ())
    # Those that are alone are recorded as if they had no order, which saves looking for older pushes to supersede. If
    # one is committed from now on, it is superseded when it is claimed.
    claims = [each._replace(ordered_image=None) if each.id in free else each for each in claims]
    queues = [sorted(queue, key=_rank) for queue in of_tags.values() if queue[0].id not in free]
    if not queues:  # as usual
        return claims, []
    sendable = free | {each.id for each in claims if not each.ordered_image}
    which = {"ids": [queue[0].id for queue in queues], "own_leases": list({each.lease_token for each in claims})}
    others = {row.id: row for row in session.execute(_OTHERS, which)}
    superseded: list[Claim] = []
    released: list[Released] = []
    for first, *later in queues:
        other = others.get(first.id)
        supersedable = _is_supersedable(first)
        if other is None:  # it was deleted meanwhile
            continue
        if other.newer_received and supersedable:
            superseded += [first, *later]
            continue
        newer_in_s = max(0.0, (other.newer_due - other.now).total_seconds()) if other.newer_due else 0.0
        outranked_s = min(OUTRANKED_S + newer_in_s, MAX_OUTRANKED_S)
        if other.in_flight:
            released.append(Released(first, 0.0 if first.urgent else HELD_S, HELD))
        elif supersedable and (other.newer_due or other.newer_received is False):
            released.append(Released(first, outranked_s, OUTRANKED))
        else:
            sendable.add(first.id)
        wait_s, reason = (outranked_s, OUTRANKED) if supersedable else (HELD_S, HELD)
        released += [Released(each, wait_s, reason) for each in later]
    return [each for each in claims if each.id in sendable], released + _end(session, superseded)


def _is_supersedable(claim: Claim) -> bool:
    """As `superseding.supersedable`."""
    return claim.position == 0 and not claim.redelivered


def _rank(claim: Claim) -> tuple[bool, int]:
    """What cannot be superseded comes first, in the order of the pushes; of all others the newest."""
    supersedable = _is_supersedable(claim)
    return supersedable, -claim.push_id if supersedable else claim.push_id


def _end(session: Session, superseded: Sequence[Claim]) -> list[Released]:
    """End claims whose hook has received a newer push; returns those that another transaction has locked."""
    if not superseded:
        return []
    rows, locked = lock_free(session, [each.id for each in superseded])
    ended = [each for each in superseded if each.id in rows and rows[each.id].lease_token == each.lease_token]
    if ended:
        session.execute(_SUPERSEDE, {"ids": [each.id for each in ended]})
    if runs := {(each.push_id, each.webhook_id) for each in ended if each.chain_length > 1}:
        advance(session, runs)
    return [Released(each, HELD_S) for each in superseded if each.id in locked]


_mine, _other = deliveries.alias("mine"), deliveries.alias("other")
_newer = _other.c.push_id > _mine.c.push_id


def _of_other(value: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    """A value of another delivery of the same tag at the same hook, if there is one."""
    found: Select[Any] = select(value).where(
        _other.c.hook_id == _mine.c.hook_id,
        _other.c.ordered_image == _mine.c.ordered_image,
        _other.c.push_id != _mine.c.push_id,
        *conditions,
    )
    # The order and limit are those of the index: no other may look cheaper, whatever the statistics say.
    first = found.order_by(_other.c.next_attempt_at, _other.c.push_id).limit(literal_column("1"))
    return first.correlate(_mine).scalar_subquery()


_newer_received = _of_other(
    _other.c.received_at.is_not(None),
    _newer,
    _other.c.next_attempt_at.is_(None),
    or_(_other.c.received_at.is_not(None), _other.c.status == Status.PENDING),
)
"""True if a newer push was received, false if one is held."""
_CONTENDED = select(_mine.c.id).where(
    one_of(_mine.c.id, "ids"),
    or_(
        _of_other(_other.c.id, is_scheduled(_other)).is_not(None),
        _newer_received.is_not(None),
    ),
)
"""Those of which another push of the tag is pending, or a newer one was received or is held."""
_OTHERS = select(
    _mine.c.id,
    now_plus(0.0).label("now"),
    _of_other(_other.c.id, in_flight(_other), not_(one_of(_other.c.lease_token, "own_leases"))).label("in_flight"),
    _of_other(_other.c.next_attempt_at, _newer, is_scheduled(_other)).label("newer_due"),
    _newer_received.label("newer_received"),
).where(one_of(_mine.c.id, "ids"))
_SUPERSEDE = update(deliveries).where(one_of(deliveries.c.id, "ids")).values(transitions.superseded())
