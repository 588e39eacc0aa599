"""Gitea and Forgejo, whose package registries hold images, too."""

from __future__ import annotations

from collections.abc import Mapping

from ..registry import ImagePush
from .events import BadEvent, is_tag, json_object, text_at, warn_of_unknown


def pushes(headers: Mapping[str, str], body: bytes) -> list[ImagePush]:
    """Read an event. Of all events of a forge, only those of packages that are images can be pushes."""
    event = headers.get("x-gitea-event") or headers.get("x-forgejo-event")
    if not event:
        raise BadEvent("The request has neither a header X-Gitea-Event nor X-Forgejo-Event.")
    content = json_object(body)
    if event != "package" or text_at(content, "package", "type") != "container":
        return []
    action, tag = text_at(content, "action"), text_at(content, "package", "version")
    warn_of_unknown("gitea", {f"package {action}"} - {"package created", "package deleted"})
    if action != "created" or not is_tag(tag):
        return []
    owner, name = text_at(content, "package", "owner", "login"), text_at(content, "package", "name")
    if not owner or not name:
        raise BadEvent("The package has no name, or no owner with a login.")
    return [
        ImagePush(
            repository=f"{owner}/{name}".lower(),
            tag=tag,
            pusher=text_at(content, "sender", "login"),
            event_id=headers.get("x-gitea-delivery") or headers.get("x-forgejo-delivery") or None,
        )
    ]
