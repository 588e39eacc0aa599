"""The API's endpoints for webhooks and their hooks. Pages call the same functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from flask import request
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, selectinload

from ...dialects import lock_repository, utcnow
from ...outbox import recent_tags
from ...records import credentials, webhooks
from ...records.filters import Filter
from ...records.models import ID_LIMIT, Hook, Webhook
from ...records.webhooks import HookWanted, Refused, live
from ...wakeups import wake
from ..authorization import Call
from ..documents import (
    CreatedWebhook,
    CreatedWebhookDocument,
    HookDocument,
    HookListDocument,
    MatchingTagsDocument,
    NewSecretDocument,
    Page,
    WebhookDocument,
    WebhookPageDocument,
)
from ..endpoints import Endpoint, api_url, require_match, version
from ..problems import Problem, not_found
from ..schemas import OF_HOOK, HookSchema, SecretSchema, TagFilterSchema, WebhookListSchema, WebhookSchema
from . import HOOK, WEBHOOK, WEBHOOKS

WEBHOOK_DOCUMENT, HOOK_DOCUMENT = WebhookDocument(), HookDocument()


@Endpoint(
    "GET",
    WEBHOOKS,
    summary="List webhooks: those of the scope, then those that a repository inherits",
    access="read",
    query=WebhookListSchema(),
    returns=WebhookPageDocument(),
)
def list_webhooks(call: Call, query: dict[str, Any]) -> Page:
    filters: list[ColumnElement[bool]] = []
    if query["active"] is not None:
        filters.append(Webhook.active.is_(query["active"]))
    if query["name"]:
        filters.append(Webhook.name.icontains(query["name"], autoescape=True))
    number, size = query["page"], query["page_size"]
    with call.state.reading() as session:
        rows, count = page_of_webhooks(session, call, filters, Webhook.id, number, size)

    def url(number: int) -> str:
        return api_url(call, query=request.args.to_dict() | {"page": number})

    return Page(
        rows,
        next=url(number + 1) if number * size < count else None,
        previous=url(number - 1) if number > 1 else None,
        count=count,
    )


def page_of_webhooks(
    session: Session, call: Call, filters: Sequence[ColumnElement[bool]], order: Any, number: int, size: int
) -> tuple[Sequence[Webhook], int]:
    """Return the webhooks of a page, which counts from 1, and how many webhooks there are on all pages."""
    shown = or_(live(call.scope), Webhook.id.in_(webhooks.inherited_by(session, call.scope)))
    count = session.scalar(select(func.count()).select_from(Webhook).where(shown, *filters)) or 0
    rows = select(Webhook).where(shown, *filters).options(_WITH_HOOKS).order_by(Webhook.scope != call.scope, order)
    return session.scalars(rows.limit(size).offset((number - 1) * size)).all(), count


@Endpoint(
    "POST",
    WEBHOOKS,
    summary="Create a webhook with one hook_url, with hooks for a chain, or with neither",
    access="write",
    body=WebhookSchema(),
    returns=CreatedWebhookDocument(),
    status=201,
    etag=True,
    location="{id}/",
)
def create_webhook(call: Call, wanted: dict[str, Any]) -> CreatedWebhook:
    with call.state.writing() as session:
        return CreatedWebhook(*webhooks.create(session, call.owner, wanted))


@dataclass(frozen=True)
class MatchingTags:
    matching: list[str]
    other: list[str]


@Endpoint(
    "GET",
    WEBHOOKS + "matching-tags/",
    summary="Try a tag filter on the recent tags",
    access="read",
    query=TagFilterSchema(),
    returns=MatchingTagsDocument(),
)
def match_tags(call: Call, query: dict[str, Any]) -> MatchingTags:
    """Try a filter, which need not belong to any webhook yet, on the repository's recent tags."""
    tag_filter = Filter(query["tag_filter"])
    with call.state.reading() as session:
        tags = recent_tags(session, call.scope)
    return MatchingTags(
        [tag for tag in tags if tag_filter.matches(tag)], [tag for tag in tags if not tag_filter.matches(tag)]
    )


@Endpoint("GET", WEBHOOK, summary="Read a webhook", access="read", returns=WEBHOOK_DOCUMENT, etag=True)
def read_webhook(call: Call, webhook_id: int) -> Webhook:
    with call.state.reading() as session:
        return find_webhook(session, call, webhook_id, with_hooks=True)


@Endpoint(
    "PATCH",
    WEBHOOK,
    summary="Change the given fields of a webhook",
    access="write",
    body=WebhookSchema(partial=True, exclude=["hook_url", *OF_HOOK, "secret"]),
    returns=WEBHOOK_DOCUMENT,
    etag=True,
    if_match=True,
)
def edit_webhook(call: Call, wanted: dict[str, Any], webhook_id: int) -> Webhook:
    with editing(call, webhook_id) as (session, row):
        require_match(call.viewer.document(WEBHOOK_DOCUMENT, row))
        was_active = row.active
        webhooks.edit(session, call.owner, row, wanted)
    if row.active and not was_active:
        wake(call.state)  # to send what was held
    return row


@Endpoint("DELETE", WEBHOOK, summary="Delete a webhook", access="write", status=204, if_match=True)
def delete_webhook(call: Call, webhook_id: int) -> None:
    with editing(call, webhook_id) as (session, row):
        require_match(call.viewer.document(WEBHOOK_DOCUMENT, row))
        webhooks.delete(session, call.owner, row)


@Endpoint(
    "GET",
    WEBHOOK + "hooks/",
    summary="List the hooks of a webhook",
    access="read",
    returns=HookListDocument(),
)
def list_hooks(call: Call, webhook_id: int) -> Page:
    return Page(read_webhook(call, webhook_id).hooks, next=None, previous=None)


