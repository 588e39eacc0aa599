"""One guarded, pooled `requests` transport: POSTs a body to a hook URL and returns an `Outcome`.

Guarded means: only what the `Egress` lets through is connected to; one deadline bounds the whole POST; redirects,
netrc, cookies and the proxies of the environment are ignored; at most 16 KiB of an answer's body are read, and
nothing is ever decompressed.

A connection kept alive may be closed by the receiver just as a POST is sent on it. Nobody can tell whether
that POST was carried out, so it is not sent again here (RFC 9110 section 9.2.2; `urllib3` does the same): it
is a failed attempt, and its retry carries the same delivery id. Connections closed earlier, or long idle, are
replaced before use.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

import requests
import urllib3
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from ..hook_url import Target, destination
from .addresses import Forbidden
from .causes import no_answer, no_end
from .connections import Call, Pool, Rules, TLSPool, TLSSocket, begin, proxy_refusal
from .egress import Egress

BODY_LIMIT = 16 * 1024  # bytes of an answer's body that are read and kept
HEADERS_LIMIT = 16 * 1024  # characters of an answer's headers that are kept
DESTINATIONS = 256  # destinations whose connections are kept: processes may often open 1,024 files only

_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "proxy-authorization"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


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


class Transport:
    """Sends POSTs over connections that are kept alive for each destination; one serves all threads.

    `egress` is where they may go. `ca_bundle`, a file of certificates, takes the place of certifi's;
    `client_certificate`, files of a certificate and its key, is what receivers that ask for one are shown.
    `connect_timeout_s` bounds the TCP connect over all addresses of a name together, `deadline_s` the whole POST:
    look-up, connect, TLS, sending, and reading the answer. `pool_size` is how many connections each destination
    keeps. Raises `OSError` where a file cannot be read.

    `proxy` is the URL of an http(s) proxy, with user and password where it wants them: https goes through CONNECT,
    http with an absolute URI (RFC 9112 section 3.2.2). It looks names up itself, so it is the proxy that must refuse
    private addresses behind them; all else of `egress` holds as before.
    """

    def __init__(
        self,
        egress: Egress | None = None,
        *,
        ca_bundle: str | None = None,
        client_certificate: tuple[str, str] | None = None,
        proxy: str | None = None,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 15.0,
        pool_size: int = 64,
    ) -> None:
        through = _Proxy(proxy) if proxy else None
        address = (through.host, through.port) if through else None
        self._rules = Rules(egress or Egress(), connect_timeout_s, deadline_s, address)
        self._target = self._rules.egress.target
        self._adapter = _Adapter(_TLS(ca_bundle, client_certificate), through, pool_size)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """POST a body and return what came of it: faults of network, receiver, URL and headers too.

        A status line that arrived decides: where the body breaks off, or is not over by the deadline,
        `status_code` stays and `error` says so. Of `headers`, Host, Content-Length, Transfer-Encoding, Connection
        and Proxy-Authorization are left out: they are the transport's own.
        """
        started_at = datetime.now(timezone.utc)
        call = begin(self._rules)
        try:
            call.target = target = self._target(url)
            answer = self._adapter.send(_Post(target, body, headers), stream=True).raw
        except Forbidden as forbidden:
            return Outcome(started_at, call.elapsed_ms(), error=str(forbidden), blocked=True)
        except Exception as fault:  # whatever a receiver sends must not break the caller
            error = no_answer(fault, call)
            return Outcome(started_at, call.elapsed_ms(), error=error, connect_ms=call.connect_ms)
        response_body, truncated, error = _read_body(answer, call)
        if answer.status == 407 and self._rules.proxy and target.scheme == "http":  # by its nature the proxy's own
            return Outcome(started_at, call.elapsed_ms(), error=proxy_refusal(407), connect_ms=call.connect_ms)
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


class _Post(requests.PreparedRequest):
    """A request filled by hand: `prepare` would take as long as all the rest."""

    def __init__(self, target: Target, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.target = target
        self.method, self.url, self.body = "POST", target.url, body
        sent = {name: value for name, value in headers.items() if name.lower() not in _OWN_HEADERS}
        sent["Content-Length"] = str(len(body))
        self.headers = sent  # type: ignore[assignment]


class _Proxy:
    """A proxy's URL, taken apart: what of it is secret is in `headers` alone."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.scheme = parts.scheme
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.headers = _proxy_authorization(parts)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _proxy_authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return dict(urllib3.make_headers(proxy_basic_auth=pair.encode().decode("latin-1")))  # UTF-8 (RFC 7617 section 2.1)


class _Response(requests.Response):
    """The answer as it came: neither cookies nor an encoding are read from it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw


class _TLS:
    """The settings for receivers, and those for a proxy, which is not shown the client certificate."""

    def __init__(self, ca_bundle: str | None, client_certificate: tuple[str, str] | None) -> None:
        self.receivers, self.proxy = _tls_context(ca_bundle), _tls_context(ca_bundle)
        if client_certificate:
            self.receivers.load_cert_chain(*client_certificate)


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = TLSSocket
    context.load_verify_locations(ca_bundle or DEFAULT_CA_BUNDLE_PATH)
    return context


def _make_pool(
    manager: urllib3.PoolManager, contexts: Mapping[str, ssl.SSLContext], host: str, port: int, scheme: str
) -> urllib3.HTTPConnectionPool:
    bracketed = f"[{host}]" if ":" in host else host
    return manager.connection_from_host(bracketed, port, scheme, pool_kwargs={"ssl_context": contexts[scheme]})


class _Adapter(HTTPAdapter):
    """Sends over guarded connections; pools and TLS settings are looked up once, not for every request."""

    def __init__(self, tls: _TLS, proxy: _Proxy | None, pool_size: int) -> None:
        self._tls = tls
        self._proxy = proxy
        super().__init__(pool_connections=DESTINATIONS, pool_maxsize=pool_size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        kept = {"num_pools": connections, "maxsize": maxsize, "block": block, **options}
        self.poolmanager = self._through_proxy(kept) if self._proxy else urllib3.PoolManager(**kept)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TLSPool}
        # An http URL takes TLS to an https proxy, if at all. No method of ours here: in a circle, sockets end unclosed.
        contexts = {"http": self._tls.proxy if self._proxy else self._tls.receivers, "https": self._tls.receivers}
        self._pool_of = functools.lru_cache(connections)(functools.partial(_make_pool, self.poolmanager, contexts))

    def _through_proxy(self, options: dict[str, Any]) -> urllib3.ProxyManager:
        proxy = cast(_Proxy, self._proxy)
        return urllib3.ProxyManager(
            proxy.url, proxy_headers=proxy.headers, proxy_ssl_context=self._tls.proxy, **options
        )

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> Any:
        target: Target = request.target
        return self._pool_of(target.host, target.port, target.scheme)

    def cert_verify(self, *_: Any) -> None:
        """The TLS contexts verify, and were set up once."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return what urllib3 is to know of the URL: it logs this, and paths and queries may be secret."""
        target: Target = request.target
        return f"{destination(target.url)}/" if self._proxy and target.scheme == "http" else "/"

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        return _Response(resp)

    def close(self) -> None:
        self._pool_of.cache_clear()
        super().close()
