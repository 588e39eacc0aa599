"""Headers of a webhook's requests: those that its owner sets, such as Authorization, and ours."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress

from ..version import VERSION

USER_AGENT = f"flask_hubhooks/{VERSION}"
HEADERS_LIMIT = 20
NAME_LIMIT, VALUE_LIMIT = 100, 4096
"""Characters of a header's name and of its value."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # visible ASCII: anything else could split a line
_OURS = frozenset({"content-type", "content-length", "content-encoding", "host", "x-signature", "traceparent"})
_THE_CONNECTIONS = frozenset(  # RFC 9110 section 7.6.1, and headers that change how a receiver answers
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "accept-encoding"}
)
_RESERVED_STARTS = ("webhook-", "x-hub-", "proxy-")


class BadHeader(ValueError):
    """A header that may not be sent; the text says why."""


def check_name(name: str) -> None:
    """Check that owners may set a header; raises `BadHeader`."""
    lower = name.lower().replace("_", "-")  # CGI and WSGI confuse them
    if len(name) > NAME_LIMIT or not _TOKEN.fullmatch(name):
        raise BadHeader(f"Must be a header's name of at most {NAME_LIMIT} characters.")
    ours = lower in _OURS | _THE_CONNECTIONS or lower.startswith(_RESERVED_STARTS)
    if ours or name.lower() == "user_agent":  # `User-Agent` replaces ours, and this would be sent beside it
        raise BadHeader("This header is set by the registry itself.")


def check_value(value: str) -> None:
    """Check that a value is printable ASCII on one line; raises `BadHeader`."""
    if len(value) > VALUE_LIMIT or not _VALUE.fullmatch(value):
        raise BadHeader(f"Must be 1 to {VALUE_LIMIT} characters of printable ASCII, without spaces around them.")


def ours(own: Mapping[str, str], content_type: str, signatures: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that we add to an owner's own, which may replace our `Accept` and `User-Agent`."""
    replaceable = {"Accept": "*/*", "User-Agent": USER_AGENT}
    if own:
        named = {name.lower() for name in own}
        replaceable = {name: value for name, value in replaceable.items() if name.lower() not in named}
    return {**replaceable, "Content-Type": content_type, **signatures}


def as_text(headers: Mapping[str, str]) -> str:
    """The text of headers, to be encrypted and stored."""
    return json.dumps(headers)


def basic(credentials: str) -> str:
    """The value of an Authorization header for `user:password` (RFC 7617)."""
    return f"Basic {b64encode(credentials.encode()).decode()}"


def secrets(headers: Mapping[str, str]) -> list[str]:
    """The values to mask in responses, the credentials behind a scheme such as Bearer, and those that Basic encodes."""
    found = list(headers.values())
    for value in headers.values():
        scheme, _, credentials = value.partition(" ")
        found.append(credentials)
        if scheme.lower() == "basic":
            with suppress(ValueError):
                pair = b64decode(credentials).decode()
                found += [pair, pair.partition(":")[2]]
    return found


def of_text(text: str) -> dict[str, str]:
    return dict(json.loads(text)) if text else {}
