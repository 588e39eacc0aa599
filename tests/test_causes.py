"""What is said of an attempt's failure: of answers that are no success, and of what no receiver here can do."""

from __future__ import annotations

import http.client
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.delivery.causes import cause, no_answer, received
from flask_hubhooks.delivery.connections import Rules, begin
from flask_hubhooks.delivery.egress import Egress

LOG = "see the receiver's log"
CREDENTIALS = "check its credentials: a token in the hook URL, or the webhook's secret"
REDIRECTED = "redirects are not followed, set the hook URL to where it leads"
EXPECTED = "a POST that was received is to be answered with 2xx"
BROKE = f"the answer's body broke off: {LOG}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (199, f"199: {EXPECTED}"),
        (300, f"300 Multiple Choices: {REDIRECTED}"),
        (301, f"301 Moved Permanently: {REDIRECTED}"),
        (304, f"304 Not Modified: {EXPECTED}"),
        (308, f"308 Permanent Redirect: {REDIRECTED}"),
        (400, "400 Bad Request: its answer may say why, or else the receiver's log"),
        (401, f"401 Unauthorized: {CREDENTIALS}"),
        (403, f"403 Forbidden: {CREDENTIALS}"),
        (404, "404 Not Found: check the path of the hook URL"),
        (405, "405 Method Not Allowed: does it take POST at the path of the hook URL?"),
        (410, "410 Gone: it wants no more deliveries"),
        (413, f"413 {http.client.responses[413]}: raise its limit for the size of requests"),  # 3.13 has other words
        (415, "415 Unsupported Media Type: it must take Content-Type application/json"),
        (429, "429 Too Many Requests: raise its limit for the rate of requests"),
        (499, "499: its answer may say why, or else the receiver's log"),
        (500, f"500 Internal Server Error: {LOG}"),
        (502, "502 Bad Gateway: is the server behind this proxy running? See the log of both"),
        (503, f"503 Service Unavailable: is it overloaded, or being restarted? S{LOG[1:]}"),
        (504, "504 Gateway Timeout: is the server behind this proxy too slow? See the log of both"),
        (520, f"520: {LOG}"),
        (999, f"999: {EXPECTED}"),
    ],
)
def test_answers(status: int, words: str) -> None:
    """An answer that is no success is told with its phrase and what to do, and a body that broke off beside it."""
    assert cause(status, "") == f"the receiver answered {words}"
    assert cause(status, BROKE) == f"the receiver answered {words}; {BROKE}"


@pytest.mark.parametrize("status", [None, 200, 204, 299, 302, 303])
def test_no_cause(status: int | None) -> None:
    """What was received has no cause; what broke off, or was not answered, has the transport's words."""
    assert cause(status, "") == ""
    assert cause(status, BROKE) == BROKE


@given(st.none() | st.integers() | st.integers(100, 599), st.text())
def test_any_answer(status: int | None, error: str) -> None:
    """Any status and any error make words that hold both, and none only where nothing failed."""
    words = cause(status, error)
    assert words.endswith(error)
    if status is None or received(status):
        assert words == error
    else:
        assert words.startswith(f"the receiver answered {status}")
        assert len(words) - len(error) <= 150 + len(str(status))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "tlsv1 alert protocol version: have the receiver offer TLS 1.2 or newer"),
        ("UNSUPPORTED_PROTOCOL", "unsupported protocol: have the receiver offer TLS 1.2 or newer"),
        (
            "SSL/TLS_ALERT_HANDSHAKE_FAILURE",
            "ssl/tls alert handshake failure: is the receiver set up for this host name, or does it ask for a "
            "client certificate?",
        ),
        (
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            "tlsv13 alert certificate required: it asks for a client certificate: set HUBHOOKS_CLIENT_CERTIFICATE",
        ),
        ("BAD_EXTENSION", f"bad extension: {LOG}"),
        (None, f"failed: {LOG}"),
    ],
)
def test_tls(reason: str | None, words: str) -> None:
    """A reason of OpenSSL's is told in its words, with what to do about it."""
    fault = ssl.SSLError(1, "[SSL: X] text of Python")
    fault.reason = reason  # type: ignore[assignment]
    assert no_answer(fault, begin(Rules(Egress(), 1, 1))) == f"TLS: {words}"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(24, "Too many open files"), "too many open files"),
        (OSError(), "unexpected fault (OSError)"),
        (KeyError("secret"), "unexpected fault (KeyError)"),
    ],
)
def test_other_faults(fault: Exception, words: str) -> None:
    """A fault of our own is told by its kind alone: its text may hold the URL."""
    assert no_answer(fault, begin(Rules(Egress(), 1, 1))) == words
