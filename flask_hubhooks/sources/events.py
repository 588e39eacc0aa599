"""What the readers of all sources share: JSON, times, and values that may be missing or of any type."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ..registry import as_utc

logger = logging.getLogger(__name__)

DIGEST_IN_PLACE_OF_TAG = re.compile(r"[a-z0-9+._-]+:[0-9a-fA-F]{32,}")
IMAGES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
"""The media types of what an index lists."""
MAX_SHOWN = 5
"""Names of unknown events in a log entry."""


class BadEvent(ValueError):
    """A request that is no event of its source. The message is shown to the sender, and says what is wrong."""


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises `BadEvent` for anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadEvent("The body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise BadEvent("The body must be a JSON object.")
    return content


def value_at(content: Any, *path: str) -> Any:
    """Return a value within nested objects, or None if one of them is missing."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def text_at(content: Any, *path: str) -> str:
    """Return a text within nested objects, or an empty one if it is missing or no text."""
    value = value_at(content, *path)
    return value if isinstance(value, str) else ""


def objects_at(content: Any, *path: str) -> list[dict[str, Any]]:
    """Return the objects of a list within nested objects."""
    value = value_at(content, *path)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def images_of(content: Any, *path: str) -> list[str]:
    """Return the digests of the images in a list within nested objects: what an index lists, without its layers."""
    return [text_at(each, "digest") for each in objects_at(content, *path) if value_at(each, "mediaType") in IMAGES]


def is_tag(reference: str) -> bool:
    """Whether what a registry calls a tag or reference is not a digest, as it is for a child of an index."""
    return bool(reference) and not DIGEST_IN_PLACE_OF_TAG.fullmatch(reference)


def time_at(content: Any, *path: str) -> datetime | None:
    """Return a time of RFC 3339, with any number of digits of a second; None if it is missing or no real time."""
    text = text_at(content, *path)
    parts = re.fullmatch(r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]+))?(Z|[+-][0-9]{2}:[0-9]{2})", text)
    if parts is None:
        return None
    fraction, zone = (parts[2] or "")[:6].ljust(6, "0"), parts[3].replace("Z", "+00:00")
    try:
        return _real(as_utc(datetime.fromisoformat(f"{parts[1]}.{fraction}{zone}")))
    except (ValueError, OverflowError):
        return None


def _real(moment: datetime) -> datetime | None:
    """Programs in Go send the year 1 for an unknown time."""
    return moment if moment.year >= 1970 else None


def warn_of_unknown(source: str, names: Iterable[object]) -> None:
    """Log once that a request had events of unknown kinds, which are ignored."""
    if kinds := sorted({repr(each)[:100] for each in names}):
        logger.warning(
            "%s sent events of unknown kinds, which are ignored: %s%s",
            source,
            ", ".join(kinds[:MAX_SHOWN]),
            ", …" if len(kinds) > MAX_SHOWN else "",
        )
