"""zot, which sends CloudEvents in binary mode; a NATS bridge sends them in structured mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from ..registry import ImagePush
from .cloudevents import cloud_event
from .events import images_of, is_tag, text_at, time_at, warn_of_unknown

PUSHED = "image.updated"
IGNORED_TYPES = {"image.deleted", "image.lint_failed", "image.scanned", "repository.created"}


def pushes(headers: Mapping[str, str], body: bytes) -> list[ImagePush]:
    """Read an event. The images of an index are put by digest, with an event of their own."""
    event = cloud_event(headers, body)
    kind = ".".join(event.type.split(".")[-2:])  # after "zotregistry" or the prefix that is configured
    if kind != PUSHED:
        warn_of_unknown("zot", {kind} - IGNORED_TYPES)
        return []
    tag = text_at(event.data, "reference")
    if not is_tag(tag):
        return []
    manifest = None
    with suppress(ValueError, RecursionError):
        manifest = json.loads(text_at(event.data, "manifest"))
    return [
        ImagePush(
            repository=text_at(event.data, "name"),
            tag=tag,
            digest=text_at(event.data, "digest"),
            media_type=text_at(event.data, "mediaType"),
            pusher=text_at(event.data, "actor", "name"),
            pushed_at=time_at(event.attributes, "time"),
            event_id=text_at(event.attributes, "id") or None,
            images=images_of(manifest, "manifests"),
        )
    ]
