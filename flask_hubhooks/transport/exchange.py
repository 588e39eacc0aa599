"""One request and its answer: the callbacks that libcurl makes, and what they add up to."""

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
from ipaddress import IPv4Network, IPv6Network
from time import monotonic, thread_time
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import pycurl

from . import causes
from .certificate_files import WatchedFiles
from .egress import Egress, Forbidden, patterns_of
from .hook_url import Target
from .outcome import MAX_STORED_BODY, MAX_STORED_HEADERS, Concern, Outcome, Request
from .resolver import OnResolved, Resolution

Done = Callable[[Outcome], None]
Kept = dict[tuple[str, str, int, int], int]
"""The sockets of connections that are kept alive, by both addresses and both ports: the remote address first."""

MAX_HEADER_BYTES = 64 * 1024
"""Of an answer's headers, of 1xx answers and of trailers together."""
MAX_CONNECTION_AGE_S = 60
"""How long a connection is kept, from its beginning and while it is idle. A name may get another address, and NAT
gateways and firewalls forget idle connections silently."""

PROCESSOR_S = 0.025
"""Processor time that reading one answer may take: libcurl does not count chunk extensions and the like as received."""
TURN_S = 0.005
"""At most so much is charged at once: more is Python's garbage collector, not the receiver."""

_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "proxy-authorization"})
_NOT_BY_LIBCURL = ("Accept", "Content-Type", "Expect", "User-Agent")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_LINE_BREAK = re.compile(r"[\r\n\0]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] +(\d{3})(?!\S)")  # libcurl reads 200 in "2000" and in "200OK", too
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

NOT_FORMED = "The request cannot be built. The hook URL or a header is not valid."
TOO_MANY_HEADERS = (
    "The response headers are too long or too many (over 64 KiB, with 1xx responses and trailers). Check the receiver, "
    "or the proxy in front of it."
)
TOO_MUCH_WORK = "The response takes too much work to read. Check the receiver, or the proxy in front of it."
_TOO_LARGE = 100  # CURLE_TOO_LARGE, for which pycurl has no name: libcurl has limits of its own for lines and headers


class Proxy:
    """A proxy's URL, taken apart: only `headers` holds its secrets."""

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
class Rules:
    """What holds for all exchanges of a transport."""

    egress: Egress
    connect_timeout_s: float
    deadline_s: float
    authorities: WatchedFiles
    own_certificate: WatchedFiles | None
    proxy: Proxy | None
    direct_names: frozenset[str]
    """Names, and `*.` with a name, that are not reached through the proxy."""
    direct_networks: tuple[IPv4Network | IPv6Network, ...]
    """Networks whose addresses in hook URLs are not reached through the proxy."""

    def proxy_for(self, target: Target) -> Proxy | None:
        if self.proxy is None:
            return None
        if target.address is None:
            direct = not self.direct_names.isdisjoint(patterns_of(target.host.removesuffix(".")))
        else:
            direct = any(target.address in network for network in self.direct_networks)
        return None if direct else self.proxy


class Meter:
    """Up to when the loop's processor time was charged to exchanges."""

    def __init__(self) -> None:
        self.mark = 0.0


