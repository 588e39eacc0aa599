"""One request and its response, as libcurl sees them.

An exchange belongs to a libcurl handle. `make_handle` sets the options that never change, and `Exchange.prepare` those
of the request. Then libcurl calls the exchange back, in this order:

1. `on_socket` opens a socket for each address that is tried, unless it is forbidden. Skipped on a kept connection.
2. `on_ready`: the connection stands, with TLS and the proxy's tunnel. The request may be sent, once.
3. `on_header` for each line: first the proxy's response to CONNECT, then any 1xx responses, the status line, the
   headers and, after the body, the trailers.
4. `on_body` for each piece of the body.

If the exchange is slow, `on_progress` is called in between, and may end it. When libcurl has ended it,
`Exchange.outcome` turns libcurl's result code, and what the callbacks have noted, into an `Outcome`.

Two times show how far an exchange has come: `ready_at` is 0 until the request may be sent, and `headers_at` is 0 until
the headers of the final response are complete.
"""

from __future__ import annotations

import os
import re
import select
import socket
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from time import monotonic, thread_time
from typing import Any
from urllib.parse import unquote, urlsplit

import pycurl

from . import causes
from .certificate_files import WatchedFiles
from .egress import Egress, Forbidden, patterns_of
from .hook_url import Target
from .outcome import MAX_STORED_BODY, MAX_STORED_HEADERS, Concern, Outcome, Request
from .resolver import Resolution
from .tls import PUBLIC_KEY_SHA256, Certificate, read_certificate

Done = Callable[[Outcome], None]
KeptSockets = dict[tuple[str, str, int, int], int]
"""The sockets of kept connections, by remote address, local address, remote port and local port.

The most recently used come last.
"""

MAX_HEADER_BYTES = 64 * 1024
"""Of a response's headers, 1xx responses and trailers together."""
MAX_CONNECTION_AGE_S = 60
"""How long a connection is kept, in total and while it is idle. The name may get another address, and NAT gateways and
firewalls forget idle connections silently."""

MAX_PROCESSOR_S = 0.025
"""Processor time for reading one response: libcurl does not count chunk extensions and the like as received."""
MAX_CHARGE_S = 0.001
"""The most that is charged at once; more than this went into other requests or Python's garbage collector."""

_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "proxy-authorization"})
_HEADERS_OF_LIBCURL = {
    "accept": b"Accept:",
    "content-type": b"Content-Type:",
    "expect": b"Expect:",
    "user-agent": b"User-Agent:",
}
"""Headers that libcurl would add by itself, and how it is told not to."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_LINE_BREAK = re.compile(r"[\r\n\0]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] +(\d{3})(?!\S)")  # libcurl also accepts "2000" and "200OK" as 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_NO_TARGET = Target("", "", "", "", 0, None)

NOT_FORMED = "The request cannot be built. The hook URL or a header is not valid."
TOO_MANY_HEADERS = (
    "The response headers are too long or too many (over 64 KiB, with 1xx responses and trailers). Check the receiver, "
    "or the proxy in front of it."
)
TOO_MUCH_WORK = "The response takes too much work to read. Check the receiver, or the proxy in front of it."
_CERTIFICATE_REFUSED = {pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_PINNEDPUBKEYNOTMATCH}
_TOO_LARGE = 100  # CURLE_TOO_LARGE, which pycurl does not name: libcurl has limits of its own for lines and headers


class Proxy:
    """A proxy's URL, parsed; only `headers` contains its user name and password."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{parts.scheme}://{bracketed}:{self.port}"
        self.headers = [b"Proxy-Connection:", b"User-Agent:"]
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = b64encode(pair.encode())  # UTF-8 (RFC 7617 section 2.1)
            self.headers.append(b"Proxy-Authorization: Basic " + encoded)


@dataclass(frozen=True)
class Settings:
    """The settings that all exchanges of a transport share."""

    egress: Egress
    connect_timeout_s: float
    ca_bundle: WatchedFiles
    client_certificate: WatchedFiles | None
    proxy: Proxy | None
    direct_names: frozenset[str]
    """Names, and `*.` followed by a name, that are reached without the proxy."""
    direct_networks: tuple[IPv4Network | IPv6Network, ...]
    """Networks whose addresses, in hook URLs, are reached without the proxy."""

    def proxy_for(self, target: Target) -> Proxy | None:
        if self.proxy is None:
            return None
        if target.address is None:
            direct = not self.direct_names.isdisjoint(patterns_of(target.host.removesuffix(".")))
        else:
            direct = any(target.address in network for network in self.direct_networks)
        return None if direct else self.proxy