@Endpoint(
    "POST",
    WEBHOOK + "hooks/",
    summary="Add a hook after the others",
    access="write",
    body=HookSchema(exclude=["id"]),
    returns=HOOK_DOCUMENT,
    status=201,
    etag=True,
    location="{webhook_id}/hooks/{id}/",
)
def add_hook(call: Call, wanted: HookWanted, webhook_id: int) -> Hook:
    with editing(call, webhook_id) as (session, row):
        hooks = [*(HookWanted(id=each.id) for each in row.hooks), wanted]
        with _errors_of_hook(len(row.hooks)):
            webhooks.edit(session, call.owner, row, {"hooks": hooks})
        return row.hooks[-1]


@Endpoint("GET", HOOK, summary="Read a hook", access="read", returns=HOOK_DOCUMENT, etag=True)
def read_hook(call: Call, webhook_id: int, hook_id: int) -> Hook:
    return _find_hook(read_webhook(call, webhook_id), hook_id)


@Endpoint(
    "PATCH",
    HOOK,
    summary="Change the URL, payload format or other settings of a hook, also for its unsent deliveries",
    access="write",
    body=HookSchema(exclude=["id"]),
    returns=HOOK_DOCUMENT,
    etag=True,
    if_match=True,
)
def edit_hook(call: Call, wanted: HookWanted, webhook_id: int, hook_id: int) -> Hook:
    with editing(call, webhook_id) as (session, row):
        hook = _find_hook(row, hook_id)
        require_match(call.viewer.document(HOOK_DOCUMENT, hook))
        hooks = [replace(wanted if each is hook else HookWanted(), id=each.id) for each in row.hooks]
        with _errors_of_hook(row.hooks.index(hook)):
            webhooks.edit(session, call.owner, row, {"hooks": hooks})
        return hook


@Endpoint(
    "DELETE",
    HOOK,
    summary="Remove a hook; its unsent deliveries are cancelled, with those that wait for them",
    access="write",
    status=204,
    if_match=True,
    problems=(400,),  # if the webhook still has more hooks than a limit that was lowered allows
)
def remove_hook(call: Call, webhook_id: int, hook_id: int) -> None:
    with editing(call, webhook_id) as (session, row):
        hook = _find_hook(row, hook_id)
        require_match(call.viewer.document(HOOK_DOCUMENT, hook))
        hooks = [HookWanted(id=each.id) for each in row.hooks if each is not hook]
        webhooks.edit(session, call.owner, row, {"hooks": hooks})


@dataclass(frozen=True)
class NewSecret:
    secret: str
    former_secret_until: datetime | None


@Endpoint(
    "POST",
    WEBHOOK + "rotate-secret/",
    summary="Replace the secret; for 24 hours requests are signed with both",
    access="write",
    body=SecretSchema(),
    body_optional=True,
    returns=NewSecretDocument(),
)
def rotate_secret(call: Call, wanted: dict[str, Any], webhook_id: int, known_version: str | None = None) -> NewSecret:
    """Replace the secret. Raises 409 if the webhook is no longer of the known version."""
    with editing(call, webhook_id) as (_, row):
        if known_version not in (None, version(call.viewer.document(WEBHOOK_DOCUMENT, row))):
            raise Problem(409, "Nothing was changed: the webhook has been edited since you opened the page.")
        secret = credentials.rotate_secret(call.state.secrets, row, wanted["secret"])
        row.last_updater, row.last_updated = call.user, utcnow()
        return NewSecret(secret, row.former_secret_until)


_WITH_HOOKS = selectinload(Webhook.hooks).immediateload(Hook.webhook)
"""Hooks need their webhook, since their documents show whether it is active. It takes no statement of its own."""


def find_webhook(session: Session, call: Call, webhook_id: int, *, with_hooks: bool = False) -> Webhook:
    """Return a webhook of the call's scope, or one that its repository inherits; raises 404.

    From here on the call sees of an inherited webhook what readers see. If it is to change something, that raises 403.
    """
    row = None
    if webhook_id <= ID_LIMIT:
        found = select(Webhook).where(Webhook.id == webhook_id, Webhook.deleted_id == 0)
        row = session.scalar(found.options(_WITH_HOOKS) if with_hooks else found)
    if row is not None and row.scope != call.scope and row.id not in webhooks.inherited_by(session, call.scope):
        row = None
    if row is None:
        raise not_found()
    if row.scope != call.scope and call.action == "write":
        raise Problem(403, f"This webhook is inherited from {row.scope}, and can be changed only there.")
    call.viewer = call.viewer.of(row.scope)
    return row


def _find_hook(webhook: Webhook, hook_id: int) -> Hook:
    hook = next((each for each in webhook.hooks if each.id == hook_id), None)
    if hook is None:
        raise not_found()
    return hook


@contextmanager
def _errors_of_hook(index: int) -> Iterator[None]:
    """Raise the errors of one hook as those of the whole request."""
    try:
        yield
    except Refused as refused:
        of_hooks = refused.errors.get("hooks")
        raise Refused(of_hooks[index]) if isinstance(of_hooks, dict) and index in of_hooks else refused from None


@contextmanager
def editing(call: Call, webhook_id: int) -> Iterator[tuple[Session, Webhook]]:
    """A transaction in which nobody else edits the repository's webhooks; raises 404."""
    with call.state.writing() as session:
        lock_repository(session, call.scope)
        yield session, find_webhook(session, call, webhook_id, with_hooks=True)
