"""The JSON that our API answers with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..config import Config
from ..formats import dockerhub
from ..records.credentials import headers_of
from ..records.history import Context, LastAttempt
from ..records.models import Attempt, Delivery, Hook, Push, Webhook
from ..state import State
from ..transport.causes import cause
from ..transport.hook_url import hosts, origin
from ..worker.masking import MASKED


def time(value: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z") if value else None


@dataclass(frozen=True)
class Viewer:
    """Who looks: readers see outcomes, writers see exchanges."""

    state: State
    may_write: bool

    def url(self, url: str) -> str:
        """A hook URL; readers see its origin, since receivers put credentials into paths and queries."""
        return url if self.may_write else f"{origin(url)}/…"


def webhook(row: Webhook, viewer: Viewer) -> dict[str, Any]:
    """A webhook without its secret; writers see the names of its request headers."""
    headers = headers_of(viewer.state.secrets, row) if viewer.may_write else None
    return {
        "id": row.id,
        "slug": row.slug,
        "name": row.name,
        "active": row.active,
        "disabled_reason": row.disabled_reason,
        "expect_final_callback": row.expects_final_callback,
        "tag_filter": row.tag_filter.split(),
        "headers": None if headers is None else dict.fromkeys(headers),
        "creator": row.creator,
        "last_updater": row.last_updater,
        "created": time(row.created),
        "last_updated": time(row.last_updated),
        "former_secret_until": time(row.former_secret_until),
        "hooks": [hook(each, row.active, viewer) for each in row.hooks],
    }


def hook(row: Hook, active: bool, viewer: Viewer) -> dict[str, Any]:
    """A hook; its host stands in ASCII, as it is looked up, and as it reads, lest one be taken for another."""
    host, host_unicode = hosts(row.hook_url)
    return {
        "id": row.id,
        "hook_url": viewer.url(row.hook_url),
        "host": host,
        "host_unicode": host_unicode,
        "active": active,
        "failing_since": time(row.failing_since),
        "creator": row.creator,
        "last_updater": row.last_updater,
        "date_added": time(row.date_added),
        "last_updated": time(row.last_updated),
    }


def delivery(row: Delivery, around: Context, viewer: Viewer) -> dict[str, Any]:
    """One line of the history. `status` is Docker Hub's word, `state` where it exactly stands.

    There is no next attempt while one is under way.
    """
    latest = around.last_attempts.get(row.id, LastAttempt())
    return {
        "id": str(row.id),
        "status": row.docker_status,
        "state": row.status.value,
        "reason": row.reason,
        "cause": latest.cause,
        "hook": {"id": row.hook_id, "hook_url": viewer.url(row.hook.hook_url)},
        "position": row.position,
        "chain_length": row.chain_length,
        "round": row.round,
        "chain": [_step(each, viewer) for each in around.runs[row.push_id]],
        "attempt_count": row.attempt_count,
        "duration_ms": latest.duration_ms,
        "push": _push(row.push),
        "callback_expected": row.callback_expected,
        "callback": _callback(row),
        "created_at": time(row.created_at),
        "next_attempt_at": time(row.due_at),
        "received_at": time(row.received_at),
        "finished_at": time(row.finished_at),
    }


def _step(row: Delivery, viewer: Viewer) -> dict[str, Any]:
    """How far a hook of the chain has come."""
    return {
        "id": str(row.id),
        "position": row.position,
        "hook_url": viewer.url(row.hook.hook_url),
        "state": row.status.value,
        "callback": row.callback_state or None,
    }


def delivery_with_attempts(row: Delivery, around: Context, viewer: Viewer) -> dict[str, Any]:
    """One delivery with its attempts."""
    sent = sent_body(row, viewer.state.config)
    return delivery(row, around, viewer) | {"attempts": [attempt(each, sent, viewer) for each in row.attempts]}


def _push(row: Push) -> dict[str, Any]:
    return {
        "kind": row.kind.value,
        "repository": row.repository,
        "tag": row.tag,
        "digest": row.digest,
        "media_type": row.media_type,
        "pusher": row.pusher,
        "pushed_at": time(row.pushed_at),
    }


def _callback(row: Delivery) -> dict[str, Any] | None:
    if not row.callback_state:
        return None
    return {
        "state": row.callback_state,
        "description": row.callback_description,
        "context": row.callback_context,
        "target_url": row.callback_target_url,
        "received_at": time(row.callback_at),
    }


def attempt(row: Attempt, sent_body: str, viewer: Viewer) -> dict[str, Any]:
    """One POST and what came of it. Readers do not see the request and the response themselves."""
    request = {"url": row.hook_url, "headers": row.request_headers, "body": sent_body}
    answered = row.status_code is not None
    return {
        "number": row.number,
        "round": row.round,
        "trigger": row.trigger,
        "started_at": time(row.started_at),
        "duration_ms": row.duration_ms,
        "connect_ms": row.connect_ms,
        "wait_ms": row.wait_ms,
        "status_code": row.status_code,
        "cause": cause(row.status_code, row.error),
        "request": request if viewer.may_write else None,
        "response": _response(row) if viewer.may_write and answered else None,
    }


def _response(row: Attempt) -> dict[str, Any]:
    return {
        "headers": row.response_headers,
        "body": row.response_body.decode("utf-8", "replace"),
        "truncated": row.response_truncated,
    }


def sent_body(row: Delivery, config: Config) -> str:
    """What every attempt of the delivery sent, but for the callback token: whoever has it can call back."""
    push = row.push
    content = dockerhub.payload(
        external_url=config.external_url,
        token=MASKED,
        repository=push.repository,
        tag=push.tag,
        pusher=push.pusher,
        pushed_at=push.pushed_at,
        details=push.snapshot,
    )
    return dockerhub.body(content).decode()
