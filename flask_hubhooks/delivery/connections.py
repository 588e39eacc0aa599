"""Connections to hook addresses: names looked up once, addresses checked, every wait bounded by one deadline.

One POST runs within one thread. What its sockets must know, where it was judged to go, its rules and its deadline, is
the `Call` that the thread has begun with `begin`.

Through a proxy the connection is to that one, which the operator has chosen: its address is not judged.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from ipaddress import ip_address
from time import monotonic
from typing import Any, NamedTuple, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from ..hook_url import Target
from . import certificates
from .addresses import ForbiddenAddress, is_address
from .answers import Answer
from .egress import PUBLIC_ONLY, Egress
from .lookups import Found, LookUpFailed, LookUpLate, look_ups

IDLE_S = 60.0  # NAT gateways and firewalls forget idle connections silently, many after a few minutes

_ADVICE = {
    ConnectionRefusedError: "is the receiver running, does it listen on that port?",
    TimeoutError: "is the receiver up, does a firewall drop what is sent to it?",
    OSError: "check the worker and its network",
}
"""By what went wrong with an address; where a host has several, the first one here that happened counts."""

_PROXY = "is it running? The operator must check HUBHOOKS_PROXY"
_PROXY_TLS = "the operator must check HUBHOOKS_PROXY and HUBHOOKS_CA_BUNDLE"
_PROXY_REFUSED = "check the host of the hook URL, and the proxy's log"


class Unreachable(Exception):
    """No connection could be made; the text is for users."""


class Rules(NamedTuple):
    egress: Egress
    connect_timeout_s: float
    deadline_s: float
    proxy: tuple[str, int] | None = None
    """Its host, without brackets, and port."""


class Address(NamedTuple):
    """One of a host's addresses, as `socket.getaddrinfo` gives it."""

    family: int
    kind: int
    protocol: int
    canonical_name: str
    sockaddr: Any


class Call:
    """The POST that a thread is making: where to, its rules, its deadline, and the times it took."""

    __slots__ = ("address", "connect_ms", "connecting", "deadline", "rules", "started", "target", "wait_ms")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.target: Target | None = None  # until it is judged
        self.started = monotonic()
        self.deadline = self.started + rules.deadline_s
        self.connecting = False
        self.address: Address | None = None
        self.connect_ms: int | None = None
        self.wait_ms: int | None = None

    def left_s(self) -> float:
        """Return the seconds until the deadline; raises `TimeoutError` where there are none."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def request_target(self) -> str:
        """What stands in the request line: the whole URL where a proxy carries it on (RFC 9112 section 3.2)."""
        target = cast(Target, self.target)
        return target.url if self.rules.proxy and target.scheme == "http" else target.path

    def elapsed_ms(self) -> int:
        return _ms_since(self.started)


class _Thread(threading.local):
    call: Call


_thread = _Thread()


def begin(rules: Rules) -> Call:
    """Begin a POST in this thread: its deadline runs from now."""
    _thread.call = Call(rules)
    return _thread.call


def _ms_since(start: float) -> int:
    return round((monotonic() - start) * 1000)


class _Socket(socket.socket):
    """A socket whose every wait ends at the deadline of the POST, whatever timeout others give it.

    The timeout of `requests` starts anew with every byte: a receiver that trickles would hold a thread for
    ever.
    """

    def settimeout(self, value: float | None, /) -> None:
        super().settimeout(_thread.call.left_s())

    def send(self, *args: Any) -> int:
        self.settimeout(None)
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        self.settimeout(None)
        super().sendall(*args)

    def recv(self, *args: Any) -> bytes:
        self.settimeout(None)
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self.settimeout(None)
        return super().recv_into(*args)


class TLSSocket(_Socket, ssl.SSLSocket):
    """The same over TLS. Python bounds the handshake as a whole by the timeout that the plain socket had."""


class _Guarded(HTTPConnection):
    """A connection to an address that the policy lets through, kept alive for a while."""

    response_class = Answer
    _used_at = 0.0
    _held: list[bytes] | None = None

    @property
    def is_connected(self) -> bool:
        return super().is_connected and monotonic() - self._used_at < IDLE_S

    def connect(self) -> None:
        call = _thread.call
        call.connecting, started = True, monotonic()
        try:
            super().connect()
        finally:
            call.connect_ms = _ms_since(started)
        call.connecting = False

    def _new_conn(self) -> socket.socket:
        call = _thread.call
        if call.rules.proxy:
            return _connect_to_proxy(*call.rules.proxy, call)
        return _connect(self._dns_host, self.port, call)

    def request(self, method: str, url: str, *args: Any, **options: Any) -> None:
        """Send headers and body at once, which saves a system call and a packet.

        `url` is what urllib3 may log: what is sent is the call's own.
        """
        self._held = []
        super().request(method, _thread.call.request_target(), *args, **options)
        held, self._held = self._held, None
        super().send(b"".join(held))

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Read the headers without `urllib3`, which logs the URL, secrets and all, where they are
        malformed."""
        started = monotonic()
        answer = http.client.HTTPConnection.getresponse(self)
        self._used_at = monotonic()
        _thread.call.wait_ms = _ms_since(started)
        return urllib3.HTTPResponse(
            body=answer,
            headers=cast(urllib3.HTTPHeaderDict, answer.headers),
            status=answer.status,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            request_method="POST",
        )


