"""Why an attempt failed: what is wrong, what to do about it, and whose fault it is.

The texts are shown to everyone who may read a webhook's history. They are made from libcurl's error codes and from what
the exchange has noted, never from libcurl's messages, which may contain the URL.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

import pycurl

from .egress import PUBLIC_ONLY
from .outcome import Concern
from .tls import DEFAULT_TLS, TLS, Certificate, shortened

_SEE_LOG = "See the receiver's log."
_CHECK_WORKER = "Check the worker and its machine."
_CREDENTIALS = "Check its credentials: a token in the hook URL, or the webhook's secret."
_EXPECTED = "The receiver should answer with 2xx once it has received a POST."
_ADVICE = {
    304: _EXPECTED,
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "Check the path of the hook URL.",
    405: "Check that it accepts POST at the path of the hook URL.",
    410: "It wants no more deliveries.",
    413: "Raise its limit on the size of requests.",
    415: "It must accept Content-Type application/json.",
    429: "Raise its limit on the rate of requests.",
    502: "Check that the server behind this proxy is running. See the logs of both.",
    503: "It may be overloaded or restarting. See the receiver's log.",
    504: "The server behind this proxy may be too slow. See the logs of both.",
}
_ADVICE_BY_CLASS = {
    3: "Redirects are not followed. Set the hook URL to where it leads.",
    4: "The response body may say why. If not, see the receiver's log.",
    5: _SEE_LOG,
}

_NOT_TLS = "Check that the port speaks TLS, or begin the hook URL with http:// instead."
_OLD_TLS = "The receiver must offer TLS 1.2 or newer."
_TLS_ADVICE = {
    "wrong version number": _NOT_TLS,
    "packet length too long": _NOT_TLS,
    "record layer failure": _NOT_TLS,
    "alert protocol version": _OLD_TLS,
    "unsupported protocol": _OLD_TLS,
    "alert handshake failure": "Check that the receiver serves this host name, and whether it wants a client "
    "certificate.",
    "unrecognized name": "Check that the receiver serves this host name.",
    "alert unknown ca": "It does not trust the authority of HUBHOOKS_CLIENT_CERTIFICATE.",
    "certificate required": "It wants a client certificate. Set HUBHOOKS_CLIENT_CERTIFICATE.",
}
"""By the end of OpenSSL's reason."""

_CHECK_PROXY = "The operator must check HUBHOOKS_PROXY, and that the proxy is running."
NO_PROXY = f"No connection to the proxy. {_CHECK_PROXY}"
TOO_LATE = "The request was not sent in time. The worker was suspended or overloaded."
NOT_HTTP = "The response is not HTTP/1.1. Check the port of the hook URL, and whether it needs https instead of http."

_CLOSED = {
    pycurl.E_OK,  # within a header line
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
    pycurl.E_ABORTED_BY_CALLBACK,  # libcurl wanted to send the request a second time
}
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Error numbers of a connect that mean a shortage on the worker's own machine."""


# What the history shows for an attempt


def received(status_code: int) -> bool:
    """Return whether a receiver with this status has received the delivery: 2xx, 302 or 303."""
    return 200 <= status_code < 300 or status_code in (302, 303)


