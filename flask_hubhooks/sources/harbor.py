"""Harbor, in its payload formats Default and CloudEvents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..registry import ImagePush
from .cloudevents import cloud_event
from .events import BadEvent, is_tag, json_object, objects_at, text_at, time_at, warn_of_unknown

PUSHED = {"PUSH_ARTIFACT", "pushImage", "harbor.artifact.pushed"}
"""The second is that of Harbor 1; the last one is a CloudEvent's."""
IGNORED_TYPES = re.compile(
    r"(PULL|DELETE)_ARTIFACT|(SCANNING|QUOTA)_[A-Z]+|REPLICATION|TAG_RETENTION"
    r"|(pull|delete)Image|(upload|download|delete)Chart|scanning(Completed|Failed)"
    r"|harbor\.(artifact\.(pulled|deleted)|scan\.\w+|quota\.\w+|replication\.[\w.]+|tag_retention\.\w+)"
)


def pushes(headers: Mapping[str, str], body: bytes) -> list[ImagePush]:
    """Read an event of either format. An artifact without a tag has its digest in place of one.

    An event of the format Default has no id, and Harbor tries up to three times: its id is made of what a repeat has in
    common with it, which only a push of the same image within the same second has, too.
    """
    content = json_object(body)
    if "ce-type" in headers or "specversion" in content:
        event = cloud_event(headers, body)
        kind, data, pushed_at = event.type, event.data, time_at(event.attributes, "time")
        operator, event_id = text_at(event.attributes, "operator"), text_at(event.attributes, "id")
    elif "event_data" in content and text_at(content, "type"):
        kind, data, pushed_at = text_at(content, "type"), content["event_data"], _epoch(content.get("occur_at"))
        operator, event_id = text_at(content, "operator"), f"{kind} {pushed_at.isoformat()}" if pushed_at else ""
    else:
        raise BadEvent("The body is neither an event of Harbor, with a type and event_data, nor a CloudEvent.")
    if kind not in PUSHED:
        warn_of_unknown("harbor", [] if IGNORED_TYPES.fullmatch(kind) else [kind])
        return []
    return [
        ImagePush(
            repository=text_at(data, "repository", "repo_full_name"),
            tag=text_at(resource, "tag"),
            digest=text_at(resource, "digest"),
            pusher=operator,
            pushed_at=pushed_at,
            event_id=f"{event_id} {text_at(resource, 'digest')}" if event_id else None,
        )
        for resource in objects_at(data, "resources")
        if is_tag(text_at(resource, "tag"))
    ]


def _epoch(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc) if seconds > 0 else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None