class _GuardedTLS(_Guarded, HTTPSConnection):
    def connect(self) -> None:
        """Connect; raises `Unreachable`, with what is wrong with it, where the certificate is refused."""
        call = _thread.call
        try:
            super().connect()
        except ssl.SSLCertVerificationError as fault:
            if self.proxy and not self._has_connected_to_proxy:
                raise Unreachable(f"TLS: the proxy's certificate is refused: {_PROXY_TLS}") from None
            host = cast(Target, call.target).host.rstrip(".")
            seen = None if self.proxy else _look_again(host, call)  # a proxy would have to connect once more
            raise Unreachable(f"TLS: {certificates.refusal(fault, host, seen)}") from None

    def _tunnel(self) -> None:
        """Have the proxy connect to the receiver; raises `Unreachable` where it does not."""
        try:
            super()._tunnel()
        except TimeoutError:
            raise Unreachable(f"no answer of the proxy within {_thread.call.rules.deadline_s:g} s: {_PROXY}") from None
        except (OSError, http.client.HTTPException) as fault:
            refused = re.match(r"Tunnel connection failed: (\d+)", str(fault))
            raise Unreachable(proxy_refusal(int(refused[1]) if refused else None)) from None


def proxy_refusal(status: int | None) -> str:
    """Return the words for a proxy's answer that is not the receiver's; None where it did not answer with a status."""
    if status is None:
        return f"the proxy closed the connection, or its answer is not HTTP: {_PROXY}"
    answer = f"{status} {http.client.responses.get(status, '')}".strip()
    advice = "the operator must check user and password in HUBHOOKS_PROXY" if status == 407 else _PROXY_REFUSED
    return f"the proxy answered {answer}: {advice}"


class Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Guarded


class TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


def _connect(host: str, port: int, call: Call) -> socket.socket:
    """Return a socket connected to the first address of a host that answers.

    Raises `ForbiddenAddress` where any of its addresses is forbidden, `Unreachable` where none answers.
    """
    if call.target is None or (host, port) != (call.target.host, call.target.port):
        raise ForbiddenAddress("the connection would lead elsewhere than was judged")  # urllib3 reads hosts once more
    found = _look_up(host, port, call)
    call.rules.egress.check_answer(host, (_address(each.sockaddr) for each in found))
    return _connect_to_first(found, call)


