"""The API's preview: the requests that a webhook would send, before it is saved. Pages call the same functions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ... import formats
from ...crypto.signing import new_secret, signature_headers
from ...dialects import utcnow
from ...formats import BodyTooLarge, dockerhub, format_of, url_placeholders
from ...outbox import latest_push
from ...records import request_headers, webhooks
from ...records.credentials import headers_of
from ...records.models import Hook, Kind, Push, Webhook
from ...records.scopes import sample_repository
from ...worker.masking import MASKED
from ..authorization import Call
from ..documents import PreviewDocument
from ..endpoints import Endpoint
from ..schemas import PreviewSchema
from . import WEBHOOKS
from .webhooks import editing

PREVIEW_DOCUMENT = PreviewDocument()
SAMPLE_DIGEST = "sha256:d5160df500015439d682731573cb90885a3b73b2016d0a7d806ee7a63fa0a7b9"
SAMPLE_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
_SIGNATURES = dict.fromkeys(signature_headers([new_secret()], "", 0, b""), MASKED)


@dataclass(frozen=True)
class PreviewedRequest:
    url: str
    headers: Sequence[tuple[str, str]]
    body: str
    error: str = ""
    method: str = "POST"


@dataclass(frozen=True)
class Preview:
    """What a webhook would send for a push, which is made up if `is_sample`."""

    push: Push
    is_sample: bool
    requests: Sequence[PreviewedRequest]


@Endpoint(
    "POST",
    WEBHOOKS + "preview/",
    summary="Show what a webhook would send, without saving or sending anything",
    access="write",
    body=PreviewSchema(),
    returns=PREVIEW_DOCUMENT,
)
def preview_webhook(call: Call, wanted: dict[str, Any]) -> Preview:
    """Preview a new webhook. It is refused as creating it would be."""
    with call.state.reading() as session:
        push = latest_push(session, call.scope) if wanted["push"] == "latest" else None
        webhook, _ = webhooks.build(session, call.owner, wanted)
    return _preview(call, webhook, push)


def preview_edit(call: Call, wanted: dict[str, Any], webhook_id: int) -> Preview:
    """Preview changes to a webhook. They are made in a transaction that is rolled back, so they are refused alike."""
    with call.state.reading() as session:
        push = latest_push(session, call.scope)
    with editing(call, webhook_id) as (session, webhook):
        webhooks.edit(session, call.owner, webhook, wanted)
        preview = _preview(call, webhook, push)
        session.rollback()
    return preview


def _preview(call: Call, webhook: Webhook, latest: Push | None) -> Preview:
    push = latest or Push(
        kind=Kind.PUSH,
        repository=sample_repository(call.scope),
        tag="latest",
        digest=SAMPLE_DIGEST,
        media_type=SAMPLE_MEDIA_TYPE,
        pusher=call.user,
        pushed_at=utcnow().replace(microsecond=0),
        snapshot=call.details,
    )
    own = dict.fromkeys(headers_of(call.state.secrets, webhook) or (), MASKED)
    return Preview(push, latest is None, [_request(call, hook, push, own) for hook in webhook.hooks])


def _request(call: Call, hook: Hook, push: Push, own: dict[str, str]) -> PreviewedRequest:
    """Write a push as a worker would, but with no delivery's id and token; `own` are the webhook's headers, masked."""
    external_url = call.state.config.external_url
    content = formats.Push(
        delivery_id=uuid.UUID(int=0),
        repository=push.repository,
        tag=push.tag,
        pusher=push.pusher,
        pushed_at=push.pushed_at,
        details=push.snapshot,
        registry_host=call.state.config.registry_host,
        external_url=external_url,
        callback_url=dockerhub.make_callback_url(external_url, push.repository, MASKED),
        digest=push.digest,
        media_type=push.media_type,
        images=tuple(push.images or ()),
    )
    written = format_of(hook.payload_format, hook.template or "")
    if hook.encrypted_authorization:
        own = {**own, "Authorization": MASKED}
    headers = request_headers.ours(own, written.content_type, _SIGNATURES) | own
    url = url_placeholders.fill(hook.hook_url, content)
    try:
        return PreviewedRequest(url, list(headers.items()), written.body(content).decode())
    except BodyTooLarge as too_large:
        return PreviewedRequest(url, list(headers.items()), "", str(too_large))
