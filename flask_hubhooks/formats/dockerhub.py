"""The payload that Docker Hub documents: these keys, in this order, with these types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from ..registry import Repository

_DEFAULTS = Repository().snapshot()


def make_callback_url(external_url: str, repository: str, token: str) -> str:
    return f"{external_url}/u/{quote(repository)}/hook/{token}/"


def payload(
    *,
    external_url: str,
    callback_url: str,
    repository: str,
    tag: str,
    pusher: str,
    pushed_at: datetime,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the payload of a push; `details` is a `Repository.snapshot()`.

    Times are whole epoch seconds, because receivers written in Go refuse fractions. A repository name without a slash
    is in the namespace `library`; of a name with several slashes, only the last part is `name`. A key that `details`
    lacks, because the push was recorded by an older version, has its default.
    """
    details = {**_DEFAULTS, **details}
    namespace, _, name = repository.rpartition("/")
    namespace = namespace or "library"
    return {
        "callback_url": callback_url,
        "push_data": {"pushed_at": int(pushed_at.timestamp()), "pusher": pusher, "tag": tag},
        "repository": {
            "comment_count": details["comment_count"],
            "date_created": details["date_created"],
            "description": details["description"],
            "dockerfile": details["dockerfile"],
            "full_description": details["full_description"],
            "is_official": details["is_official"],
            "is_private": details["is_private"],
            "is_trusted": details["is_trusted"],
            "name": name,
            "namespace": namespace,
            "owner": details["owner"] or namespace,
            "repo_name": repository,
            "repo_url": details["repo_url"] or f"{external_url}/r/{quote(repository)}/",
            "star_count": details["star_count"],
            "status": details["status"],
        },
    }


def body(content: Mapping[str, Any]) -> bytes:
    """Encode a payload as compact UTF-8 JSON."""
    return orjson.dumps(content)
