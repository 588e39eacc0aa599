"""The values that payload formats, templates and hook URLs are filled with."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

PLACEHOLDERS = ("image", "registry", "repository", "tag", "digest", "pusher", "pushed_at", "callback_url")
"""The names that templates use in braces; hook URLs have all but `callback_url`."""


@dataclass(frozen=True)
class Push:
    """A push as one delivery sends it; unknown text is empty."""

    delivery_id: uuid.UUID
    repository: str
    tag: str
    pusher: str
    pushed_at: datetime
    """An aware datetime."""
    details: Mapping[str, Any]
    """A `Repository.snapshot()`; one that an older version stored may lack keys."""
    registry_host: str
    """What users write before an image's name: `registry.example.com`, or with its port."""
    external_url: str
    """Without a trailing slash."""
    callback_url: str
    digest: str = ""
    media_type: str = ""
    images: tuple[str, ...] = ()
    """The digests of an index's images; empty for a single image."""

    @property
    def image(self) -> str:
        """The image's name as users write it, without the tag."""
        return f"{self.registry_host}/{self.repository}"

    @property
    def time(self) -> str:
        """The time of the push: RFC 3339 in UTC, to the second."""
        return self.pushed_at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"

    @property
    def timestamp(self) -> int:
        """The time of the push in whole epoch seconds: receivers written in Go refuse fractions."""
        return int(self.pushed_at.timestamp())

    @property
    def page(self) -> str:
        """The URL of the repository's page."""
        return self.details.get("repo_url") or f"{self.external_url}/r/{quote(self.repository)}/"

    def placeholders(self) -> dict[str, str]:
        """Return the value of each placeholder; `{image}:{tag}` is a complete reference."""
        values = (self.image, self.registry_host, self.repository, self.tag, self.digest, self.pusher, self.time)
        return dict(zip(PLACEHOLDERS, (*values, self.callback_url), strict=True))