def _connect_to_proxy(host: str, port: int, call: Call) -> socket.socket:
    """Return a socket connected to the proxy, the operator's own; raises `Unreachable`, which does not tell where."""
    try:
        return _connect_to_first(_look_up(host, port, call), call)
    except Unreachable:
        raise Unreachable(f"no connection to the proxy: {_PROXY}") from None


def _connect_to_first(found: list[Address], call: Call) -> socket.socket:
    """Return a socket connected to the first of these that answers; raises `Unreachable` where none does."""
    until = min(monotonic() + call.rules.connect_timeout_s, call.deadline)
    faults: list[OSError] = []
    words: dict[str, None] = {}  # in order, each once
    for index, address in enumerate(found):
        call.address = address
        seconds = (until - monotonic()) / (len(found) - index)  # a silent address leaves time for the others
        try:
            return _connect_to(address, seconds)
        except OSError as fault:
            faults.append(fault)
            words[_words(fault, address.sockaddr, call)] = None
    raise Unreachable(f"{'; '.join([*words][:3])}: {_advice(faults)}")


def _connect_to(address: Address, seconds: float) -> socket.socket:
    """Return a socket connected to that address; raises `OSError` where none can be."""
    family, kind, protocol, _, sockaddr = address
    plain = _Socket(family, kind, protocol)
    try:
        socket.socket.settimeout(plain, max(seconds, 0.001))  # the one timeout that is not the deadline's
        plain.connect(sockaddr)
        if ip_address(plain.getpeername()[0]) != ip_address(sockaddr[0]):
            raise ForbiddenAddress(
                "the connection led to another address than was checked: is it redirected at the worker?"
            )
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(None)
    except BaseException:
        plain.close()
        raise
    return plain


def _look_again(host: str, call: Call) -> certificates.Certificate | None:
    """Return the certificate of the address just connected to, or None where the time left does not do."""
    until = min(monotonic() + certificates.LOOK_S, call.deadline)
    try:
        call.left_s()
        plain = _connect_to(cast(Address, call.address), until - monotonic())
    except Exception:  # the words do without it
        return None
    return certificates.look(plain, host, until)


def _look_up(host: str, port: int, call: Call) -> list[Address]:
    """Return what `socket.getaddrinfo` finds, within the deadline: by itself it knows none."""
    try:
        found = _read_address(host, port) if is_address(host) else look_ups.find(host, port, call.left_s())
    except LookUpLate as late:
        raise _unknown(host, f"{late} within {call.rules.deadline_s:g} s") from None
    except LookUpFailed as failed:
        raise _unknown(host, str(failed)) from None
    return [Address(*each) for each in found]


def _read_address(host: str, port: int) -> Found:
    """Return an address as a look-up would: asks nobody, and therefore waits for nobody."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def _unknown(host: str, why: str) -> Unreachable:
    advice = "check the host of the hook URL, and the DNS that the worker asks"
    return Unreachable(f"name look-up of {host} failed ({why}): {advice}")


def _address(sockaddr: Any) -> str:
    """Return the address with its zone, which `getaddrinfo` may give apart from it."""
    address = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{address}%{zone}" if zone and "%" not in address else address


def _words(fault: OSError, sockaddr: Any, call: Call) -> str:
    """Return why an address could not be connected to; which one is told where it is public, or the URL's own."""
    host, port = sockaddr[:2]
    if call.target and not PUBLIC_ONLY.allows(host):
        host = call.target.host
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    match fault:
        case TimeoutError():
            return f"no connection within {min(call.rules.connect_timeout_s, call.rules.deadline_s):g} s"
        case ConnectionRefusedError():
            return f"connection refused by {where}"
    return f"no connection to {where} ({(fault.strerror or type(fault).__name__).lower()})"


def _advice(faults: list[OSError]) -> str:
    """Return what to do about an address of a host where none could be connected to."""
    return next((each for kind, each in _ADVICE.items() if any(isinstance(one, kind) for one in faults)), "")
