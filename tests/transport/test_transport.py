"""The transport against real receivers on loopback, good and hostile."""

from __future__ import annotations

import gzip
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from flask_hubhooks.transport import MAX_STORED_BODY, MAX_STORED_HEADERS, Concern, Outcome, Transport, exchange

from ..support.receivers import Answer, Receiver, close, hang, http, poll, reset, sends, trickles
from ..support.transports import BODY, SECRET, post, transport


def post_once(answer: Answer, deadline_s: float = 10.0, **options: Any) -> Outcome:
    """POST to a receiver with this response; the outcome must not contain the path or the query."""
    with Receiver(answer) as receiver:
        outcome = post(transport(**options), f"{receiver.url}/{SECRET}?token={SECRET}", deadline_s)
        assert len(receiver.requests) == 1
    assert SECRET not in outcome.error
    return outcome


# Sending


def test_sends_what_it_is_given(guarded: Transport) -> None:
    """Method, path, query, headers and body arrive as given, and the outcome contains the response."""
    with Receiver(http(201, b"thanks", "X-One: 1", "X-One: 2")) as receiver:
        outcome = post(guarded, f"{receiver.url}?a=b", **{"webhook-id": "x"})
    request = receiver.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/hook?a=b", BODY)
    assert request.headers["webhook-id"] == "x"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert (outcome.status_code, outcome.response_body, outcome.error) == (201, b"thanks", "")
    assert outcome.response_headers == (("Content-Length", "6"), ("X-One", "1"), ("X-One", "2"))
    assert not outcome.truncated
    assert not outcome.blocked


def test_times(guarded: Transport) -> None:
    """The outcome says when the POST began, in UTC, and how long its parts took."""
    before = datetime.now(timezone.utc)
    with Receiver(trickles(b"", at_once=http())) as receiver:
        outcome = post(guarded, receiver.url)
    assert before <= outcome.started_at <= datetime.now(timezone.utc)
    assert outcome.started_at.utcoffset() == timedelta(0)
    assert outcome.connect_ms is not None
    assert outcome.wait_ms is not None
    assert 0 <= outcome.connect_ms + outcome.wait_ms <= outcome.duration_ms + 2


def test_headers_of_its_own(guarded: Transport) -> None:
    """Callers cannot set Host and framing headers, but may set Accept-Encoding."""
    theirs = {"host": "evil", "Content-Length": "1", "transfer-encoding": "chunked", "accept-encoding": "gzip"}
    with Receiver() as receiver:
        assert post(guarded, receiver.url, **theirs).status_code == 200
    headers = receiver.requests[0].headers
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-length"] == str(len(BODY))
    assert "transfer-encoding" not in headers
    assert headers["accept-encoding"] == "gzip"
    assert receiver.requests[0].body == BODY


@pytest.mark.parametrize("addition", ["ann:p%40ss@", "@"])
def test_user_and_password_of_the_url(guarded: Transport, addition: str) -> None:
    """A URL with a user name, which cannot be saved, cannot be sent to either."""
    with Receiver() as receiver:
        outcome = post(guarded, receiver.url.replace("//", f"//{addition}"))
        assert receiver.connections == 0
    assert outcome.error == "The request cannot be built. The hook URL or a header is not valid."


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(guarded: Transport, status: int) -> None:
    """A redirect is an outcome, and is not followed."""
    with Receiver() as target, Receiver(http(status, b"", f"Location: {target.url}")) as receiver:
        assert post(guarded, receiver.url).status_code == status
    assert not target.requests


def test_retry_after_is_left_to_the_caller(guarded: Transport) -> None:
    """A response with Retry-After is returned at once, and nothing is sent again."""
    with Receiver(http(503, b"", "Retry-After: 30"), 200) as receiver:
        assert post(guarded, receiver.url).status_code == 503
    assert len(receiver.requests) == 1


def test_environment_and_cookies_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies and netrc of the environment and cookies of an earlier response do not change a POST."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Receiver() as proxy, Receiver(http(200, b"", "Set-Cookie: a=b; Path=/")) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        sender = transport()
        assert [post(sender, receiver.url).status_code for _ in range(2)] == [200, 200]
    assert not proxy.requests
    assert not {"cookie", "authorization", "proxy-authorization"} & set(receiver.requests[1].headers)