class Exchange:
    """One exchange at a time; belongs to a libcurl handle, whose callbacks are set once.

    It does not refer to the handle: in a circle of references, connections and memory would stay until the garbage
    collector runs.
    """

    def __init__(self, rules: Rules, kept: Kept, meter: Meter) -> None:
        self.rules = rules
        self.kept = kept
        self.meter = meter
        self.serial = 0
        self.route: object = None  # what `_set_route` set on the handle
        self.clear()

    def clear(self) -> None:
        """Forget the last request."""
        self.serial += 1
        self.request = Request("", b"", {})
        self.done: Done | None = None
        self.target: Target | None = None
        self.proxy: Proxy | None = None
        self.found: OnResolved | None = None  # while its name is looked up
        self.began = self.resolved_at = self.ready_at = self.headers_at = 0.0
        self.started_at: datetime = datetime.min
        self.opened: list[str] = []
        self.forbidden = ""
        self.error_number = 0
        self.again = False  # libcurl would have sent it a second time
        self.stale = False  # the receiver closed the kept connection before anything was sent over it
        self.addresses: Resolution | None = None
        self.own_cause = ""  # why we ended it ourselves
        self.spent = 0.0  # processor time since the request was sent
        self.header_bytes = 0
        self.tunnel_status: int | None = None
        self.status: int | None = None  # of the block of headers that is being read
        self.lines: list[bytes] = []
        self.body = bytearray()
        self.truncated = False

    def begin(self, request: Request, done: Done, began: float, started_at: datetime) -> None:
        self.request, self.done = request, done
        self.began, self.started_at = began, started_at

    @property
    def deadline(self) -> float:
        return self.began + self.rules.deadline_s

    # What libcurl calls

    def on_socket(self, purpose: int, address: Any) -> Any:
        """Open a socket for an address, unless it is forbidden or the request was sent already."""
        host = str(address.addr[0])
        if self.ready_at:
            self.again = True
            return pycurl.SOCKET_BAD
        if self.proxy is None and self.target is not None:
            zone = address.addr[3] if len(address.addr) == 4 else 0
            try:
                self.rules.egress.check_addresses(self.target.host, (f"{host}%{zone}" if zone else host,))
            except Forbidden as forbidden:
                self.forbidden = str(forbidden)
                return pycurl.SOCKET_BAD
        self.opened.append(host)
        try:
            return open_socket(address)
        except OSError as fault:
            self.error_number = fault.errno or 0
            return pycurl.SOCKET_BAD

    def on_ready(self, *ends: Any) -> Any:
        """Let a request be sent once: libcurl would send it again where a kept connection closes without an answer.

        Nobody can tell whether the receiver has carried it out by then (RFC 9110 section 9.2.2). So a kept connection
        that has closed while it was idle, for which libcurl does not look each time, is not sent over.
        """
        if self.ready_at:
            self.again = True
            return pycurl.PREREQFUNC_ABORT
        if not self.opened and ends in self.kept and _has_input(self.kept.pop(ends)):
            self.stale = True
            return pycurl.PREREQFUNC_ABORT
        self.ready_at = monotonic()
        return pycurl.PREREQFUNC_OK

    def on_header(self, line: bytes) -> int | None:
        self.header_bytes += len(line)
        if self.header_bytes > MAX_HEADER_BYTES:
            self.own_cause = TOO_MANY_HEADERS
            return 0
        if not self.ready_at:
            if found := _STATUS_LINE.match(line):
                self.tunnel_status = int(found[1])
        elif self.headers_at:
            pass  # a trailer
        elif self.status is None:
            found = _STATUS_LINE.match(line)
            if not found:
                self.own_cause = causes.NOT_HTTP
                return 0
            self.status, self.lines = int(found[1]), []
        elif line in (b"\r\n", b"\n"):
            if self.status >= 200:
                self.headers_at = monotonic()
            else:
                self.status = None
        else:
            self.lines.append(line)
        return None

    def on_body(self, data: bytes) -> int | None:
        self.body += data[: MAX_STORED_BODY + 1 - len(self.body)]
        if len(self.body) > MAX_STORED_BODY:
            self.truncated = True
            return 0
        return None

    def on_progress(self, *_: object) -> int:
        """End an answer that takes too much work to read.

        libcurl runs one exchange after the other and calls this for each, so what passed since the last call is this
        one's.
        """
        now = thread_time()
        if self.ready_at:
            self.spent += min(now - self.meter.mark, TURN_S)
        self.meter.mark = now
        if self.spent < PROCESSOR_S:
            return 0
        self.own_cause = self.own_cause or TOO_MUCH_WORK
        return 1

    # What comes of it

    def ended(self, error: str, concern: Concern, *, blocked: bool = False) -> Outcome:
        """Return the outcome where there is no answer."""
        now = monotonic()
        connect_ms = _ms(self.began, self.ready_at or now) if self.opened and not blocked else None
        return Outcome(
            self.started_at,
            _ms(self.began, now),
            error=error,
            blocked=blocked,
            connect_ms=connect_ms,
            concern=concern,
            connected=self.ready_at > 0
            and (self.proxy is None or self.target is None or self.target.scheme == "https"),
        )

    def outcome(self, code: int, message: str, handle: Any) -> Outcome:
        """Return what came of it, by libcurl's code."""
        rules, target = self.rules, cast(Target, self.target)
        if self.again:
            code = pycurl.E_GOT_NOTHING
        if self.forbidden:
            return self.ended(self.forbidden, Concern.NOBODY, blocked=True)
        if code == _TOO_LARGE and self.ready_at:
            self.own_cause = TOO_MANY_HEADERS
        if self.own_cause == TOO_MANY_HEADERS or (self.own_cause and not self.headers_at):
            return self.ended(self.own_cause, Concern.HOOK if self.ready_at else Concern.NOBODY)
        if not self.headers_at:
            failure = causes.Failure(
                code,
                message,
                target.host.rstrip("."),
                target.port,
                over_tls=target.scheme == "https",
                through_proxy=self.proxy is not None,
                deadline_s=rules.deadline_s,
                connect_timeout_s=rules.connect_timeout_s,
                lookup_s=self.resolved_at - self.began,
                opened=tuple(self.opened),
                connected=handle.getinfo(pycurl.CONNECT_TIME_T) > 0,
                ready=self.ready_at > 0,
                error_number=self.error_number or handle.getinfo(pycurl.OS_ERRNO),
                verify_result=handle.getinfo(pycurl.SSL_VERIFYRESULT),
                tunnel_status=self.tunnel_status,
                certificate=_leaf(handle),
            )
            return self.ended(*causes.explain(failure))
        if self.status == 407 and self.proxy and target.scheme == "http":  # by its nature the proxy's own
            return self.ended(causes.proxy_answered(407), Concern.NOBODY)
        error = self.own_cause or (
            "" if code == 0 or self.truncated else causes.incomplete_body(code, rules.deadline_s)
        )
        return Outcome(
            self.started_at,
            _ms(self.began, monotonic()),
            self.status,
            error,
            connect_ms=_ms(self.began, self.ready_at) if self.opened else None,
            wait_ms=_ms(self.ready_at, self.headers_at),
            response_headers=_stored(self.lines),
            response_body=bytes(self.body[:MAX_STORED_BODY]),
            truncated=self.truncated,
            connected=True,
        )

    # What libcurl is told

    def prepare(self, handle: Any, addresses: Resolution | None) -> None:
        """Set what differs from one request to the next; raises `ValueError` where a header is none."""
        self.addresses = addresses
        self.resolved_at = monotonic()
        handle.setopt(pycurl.FRESH_CONNECT, self.stale)
        self.stale = False
        target, request = cast(Target, self.target), self.request
        host = f"[{target.host}]" if ":" in target.host else target.host
        origin = f"{target.scheme}://{host}:{target.port}"
        absolute = self.proxy is not None and target.scheme == "http"  # RFC 9112 section 3.2.2
        handle.setopt(pycurl.URL, f"{origin}/")
        handle.setopt(pycurl.REQUEST_TARGET, target.url if absolute else target.path)
        handle.setopt(pycurl.POSTFIELDS, request.body)
        handle.setopt(pycurl.HTTPHEADER, header_lines(target, request.headers))
        self._set_route(handle)
        peer, port = (self.proxy.host, self.proxy.port) if self.proxy else (target.host, target.port)
        if addresses is None:
            handle.setopt(pycurl.RESOLVE, [])
        else:
            found = ",".join(f"[{each}]" if ":" in each else each for each in addresses.addresses)
            handle.setopt(pycurl.RESOLVE, [f"+{peer}:{port}:{found}"])
        handle.setopt(pycurl.TIMEOUT_MS, max(1, round((self.deadline - self.resolved_at) * 1000)))

    def _set_route(self, handle: Any) -> None:
        """Set the proxy and the files of certificates, which seldom differ from those of the handle's last request."""
        [trusted] = self.rules.authorities.paths()
        own = self.rules.own_certificate.paths() if self.rules.own_certificate else ()
        if self.route == (self.proxy, trusted, own):
            return
        self.route = None  # until all of it is set
        handle.setopt(pycurl.PROXY, self.proxy.url if self.proxy else "")
        handle.setopt(pycurl.NOPROXY, "")
        handle.setopt(pycurl.PROXYHEADER, self.proxy.headers if self.proxy else [])
        handle.setopt(pycurl.CAINFO, os.fsencode(trusted))
        handle.setopt(pycurl.PROXY_CAINFO, os.fsencode(trusted))
        if own:
            handle.setopt(pycurl.SSLCERT, os.fsencode(own[0]))
            handle.setopt(pycurl.SSLKEY, os.fsencode(own[1]))
        self.route = (self.proxy, trusted, own)


