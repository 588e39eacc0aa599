"""The payload as Docker Hub documented it: these keys, in this order, with these types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ..registry import Repository

_DEFAULTS = Repository().snapshot()


def callback_url(external_url: str, repository: str, token: str) -> str:
    return f"{external_url}/u/{quote(repository)}/hook/{token}/"


def payload(
    *,
    external_url: str,
    token: str,
    repository: str,
    tag: str,
    pusher: str,
    pushed_at: datetime,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """What a receiver gets; `details` is a `Repository.snapshot()`, `token` goes into the `callback_url`.

    Times are whole epoch seconds: receivers written in Go refuse fractions. A repository of one part is in
    the namespace `library`; of more than two parts the last is the name. Details that are not in a snapshot, since an
    earlier version recorded it, have their defaults.
    """
    details = {**_DEFAULTS, **details}
    namespace, _, name = repository.rpartition("/")
    namespace = namespace or "library"
    return {
        "callback_url": callback_url(external_url, repository, token),
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


_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def body(content: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON, text of any script as it is."""
    return _encoded(content).encode()
