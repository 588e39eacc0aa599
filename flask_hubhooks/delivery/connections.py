"""Connections to hook addresses: names looked up once, addresses checked, every wait bounded by one deadline.

One POST runs within one thread. What its sockets must know, its rules and its deadline, is the `Call` that
the thread has begun with `begin`.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
from ipaddress import ip_address
from time import monotonic
from typing import Any, NamedTuple, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from . import certificates
from .addresses import AddressPolicy, ForbiddenAddress

INTERIM_LIMIT = 16  # 1xx answers that are passed over before the real one
IDLE_S = 60.0  # NAT gateways and firewalls forget idle connections silently, many after a few minutes

_ADVICE = {
    ConnectionRefusedError: "is the receiver running, does it listen on that port?",
    TimeoutError: "is the receiver up, does a firewall drop what is sent to it?",
    OSError: "check the worker and its network",
}
"""By what went wrong with an address; where a host has several, the first one here that happened counts."""


class Unreachable(Exception):
    """No connection could be made; the text is for users."""


class Rules(NamedTuple):
    policy: AddressPolicy
    connect_timeout_s: float
    deadline_s: float


class Address(NamedTuple):
    """One of a host's addresses, as `socket.getaddrinfo` gives it."""

    family: int
    kind: int
    protocol: int
    canonical_name: str
    sockaddr: Any


class Call:
    """The POST that a thread is making: its rules, its deadline, and the times it took."""

    __slots__ = ("address", "connect_ms", "connecting", "deadline", "rules", "started", "wait_ms")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
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

    def recv_into(self, *args: Any) -> int:
        self.settimeout(None)
        return super().recv_into(*args)


class TLSSocket(_Socket, ssl.SSLSocket):
    """The same over TLS. Python bounds the handshake as a whole by the timeout that the plain socket had."""


class _Answer(http.client.HTTPResponse):
    def _read_status(self) -> tuple[str, int, str]:
        """Pass over 1xx answers: `http.client` knows 100 alone, and takes 103 (Early Hints) for the
        answer."""
        for _ in range(INTERIM_LIMIT):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status >= 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("interim answers without end")


class _Guarded(HTTPConnection):
    """A connection to an address that the policy lets through, kept alive for a while."""

    response_class = _Answer
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
        return _connect(self._dns_host, self.port, _thread.call)

    def request(self, *args: Any, **options: Any) -> None:
        """Send headers and body at once, which saves a system call and a packet."""
        self._held = []
        super().request(*args, **options)
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
            headers=urllib3.HTTPHeaderDict(answer.getheaders()),
            status=answer.status,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            request_method="POST",
        )


class _GuardedTLS(_Guarded, HTTPSConnection):
    def connect(self) -> None:
        """Connect; raises `Unreachable`, with what is wrong with it, where the certificate is refused."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError as fault:
            host = self.host.strip("[]")
            words = certificates.refusal(fault, host, _look_again(host, _thread.call))
            raise Unreachable(f"TLS: {words}") from None


class Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Guarded


class TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


def _connect(host: str, port: int, call: Call) -> socket.socket:
    """Return a socket connected to the first address of a host that answers.

    Raises `ForbiddenAddress` where any of its addresses is forbidden, `Unreachable` where none answers.
    """
    found = _look_up(host, port, call)
    for address in found:
        call.rules.policy.check(_address(address.sockaddr))
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
    """Return what `socket.getaddrinfo` finds, within the deadline: by itself it knows none.

    A look-up that hangs is left to a daemon thread, which does not keep the process from ending.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as fault:
            answers.put(fault)

    if _is_address(host):
        look_up()
    else:
        threading.Thread(target=look_up, daemon=True, name="hubhooks-look-up").start()
    try:
        answer = answers.get(timeout=call.left_s())
    except queue.Empty:
        raise _unknown(host, f"no answer within {call.rules.deadline_s:g} s") from None
    if isinstance(answer, Exception):
        raise _unknown(host, str(answer.strerror) if isinstance(answer, socket.gaierror) else "not a valid name")
    return [Address(*each) for each in answer]


def _unknown(host: str, why: str) -> Unreachable:
    advice = "check the host of the hook URL, and the DNS that the worker asks"
    return Unreachable(f"name look-up of {host} failed ({why.lower()}): {advice}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _address(sockaddr: Any) -> str:
    """Return the address with its zone, which `getaddrinfo` may give apart from it."""
    address = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{address}%{zone}" if zone and "%" not in address else address


def _words(fault: OSError, sockaddr: Any, call: Call) -> str:
    """Return why an address could not be connected to."""
    host, port = sockaddr[:2]
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
