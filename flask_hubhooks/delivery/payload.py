"""The payload as Docker Hub documented it: these keys, in this order, with these types."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import quote, quote_plus

from .signing import SECRET_PREFIX
from .transport import Outcome

MASKED_TOKEN = "***"  # noqa: S105 - what stands where a token was

SECRET_LEAST = 8

_TOKEN = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[A-Za-z0-9_-]{1,43}")  # also one that the body's limit has cut off
_TOKEN_BYTES = re.compile(_TOKEN.pattern.encode())


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
            "repo_url": details["repo_url"] or f"{external_url}/r/{quote(repository)}/",
            "star_count": details["star_count"],
            "status": details["status"],
        },
    }


def body(content: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON, text of any script as it is."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def masked(outcome: Outcome, secrets: Iterable[str] = ()) -> Outcome:
    """The outcome without callback tokens and secrets, where the receiver has echoed them.

    The history must not show them. Secrets of less than 8 characters stay: they would take ordinary words along.
    """
    hidden = _spellings_of(tuple(secrets))
    told = "\n".join(chain.from_iterable(outcome.response_headers))
    body = without_tokens(outcome.response_body)
    for secret in hidden:
        body = body.replace(secret.encode(), MASKED_TOKEN.encode())
        if outcome.truncated:
            body = _without_beginning(body, secret.encode())
    if _without(told, hidden) == told and body == outcome.response_body:
        return outcome  # as most are: to look at each header by itself takes long
    headers = tuple((_without(name, hidden), _without(value, hidden)) for name, value in outcome.response_headers)
    return replace(outcome, response_headers=headers, response_body=body)


@lru_cache(maxsize=4096)
def _spellings_of(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """All that is looked for, the longest first: one may be part of another."""
    spelled = {spelling for secret in secrets if len(secret) >= SECRET_LEAST for spelling in _spellings(secret)}
    return tuple(sorted(spelled, key=len, reverse=True))


def _spellings(secret: str) -> frozenset[str]:
    """The ways in which a receiver may tell it back: as it is, in JSON, in HTML, in a URL."""
    bare = secret.removeprefix(SECRET_PREFIX)
    return frozenset([bare, json.dumps(bare)[1:-1], html.escape(bare), quote(bare, safe=""), quote_plus(bare)])


def _without_beginning(body: bytes, secret: bytes) -> bytes:
    """A body that was cut off without the beginning of the secret that it ends with."""
    for length in range(len(secret) - 1, SECRET_LEAST - 1, -1):
        if body.endswith(secret[:length]):
            return body[:-length] + MASKED_TOKEN.encode()
    return body


def _without(text: str, hidden: Iterable[str]) -> str:
    text = _TOKEN.sub(MASKED_TOKEN, text)
    for secret in hidden:
        text = text.replace(secret, MASKED_TOKEN)
    return text


def without_tokens(content: bytes) -> bytes:
    """What a receiver said, without the callback tokens of this and of any other delivery."""
    return _TOKEN_BYTES.sub(MASKED_TOKEN.encode(), content)