class Meter:
    """The processor time of the loop's thread up to which exchanges have been charged."""

    def __init__(self) -> None:
        self.charged_until = 0.0


class Exchange:
    """One request at a time; it is used again for others, together with its handle.

    It does not refer to the handle: a reference cycle would keep connections and memory until the garbage collector
    runs.
    """

    def __init__(self, settings: Settings, kept_sockets: KeptSockets, meter: Meter) -> None:
        self.settings = settings
        self.kept_sockets = kept_sockets
        self.meter = meter
        self.serial = 0  # tells one request of this exchange from the next
        self.route: object = None  # what `_set_route` has set on the handle
        self.metered = False  # whether the handle is set to call `on_progress`
        self.clear()

    def clear(self) -> None:
        """Forget the last request."""
        self.serial += 1
        # The request, and where it goes
        self.request = Request("", b"", {})
        self.done: Done | None = None
        self.target = _NO_TARGET
        self.proxy: Proxy | None = None
        self.resolution: Resolution | None = None
        # When it came how far; 0 is not yet
        self.started_at: datetime = datetime.min
        self.began = self.resolved_at = self.ready_at = self.headers_at = 0.0
        # Connecting
        self.opened: list[str] = []  # addresses that sockets were opened for
        self.forbidden = ""
        self.error_number = 0
        self.tunnel_status: int | None = None  # the proxy's response to CONNECT
        self.sending_twice = False  # libcurl wanted to send the request a second time
        self.stale_connection = False  # the receiver closed the kept connection before anything was sent on it
        self.socket_known = False  # the connection was kept, and is among the kept sockets
        # The response
        self.status: int | None = None  # of the block of headers that is being read
        self.header_lines: list[bytes] = []
        self.header_bytes = 0
        self.body = bytearray()
        self.truncated = False
        self.processor_s = 0.0  # while it was metered
        self.own_error = ""  # why we ended it

    def begin(self, request: Request, done: Done, began: float, started_at: datetime) -> None:
        self.request, self.done = request, done
        self.began, self.started_at = began, started_at

    @property
    def deadline(self) -> float:
        return self.began + self.request.deadline_s

    # Before: the handle's options

    def prepare(self, handle: Any, resolution: Resolution | None) -> None:
        """Set the options that differ between requests; raises `ValueError` if a header is not valid.

        `resolution` is None if the host in the URL, or the proxy's, is an IP address.
        """
        self.resolution = resolution
        self.resolved_at = monotonic()
        target, request = self.target, self.request
        # A trusted request may connect to addresses that hooks may not, so they share no connections.
        handle.setopt(pycurl.FRESH_CONNECT, self.stale_connection or request.trusted)
        handle.setopt(pycurl.FORBID_REUSE, request.trusted)
        self.stale_connection = False
        host = f"[{target.host}]" if ":" in target.host else target.host
        absolute = self.proxy is not None and target.scheme == "http"  # RFC 9112 section 3.2.2
        handle.setopt(pycurl.URL, f"{target.scheme}://{host}:{target.port}/")
        handle.setopt(pycurl.REQUEST_TARGET, target.url if absolute else target.path)
        if request.method == "POST":
            handle.setopt(pycurl.POSTFIELDS, request.body)
        else:
            handle.setopt(pycurl.NOBODY if request.method == "HEAD" else pycurl.HTTPGET, 1)
        handle.setopt(pycurl.HTTPHEADER, encode_headers(request.headers))
        self._set_route(handle)
        self._set_tls(handle)
        if self.metered:
            self.meter_work(handle, False)
        if resolution is None:
            handle.setopt(pycurl.RESOLVE, [])
        else:
            peer, port = (self.proxy.host, self.proxy.port) if self.proxy else (target.host, target.port)
            addresses = ",".join(f"[{each}]" if ":" in each else each for each in resolution.addresses)
            handle.setopt(pycurl.RESOLVE, [f"+{peer}:{port}:{addresses}"])
        handle.setopt(pycurl.TIMEOUT_MS, max(1, round((self.deadline - self.resolved_at) * 1000)))

    def meter_work(self, handle: Any, metered: bool) -> None:
        handle.setopt(pycurl.NOPROGRESS, not metered)
        self.metered = metered

    def _set_route(self, handle: Any) -> None:
        """Set the proxy and the certificate files, which are seldom other ones than those of the last request."""
        [ca_bundle] = self.settings.ca_bundle.paths()
        client_certificate = self.settings.client_certificate
        own = client_certificate.paths() if client_certificate else ()
        if self.route == (self.proxy, ca_bundle, own):
            return
        self.route = None  # until everything is set
        handle.setopt(pycurl.PROXY, self.proxy.url if self.proxy else "")
        handle.setopt(pycurl.NOPROXY, "")
        handle.setopt(pycurl.PROXYHEADER, self.proxy.headers if self.proxy else [])
        handle.setopt(pycurl.CAINFO, os.fsencode(ca_bundle))
        handle.setopt(pycurl.PROXY_CAINFO, os.fsencode(ca_bundle))
        if own:
            handle.setopt(pycurl.SSLCERT, os.fsencode(own[0]))
            handle.setopt(pycurl.SSLKEY, os.fsencode(own[1]))
        self.route = (self.proxy, ca_bundle, own)

    def _set_tls(self, handle: Any) -> None:
        """Set the hook's own TLS settings, if it has any; the handle is not used again for another request.

        A pin replaces all other checks, so they are off, and the pin must be one: libcurl reads any other text as the
        path of a file. A kept connection is only used by requests with the same settings.
        """
        ca, pin = self.request.tls
        if pin:
            if not re.fullmatch(PUBLIC_KEY_SHA256, pin):
                raise ValueError("not a valid pin")
            handle.setopt(pycurl.PINNEDPUBLICKEY, f"sha256//{pin}")
            handle.setopt(pycurl.SSL_VERIFYPEER, 0)
            handle.setopt(pycurl.SSL_VERIFYHOST, 0)
        elif ca:
            handle.setopt(pycurl.CAINFO_BLOB, ca.encode())
            handle.setopt(pycurl.CAPATH, os.devnull)  # builds of distributions trust a folder in addition

    # During: callbacks of libcurl

    def on_socket(self, purpose: int, address: Any) -> Any:
        """Open a socket for an address, unless it is forbidden or the request was sent already."""
        host = str(address.addr[0])
        if self.ready_at:
            self.sending_twice = True
            return pycurl.SOCKET_BAD
        if self.proxy is None and not self.request.trusted:
            zone = address.addr[3] if len(address.addr) == 4 else 0
            try:
                self.settings.egress.check_addresses(self.target.host, (f"{host}%{zone}" if zone else host,))
            except Forbidden as forbidden:
                self.forbidden = str(forbidden)
                return pycurl.SOCKET_BAD
        self.opened.append(host)
        try:
            return open_socket(address)
        except OSError as error:
            self.error_number = error.errno or 0
            return pycurl.SOCKET_BAD

    def on_ready(self, *ends: Any) -> Any:
        """Let the request be sent once.

        libcurl would send it again if a kept connection closes without a response. By then we cannot tell whether the
        receiver has acted on it (RFC 9110 section 9.2.2). So nothing is sent on a kept connection that was closed while
        it was idle, which libcurl does not always notice.
        """
        if self.ready_at:
            self.sending_twice = True
            return pycurl.PREREQFUNC_ABORT
        if not self.opened and (fd := self.kept_sockets.pop(ends, -1)) >= 0:
            if _has_input(fd):
                self.stale_connection = True
                return pycurl.PREREQFUNC_ABORT
            self.kept_sockets[ends] = fd  # now the most recently used
            self.socket_known = True
        self.ready_at = monotonic()
        return pycurl.PREREQFUNC_OK

    def on_header(self, line: bytes) -> int | None:
        """Take one line; 0 ends the exchange."""
        self.header_bytes += len(line)
        if self.header_bytes > MAX_HEADER_BYTES:
            self.own_error = TOO_MANY_HEADERS
            return 0
        if not self.ready_at:  # the proxy's response to CONNECT
            if found := _STATUS_LINE.match(line):
                self.tunnel_status = int(found[1])
        elif self.headers_at:
            pass  # a trailer
        elif self.status is None:
            found = _STATUS_LINE.match(line)
            if not found:
                self.own_error = causes.NOT_HTTP
                return 0
            self.status, self.header_lines = int(found[1]), []
        elif line in (b"\r\n", b"\n"):
            if self.status >= 200:
                self.headers_at = monotonic()
            else:
                self.status = None  # a 1xx response: the next status line follows
        else:
            self.header_lines.append(line)
        return None

    def on_body(self, data: bytes) -> int | None:
        """Take a piece of the body; 0 ends the exchange."""
        self.body += data[: MAX_STORED_BODY + 1 - len(self.body)]
        if len(self.body) > MAX_STORED_BODY:
            self.truncated = True
            return 0
        return None

    def on_progress(self, *_: object) -> int:
        """End an exchange whose response takes too much work to read; 1 ends it.

        libcurl runs one exchange after the other and calls this for those that are metered. The time since the last
        call belongs to this one, and to those that are not metered.
        """
        now = thread_time()
        if self.ready_at:
            self.processor_s += min(now - self.meter.charged_until, MAX_CHARGE_S)
        self.meter.charged_until = now
        if self.processor_s < MAX_PROCESSOR_S:
            return 0
        self.own_error = self.own_error or TOO_MUCH_WORK
        return 1

    # After: the outcome

    def outcome(self, code: int, message: str, handle: Any) -> Outcome:
        """Return the outcome of an exchange that libcurl has ended, by libcurl's code and message."""
        if self.sending_twice:
            code = pycurl.E_GOT_NOTHING
        if self.forbidden:
            return self.without_response(self.forbidden, Concern.NOBODY, blocked=True)
        if code == _TOO_LARGE and self.ready_at:
            self.own_error = TOO_MANY_HEADERS
        if self.own_error == TOO_MANY_HEADERS or (self.own_error and not self.headers_at):
            return self.without_response(self.own_error, Concern.HOOK if self.ready_at else Concern.NOBODY)
        if not self.headers_at:
            failure = self._failure(code, message, handle)
            return self.without_response(*causes.explain(failure), certificate=failure.certificate)
        if self.status == 407 and self.proxy and self.target.scheme == "http":  # 407 is always the proxy's own response
            return self.without_response(causes.proxy_answered(407), Concern.NOBODY)
        return self._with_response(code)

    def _with_response(self, code: int) -> Outcome:
        error = self.own_error
        if code and not error and not self.truncated:
            error = causes.incomplete_body(code, self.request.deadline_s)
        return Outcome(
            self.started_at,
            _ms(self.began, monotonic()),
            self.status,
            error,
            connect_ms=_ms(self.began, self.ready_at) if self.opened else None,
            wait_ms=_ms(self.ready_at, self.headers_at),
            response_headers=_stored_headers(self.header_lines),
            response_body=bytes(self.body[:MAX_STORED_BODY]),
            truncated=self.truncated,
            connected=True,
            costly=error == TOO_MUCH_WORK,
        )

    def without_response(
        self, error: str, concern: Concern, *, blocked: bool = False, certificate: Certificate | None = None
    ) -> Outcome:
        """Return the outcome if there is no response, at whatever step the exchange ends."""
        now = monotonic()
        return Outcome(
            self.started_at,
            _ms(self.began, now),
            error=error,
            blocked=blocked,
            connect_ms=_ms(self.began, self.ready_at or now) if self.opened and not blocked else None,
            concern=concern,
            connected=self.ready_at > 0 and (self.proxy is None or self.target.scheme == "https"),
            certificate=certificate,
        )

    def _failure(self, code: int, message: str, handle: Any) -> causes.Failure:
        refused = code in _CERTIFICATE_REFUSED and (self.proxy is None or (self.tunnel_status or 0) // 100 == 2)
        chain = handle.getinfo_raw(pycurl.INFO_CERTINFO) if refused else ()
        return causes.Failure(
            code,
            message,
            self.target.host.rstrip("."),
            self.target.port,
            over_tls=self.target.scheme == "https",
            through_proxy=self.proxy is not None,
            deadline_s=self.request.deadline_s,
            connect_timeout_s=self.settings.connect_timeout_s,
            lookup_s=self.resolved_at - self.began,
            opened=tuple(self.opened),
            connected=handle.getinfo(pycurl.CONNECT_TIME_T) > 0,
            ready=self.ready_at > 0,
            error_number=self.error_number or handle.getinfo(pycurl.OS_ERRNO),
            verify_result=handle.getinfo(pycurl.SSL_VERIFYRESULT),
            tunnel_status=self.tunnel_status,
            certificate=read_certificate(dict(chain[0]).get(b"Cert", b"")) if chain else None,
            tls=self.request.tls,
        )


def make_handle(exchange: Exchange) -> Any:
    """Make a libcurl handle for an exchange, with the options that never change."""
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.POST, 1),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.HTTP09_ALLOWED, 0),
        (pycurl.HTTP_CONTENT_DECODING, 0),
        (pycurl.NETRC, pycurl.NETRC_IGNORED),
        (pycurl.NOSIGNAL, 1),
        (pycurl.USERAGENT, ""),
        (pycurl.HEADEROPT, pycurl.HEADER_SEPARATE),
        (pycurl.BUFFERSIZE, MAX_STORED_BODY),
        (pycurl.UPLOAD_BUFFERSIZE, MAX_STORED_BODY),
        (pycurl.CONNECTTIMEOUT_MS, max(1, round(exchange.settings.connect_timeout_s * 1000))),
        (pycurl.DNS_CACHE_TIMEOUT, -1),
        (pycurl.MAXLIFETIME_CONN, MAX_CONNECTION_AGE_S),
        (pycurl.MAXAGE_CONN, MAX_CONNECTION_AGE_S),
        (pycurl.SSL_VERIFYPEER, 1),
        (pycurl.SSL_VERIFYHOST, 2),
        (pycurl.PROXY_SSL_VERIFYPEER, 1),
        (pycurl.PROXY_SSL_VERIFYHOST, 2),
        (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
        (pycurl.PROXY_SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
        (pycurl.OPT_CERTINFO, 1),
        (pycurl.OPENSOCKETFUNCTION, exchange.on_socket),
        (pycurl.PREREQFUNCTION, exchange.on_ready),
        (pycurl.HEADERFUNCTION, exchange.on_header),
        (pycurl.WRITEFUNCTION, exchange.on_body),
        (pycurl.XFERINFOFUNCTION, exchange.on_progress),
        (pycurl.NOPROGRESS, 1),
    ):
        handle.setopt(option, value)
    return handle


def encode_headers(headers: Mapping[str, str]) -> list[bytes]:
    """Return headers as libcurl takes them; raises `ValueError` if one is not valid."""
    if _LINE_BREAK.search("".join(headers.values())):
        raise ValueError("not a valid header")
    sent = {"accept-encoding": b"Accept-Encoding: identity"}
    for name, value in headers.items():
        lower = _lower_case(name)
        if lower not in _OWN_HEADERS:
            value = value.strip(" \t")
            sent[lower] = f"{name}: {value}".encode("latin-1") if value else f"{name};".encode()
    return [*sent.values(), *(unwanted for lower, unwanted in _HEADERS_OF_LIBCURL.items() if lower not in sent)]


@lru_cache(maxsize=1024)
def _lower_case(name: str) -> str:
    """Return a header's name in lower case; raises `ValueError` if it is not one."""
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("not a valid header")
    return name.lower()


def open_socket(address: Any) -> socket.socket:
    return _LentSocket(address.family, address.socktype, address.protocol)


class _LentSocket(socket.socket):
    """A socket that pycurl duplicates: this one closes, without a warning, as soon as nothing refers to it."""

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not even opened
            self.close()


def _has_input(fd: int) -> bool:
    """Return whether there is something to read from an idle connection, which is usually its end."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _stored_headers(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    """Return a response's headers as text that any database can store, cut off at the limit."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = line.decode("latin-1")
        name, _, value = text.partition(":")
        if text[0] in " \t" and fields:  # folded (RFC 9112 section 5.2)
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {text.strip()}".strip())
        else:
            fields.append((name.strip(), value.strip()))
    texts = [text for field in fields for text in field]
    if not _CONTROL.search("".join(texts)) and sum(map(len, texts)) <= MAX_STORED_HEADERS:
        return tuple(fields)  # the usual case
    stored = []
    left = MAX_STORED_HEADERS
    for name, value in fields:
        name = _CONTROL.sub(" ", name)[:left]
        value = _CONTROL.sub(" ", value)[: left - len(name)]
        stored.append((name, value))
        left -= len(name) + len(value)
        if left <= 0:
            break
    return tuple(stored)


def _ms(start: float, end: float) -> int:
    return round((end - start) * 1000)