@pytest.mark.parametrize(
    "url",
    ["", "hook", "ftp://127.0.0.1/", "mailto:ann@example.com", "http:///hook", "http://127.0.0.1:99999/"],
)
def test_urls_that_are_none(guarded: Transport, url: str) -> None:
    """A URL that cannot be sent to results in a failed outcome, not in an exception."""
    outcome = post(guarded, url)
    assert (outcome.status_code, outcome.blocked) == (None, False)
    assert outcome.error == "The request cannot be built. The hook URL or a header is not valid."


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "\u20ac"])
def test_header_values_that_are_none(guarded: Transport, value: str) -> None:
    """With a line break or non-Latin-1 text in a header value nothing is sent."""
    with Receiver() as receiver:
        assert "a header is not valid." in post(guarded, receiver.url, **{"X-Header": value}).error
    assert not receiver.requests


# Connections kept alive


def test_connections_are_reused(guarded: Transport) -> None:
    """Consecutive POSTs use one connection, and only the first reports connecting."""
    with Receiver(http(200), http(204), http(500, b""), CHUNKED + b"2\r\nok\r\n0\r\n\r\n") as receiver:
        outcomes = [post(guarded, receiver.url) for _ in range(8)]
        assert receiver.connections == 1
    assert [outcome.connect_ms is None for outcome in outcomes] == [False] + [True] * 7
    assert outcomes[-1].response_body == b"ok"


def test_threads_share_connections(guarded: Transport) -> None:
    """Many threads at once get their own responses, over no more connections than threads."""
    echo = Receiver(lambda request, _: http(200, request.path.encode()))
    with echo as receiver, ThreadPoolExecutor(8) as pool:
        paths = [f"/hook/{number}" for number in range(100)]
        origin = receiver.url.removesuffix("/hook")
        outcomes = list(pool.map(lambda path: post(guarded, origin + path), paths))
        assert receiver.connections <= 8
    assert [outcome.response_body.decode() for outcome in outcomes] == paths


def test_connection_closed_while_idle(guarded: Transport) -> None:
    """A connection that the receiver closed while it was idle is replaced, and no POST fails."""
    with Receiver() as receiver:
        post(guarded, receiver.url)
        receiver.drop()
        poll(lambda: not receiver.open)
        assert post(guarded, receiver.url).status_code == 200
        assert receiver.connections == 2


@pytest.mark.parametrize("ending", [close, reset])
def test_connection_closed_while_sending(guarded: Transport, ending: Answer) -> None:
    """If a kept connection is closed in response to a POST, the cause says so, and the POST is not sent again."""
    with Receiver(200, ending, 200) as receiver:
        post(guarded, receiver.url)
        outcome = post(guarded, receiver.url)
        assert len(receiver.requests) == 2
    assert outcome.status_code is None
    assert outcome.error == f"The connection, kept alive from an earlier POST, was closed before an answer. {LOG}"


def test_many_connections_closed_while_sending(guarded: Transport) -> None:
    """A POST is not sent again over another kept connection either, even if there are many."""
    barrier = threading.Barrier(20)

    def together(*_: Any) -> int:
        barrier.wait(10)
        return 200

    with Receiver(*[together] * 20, close) as receiver, ThreadPoolExecutor(20) as pool:
        assert {each.status_code for each in pool.map(lambda _: post(guarded, receiver.url), range(20))} == {200}
        paths = [f"/hook/{number}" for number in range(20)]
        origin = receiver.url.removesuffix("/hook")
        ended = list(pool.map(lambda path: post(guarded, origin + path), paths))
        assert sorted(each.path for each in receiver.requests[20:]) == sorted(paths)
    assert {(each.status_code, each.concern, each.connected) for each in ended} == {(None, Concern.HOOK, True)}


