"""One guarded, pooled `requests` transport: POSTs a body to a hook URL and returns an `Outcome`.

Guarded means: only addresses that the `AddressPolicy` lets through are connected to; one deadline bounds the
whole POST; redirects, proxies, netrc and cookies are ignored; at most 16 KiB of an answer's body are read,
and nothing is ever decompressed.

A connection kept alive may be closed by the receiver just as a POST is sent on it. Nobody can tell whether
that POST was carried out, so it is not sent again here (RFC 9110 section 9.2.2; `urllib3` does the same): it
is a failed attempt, and its retry carries the same delivery id. Connections closed earlier, or long idle, are
replaced before use.
"""

from __future__ import annotations

import functools
import os.path
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from .addresses import AddressPolicy, ForbiddenAddress, Network
from .causes import no_answer, no_end
from .connections import Call, Pool, Rules, TLSPool, TLSSocket, begin

BODY_LIMIT = 16 * 1024  # bytes of an answer's body that are read and kept
HEADERS_LIMIT = 16 * 1024  # characters of an answer's headers that are kept
DESTINATIONS = 256  # destinations whose connections are kept: processes may often open 1,024 files only

_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one POST; nothing in it holds the URL's path or query."""

    started_at: datetime  # aware, UTC
    duration_ms: int
    status_code: int | None = None  # None: no HTTP answer
    error: str = ""  # why there was no answer, or how its body broke off
    blocked: bool = False  # the address is forbidden: nothing was sent
    connect_ms: int | None = None  # name look-up, connect and TLS; None on a connection kept alive
    wait_ms: int | None = None  # from the request sent to the answer's headers read
    response_headers: tuple[tuple[str, str], ...] = ()  # Latin-1, no control characters, at most 16 KiB
    response_body: bytes = b""  # as sent, never decompressed, at most 16 KiB
    truncated: bool = False  # more of the body followed; the connection was closed instead


class Transport:
    """Sends POSTs over connections that are kept alive for each destination; one serves all threads.

    `allowed_networks` may be connected to beside public addresses. `ca_bundle`, a file or folder of
    certificates, takes the place of certifi's. `connect_timeout_s` bounds the TCP connect over all addresses
    of a name together, `deadline_s` the whole POST: look-up, connect, TLS, sending, and reading the answer.
    `pool_size` is how many connections each destination keeps. Raises `OSError` where the `ca_bundle` cannot
    be read.
    """

    def __init__(
        self,
        *,
        allowed_networks: Iterable[Network] = (),
        ca_bundle: str | None = None,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 15.0,
        pool_size: int = 64,
    ) -> None:
        self._rules = Rules(AddressPolicy(tuple(allowed_networks)), connect_timeout_s, deadline_s)
        self._adapter = _Adapter(_tls_context(ca_bundle), pool_size)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """POST a body and return what came of it: faults of network, receiver, URL and headers too.

        A status line that arrived decides: where the body breaks off, or is not over by the deadline,
        `status_code` stays and `error` says so. Of `headers`, Host, Content-Length, Transfer-Encoding and
        Connection are left out: they are the transport's own. User and password of the URL become Basic
        authorization.
        """
        started_at = datetime.now(timezone.utc)
        call = begin(self._rules)
        try:
            answer = self._adapter.send(_Post(url, body, headers), stream=True).raw
        except ForbiddenAddress as forbidden:
            return Outcome(started_at, call.elapsed_ms(), error=str(forbidden), blocked=True)
        except Exception as fault:  # whatever a receiver sends must not break the caller
            error = no_answer(fault, call)
            return Outcome(started_at, call.elapsed_ms(), error=error, connect_ms=call.connect_ms)
        response_body, truncated, error = _read_body(answer, call)
        return Outcome(
            started_at,
            call.elapsed_ms(),
            answer.status,
            error,
            connect_ms=call.connect_ms,
            wait_ms=call.wait_ms,
            response_headers=_stored(answer.headers),
            response_body=response_body,
            truncated=truncated,
        )

    def close(self) -> None:
        """Close the idle connections; those in use close when their POST ends."""
        self._adapter.close()


def _read_body(answer: urllib3.HTTPResponse, call: Call) -> tuple[bytes, bool, str]:
    """Return the body, whether more of it followed, and how it broke off; keep the connection or close it."""
    body = bytearray()
    error = ""
    try:
        while not answer.closed and len(body) <= BODY_LIMIT:
            body += answer.read1(BODY_LIMIT + 1 - len(body), decode_content=False)
    except Exception as fault:
        error = no_end(fault, call)
    if not answer.closed:
        answer.close()
    return bytes(body[:BODY_LIMIT]), len(body) > BODY_LIMIT, error


def _stored(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return an answer's headers as text that any database takes, up to the limit."""
    stored = []
    left = HEADERS_LIMIT
    for name, value in headers.items():
        name = _CONTROL.sub(" ", name)[:left]
        value = _CONTROL.sub(" ", value)[: left - len(name)]
        stored.append((name, value))
        left -= len(name) + len(value)
        if left <= 0:
            break
    return tuple(stored)


class _Target(NamedTuple):
    """What a hook URL says, prepared once."""

    url: str
    path: str
    origin: tuple[str, int, str]  # host, port, scheme
    headers: dict[str, str]


@functools.lru_cache(maxsize=4096)
def _target(url: str) -> _Target:
    """Return the target; raises `ValueError` where the URL is not one of http or https with a host."""
    prepared = requests.Request("POST", url).prepare()
    parts = urlsplit(str(prepared.url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    authorization = prepared.headers.get("Authorization")
    headers = {"Authorization": str(authorization)} if authorization else {}
    return _Target(parts.geturl(), prepared.path_url, (parts.hostname, port, parts.scheme), headers)


class _Post(requests.PreparedRequest):
    """A request filled by hand: `prepare` would take as long as all the rest."""

    def __init__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.target = target = _target(url)
        self.method, self.url, self.body = "POST", target.url, body
        given = {name.lower() for name in headers}
        sent = {name: value for name, value in target.headers.items() if name.lower() not in given}
        sent.update(item for item in headers.items() if item[0].lower() not in _OWN_HEADERS)
        sent["Content-Length"] = str(len(body))
        self.headers = sent  # type: ignore[assignment]


class _Response(requests.Response):
    """The answer as it came: neither cookies nor an encoding are read from it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw


class _Adapter(HTTPAdapter):
    """Sends over guarded connections; pools and TLS settings are looked up once, not for every request."""

    def __init__(self, context: ssl.SSLContext, pool_size: int) -> None:
        self._context = context
        super().__init__(pool_connections=DESTINATIONS, pool_maxsize=pool_size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TLSPool}
        self._pool_of = functools.lru_cache(connections)(self.poolmanager.connection_from_host)

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> Any:
        return self._pool_of(*request.target.origin)

    def cert_verify(self, *_: Any) -> None:
        """The TLS context verifies, and was set up once."""

    def request_url(self, request: Any, proxies: Any) -> str:
        return str(request.target.path)

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        return _Response(resp)

    def close(self) -> None:
        self._pool_of.cache_clear()
        super().close()


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = TLSSocket
    bundle = ca_bundle or DEFAULT_CA_BUNDLE_PATH
    folder = os.path.isdir(bundle)
    context.load_verify_locations(cafile=None if folder else bundle, capath=bundle if folder else None)
    return context
