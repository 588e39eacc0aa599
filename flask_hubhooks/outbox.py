"""Records pushes: one row for the push, and one for each delivery that it causes."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count, groupby
from typing import Any, NamedTuple

from sqlalchemy import Engine, Float, Select, bindparam, event, exists, false, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, SessionTransaction

from .config import Config
from .dialects import CONFLICT_TRIES, DATABASE_AWAY, is_conflict, now_plus, one_of, time_ordered_uuid, utcnow
from .formats import has_callback
from .outages import explained
from .records import transitions
from .records.filters import stored_filter
from .records.models import (
    TEXT_LIMIT,
    Kind,
    Push,
    Webhook,
    deliveries,
    final_callback,
    hooks,
    pushes,
    repository_key,
    superseding,
    webhooks,
)
from .records.scopes import is_pattern, patterns_of
from .records.superseding import ordered_image
from .registry import MAX_IMAGES, ImagePush, InvalidName, Repository, as_utc, check_push, storable
from .signals import push_not_recorded, send_signal
from .state import State, autocommits
from .wakeups import wake

logger = logging.getLogger(__name__)

TEST_TAG = "hubhooks-test"
MAX_RECENT_PUSHES, MAX_RECENT_TAGS, MAX_RECENT_WEBHOOKS = 1000, 100, 10


class TagWait(NamedTuple):
    """How long a push waits for the registry to write its tag before it is delivered.

    CNCF Distribution sends its event before it writes the tag, and we are fast enough that receivers would pull the old
    image (https://github.com/distribution/distribution/issues/2625).
    """

    seconds: float = 0.0
    """At most, if the tag is looked up."""
    reason: str = ""
    looked_up: bool = False
    """Whether workers ask the registry for the tag, see `worker.awaited_tags`."""


NO_WAIT = TagWait()
WAIT_FOR_TAG = TagWait(60.0, "Waiting for the registry to show the tag.", looked_up=True)
DELAY = TagWait(2.0, "Waiting 2 s for the registry to write the tag.")


def _tag_wait(config: Config, source: str, push: ImagePush) -> TagWait:
    if source != "distribution" or not push.digest:
        return NO_WAIT
    return WAIT_FOR_TAG if config.registry_url else DELAY


def accept(state: State, push: ImagePush) -> None:
    """Record a push in a transaction of our own and wake a worker. Our own errors are logged, never raised."""
    with _errors_reported(state, push):
        check_push(push)
        _record_all(state, state.engine, [push])


def accept_from_source(state: State, source: str, pushes: Sequence[ImagePush]) -> int:
    """Record the pushes of one request of a source, all or none, and wake a worker; returns how many are new.

    Raises what the database raises, so that the registry sends them again: those that are known are skipped.
    """
    return _record_all(state, state.source_engine, pushes, source)


def _record_all(state: State, engine: Engine, pushes: Sequence[ImagePush], source: str = "") -> int:
    """Record the pushes that webhooks want in one transaction of our own; returns how many were not known."""
    with state.reading(engine) as session:
        active = {name: _active_chains(session, name) for name in dict.fromkeys(push.repository for push in pushes)}
    wanted = [(push, chains) for push in pushes if (chains := _matching(active[push.repository], push))]
    if not wanted:
        return 0
    details = {name: state.details_for_push(name) for name in dict.fromkeys(push.repository for push, _ in wanted)}
    for tries in count(1):
        try:
            with state.writing(engine) as session:
                recorded = [
                    _record(
                        session,
                        push,
                        details[push.repository],
                        chains,
                        source,
                        tag_wait=_tag_wait(state.config, source, push),
                    )
                    for push, chains in wanted
                ]
            break
        except DATABASE_AWAY as fault:
            if tries == CONFLICT_TRIES or not is_conflict(fault):
                raise
    first_of_runs = [row for rows in recorded for row in rows if row["position"] == 0]
    wake(state, [(row["repository_key"], row["hook_id"]) for row in first_of_runs])
    return sum(bool(rows) for rows in recorded)


def accept_in_session(state: State, push: ImagePush) -> None:
    """Record a push in the host's session: it is committed or rolled back with it, and a commit wakes a worker.

    The host's pending changes are flushed first, so that their errors are raised to the host. Our own errors roll back
    our savepoint alone, and are logged. In autocommit the host's changes are committed already, and the push is
    recorded in a transaction of our own.
    """
    host = state.db.session()
    host.flush()
    with _errors_reported(state, push):
        check_push(push)
        if autocommits(host.connection()):
            accept(state, push)
            return
        with state.in_host_transaction() as session:
            chains = _matching(_active_chains(session, push.repository), push)
        if not chains:
            return
        # Without a savepoint of ours: a loader that ends the transaction would break it.
        details = state.details_of(push.repository, host.begin_nested)
        with state.in_host_transaction() as session:
            _record(session, push, details, chains)
        _wake_on_commit(state, state.db.session())  # the loader may have replaced it


@contextmanager
def _errors_reported(state: State, push: ImagePush) -> Iterator[None]:
    try:
        yield
    except InvalidName as error:
        logger.error("push of %.300r:%.300r not recorded: %s", push.repository, push.tag, error)
        send_signal(push_not_recorded, state.app, push=push, error=error)
    except Exception as error:
        logger.exception("push of %s:%s not recorded: %s", push.repository, push.tag, explained(error))
        send_signal(push_not_recorded, state.app, push=push, error=error)


def _active_chains(session: Session, repository: str) -> list[list[Any]]:
    """The hooks, in order, of each active webhook of a repository and its namespaces."""
    active = session.execute(_ACTIVE_HOOKS, {"scopes": [repository, *patterns_of(repository)]})
    return [list(chain) for _, chain in groupby(active, lambda row: row.webhook_id)]


def _matching(chains: list[list[Any]], push: ImagePush) -> list[list[Any]]:
    """Those of webhooks whose filters match."""
    return [
        chain
        for chain in chains
        if stored_filter(chain[0].tag_filter).matches(push.tag)
        and stored_filter(chain[0].repository_filter).matches(push.repository)
    ]


_HOOKS = (
    select(
        hooks.c.webhook_id,
        hooks.c.id,
        hooks.c.payload_format,
        hooks.c.template,
        hooks.c.supersede,
        webhooks.c.scope,
        webhooks.c.expect_final_callback,
        webhooks.c.tag_filter,
        webhooks.c.repository_filter,
    )
    .join(webhooks, webhooks.c.id == hooks.c.webhook_id)
    .where(hooks.c.removed_at.is_(None))
    .order_by(hooks.c.webhook_id, hooks.c.position)
)
_ACTIVE_HOOKS = _HOOKS.where(one_of(webhooks.c.scope, "scopes"), webhooks.c.deleted_id == 0, webhooks.c.active)


def record_test(
    session: Session, webhook: Webhook, repository: str, pusher: str, details: dict[str, Any], whole_chain: bool
) -> uuid.UUID | None:
    """Record a test push for one webhook; returns the id of its first delivery, or None if it has no hooks.

    A test ignores the filters, and is sent for a paused webhook too. It calls only the first hook, or the
    `whole_chain`.
    """
    chain = list(session.execute(_HOOKS.where(webhooks.c.id == webhook.id)))
    if not chain:
        return None
    push = ImagePush(repository, TEST_TAG, pusher=pusher)
    rows = _record(session, push, details, [chain], kind=Kind.TEST, max_hooks=None if whole_chain else 1)
    first: uuid.UUID = rows[0]["id"]
    return first


def _record(
    session: Session,
    push: ImagePush,
    details: dict[str, Any] | None,
    chains: list[list[Any]],
    source: str = "",
    *,
    tag_wait: TagWait = NO_WAIT,
    kind: Kind = Kind.PUSH,
    max_hooks: int | None = None,
) -> list[dict[str, Any]]:
    """Write a push, and a delivery for each of the first `max_hooks` hooks of each chain; in two statements.

    Returns the rows of the deliveries, none if the same event has been recorded before.
    """
    pushed_at = as_utc(push.pushed_at) if push.pushed_at else utcnow()
    details = details or Repository(is_private=True).snapshot()
    push_id = _insert_push(session, push, pushed_at, details, source, kind, tag_wait)
    if push_id is None:
        logger.info("push of %s:%s was recorded before: event %s", push.repository, push.tag, push.event_id)
        return []
    keys = {scope: repository_key(scope) for scope in {chain[0].scope for chain in chains}}
    of_push: dict[str, Any] = {"push_id": push_id, "pushed_at": pushed_at}
    image = None if kind is Kind.TEST else ordered_image(push.repository, storable(push.tag)[:TEXT_LIMIT])
    rows = [
        of_push | {"repository_key": keys[chain[0].scope]} | row
        for chain in chains
        for row in _delivery_rows(chain, max_hooks, image, tag_wait)
    ]
    session.execute(_INSERT_DELIVERIES, rows)
    return rows


_INSERT_PUSH = {
    dialect: insert(pushes)
    .values(
        tag_look_up_at=now_plus(bindparam("tag_look_up_in_s", type_=Float)),
        tag_awaited_until=now_plus(bindparam("tag_awaited_for_s", type_=Float)),
    )
    .on_conflict_do_nothing(index_elements=["event_key"])
    .returning(pushes.c.id)
    for dialect, insert in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}
"""They return nothing for a known event. Any other conflict is an error."""
_INSERT_DELIVERIES = insert(deliveries).values(transitions.recorded())


def recent_tags(session: Session, scope: str) -> list[str]:
    """The tags of recent pushes to a repository or in a namespace, each once, newest first."""
    tags = (row.tag for row in session.execute(_recent_pushes(session, scope)))
    return list(dict.fromkeys(tags))[:MAX_RECENT_TAGS]


def latest_push(session: Session, scope: str) -> Push | None:
    """The latest push to a repository or in a namespace, or None."""
    row = session.execute(_recent_pushes(session, scope).limit(1)).first()
    return session.get(Push, row.id) if row else None


def _recent_pushes(session: Session, scope: str) -> Select[Any]:
    """Select the ids and tags of recent pushes, newest first.

    Only pushes to present webhooks count: a repository's name may have belonged to another one before.
    """
    return _recent_in_namespace(session, scope) if is_pattern(scope) else _recent_in_repository(scope)


def _recent_in_repository(repository: str) -> Select[Any]:
    recent = (
        select(Push.id, Push.tag, Push.pushed_at)
        .where(Push.repository == repository, Push.kind == Kind.PUSH)
        .order_by(Push.pushed_at.desc())
        .limit(MAX_RECENT_PUSHES)
        .subquery()
    )
    to_live_webhooks = exists().where(
        deliveries.c.push_id == recent.c.id,
        deliveries.c.former_repository.is_(None),
        webhooks.c.id == deliveries.c.webhook_id,
        webhooks.c.scope.in_([repository, *patterns_of(repository)]),
        webhooks.c.deleted_id == 0,
    )
    return select(recent.c.id, recent.c.tag).where(to_live_webhooks).order_by(recent.c.pushed_at.desc())


def _recent_in_namespace(session: Session, scope: str) -> Select[Any]:
    """Select recent pushes to the newest webhooks of a namespace, since no index finds all pushes in it."""
    live = select(webhooks.c.id).where(webhooks.c.scope == scope, webhooks.c.deleted_id == 0)
    newest = session.scalars(live.order_by(webhooks.c.id.desc()).limit(MAX_RECENT_WEBHOOKS))
    recent = [
        select(deliveries.c.push_id)
        .where(deliveries.c.webhook_id == webhook_id, deliveries.c.former_repository.is_(None))
        .order_by(deliveries.c.pushed_at.desc())
        .limit(MAX_RECENT_PUSHES)
        .subquery()
        for webhook_id in newest
    ]
    pushed = or_(false(), *(pushes.c.id.in_(select(each.c.push_id)) for each in recent))
    found = select(pushes.c.id, pushes.c.tag).where(pushes.c.kind == Kind.PUSH, pushed)
    return found.order_by(pushes.c.pushed_at.desc())


def _insert_push(
    session: Session,
    push: ImagePush,
    pushed_at: datetime,
    details: dict[str, Any],
    source: str,
    kind: Kind,
    tag_wait: TagWait,
) -> int | None:
    values = {
        "source": source,
        "event_key": _event_key(source, push),
        "kind": kind,
        "repository": push.repository,
        "tag": push.tag,
        "digest": storable(push.digest or ""),
        "media_type": storable(push.media_type or ""),
        "images": [storable(each) for each in push.images or ()][:MAX_IMAGES] or None,
        "pusher": storable(push.pusher or "")[:TEXT_LIMIT],
        "pushed_at": pushed_at,
        "snapshot": details,
        "tag_look_up_in_s": 0.0 if tag_wait.looked_up else None,
        "tag_awaited_for_s": tag_wait.seconds if tag_wait.looked_up else None,
    }
    push_id: int | None = session.execute(_INSERT_PUSH[session.get_bind().dialect.name], values).scalar()
    return push_id


def _event_key(source: str, push: ImagePush) -> uuid.UUID | None:
    """The hash by which a repeated event is found: one event may tell of several tags, and texts may be of any length.

    It stays the same when the repository is renamed.
    """
    if push.event_id is None:
        return None
    parts = json.dumps([source, str(push.event_id), push.repository, push.tag])
    return uuid.UUID(bytes=hashlib.blake2b(parts.encode(), digest_size=16).digest())


def _delivery_rows(
    chain: Sequence[Any], max_hooks: int | None, image: str | None, tag_wait: TagWait
) -> list[dict[str, Any]]:
    """One row for each hook: the whole chain keeps the shape that it has now, and the history shows it.

    `image` is the push's `ordered_image`; None for a test.
    """
    first = transitions.first_of_run(urgent=image is None, delay_s=tag_wait.seconds, reason=tag_wait.reason)
    last = len(chain) - 1
    called = chain[:max_hooks]
    ids = sorted(time_ordered_uuid() for _ in called)  # rows are locked in the order of their ids
    return [
        {
            "id": ids[position],
            "webhook_id": hook.webhook_id,
            "hook_id": hook.id,
            "position": position,
            "chain_length": len(called),
            "callback_expected": (position < last or final_callback(hook.expect_final_callback, len(chain)))
            and has_callback(hook.payload_format, hook.template),
            "ordered_image": image if superseding(hook.supersede, hook.payload_format) else None,
            **(transitions.later_in_run() if position else first),
        }
        for position, hook in enumerate(called)
    ]


def _wake_on_commit(state: State, session: Session) -> None:
    """Wake a worker once when the session's transaction commits, and not when it is rolled back."""
    if "hubhooks" not in session.info:
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
    session.info["hubhooks"] = state


def _committed(session: Session) -> None:
    if not session.in_nested_transaction() and (state := session.info.get("hubhooks")):
        session.info["hubhooks"] = None
        wake(state)


def _rolled_back(session: Session, previous: SessionTransaction) -> None:
    if previous.parent is None:
        session.info["hubhooks"] = None