def test_connection_long_idle(guarded: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for too long is replaced before use."""
    monkeypatch.setattr(exchange, "MAX_CONNECTION_AGE_S", 1)
    with Receiver() as receiver:
        post(guarded, receiver.url)
        began = monotonic()
        poll(lambda: monotonic() - began > 2.1)
        assert post(guarded, receiver.url).status_code == 200
        assert receiver.connections == 2


def test_busy_connections_are_replaced(guarded: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is replaced when it is old, however busy, because its name may have another address by then."""
    monkeypatch.setattr(exchange, "MAX_CONNECTION_AGE_S", 1)
    with Receiver() as receiver:
        poll(lambda: post(guarded, receiver.url).status_code == 200 and receiver.connections > 1)
        assert receiver.connections == 2


def test_close() -> None:
    """Closing the transport closes its idle connections."""
    sender = transport()
    with Receiver() as receiver:
        post(sender, receiver.url)
        assert receiver.open
        sender.close()
        poll(lambda: not receiver.open)


# Answers


@pytest.mark.parametrize("size", [0, 1, MAX_STORED_BODY])
def test_body_up_to_the_limit(guarded: Transport, size: int) -> None:
    """A body up to the limit is kept whole, and so is its connection."""
    with Receiver(http(200, b"x" * size)) as receiver:
        outcomes = [post(guarded, receiver.url) for _ in range(2)]
        assert receiver.connections == 1
    assert all(outcome.response_body == b"x" * size and not outcome.truncated for outcome in outcomes)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer", [http(200, b"x" * MAX_STORED_BODY * 2), CHUNKED + (b"1000\r\n" + b"x" * 0x1000 + b"\r\n") * 5]
)
def test_body_above_the_limit(guarded: Transport, answer: bytes) -> None:
    """Of a longer body the beginning is kept; the rest is not read, and the connection is closed."""
    with Receiver(sends(answer, hang), 200) as receiver:
        outcome = post(guarded, receiver.url)
        assert (outcome.status_code, outcome.response_body) == (200, b"x" * MAX_STORED_BODY)
        assert outcome.truncated
        assert outcome.error == ""
        assert post(guarded, receiver.url).status_code == 200
        assert receiver.connections == 2


def test_gzip_bomb() -> None:
    """A compressed body is kept as it was sent, never decompressed."""
    bomb = gzip.compress(bytes(8 * 1024 * 1024))
    outcome = post_once(http(200, bomb, "Content-Encoding: gzip"))
    assert outcome.response_body == bomb[:MAX_STORED_BODY]


def test_headers_are_capped_and_clean() -> None:
    """Stored headers are text without control characters, and at most the first 16 KiB."""
    huge = [f"X-{number}: {'y' * 4000}" for number in range(10)]
    outcome = post_once(http(200, b"ok", "X-Odd: a\x01b\x07c\xe9", *huge))
    assert outcome.response_headers[1] == ("X-Odd", "a b c\xe9")
    assert sum(len(name) + len(value) for name, value in outcome.response_headers) == MAX_STORED_HEADERS
    assert outcome.status_code == 200


@pytest.mark.parametrize("interim", [100, 102, 103])
def test_interim_answers(guarded: Transport, interim: int) -> None:
    """1xx responses are skipped, and do not shift the responses of later POSTs."""
    hint = f"HTTP/1.1 {interim} Wait\r\nLink: </x>\r\n\r\n".encode()
    with Receiver(hint * 3 + http(201), http(202)) as receiver:
        assert [post(guarded, receiver.url).status_code for _ in range(2)] == [201, 202]
        assert receiver.connections == 1


CLOSED, LOG = "The connection was closed before an answer.", "See the receiver's log."
MALFORMED = "The response headers are malformed. Check the receiver, or the proxy in front of it."
NOT_HTTP = "The response is not HTTP/1.1. Check the port of the hook URL, and whether it needs https instead of http."
TOO_LONG = exchange.TOO_MANY_HEADERS


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (close, f"{CLOSED} {LOG}"),
        (reset, f"{CLOSED} {LOG}"),
        (sends(b"220 mail.example.com ESMTP\r\n"), NOT_HTTP),
        (sends(b"HTTP/2.0 200 OK\r\n\r\n"), NOT_HTTP),
        (sends(b"HTTP/1.1 abc OK\r\n\r\n"), NOT_HTTP),
        (sends(b"\x00\xff" * 100 + b"\r\n"), NOT_HTTP),
        (sends(b"\x15\x03\x03\x00\x02\x02\x0a"), NOT_HTTP),
        (sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000), f"{CLOSED} {LOG}"),
        (sends(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 997 + b"\r\n") * 70 + b"\r\n"), TOO_LONG),
        (
            sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 6_000 + b"\r\n"),
            "The response headers are too long or too many (over 64 KiB, with 1xx responses and trailers). Check the "
            "receiver, or the proxy in front of it.",
        ),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"), MALFORMED),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"), MALFORMED),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno colon\r\n\r\n"), MALFORMED),
        (sends(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n"), MALFORMED),
        (sends(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, hang), TOO_LONG),
    ],
)
def test_no_answer(answer: Answer, error: str) -> None:
    """Whatever a receiver does instead of answering has its cause, and is not an exception."""
    outcome = post_once(answer)
    assert (outcome.status_code, outcome.error) == (None, error)
    assert outcome.connect_ms is not None
    assert not outcome.blocked
    assert (outcome.concern, outcome.connected) == (Concern.HOOK, True)


