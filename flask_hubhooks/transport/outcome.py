"""What is sent, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

BODY_LIMIT = 16 * 1024
"""Bytes of an answer's body that are read and kept."""
HEADERS_LIMIT = 16 * 1024
"""Characters of an answer's headers that are kept."""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    """Without those that the transport sets itself, which it leaves out: Host, Content-Length, Transfer-Encoding,
    Connection and Proxy-Authorization."""
    repository: str = ""
    """Whose request it is: no repository may use up the threads that look names up."""


class Concern(Enum):
    """Whose fault a failed attempt is."""

    HOOK = "hook"
    """What the path answered, or a reset or silence after the request was sent."""
    HOST = "host"
    """The look-up of its name failed; it refused, could not be reached or did not accept the connection in time; or TLS
    failed."""
    NOBODY = "nobody"
    """The operator forbids it, it waited in our own line for a look-up, the proxy failed, or we lack files, ports or
    memory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one POST; nothing in it holds the URL's path or query."""

    started_at: datetime  # aware, UTC
    duration_ms: int
    status_code: int | None = None  # None: no HTTP answer
    error: str = ""  # why there was no answer, or how its body broke off
    blocked: bool = False  # the operator's rules are against it: nothing was sent
    connect_ms: int | None = None  # name look-up, connect and TLS; None on a connection kept alive
    wait_ms: int | None = None  # from the request sent to the answer's headers read
    response_headers: tuple[tuple[str, str], ...] = ()  # Latin-1, no control characters, at most 16 KiB
    response_body: bytes = b""  # as sent, never decompressed, at most 16 KiB
    truncated: bool = False  # more of the body followed; the connection was closed instead
    concern: Concern = Concern.HOOK  # whose fault it is where it failed
    connected: bool = False  # a connection to the host was made, or one was kept alive, whatever came then
