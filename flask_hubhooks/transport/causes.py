"""Why an attempt failed, in words: what is wrong, and what to do about it.

The words come from libcurl's codes and what else the exchange knows, never from its messages, which may hold the URL.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
from dataclasses import dataclass

import pycurl

from . import certificates
from .egress import PUBLIC_ONLY
from .outcome import Concern

_CREDENTIALS = "check its credentials: a token in the hook URL, or the webhook's secret"
_EXPECTED = "a POST that was received is to be answered with 2xx"
_ADVICE = {
    304: _EXPECTED,
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "check the path of the hook URL",
    405: "does it take POST at the path of the hook URL?",
    410: "it wants no more deliveries",
    413: "raise its limit for the size of requests",
    415: "it must take Content-Type application/json",
    429: "raise its limit for the rate of requests",
    502: "is the server behind this proxy running? See the log of both",
    503: "is it overloaded, or being restarted? See the receiver's log",
    504: "is the server behind this proxy too slow? See the log of both",
}
_ADVICE_BY_HUNDRED = {
    3: "redirects are not followed, set the hook URL to where it leads",
    4: "its answer may say why, or else the receiver's log",
    5: "see the receiver's log",
}
_TLS_ADVICE = {
    "wrong version number": "does the port speak TLS, or should the hook URL begin with http://?",
    "packet length too long": "does the port speak TLS, or should the hook URL begin with http://?",
    "record layer failure": "does the port speak TLS, or should the hook URL begin with http://?",
    "alert protocol version": "have the receiver offer TLS 1.2 or newer",
    "unsupported protocol": "have the receiver offer TLS 1.2 or newer",
    "alert handshake failure": "is the receiver set up for this host name, or does it ask for a client certificate?",
    "unrecognized name": "is the receiver set up for this host name?",
    "alert unknown ca": "it does not know the authority of HUBHOOKS_CLIENT_CERTIFICATE",
    "certificate required": "it asks for a client certificate: set HUBHOOKS_CLIENT_CERTIFICATE",
}
"""By what OpenSSL's reason ends with."""


def received(status_code: int) -> bool:
    """Tell whether an answer's status counts as received: 2xx, and 302 and 303."""
    return 200 <= status_code < 300 or status_code in (302, 303)


def cause(status_code: int | None, error: str) -> str:
    """Return why an attempt failed, from its answer's status and the transport's words; "" where nothing did.

    Of an answer that was received only the error is told.
    """
    if status_code is None or received(status_code):
        return error
    said = _said(status_code)
    return f"{said}; {error}" if error else said