def make_handle(exchange: Exchange) -> Any:
    """Make a handle for an exchange, with the options that stay the same."""
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
        (pycurl.CONNECTTIMEOUT_MS, max(1, round(exchange.rules.connect_timeout_s * 1000))),
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
        (pycurl.NOPROGRESS, 0),
    ):
        handle.setopt(option, value)
    return handle


class _Lent(socket.socket):
    """A socket that pycurl duplicates: this one closes, without a warning, as soon as nothing refers to it."""

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not even opened
            self.close()


def _has_input(fd: int) -> bool:
    """Tell whether there is something to read from an idle connection: its end, mostly."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], 0)[0])
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(0))


def open_socket(address: Any) -> socket.socket:
    return _Lent(address.family, address.socktype, address.protocol)


def header_lines(target: Target, headers: Mapping[str, str]) -> list[bytes]:
    """Return headers as libcurl takes them; raises `ValueError` where one is not valid."""
    if not all(map(_NAME.fullmatch, headers)) or _LINE_BREAK.search("".join(headers.values())):
        raise ValueError("not a valid header")
    sent = {"accept-encoding": b"Accept-Encoding: identity"}
    for name, value in headers.items():
        lower = name.lower()
        if lower not in _OWN_HEADERS:
            value = value.strip(" \t")
            sent[lower] = f"{name}: {value}".encode("latin-1") if value else f"{name};".encode()
    unwanted = [f"{name}:".encode() for name in _NOT_BY_LIBCURL if name.lower() not in sent]
    return [*sent.values(), *unwanted]


def _stored(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    """Return an answer's headers as text that any database takes, up to the limit."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = line.decode("latin-1")
        name, _, value = text.partition(":")
        if text[0] in " \t" and fields:  # folded (RFC 9112 section 5.2)
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {text.strip()}".strip())
        else:
            fields.append((name.strip(), value.strip()))
    told = [text for field in fields for text in field]
    if not _CONTROL.search("".join(told)) and sum(map(len, told)) <= MAX_STORED_HEADERS:
        return tuple(fields)  # as most are
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


def _leaf(handle: Any) -> bytes:
    """Return the certificate that the receiver showed, as PEM."""
    chain = handle.getinfo_raw(pycurl.INFO_CERTINFO)
    return dict(chain[0]).get(b"Cert", b"") if chain else b""


def _ms(start: float, end: float) -> int:
    return round((end - start) * 1000)
