"""Webhooks and their hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Response, request
from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from ...dialects import lock_repository, utcnow
from ...outbox import recent_tags
from ...records import credentials, webhooks
from ...records.models import ID_LIMIT, Hook, Webhook
from ...records.tag_filter import TagFilter
from ...records.webhooks import HookWanted, live
from .. import documents
from ..etag import require_match, tagged, version
from ..pipeline import Call, api_url, json_response
from ..problems import Problem, not_found


def list_all(call: Call, query: dict[str, Any]) -> Response:
    wanted = select(Webhook).where(live(call.repository))
    if query["active"] is not None:
        wanted = wanted.where(Webhook.active.is_(query["active"]))
    if query["name"]:
        wanted = wanted.where(Webhook.name.icontains(query["name"], autoescape=True))
    page, size = query["page"], query["page_size"]
    with call.state.reading() as session:
        count = session.scalar(select(func.count()).select_from(wanted.subquery())) or 0
        rows = session.scalars(
            wanted.options(selectinload(Webhook.hooks)).order_by(Webhook.id).limit(size).offset((page - 1) * size)
        ).all()
    return json_response(
        {
            "count": count,
            "next": _page_url(call, page + 1) if page * size < count else None,
            "previous": _page_url(call, page - 1) if page > 1 else None,
            "results": [documents.webhook(row, call.viewer) for row in rows],
        }
    )


def _page_url(call: Call, page: int) -> str:
    return api_url(call, query=request.args.to_dict() | {"page": page})


def create(call: Call, wanted: dict[str, Any]) -> Response:
    """Answer 201 with the webhook, and with its secret, which is shown this once."""
    with call.state.writing() as session:
        row, secret = webhooks.create(session, call.owner, wanted)
        content = documents.webhook(row, call.viewer)
    response = tagged(content, 201, more={"secret": secret})
    response.headers["Location"] = api_url(call, content["id"])
    return response


def read(call: Call, webhook_id: int) -> Response:
    with call.state.reading() as session:
        return tagged(documents.webhook(find(session, call, webhook_id), call.viewer))


def edit(call: Call, wanted: dict[str, Any], webhook_id: int) -> Response:
    """Change what the body names, unless `If-Match` says that it was changed in between."""
    with editing(call, webhook_id) as (session, row):
        require_match(documents.webhook(row, call.viewer))
        webhooks.edit(session, call.owner, row, wanted)
        return tagged(documents.webhook(row, call.viewer))


def delete(call: Call, webhook_id: int) -> Response:
    with editing(call, webhook_id) as (session, row):
        require_match(documents.webhook(row, call.viewer))
        webhooks.delete(session, call.owner, row)
    return Response(status=204)


def rotate_secret(call: Call, wanted: dict[str, Any], webhook_id: int, known: str | None = None) -> Response:
    """Answer with a new secret, which is shown this once; the former one is used as well for a while.

    Raises 409 where the webhook is another than the version that is `known`.
    """
    with editing(call, webhook_id) as (_, row):
        if known not in (None, version(documents.webhook(row, call.viewer))):
            raise Problem(409, "Nothing was done: the webhook was changed since you opened the page.")
        former_ttl = call.state.config.former_secret_ttl
        secret = credentials.rotate_secret(call.state.secrets, row, wanted["secret"], former_ttl)
        row.last_updater, row.last_updated = call.user, utcnow()
        until = row.former_secret_until
    return json_response({"secret": secret, "former_secret_until": documents.time(until)})


def list_hooks(call: Call, webhook_id: int) -> Response:
    with call.state.reading() as session:
        row = find(session, call, webhook_id)
        return json_response({"results": [documents.hook(each, row.active, call.viewer) for each in row.hooks]})


def add_hook(call: Call, wanted: HookWanted, webhook_id: int) -> Response:
    """Answer 201 with the hook, which stands behind the others."""
    with editing(call, webhook_id) as (session, row):
        hooks = [*(HookWanted(id=each.id) for each in row.hooks), wanted]
        webhooks.edit(session, call.owner, row, {"hooks": hooks})
        content = documents.hook(row.hooks[-1], row.active, call.viewer)
    response = tagged(content, 201)
    response.headers["Location"] = api_url(call, webhook_id, "hooks", content["id"])
    return response


def read_hook(call: Call, webhook_id: int, hook_id: int) -> Response:
    with call.state.reading() as session:
        row = find(session, call, webhook_id)
        return tagged(documents.hook(_hook(row, hook_id), row.active, call.viewer))


def edit_hook(call: Call, wanted: HookWanted, webhook_id: int, hook_id: int) -> Response:
    """Give a hook another URL; what it has not sent yet goes there."""
    with editing(call, webhook_id) as (session, row):
        hook = _hook(row, hook_id)
        require_match(documents.hook(hook, row.active, call.viewer))
        hooks = [HookWanted(wanted.hook_url if each is hook else None, each.id) for each in row.hooks]
        webhooks.edit(session, call.owner, row, {"hooks": hooks})
        return tagged(documents.hook(hook, row.active, call.viewer))


def remove_hook(call: Call, webhook_id: int, hook_id: int) -> Response:
    with editing(call, webhook_id) as (session, row):
        hook = _hook(row, hook_id)
        require_match(documents.hook(hook, row.active, call.viewer))
        hooks = [HookWanted(id=each.id) for each in row.hooks if each is not hook]
        webhooks.edit(session, call.owner, row, {"hooks": hooks})
    return Response(status=204)


def matching_tags(call: Call, query: dict[str, Any]) -> Response:
    """Which of the repository's recent tags a filter would let through; it need not be any webhook's yet."""
    tag_filter = TagFilter(query["tag_filter"])
    with call.state.reading() as session:
        tags = recent_tags(session, call.repository)
    matching = [tag for tag in tags if tag_filter.matches(tag)]
    return json_response({"matching": matching, "other": [tag for tag in tags if tag not in set(matching)]})


def find(session: Session, call: Call, webhook_id: int) -> Webhook:
    """A webhook of the repository; raises 404."""
    row = None
    if webhook_id <= ID_LIMIT:
        row = session.scalar(select(Webhook).where(Webhook.id == webhook_id, live(call.repository)))
    if row is None:
        raise not_found()
    return row


def _hook(webhook: Webhook, hook_id: int) -> Hook:
    found = next((each for each in webhook.hooks if each.id == hook_id), None)
    if found is None:
        raise not_found()
    return found


@contextmanager
def editing(call: Call, webhook_id: int) -> Iterator[tuple[Session, Webhook]]:
    """A transaction in which nobody else edits the repository's webhooks; raises 404."""
    with call.state.writing() as session:
        lock_repository(session, call.repository)
        yield session, find(session, call, webhook_id)