def _said(status_code: int) -> str:
    answer = f"{status_code} {http.client.responses.get(status_code, '')}".strip()
    advice = _ADVICE.get(status_code) or _ADVICE_BY_HUNDRED.get(status_code // 100, _EXPECTED)
    return f"the receiver answered {answer}: {advice}"


_PROXY_ADVICE = "is it running? The operator must check HUBHOOKS_PROXY"
_CERTIFICATE_FILES = "the operator must check HUBHOOKS_CLIENT_CERTIFICATE and HUBHOOKS_CA_BUNDLE"
NO_PROXY = f"no connection to the proxy: {_PROXY_ADVICE}"
TOO_LATE = "it was not sent in time: the worker was suspended or overloaded"
NOT_HTTP = "the answer is not HTTP/1.1: check the port of the hook URL, and whether it should begin with https://"

_CLOSED = {
    pycurl.E_OK,  # within a header line
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
    pycurl.E_ABORTED_BY_CALLBACK,  # a second sending
}
_LACKING = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Error numbers that are for want of something of our own."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is known of an exchange that failed before there was an answer."""

    code: int
    """libcurl's."""
    message: str
    host: str
    port: int
    over_tls: bool
    through_proxy: bool
    deadline_s: float
    connect_timeout_s: float
    look_up_s: float = 0.0
    """How long the look-up of the name took, with its time in line."""
    opened: tuple[str, ...] = ()
    """The addresses that sockets were opened for: none on a connection kept alive."""
    connected: bool = False
    """TCP."""
    ready: bool = False
    """The request could be sent: TLS and the proxy's tunnel stand."""
    number: int = 0
    """The error number of the last connect."""
    verify_result: int = 0
    tunnel_status: int | None = None
    """What the proxy answered when it was asked for a connection."""
    certificate: bytes = b""
    """The receiver's, as PEM."""


def no_answer(fault: Fault) -> tuple[str, Concern]:
    """Return what went wrong before there was an answer, and whose fault it is."""
    if not fault.ready and fault.number in _LACKING:
        return f"{os.strerror(fault.number).lower()}: check the worker and its machine", Concern.NOBODY
    if fault.code == pycurl.E_OUT_OF_MEMORY:
        return "out of memory: check the worker and its machine", Concern.NOBODY
    if fault.code in (pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CACERT_BADFILE):
        return f"TLS: our own certificate files cannot be used: {_CERTIFICATE_FILES}", Concern.NOBODY
    if fault.code == pycurl.E_COULDNT_CONNECT and not fault.number and not fault.connected:  # it was not even tried
        return "no socket could be opened: check the worker's limit of open files (ulimit -n)", Concern.NOBODY
    if fault.code == pycurl.E_OPERATION_TIMEDOUT and fault.deadline_s - fault.look_up_s < _least_s(fault):
        return (
            f"the name look-up took {fault.look_up_s:.1f} s of {fault.deadline_s:g} s, which left too little time for "
            "an answer: check the DNS that the worker asks",
            Concern.NOBODY,
        )
    if fault.through_proxy and not fault.ready and (fault.tunnel_status or 0) // 100 != 2:
        return _proxy(fault), Concern.NOBODY
    if fault.ready:
        return _after_sending(fault), Concern.HOOK
    return _before_sending(fault), Concern.HOST


def _least_s(fault: Fault) -> float:
    """Return how long a receiver must have had before its silence is held against it or its host."""
    return min(fault.connect_timeout_s, fault.deadline_s / 3)


def _after_sending(fault: Fault) -> str:
    match fault.code:
        case pycurl.E_OPERATION_TIMEDOUT:
            return f"no answer within {fault.deadline_s:g} s: answer with 2xx at once, and do the work afterwards"
        case pycurl.E_UNSUPPORTED_PROTOCOL:
            return NOT_HTTP
        case pycurl.E_FTP_WEIRD_SERVER_REPLY:
            return "the answer's headers are malformed: check the receiver, or the proxy before it"
        case pycurl.E_BAD_CONTENT_ENCODING:
            return "the answer has an unknown Transfer-Encoding: it may be chunked, nothing else"
    if fault.over_tls and (said := _openssl_said(fault.message)):
        return f"TLS: {said}"
    if fault.code in _CLOSED:
        kept = "" if fault.opened else " (it was kept alive from an earlier POST)"
        return f"connection closed before an answer{kept}: see the receiver's log"
    return f"the answer cannot be read ({pycurl.easy_strerror(fault.code).lower()}): see the receiver's log"


def _before_sending(fault: Fault) -> str:
    within_s = min(fault.connect_timeout_s, fault.deadline_s)
    match fault.code:
        case pycurl.E_OPERATION_TIMEDOUT if fault.connected:
            return f"TLS: no handshake within {within_s:g} s: does the port speak TLS, is the receiver overloaded?"
        case pycurl.E_OPERATION_TIMEDOUT:
            return f"no connection within {within_s:g} s: is the receiver up, does a firewall drop what is sent to it?"
        case pycurl.E_COULDNT_CONNECT:
            return _unreachable(fault)
        case pycurl.E_PEER_FAILED_VERIFICATION:
            found = re.search(r"verify result: ([\w ,/-]+) \(", fault.message)
            why = found[1].strip().lower() if found else ""
            code = fault.verify_result if found else certificates.OTHER_NAME  # which libcurl checks, not OpenSSL
            seen = certificates.read(fault.certificate)
            return f"TLS: {certificates.refusal(code, why, fault.host, seen)}"
        case pycurl.E_SSL_CONNECT_ERROR:
            closed = "connection closed during the handshake: does the port speak TLS, and know this host name?"
            return f"TLS: {_openssl_said(fault.message) or closed}"
    return f"no connection ({pycurl.easy_strerror(fault.code).lower()}): see the receiver's log"


def _unreachable(fault: Fault) -> str:
    host = fault.opened[0] if len(fault.opened) == 1 and PUBLIC_ONLY.allows(fault.opened[0]) else fault.host
    where = f"[{host}]:{fault.port}" if ":" in host else f"{host}:{fault.port}"
    if fault.number == errno.ECONNREFUSED:
        return f"connection refused by {where}: is the receiver running, does it listen on that port?"
    return f"no connection to {where} ({os.strerror(fault.number).lower()}): check the worker and its network"


def _openssl_said(message: str) -> str:
    """Return OpenSSL's reason, with what to do about it; "" where it says no more than that the connection closed."""
    found = re.search(r"error:[0-9A-F]+:[^:]*:[^:]*:([a-zA-Z0-9 /-]+)", message)
    if not found or "unexpected eof" in found[1]:
        return ""
    reason = found[1].strip()[:60]
    advice = next((each for ending, each in _TLS_ADVICE.items() if reason.endswith(ending)), "see the receiver's log")
    return f"{reason}: {advice}"


def _proxy(fault: Fault) -> str:
    if fault.tunnel_status is not None:
        return proxy_answered(fault.tunnel_status)
    match fault.code:
        case pycurl.E_COULDNT_CONNECT:
            return NO_PROXY
        case pycurl.E_OPERATION_TIMEDOUT if not fault.connected:
            return NO_PROXY
        case pycurl.E_OPERATION_TIMEDOUT:
            within_s = min(fault.connect_timeout_s, fault.deadline_s)
            return f"no answer of the proxy within {within_s:g} s: {_PROXY_ADVICE}"
        case pycurl.E_PEER_FAILED_VERIFICATION:
            return (
                "TLS: the proxy's certificate is refused: the operator must check HUBHOOKS_PROXY and HUBHOOKS_CA_BUNDLE"
            )
    return f"the proxy closed the connection, or its answer is not HTTP: {_PROXY_ADVICE}"


def proxy_answered(status: int) -> str:
    """Return the words for a proxy's answer that is not the receiver's."""
    answer = f"{status} {http.client.responses.get(status, '')}".strip()
    if status == 407:
        return f"the proxy answered {answer}: the operator must check user and password in HUBHOOKS_PROXY"
    return f"the proxy answered {answer}: check the host of the hook URL, and the proxy's log"


def no_end(code: int, deadline_s: float) -> str:
    """Return how the body of an answer ended before its time."""
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return f"the answer's body did not end within {deadline_s:g} s: end it at once, and do the work afterwards"
    return "the answer's body broke off: see the receiver's log"


def look_up_failed(host: str, why: str) -> str:
    return f"name look-up of {host} failed ({why}): check the host of the hook URL, and the DNS that the worker asks"