def cause(status_code: int | None, error: str) -> str:
    """Return why an attempt failed, from its response's status and the transport's error; "" if nothing failed.

    If the delivery was received, only the error is returned.
    """
    if status_code is None or received(status_code):
        return error
    advice = _ADVICE.get(status_code) or _ADVICE_BY_CLASS.get(status_code // 100, _EXPECTED)
    answered = f"The receiver answered {_status_line(status_code)}. {advice}"
    return f"{answered} {error}" if error else answered


def _status_line(status_code: int) -> str:
    return f"{status_code} {http.client.responses.get(status_code, '')}".rstrip()


# Exchanges that ended without a response


@dataclass(frozen=True, slots=True)
class Failure:
    """What we know about an exchange that ended without a response."""

    code: int
    """libcurl's."""
    message: str
    """libcurl's: only searched for what OpenSSL says."""
    host: str
    port: int
    over_tls: bool
    through_proxy: bool
    deadline_s: float
    connect_timeout_s: float
    lookup_s: float = 0.0
    """How long it took to resolve the name, including the time in the queue."""
    opened: tuple[str, ...] = ()
    """The addresses that sockets were opened for; none on a kept connection."""
    connected: bool = False
    """Whether a TCP connection was made."""
    ready: bool = False
    """Whether the request could be sent: TLS and the proxy's tunnel were set up."""
    error_number: int = 0
    """The errno of the last connect."""
    verify_result: int = 0
    """OpenSSL's code for why it refused the certificate."""
    tunnel_status: int | None = None
    """The proxy's response to CONNECT."""
    certificate: Certificate | None = None
    """The receiver's, if it was refused."""
    tls: TLS = DEFAULT_TLS


def explain(failure: Failure) -> tuple[str, Concern]:
    """Return why there was no response, and whose fault that is."""
    if text := _our_fault(failure):
        return text, Concern.NOBODY
    if failure.through_proxy and not failure.ready and (failure.tunnel_status or 0) // 100 != 2:
        return _proxy_failure(failure), Concern.NOBODY
    if failure.ready:
        return _failure_after_sending(failure), Concern.HOOK
    own = failure.tls != DEFAULT_TLS and failure.connected
    return _failure_before_sending(failure), Concern.HOOK if own else Concern.HOST


def _our_fault(failure: Failure) -> str:
    """Describe a shortage or a wrong setting on the worker's side; "" if it is none."""
    if not failure.ready and failure.error_number in _OUT_OF_RESOURCES:
        return f"{os.strerror(failure.error_number)}. {_CHECK_WORKER}"
    if failure.code == pycurl.E_OUT_OF_MEMORY:
        return f"Out of memory. {_CHECK_WORKER}"
    if failure.code == pycurl.E_SSL_CERTPROBLEM or (failure.code == pycurl.E_SSL_CACERT_BADFILE and not failure.tls.ca):
        return (
            "TLS failed: our own certificate files cannot be used. The operator must check HUBHOOKS_CLIENT_CERTIFICATE "
            "and HUBHOOKS_CA_BUNDLE."
        )
    if failure.code == pycurl.E_COULDNT_CONNECT and not failure.error_number and not failure.connected:
        # libcurl did not even try to connect.
        return "No socket could be opened. Check the worker's limit of open files (ulimit -n)."
    # A receiver must have had some time before its silence counts against it or its host.
    least_s = min(failure.connect_timeout_s, failure.deadline_s / 3)
    if failure.code == pycurl.E_OPERATION_TIMEDOUT and failure.deadline_s - failure.lookup_s < least_s:
        return (
            f"It took {failure.lookup_s:.1f} s of {failure.deadline_s:g} s to resolve the host name, which left too "
            "little time for an answer. Check the worker's DNS."
        )
    return ""


def _failure_after_sending(failure: Failure) -> str:
    match failure.code:
        case pycurl.E_OPERATION_TIMEDOUT:
            return (
                f"No answer within {failure.deadline_s:g} s. Answer with 2xx at once and do the work afterwards, or "
                "give the hook a longer time-out."
            )
        case pycurl.E_UNSUPPORTED_PROTOCOL:
            return NOT_HTTP
        case pycurl.E_FTP_WEIRD_SERVER_REPLY:
            return "The response headers are malformed. Check the receiver, or the proxy in front of it."
        case pycurl.E_BAD_CONTENT_ENCODING:
            return "The response has an unknown Transfer-Encoding. Only chunked is supported."
    if failure.over_tls and (reason := _openssl_reason(failure.message)):
        return f"TLS failed: {reason}"
    if failure.code in _CLOSED:
        kept = "" if failure.opened else ", kept alive from an earlier POST,"
        return f"The connection{kept} was closed before an answer. {_SEE_LOG}"
    return f"The response cannot be read ({pycurl.easy_strerror(failure.code).lower()}). {_SEE_LOG}"


def _failure_before_sending(failure: Failure) -> str:
    within_s = min(failure.connect_timeout_s, failure.deadline_s)
    match failure.code:
        case pycurl.E_OPERATION_TIMEDOUT if failure.connected:
            return (
                f"TLS failed: no handshake within {within_s:g} s. Check that the port speaks TLS, and that the "
                "receiver is not overloaded."
            )
        case pycurl.E_OPERATION_TIMEDOUT:
            return (
                f"No connection within {within_s:g} s. Check that the receiver is running, and that no firewall drops "
                "the packets."
            )
        case pycurl.E_COULDNT_CONNECT:
            return _unreachable(failure)
        case pycurl.E_PEER_FAILED_VERIFICATION:
            found = re.search(r"verify result: ([\w ,/-]+) \(", failure.message)
            reason = found[1].strip().lower() if found else ""
            code = failure.verify_result if found else _Code.WRONG_HOST  # which libcurl checks, not OpenSSL
            refused = certificate_refused(code, reason, failure.host, failure.certificate, failure.tls)
            return f"TLS failed: {refused}"
        case pycurl.E_SSL_PINNEDPUBKEYNOTMATCH:
            return (
                f"TLS failed: the key of {failure.host} is not the one that is pinned at the hook. If the receiver has "
                "a new key, pin that one."
            )
        case pycurl.E_SSL_CACERT_BADFILE:
            return "TLS failed: the authorities that are set at the hook cannot be used. Set others."
        case pycurl.E_SSL_CONNECT_ERROR:
            closed = (
                "connection closed during the handshake. Check that the port speaks TLS, and that the receiver serves "
                "this host name."
            )
            return f"TLS failed: {_openssl_reason(failure.message) or closed}"
    return f"No connection ({pycurl.easy_strerror(failure.code).lower()}). {_SEE_LOG}"


def _unreachable(failure: Failure) -> str:
    host = failure.host
    # The address of a name is shown if it is public: names of an internal network may be resolved, too.
    if len(failure.opened) == 1 and PUBLIC_ONLY.allows(failure.opened[0]):
        host = failure.opened[0]
    peer = f"[{host}]:{failure.port}" if ":" in host else f"{host}:{failure.port}"
    if failure.error_number == errno.ECONNREFUSED:
        return f"Connection refused by {peer}. Check that the receiver is running and listens on that port."
    reason = os.strerror(failure.error_number).lower()
    return f"No connection to {peer} ({reason}). Check the worker and its network."


def _openssl_reason(message: str) -> str:
    """Return OpenSSL's reason and advice about it; "" if it only says that the connection was closed."""
    found = re.search(r"error:[0-9A-F]+:[^:]*:[^:]*:([a-zA-Z0-9 /-]+)", message)
    if not found or "unexpected eof" in found[1]:
        return ""
    reason = found[1].strip()[:60]
    advice = next((text for ending, text in _TLS_ADVICE.items() if reason.endswith(ending)), _SEE_LOG)
    return f"{reason}. {advice}"


def _proxy_failure(failure: Failure) -> str:
    if failure.tunnel_status is not None:
        return proxy_answered(failure.tunnel_status)
    match failure.code:
        case pycurl.E_COULDNT_CONNECT:
            return NO_PROXY
        case pycurl.E_OPERATION_TIMEDOUT if not failure.connected:
            return NO_PROXY
        case pycurl.E_OPERATION_TIMEDOUT:
            within_s = min(failure.connect_timeout_s, failure.deadline_s)
            return f"No answer from the proxy within {within_s:g} s. {_CHECK_PROXY}"
        case pycurl.E_PEER_FAILED_VERIFICATION:
            return (
                "TLS failed: the proxy's certificate was refused. The operator must check HUBHOOKS_PROXY and "
                "HUBHOOKS_CA_BUNDLE."
            )
    return f"The proxy closed the connection, or its response is not HTTP. {_CHECK_PROXY}"


def proxy_answered(status: int) -> str:
    """Describe a response of the proxy itself."""
    if status == 407:
        advice = "The operator must check the user name and password in HUBHOOKS_PROXY."
    else:
        advice = "Check the host of the hook URL, and the proxy's log."
    return f"The proxy answered {_status_line(status)}. {advice}"


def incomplete_body(code: int, deadline_s: float) -> str:
    """Describe how the body of a response ended too early, by libcurl's code."""
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return (
            f"The response body did not end within {deadline_s:g} s. End it at once and do the work afterwards, or "
            "give the hook a longer time-out."
        )
    return f"The response body broke off. {_SEE_LOG}"


def lookup_failed(host: str, reason: str) -> str:
    return (
        f"The host name {host} could not be resolved ({reason}). Check the host of the hook URL, and the worker's DNS."
    )


# Certificates that were refused

MAX_CERTIFICATE_TEXT = 40
"""Characters of each text of a certificate that are shown."""
MAX_CERTIFICATE_NAMES = 3
"""Names of a certificate that are shown."""


class _Code(IntEnum):
    """OpenSSL's verification codes (x509_vfy.h)."""

    NOT_YET_VALID = 9
    EXPIRED = 10
    SELF_SIGNED = 18
    UNKNOWN_ROOT = 19
    WRONG_HOST = 62
    WRONG_ADDRESS = 64


_UNKNOWN_ISSUER = (2, 20, 21)
"""Codes for an issuer that is neither in the chain nor among the authorities."""


def certificate_refused(code: int, reason: str, host: str, seen: Certificate | None, tls: TLS = DEFAULT_TLS) -> str:
    """Return why a host's certificate was refused and what to do; `code` and `reason` are OpenSSL's."""
    match code:
        case _Code.EXPIRED:
            return _expired(host, seen)
        case _Code.NOT_YET_VALID:
            return _not_yet_valid(host, seen)
        case _Code.WRONG_HOST | _Code.WRONG_ADDRESS:
            return _wrong_host(host, seen)
    issuer = f" ({shortened(seen.issuer, MAX_CERTIFICATE_TEXT)})" if seen and seen.issuer else ""
    if tls.ca and code in (_Code.SELF_SIGNED, _Code.UNKNOWN_ROOT, *_UNKNOWN_ISSUER):
        return (
            f"the certificate of {host} is not from an authority that is set at the hook, but from another{issuer}. "
            "Set that one, or have the receiver send its intermediate certificates."
        )
    if code == _Code.SELF_SIGNED:
        return f"the certificate of {host} is self-signed{issuer}. Pin its key, or add it to HUBHOOKS_CA_BUNDLE."
    if code == _Code.UNKNOWN_ROOT:  # the chain was sent up to its root, so no intermediate certificate is missing
        return (
            f"the certificate of {host} is from an unknown authority{issuer}. Set that authority at the hook, or add "
            "it to HUBHOOKS_CA_BUNDLE."
        )
    if code in _UNKNOWN_ISSUER:
        return (
            f"the certificate of {host} is from an unknown authority{issuer}. Set that authority at the hook, add it "
            "to HUBHOOKS_CA_BUNDLE, or have the receiver send its intermediate certificates."
        )
    return f"the certificate of {host} was refused ({reason}). Replace it, or its chain, at the receiver."


def _expired(host: str, seen: Certificate | None) -> str:
    if seen is None:
        return f"the certificate of {host}, or one in its chain, has expired. Renew it at the receiver."
    if seen.not_after > datetime.now(timezone.utc):
        return f"a certificate in the chain of {host} has expired. Renew the chain at the receiver."
    return f"the certificate of {host} expired on {seen.not_after.date()}. Renew it at the receiver."


def _not_yet_valid(host: str, seen: Certificate | None) -> str:
    advice = "Check the worker's clock, or replace the certificate at the receiver."
    if seen is None:
        return f"the certificate of {host}, or one in its chain, is not valid yet. {advice}"
    if seen.not_before <= datetime.now(timezone.utc):
        return f"a certificate in the chain of {host} is not valid yet. {advice}"
    return f"the certificate of {host} is not valid before {seen.not_before.date()}. {advice}"


def _wrong_host(host: str, seen: Certificate | None) -> str:
    advice = "Correct the hook URL, or the certificate at the receiver."
    if seen is None:
        return f"the certificate is not for {host}. {advice}"
    if not seen.names:
        return f"the certificate is for no host at all (no subjectAltName). Have it issued for {host}."
    names = [shortened(each, MAX_CERTIFICATE_TEXT) for each in seen.names[:MAX_CERTIFICATE_NAMES]]
    more = ", …" if len(seen.names) > MAX_CERTIFICATE_NAMES else ""
    return f"the certificate is for {', '.join(names)}{more} and not for {host}. {advice}"
