"""Words for what went wrong with an attempt, and for what to do about it.

The texts of requests' and urllib3's exceptions are not used: they hold the URL.
"""

from __future__ import annotations

import http.client
import ssl

import urllib3

from .connections import Call, Unreachable

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
    "WRONG_VERSION_NUMBER": "does the port speak TLS, or should the hook URL begin with http://?",
    "RECORD_LAYER_FAILURE": "does the port speak TLS, or should the hook URL begin with http://?",
    "ALERT_PROTOCOL_VERSION": "have the receiver offer TLS 1.2 or newer",
    "UNSUPPORTED_PROTOCOL": "have the receiver offer TLS 1.2 or newer",
    "ALERT_HANDSHAKE_FAILURE": "is the receiver set up for this host name, or does it ask for a client certificate?",
    "UNRECOGNIZED_NAME": "is the receiver set up for this host name?",
    "ALERT_UNKNOWN_CA": "it does not know the authority of HUBHOOKS_CLIENT_CERTIFICATE",
    "CERTIFICATE_REQUIRED": "it asks for a client certificate: set HUBHOOKS_CLIENT_CERTIFICATE",
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


def no_answer(fault: BaseException, call: Call) -> str:
    """Return what went wrong before there was an answer."""
    root = _root(fault)
    match root:
        case Unreachable():
            return str(root)
        case ssl.SSLEOFError():
            return _closed(call)
        case ssl.SSLError():
            return f"TLS: {_tls(root)}"
        case TimeoutError():
            return _late(call)
        case ConnectionError():
            return _closed(call)
        case http.client.HTTPException() | urllib3.exceptions.HTTPError():
            return _not_understood(root)
        case ValueError():
            return "the request cannot be formed: the hook URL or a header is not valid"
        case OSError(strerror=str(strerror)):
            return strerror.lower()
    return f"unexpected fault ({type(root).__name__})"


def no_end(fault: BaseException, call: Call) -> str:
    """Return how the body of an answer ended before its time."""
    if isinstance(_root(fault), TimeoutError):
        return f"the answer's body did not end within {_seconds(call)}: end it at once, and do the work afterwards"
    return "the answer's body broke off: see the receiver's log"


def _root(fault: BaseException) -> BaseException:
    """Return the exception that requests and urllib3 wrapped.

    `__context__` is left out: it leads on to whatever the caller was handling.
    """
    wrapped = (getattr(fault, "reason", None), *fault.args, fault.__cause__)
    inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
    return fault if inner is None else _root(inner)


def _seconds(call: Call) -> str:
    return f"{call.rules.deadline_s:g} s"


def _late(call: Call) -> str:
    if call.connecting:
        return f"TLS: no handshake within {_seconds(call)}: does the port speak TLS, is the receiver overloaded?"
    return f"no answer within {_seconds(call)}: answer with 2xx at once, and do the work afterwards"


def _closed(call: Call) -> str:
    if call.connecting:
        return "TLS: connection closed during the handshake: does the port speak TLS, and know this host name?"
    kept = " (it was kept alive from an earlier POST)" if call.connect_ms is None else ""
    return f"connection closed before an answer{kept}: see the receiver's log"


def _not_understood(fault: BaseException) -> str:
    if isinstance(fault, http.client.BadStatusLine | http.client.UnknownProtocol):
        if str(fault).startswith("\x15\x03"):  # how an alert of TLS begins
            return "the answer is TLS, not HTTP: should the hook URL begin with https://?"
        return "the answer is not HTTP/1.1: check the port of the hook URL"
    return "the answer's headers are malformed, too long or too many: check the receiver, or the proxy before it"


def _tls(fault: ssl.SSLError) -> str:
    reason = fault.reason or "failed"
    advice = next((each for ending, each in _TLS_ADVICE.items() if reason.endswith(ending)), "see the receiver's log")
    return f"{reason.replace('_', ' ').lower()}: {advice}"
