"""Newer pushes of a tag supersede older ones, at hooks that are set so.

A receiver that deploys the digest it is sent must not go back to an older one. "Newer" is the order of recording, by
push ids. Deliveries of such hooks have an `ordered_image`. `worker.tag_order` sends them one at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session, aliased

from ..dialects import one_of
from . import transitions
from .chains import advance
from .locks import in_flight, is_scheduled, locked_ids, unsent
from .models import UNFINISHED, Delivery, Hook, Kind, Push, deliveries, pushes

MAX_SUPERSEDED = 10_000
"""Deliveries that one received push supersedes at once. Claims end the others."""


class Received(NamedTuple):
    """A push that a hook has received."""

    hook_id: int
    ordered_image: str
    push_id: int


def ordered_image(repository: str, tag: str) -> str:
    return f"{repository}:{tag}"


ordered_image_of_push = (
    select(pushes.c.repository + ":" + pushes.c.tag)
    .where(pushes.c.id == deliveries.c.push_id, pushes.c.kind != Kind.TEST)
    .scalar_subquery()
)


def supersedable(rows: FromClause) -> ColumnElement[bool]:
    """Whether a newer push may supersede these deliveries.

    Not those of later hooks, since an earlier hook of their chain has received the push, nor redeliveries.
    """
    return and_(rows.c.position == 0, not_(rows.c.redelivered))


def supersede(session: Session, received: Collection[Received]) -> None:
    """Cancel what is pending of earlier pushes of the same tags at the same hooks, and not in flight.

    What other transactions have locked is left, since waiting could end in a deadlock: claims end it later.
    """
    if not received:
        return
    if session.get_bind().dialect.name == "postgresql":
        hooks, images, push_ids = map(list, zip(*received, strict=True))
        rows = list(session.execute(_OLDER_OF_MANY, {"hooks": hooks, "images": images, "pushes": push_ids}))
    else:
        rows = [row for each in received for row in session.execute(_OLDER_OF_ONE, each._asdict())]
    if not rows:
        return
    session.execute(_SUPERSEDE, {"ids": list({row.id for row in rows})})
    if chains := {(row.push_id, row.webhook_id) for row in rows if row.chain_length > 1}:
        advance(session, chains)


def _older_than(received: Any) -> Select[Any]:
    d = deliveries.c
    return (
        select(d.id, d.push_id, d.webhook_id, d.chain_length)
        .where(
            d.hook_id == received.hook_id,
            d.ordered_image == received.ordered_image,
            d.ordered_image.is_not(None),
            is_scheduled(deliveries),
            d.push_id < received.push_id,
            supersedable(deliveries),
            not_(in_flight(deliveries)),
        )
        # The order and limit are those of the index: no other may look cheaper, whatever the statistics say.
        .order_by(d.next_attempt_at, d.push_id)
        .limit(literal_column(str(MAX_SUPERSEDED)))
        .with_for_update(skip_locked=True)
    )


def _older_than_many() -> Select[Any]:
    columns = {"hooks": ("hook_id", BigInteger), "images": ("ordered_image", Text), "pushes": ("push_id", BigInteger)}
    arrays = func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, (_, type_) in columns.items()))
    received = arrays.table_valued(*(column(*each) for each in columns.values())).render_derived("received")
    older = _older_than(received.c).lateral("older")
    return select(older).select_from(received.join(older, true()))


_OLDER_OF_MANY = _older_than_many()
_OLDER_OF_ONE = _older_than(SimpleNamespace(**{name: bindparam(name) for name in Received._fields}))
_SUPERSEDE = update(deliveries).where(one_of(deliveries.c.id, "ids")).values(transitions.superseded())


def set_order(session: Session, hook: Hook) -> None:
    """Have the unsent deliveries of a hook follow its setting, which was changed. They are locked."""
    image = ordered_image_of_push if hook.supersedes else None
    session.execute(update(deliveries).where(unsent, deliveries.c.hook_id == hook.id).values(ordered_image=image))


def rename(session: Session, condition: ColumnElement[bool], repository: str) -> None:
    """Keep the order of a tag's pushes over a renaming of the repository, of the deliveries that fulfil a condition."""
    name = select(repository + ":" + pushes.c.tag).where(pushes.c.id == deliveries.c.push_id).scalar_subquery()
    misnamed = and_(deliveries.c.ordered_image.is_not(None), deliveries.c.ordered_image != name)
    chosen = locked_ids(unsent & condition & misnamed).cte("chosen")
    session.execute(update(deliveries).where(deliveries.c.id.in_(select(chosen.c.id))).values(ordered_image=name))


def newest_of_each_tag(condition: ColumnElement[bool], hook_ids: Collection[int]) -> ColumnElement[bool]:
    """Whether a delivery is to be sent, of those that fulfil a condition: at these hooks only the newest of its tag.

    It is not sent if its hook has received a newer push, or if a newer one is under way.
    """
    if not hook_ids:
        return true()
    push, newer_push, newer = aliased(Push), aliased(Push), aliased(Delivery)
    newest = (
        select(func.max(Delivery.push_id).label("push_id"), Delivery.hook_id, push.repository, push.tag)
        .join(push, push.id == Delivery.push_id)
        .where(condition, Delivery.hook_id.in_(hook_ids))
        .group_by(Delivery.hook_id, push.repository, push.tag)
        .subquery()
    )
    is_newer = exists().where(
        newer_push.repository == newest.c.repository,
        newer_push.tag == newest.c.tag,
        newer_push.kind != Kind.TEST,
        newer_push.id > newest.c.push_id,
        newer.push_id == newer_push.id,
        newer.hook_id == newest.c.hook_id,
        or_(newer.received_at.is_not(None), newer.status.in_(UNFINISHED)),
    )
    return or_(
        Delivery.hook_id.not_in(hook_ids),
        Delivery.position > 0,
        Delivery.push_id.in_(select(newest.c.push_id).where(~is_newer)),
    )
