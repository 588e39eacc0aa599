"""Deleting and renaming repositories and namespaces, as the host tells us.

These functions write in a transaction of the caller, and take locks in the order of `locks`. Pushes wait for none of
them. A repository shares the locks of its namespaces with others, so that only changes to the webhooks of these
namespaces wait.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from ..dialects import share_lock, try_lock_repository, utcnow, wait_for_repository
from ..registry import check_repository
from . import superseding
from .cancelling import REPOSITORY_DELETED, REPOSITORY_LEFT, cancel_all, cut_off
from .models import Kind, deliveries, hooks, pushes, webhooks
from .scopes import REGISTRY, covers, has_pattern, is_namespace, is_pattern, patterns_of

MAX_SETTLED = 20
"""Repositories that one call of `settle` corrects at most."""


class RepositoryHasWebhooks(ValueError):
    """A repository was renamed to a name that has webhooks already."""


def delete(session: Session, name: str, only: Collection[int] | None = None) -> int:
    """Delete a repository's webhooks, and cancel their unfinished deliveries, including those that await a callback.

    Those of webhooks that their owners deleted before are cancelled too. So are the repository's deliveries of webhooks
    of its namespaces; these webhooks stay. With `only`, webhooks with other ids are kept. Of a namespace, such as
    `acme/*`, it deletes the webhooks. Returns how many webhooks were deleted. Raises `ValueError` for what is not a
    name.
    """
    _check(name)
    _lock(session, name)
    if not is_pattern(name) and (inherited := _inherited(session, name)):
        pushed = select(pushes.c.id).where(pushes.c.repository == name)
        cut_off(session, pushed, select(webhooks.c.id).where(webhooks.c.id.in_(inherited)), REPOSITORY_DELETED)
    found = session.execute(select(webhooks.c.id, webhooks.c.deleted_id).where(_belong_to(name))).all()
    chosen = [each for each in found if only is None or each.deleted_id or each.id in only]
    if not chosen:
        return 0
    ids = [each.id for each in chosen]
    cancel_all(session, ids)
    with_credentials = hooks.c.webhook_id.in_(ids) & hooks.c.encrypted_authorization.is_not(None)
    session.execute(update(hooks).where(with_credentials).values(encrypted_authorization=None))
    session.execute(
        update(webhooks)
        .where(webhooks.c.id.in_(ids))
        .values(
            deleted_id=webhooks.c.id,
            disabled_reason=REPOSITORY_DELETED,
            encrypted_former_secret=None,
            former_secret_until=None,
            encrypted_headers=None,
            last_updated=utcnow(),
            unsettled=True,
        )
    )
    return sum(not each.deleted_id for each in chosen)


def rename(session: Session, old: str, new: str) -> None:
    """Give a repository's webhooks, and their history, its new name; also those that their owners deleted.

    Webhooks of namespaces that it leaves lose its deliveries, as when it is deleted. The webhooks of a namespace, such
    as `acme/*`, move to another one; its repositories are renamed one by one.

    Does nothing if `new` has webhooks and `old` has none. Raises `RepositoryHasWebhooks` if both have some,
    `ValueError` for what is not a name, and for a repository that is to become a namespace.
    """
    for name in (old, new):
        _check(name)
    if is_pattern(old) != is_pattern(new) or (REGISTRY in (old, new) and old != new):
        raise ValueError(f"{old!r} cannot be renamed to {new!r}: both must be repositories, or both namespaces")
    _lock(session, old, new)
    ids = _live(session, old)
    if old == new:
        return
    if _live(session, new):
        if not ids:
            return
        raise RepositoryHasWebhooks(f"{old!r} cannot be renamed: {new!r} has webhooks already; delete them first")
    if not is_pattern(old):
        inherited = _inherited(session, old, new)
        of_inherited = select(pushes.c.id).where(pushes.c.repository == old, pushes.c.id.in_(_delivered_by(inherited)))
        if inherited:
            kept = deliveries.c.webhook_id.in_(_inherited(session, new)) & deliveries.c.former_repository.is_(None)
            superseding.rename(session, kept & deliveries.c.push_id.in_(of_inherited), new)
        # The webhooks come last: from then on claims correct pushes that are still recorded under the old name.
        _name_pushes(session, _misnamed(ids, new), new)
        if inherited:
            _name_pushes(session, of_inherited, new)
    session.execute(update(webhooks).where(_belong_to(old)).values(scope=new, unsettled=True))


def known_in(session: Session, namespace: str) -> set[str]:
    """The repositories of a namespace, given by its pattern, that have webhooks or were pushed to its webhooks."""
    name = func.coalesce(deliveries.c.former_repository, pushes.c.repository)
    pushed = (
        select(name)
        .distinct()
        .join_from(deliveries, pushes, pushes.c.id == deliveries.c.push_id)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(webhooks.c.scope == namespace, webhooks.c.deleted_id == 0, pushes.c.kind != Kind.TEST)
    )
    below = select(webhooks.c.scope).where(
        webhooks.c.scope.startswith(namespace[:-1], autoescape=True), ~has_pattern, webhooks.c.deleted_id == 0
    )
    # On SQLite LIKE ignores case.
    return {*session.scalars(pushed), *(each for each in session.scalars(below) if covers(namespace, each))}


def settle(session: Session) -> None:
    """Correct what was recorded and sent before a host committed that it deleted or renamed a repository.

    Workers call it, and it waits for no host: locked repositories are left for later. Once is enough, since claims
    correct or cancel what is recorded afterwards.
    """
    names = select(webhooks.c.scope).where(webhooks.c.unsettled).distinct().limit(MAX_SETTLED)
    for name in session.scalars(names).all():
        if not try_lock_repository(session, name):
            continue
        unsettled = select(webhooks.c.id, webhooks.c.deleted_id, webhooks.c.disabled_reason)
        rows = session.execute(unsettled.where(webhooks.c.unsettled, webhooks.c.scope == name)).all()
        cancel_all(session, [each.id for each in rows if each.disabled_reason == REPOSITORY_DELETED])
        if not is_pattern(name):
            live = [each.id for each in rows if not each.deleted_id]
            superseding.rename(session, deliveries.c.webhook_id.in_(live), name)
            _name_pushes(session, _misnamed(live, name), name)
        session.execute(update(webhooks).where(webhooks.c.id.in_([each.id for each in rows])).values(unsettled=False))


def _lock(session: Session, *names: str) -> None:
    """Wait until nobody else changes these repositories, nor the webhooks of their namespaces."""
    for pattern in sorted({each for name in names if not is_pattern(name) for each in patterns_of(name)}):
        share_lock(session, pattern)
    for name in sorted({*names}):
        wait_for_repository(session, name)


def _inherited(session: Session, *names: str) -> Sequence[int]:
    """The webhooks of the namespaces of these repositories, also those that were deleted."""
    patterns = {each for name in names for each in patterns_of(name)}
    return session.scalars(select(webhooks.c.id).where(webhooks.c.scope.in_(patterns))).all()


def _delivered_by(webhook_ids: Sequence[int]) -> Select[tuple[int]]:
    """The pushes that these webhooks got."""
    return select(deliveries.c.push_id).where(deliveries.c.webhook_id.in_(webhook_ids))


def _misnamed(webhook_ids: Sequence[int], name: str) -> Select[tuple[int]]:
    """The pushes of these webhooks that do not have the name of their repository."""
    return select(pushes.c.id).where(pushes.c.id.in_(_delivered_by(webhook_ids)), pushes.c.repository != name)


def _name_pushes(session: Session, push_ids: Select[tuple[int]], name: str) -> None:
    """Give pushes a repository's new name, and cut off the webhooks of namespaces that it has left."""
    left = select(webhooks.c.id).where(has_pattern, webhooks.c.scope.not_in(patterns_of(name)))
    cut_off(session, push_ids, left, REPOSITORY_LEFT)
    locked = push_ids.order_by(pushes.c.id).with_for_update(key_share=True).cte("locked")
    session.execute(update(pushes).where(pushes.c.id.in_(select(locked.c.id))).values(repository=name))


def _belong_to(name: str) -> ColumnElement[bool]:
    """The webhooks of a repository, also those that its owners deleted; none of an earlier repository of that name."""
    return (webhooks.c.scope == name) & (webhooks.c.disabled_reason != REPOSITORY_DELETED)


def _live(session: Session, name: str) -> Sequence[int]:
    live = select(webhooks.c.id).where(webhooks.c.scope == name, webhooks.c.deleted_id == 0)
    return session.scalars(live).all()


def _check(name: str) -> None:
    check_repository(name)
    if is_pattern(name) and name != REGISTRY and not is_namespace(name[:-2]):
        raise ValueError(f"not a namespace: {name!r} has an empty part or a wildcard before its final '/*'")
