"""Red Hat Quay."""

from __future__ import annotations

from collections.abc import Mapping

from ..registry import ImagePush
from .events import BadEvent, is_tag, json_object, text_at, warn_of_unknown


def pushes(headers: Mapping[str, str], body: bytes) -> list[ImagePush]:
    """Read an event, which may name several tags.

    It has neither an id nor a digest. Any id made of the rest would swallow real pushes, which is worse than a repeat.
    """
    content = json_object(body)
    repository, tags = text_at(content, "repository"), content.get("updated_tags")
    if not repository:
        raise BadEvent("The body is not an event of Quay: it has no repository.")
    if not isinstance(tags, list):
        warn_of_unknown("quay", ["an event without updated_tags"])
        return []
    return [ImagePush(repository, tag) for tag in tags if isinstance(tag, str) and is_tag(tag)]
