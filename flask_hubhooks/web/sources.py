"""Takes events of registries at `/hubhooks/sources/<source>/`.

CNCF Distribution sends one event after the other and repeats each that is not answered with 2xx or 3xx for ever. So a
request gets an error only if that helps: its token is wrong, it cannot be read at all, or it could not be recorded.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from flask import request

from ..outages import explained
from ..outbox import accept_from_source
from ..registry import ImagePush, InvalidName, check_push
from ..sources import SOURCES, BadEvent
from ..state import current_state
from .documents import EventsTakenDocument
from .endpoints import Endpoint, read_body
from .problems import Problem
from .schemas import EventsSchema

logger = logging.getLogger(__name__)

MAX_EVENT_BYTES = 1024 * 1024


@dataclass(frozen=True)
class EventsTaken:
    pushes: int
    recorded: int


@Endpoint(
    "POST",
    "/hubhooks/sources/<source>/",
    summary="Take events of a registry; any Content-Type is accepted",
    tag="sources",
    security="source",
    body=EventsSchema(),
    max_body_bytes=MAX_EVENT_BYTES,
    returns=EventsTakenDocument(),
    status=202,
    problems=(401, 404, 503),
)
def take_events(source: str) -> EventsTaken:
    """Record the pushes in a request before it is answered, in a transaction of our own."""
    state = current_state()
    token = dict(state.config.source_tokens).get(source, "")
    if not token:
        raise Problem(404, "This source is not on. HUBHOOKS_SOURCE_TOKENS has no token for it.")
    shown = [hmac.compare_digest(each, token.encode()) for each in _credentials(source)]
    if not any(shown) and not _signed(source, token):
        raise Problem(
            401, "The source's token is missing or wrong. Send it as Authorization: Bearer …", headers=_CHALLENGE
        )
    body = read_body(MAX_EVENT_BYTES)
    read = SOURCES.get(source) or state.handlers.sources[source]
    try:
        reported = list(read({name.lower(): value for name, value in request.headers}, body))
        pushes = [push for push in reported if _possible(source, push)]
        return EventsTaken(len(pushes), accept_from_source(state, source, pushes))
    except BadEvent as bad:
        raise Problem(400, str(bad)) from None
    except Exception as error:
        logger.exception("events of %s are answered with 503: %s", source, explained(error))
        raise Problem(503, "The events could not be recorded. Send them again.", headers={"Retry-After": "5"}) from None


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="hubhooks"'}


def _credentials(source: str) -> Iterator[bytes]:
    """What the request shows as its token, in each form that a registry can send it."""
    given = request.headers.get("Authorization", "").encode("latin-1", "replace")
    yield given
    scheme, _, credential = given.partition(b" ")
    if scheme.lower() == b"bearer":
        yield credential.strip()
    elif scheme.lower() == b"basic":
        with suppress(ValueError):
            yield b64decode(credential).partition(b":")[2]
    if source == "quay":  # which can send nothing else
        with suppress(UnicodeDecodeError):
            yield request.args.get("token", "").encode("utf-8", "replace")


def _signed(source: str, token: str) -> bool:
    """Whether the request is signed with the token, as Gitea's are, which then does not send it."""
    given = request.headers.get("X-Gitea-Signature", "").encode("latin-1", "replace")
    if source != "gitea" or not given:
        return False
    signature = hmac.new(token.encode(), read_body(MAX_EVENT_BYTES), hashlib.sha256).hexdigest()
    return hmac.compare_digest(given.lower(), signature.encode())


def _possible(source: str, push: ImagePush) -> bool:
    """Whether there can be such a repository and tag. Otherwise sending it again would not help."""
    try:
        check_push(push)
    except InvalidName as error:
        logger.warning("a push of %.300r:%.300r from %s is ignored: %s", push.repository, push.tag, source, error)
        return False
    return True
