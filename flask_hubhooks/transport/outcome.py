"""The request that a transport sends, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from .tls import DEFAULT_TLS, TLS, Certificate

MAX_STORED_BODY = 16 * 1024
"""Bytes of a response body that are read and kept."""
MAX_STORED_HEADERS = 16 * 1024
"""Characters of a response's headers that are kept."""


class Request(NamedTuple):
    """One request."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    """The transport sets Host, Content-Length, Transfer-Encoding, Connection and Proxy-Authorization itself, and
    ignores them here."""
    repository: str = ""
    """The repository or namespace it is sent for: none may use up the threads that resolve names."""
    tls: TLS = DEFAULT_TLS
    """How the receiver's certificate is verified; it does not concern a proxy's."""
    deadline_s: float = 15.0
    """It bounds the whole exchange: resolving, connecting, sending, and reading the response."""
    method: str = "POST"
    """POST, or GET or HEAD, which have no body."""
    trusted: bool = False
    """The operator chose where it goes: it may go to any address, and not through the proxy."""


class Concern(Enum):
    """Whose fault a failed attempt is."""

    HOOK = "hook"
    """The hook's: a bad response, a reset or silence after the request was sent, or TLS under its own settings."""
    HOST = "host"
    """The host's: its name could not be resolved, it could not be connected to in time, or TLS failed."""
    NOBODY = "nobody"
    """Neither's: the operator forbids it, it waited too long in our own queue for a lookup, the proxy failed, or we ran
    out of files, ports or memory."""


class Outcome(NamedTuple):
    """The outcome of one request; nothing in it contains the URL's path or query."""

    started_at: datetime  # aware, UTC
    duration_ms: int
    status_code: int | None = None  # None: there was no HTTP response
    error: str = ""  # why there was no response, or how its body broke off
    blocked: bool = False  # forbidden by the operator's rules: nothing was sent
    connect_ms: int | None = None  # lookup, connect and TLS; None on a kept connection
    wait_ms: int | None = None  # from sending the request to the end of the response's headers
    response_headers: tuple[tuple[str, str], ...] = ()  # Latin-1, no control characters, at most 16 KiB
    response_body: bytes = b""  # as sent, never decompressed, at most 16 KiB
    truncated: bool = False  # the body was longer; the connection was closed
    concern: Concern = Concern.HOOK  # whose fault a failure is
    connected: bool = False  # the host was reached, over a new or a kept connection, whatever happened then
    costly: bool = False  # the response was not read to its end, since it took too much work
    certificate: Certificate | None = None  # the receiver's, if it was refused
