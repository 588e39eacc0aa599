"""CNCF Distribution (`registry:2`, `registry:3`), GitLab's registry and Azure's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..registry import ImagePush
from .events import BadEvent, images_of, is_tag, json_object, text_at, time_at, value_at, warn_of_unknown

IGNORED_ACTIONS = {"pull", "mount", "delete", "ping"}
"""What is no push. Azure's "ping" tries out a webhook."""


def pushes(headers: Mapping[str, str], body: bytes) -> list[ImagePush]:
    """Read an envelope of version 1 or 2, which look alike, or Azure's single event without an envelope.

    Blobs and the images of an index are pushed without a tag.
    """
    content = json_object(body)
    events = content.get("events") if "events" in content else [content] if "action" in content else None
    if not isinstance(events, list):
        raise BadEvent("The body is neither an envelope with a list of events nor an event with an action.")
    actions = [value_at(each, "action") for each in events]
    warn_of_unknown("distribution", (each for each in actions if each not in ("push", *IGNORED_ACTIONS)))
    return [
        _push(event)
        for event, action in zip(events, actions, strict=True)
        if action == "push" and is_tag(text_at(event, "target", "tag"))
    ]


def _push(event: dict[str, Any]) -> ImagePush:
    return ImagePush(
        repository=text_at(event, "target", "repository"),
        tag=text_at(event, "target", "tag"),
        digest=text_at(event, "target", "digest"),
        media_type=text_at(event, "target", "mediaType"),
        pusher=text_at(event, "actor", "name"),
        pushed_at=time_at(event, "timestamp"),
        event_id=text_at(event, "id") or None,
        images=images_of(event, "target", "references"),
    )
