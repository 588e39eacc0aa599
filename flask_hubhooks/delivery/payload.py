"""The payload as Docker Hub documented it: these keys, in this order, with these types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from .transport import Outcome

MASKED_TOKEN = "***"  # noqa: S105 - what stands where a token was


def callback_url(external_url: str, repository: str, token: str) -> str:
    return f"{external_url}/u/{repository}/hook/{token}/"


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
    the namespace `library`; of more than two parts the last is the name.
    """
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
            "repo_url": details["repo_url"] or f"{external_url}/r/{repository}/",
            "star_count": details["star_count"],
            "status": details["status"],
        },
    }


def body(content: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON, text of any script as it is."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def masked(outcome: Outcome, token: str) -> Outcome:
    """The outcome without the callback token, where the receiver has echoed it: the history must not show it."""
    return replace(
        outcome,
        response_headers=tuple((name, value.replace(token, MASKED_TOKEN)) for name, value in outcome.response_headers),
        response_body=outcome.response_body.replace(token.encode(), MASKED_TOKEN.encode()),
    )