def test_endless_trailers() -> None:
    """Endless trailers fail the attempt, however good the response before them."""
    trailers = b"X: " + b"y" * 997 + b"\r\n"
    outcome = post_once(sends(CHUNKED + b"2\r\nok\r\n0\r\n" + trailers * 100, hang))
    assert (outcome.status_code, outcome.error) == (None, TOO_LONG)


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 10\r\n\r\npart",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
    ],
)
def test_body_breaks_off(rest: bytes) -> None:
    """If the body breaks off, the status counts, and the part that has arrived is kept."""
    outcome = post_once(sends(b"HTTP/1.1 200 OK\r\n" + rest))
    assert (outcome.status_code, outcome.response_body) == (200, b"part")
    assert outcome.error == f"The response body broke off. {LOG}"


@pytest.mark.parametrize(
    ("lines", "headers", "body"),
    [
        (b"Content-Length:2\r\n", {"Content-Length": "2"}, b"ok"),
        (b"content-length:  2 \r\nX:\r\n", {"content-length": "2", "X": ""}, b"ok"),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n", {"Content-Length": "2"}, b"ok"),
        (
            b"X: one,\r\n two,\r\n\tthree\r\nContent-Length: 2\r\n",
            {"X": "one, two, three", "Content-Length": "2"},
            b"ok",
        ),
        (b"X: a:b\nContent-Length: 2\n", {"X": "a:b", "Content-Length": "2"}, b"ok"),
        (
            b"Transfer-Encoding: Chunked\r\nContent-Length: 9\r\n",
            {"Transfer-Encoding": "Chunked", "Content-Length": "9"},
            b"",
        ),
    ],
)
def test_spellings_of_headers(guarded: Transport, lines: bytes, headers: dict[str, str], body: bytes) -> None:
    """Headers are read however a receiver writes them, and the body ends where they say, so the connection is kept."""
    rest = b"0\r\n\r\n" if b"chunked" in lines.lower() else b"ok"
    with Receiver(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + rest, http(202)) as receiver:
        outcome = post(guarded, receiver.url)
        assert post(guarded, receiver.url).status_code == 202
        assert receiver.connections == 1
    assert (dict(outcome.response_headers), outcome.response_body, outcome.error) == (headers, body, "")


def test_body_without_a_length() -> None:
    """Without a length, the body ends with the connection, unless the status allows no body."""
    assert post_once(sends(b"HTTP/1.1 200 OK\r\n\r\nall of it")).response_body == b"all of it"
    assert post_once(sends(b"HTTP/1.0 200 OK\r\n\r\nit")).response_body == b"it"
    assert post_once(sends(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", hang)).error == ""


@pytest.mark.parametrize(
    "lines", [b"Content-Length: " + b"9" * 5000, b"Content-Length: +3", b"Transfer-Encoding: gzip\r\nContent-Length: 2"]
)
def test_lengths_that_are_none(guarded: Transport, lines: bytes) -> None:
    """A length that cannot be trusted ends no body, and its connection is not used again."""
    with Receiver(sends(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\nall"), http(202)) as receiver:
        assert post(guarded, receiver.url).status_code in (200, None)
        assert post(guarded, receiver.url).status_code == 202
        assert receiver.connections == 2


def test_urls_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No logger shows the path or query of a hook URL, at any level."""
    caplog.set_level(logging.DEBUG)
    with Receiver() as receiver:
        assert post(transport(), f"{receiver.url}/services/s3cr3t-path?token=s3cr3t-query").status_code == 200
        assert receiver.requests[0].path.endswith("/services/s3cr3t-path?token=s3cr3t-query")
    assert "s3cr3t" not in caplog.text
