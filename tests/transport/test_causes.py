"""The causes of failed attempts: error responses, and failures that no receiver in these tests can produce."""

from __future__ import annotations

import errno
import http.client
from typing import Any

import pycurl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.transport import Concern
from flask_hubhooks.transport.causes import Failure, cause, explain, received

LOG = "See the receiver's log."
CREDENTIALS = "Check its credentials: a token in the hook URL, or the webhook's secret."
REDIRECTED = "Redirects are not followed. Set the hook URL to where it leads."
EXPECTED = "The receiver should answer with 2xx once it has received a POST."
BROKE = f"The response body broke off. {LOG}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (199, f"199. {EXPECTED}"),
        (300, f"300 Multiple Choices. {REDIRECTED}"),
        (301, f"301 Moved Permanently. {REDIRECTED}"),
        (304, f"304 Not Modified. {EXPECTED}"),
        (308, f"308 Permanent Redirect. {REDIRECTED}"),
        (400, "400 Bad Request. The response body may say why. If not, see the receiver's log."),
        (401, f"401 Unauthorized. {CREDENTIALS}"),
        (403, f"403 Forbidden. {CREDENTIALS}"),
        (404, "404 Not Found. Check the path of the hook URL."),
        (405, "405 Method Not Allowed. Check that it accepts POST at the path of the hook URL."),
        (410, "410 Gone. It wants no more deliveries."),
        (413, f"413 {http.client.responses[413]}. Raise its limit on the size of requests."),  # 3.13 has other words
        (415, "415 Unsupported Media Type. It must accept Content-Type application/json."),
        (429, "429 Too Many Requests. Raise its limit on the rate of requests."),
        (499, "499. The response body may say why. If not, see the receiver's log."),
        (500, f"500 Internal Server Error. {LOG}"),
        (502, "502 Bad Gateway. Check that the server behind this proxy is running. See the logs of both."),
        (503, f"503 Service Unavailable. It may be overloaded or restarting. {LOG}"),
        (504, "504 Gateway Timeout. The server behind this proxy may be too slow. See the logs of both."),
        (520, f"520. {LOG}"),
        (999, f"999. {EXPECTED}"),
    ],
)
def test_answers(status: int, words: str) -> None:
    """An error response gets its reason phrase and advice, followed by how its body broke off."""
    assert cause(status, "") == f"The receiver answered {words}"
    assert cause(status, BROKE) == f"The receiver answered {words} {BROKE}"


@pytest.mark.parametrize("status", [None, 200, 204, 299, 302, 303])
def test_no_cause(status: int | None) -> None:
    """A received attempt has no cause. A body that broke off or a missing response has the transport's text."""
    assert cause(status, "") == ""
    assert cause(status, BROKE) == BROKE


@given(st.none() | st.integers() | st.integers(100, 599), st.text())
def test_any_answer(status: int | None, error: str) -> None:
    """Any status and any error result in a text that contains both, and in none only if nothing failed."""
    words = cause(status, error)
    assert words.endswith(error)
    if status is None or received(status):
        assert words == error
    else:
        assert words.startswith(f"The receiver answered {status}")
        assert len(words) - len(error) <= 150 + len(str(status))


def failure(code: int, message: str = "", **known: Any) -> Failure:
    """Return a failure of a request to ci.example.com that was sent, unless `known` says otherwise."""
    return Failure(
        code,
        message,
        "ci.example.com",
        443,
        **{"over_tls": True, "through_proxy": False, "deadline_s": 9, "connect_timeout_s": 5, "ready": True, **known},
    )


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("tlsv1 alert protocol version", "The receiver must offer TLS 1.2 or newer."),
        ("unsupported protocol", "The receiver must offer TLS 1.2 or newer."),
        (
            "ssl/tls alert handshake failure",
            "Check that the receiver serves this host name, and whether it wants a client certificate.",
        ),
        (
            "tlsv13 alert certificate required",
            "It wants a client certificate. Set HUBHOOKS_CLIENT_CERTIFICATE.",
        ),
        ("bad extension", LOG),
    ],
)
def test_tls(reason: str, words: str) -> None:
    """OpenSSL's reason is shown with advice, before and after the request was sent."""
    message = f"TLS connect error: error:0A00042E:SSL routines::{reason}"
    failed = failure(pycurl.E_SSL_CONNECT_ERROR, message, ready=False)
    assert explain(failed) == (f"TLS failed: {reason}. {words}", Concern.HOST)
    message = f"OpenSSL SSL_read: OpenSSL/3.6.5: error:0A00042E:SSL routines::{reason}, errno 0"
    assert explain(failure(pycurl.E_RECV_ERROR, message)) == (f"TLS failed: {reason}. {words}", Concern.HOOK)


def test_want_of_our_own() -> None:
    """A lack of files, ports or memory on our side is nobody's fault."""
    lacking = explain(failure(pycurl.E_COULDNT_CONNECT, ready=False, error_number=errno.EMFILE))
    assert lacking == ("Too many open files. Check the worker and its machine.", Concern.NOBODY)
    assert explain(failure(pycurl.E_COULDNT_CONNECT))[1] is Concern.NOBODY, "libcurl never tried"
    assert explain(failure(pycurl.E_SSL_CERTPROBLEM))[1] is Concern.NOBODY
    lacking = explain(failure(pycurl.E_OUT_OF_MEMORY))
    assert lacking == ("Out of memory. Check the worker and its machine.", Concern.NOBODY)


def test_no_time_left() -> None:
    """If resolving used up the time, silence is nobody's fault; a bad answer that comes late still is the hook's."""
    for ready in (False, True):
        late = explain(failure(pycurl.E_OPERATION_TIMEDOUT, ready=ready, lookup_s=8.5))
        assert late[0].startswith("It took 8.5 s of 9 s to resolve the host name, ")
        assert late[1] is Concern.NOBODY
    assert explain(failure(pycurl.E_OPERATION_TIMEDOUT, lookup_s=5.9))[1] is Concern.HOOK
    assert explain(failure(pycurl.E_RECV_ERROR, lookup_s=8.5))[1] is Concern.HOOK


@given(st.integers(1, 110), st.text(), st.booleans(), st.booleans(), st.booleans(), st.none() | st.integers(100, 599))
def test_any_code(
    code: int, message: str, ready: bool, through_proxy: bool, connected: bool, tunnel_status: int | None
) -> None:
    """Any libcurl code results in one short line, without libcurl's message, which may contain the URL."""
    words, _ = explain(
        failure(
            code,
            f"{message} s3cr3t",
            ready=ready,
            through_proxy=through_proxy,
            connected=connected,
            tunnel_status=tunnel_status,
        )
    )
    assert words.isprintable()
    assert "s3cr3t" not in words
    assert 10 < len(words) < 200
