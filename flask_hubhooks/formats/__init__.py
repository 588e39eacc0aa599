"""Writes a push as the request body that a receiver expects: one pure function for each payload format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import chat, cloudevents, distribution, dockerhub, dockerhub_full, harbor
from .push import Push
from .template import BadTemplate, BodyTooLarge, Template, cached_template

__all__ = [
    "DEFAULT_FORMAT",
    "FORMATS",
    "PAYLOAD_FORMATS",
    "BadTemplate",
    "BodyTooLarge",
    "Format",
    "Push",
    "Template",
    "format_of",
    "has_callback",
    "has_digest",
]


@dataclass(frozen=True)
class Format:
    """How a push is written for a receiver."""

    name: str
    body: Callable[[Push], bytes]
    content_type: str = "application/json"
    has_callback: bool = True
    """Whether the body has the callback URL; without it nobody can call back."""
    has_digest: bool = False
    """Whether the body has the digest; an older push that arrives late could then roll a deployment back."""


def _json(payload: Callable[[Push], Mapping[str, Any]]) -> Callable[[Push], bytes]:
    return lambda push: dockerhub.body(payload(push))


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("dockerhub", _json(dockerhub_full.documented)),
        Format("dockerhub-full", _json(dockerhub_full.payload), has_digest=True),
        Format("harbor", _json(harbor.payload), has_digest=True),
        Format(
            "distribution", _json(distribution.payload), distribution.CONTENT_TYPE, has_callback=False, has_digest=True
        ),
        Format("cloudevents", _json(cloudevents.payload), cloudevents.CONTENT_TYPE, has_digest=True),
        Format("slack", _json(chat.slack), has_callback=False),
        Format("discord", _json(chat.discord), has_callback=False),
        Format("teams", _json(chat.teams), has_callback=False),
    )
}
"""All payload formats but `template`."""

PAYLOAD_FORMATS = (*FORMATS, "template")
DEFAULT_FORMAT = "dockerhub"


def format_of(payload_format: str, template: str = "") -> Format:
    """Return a hook's format; for `template`, of that template. Raises `BadTemplate`."""
    if payload_format != "template":
        return FORMATS[payload_format]
    owned = cached_template(template)
    return Format("template", owned.body, has_callback=owned.has_callback)


def has_callback(payload_format: str, template: str | None) -> bool:
    """Whether the bodies of a stored format carry a callback URL; False if only another version can write them."""
    try:
        return format_of(payload_format, template or "").has_callback
    except (BadTemplate, KeyError):
        return False


def has_digest(payload_format: str) -> bool:
    """Whether the bodies of a stored format carry the digest; False if only another version can write them."""
    return payload_format in FORMATS and FORMATS[payload_format].has_digest
