"""What hostile receivers answer, and what must come of it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass

from .receivers import Answer, Connection, Receiver, Request, close, hang, http, reset, sends, shut, trickles

DEADLINE_S = 1.0
"""Of the transport that the table is for."""

NOT_HTTP = "The response is not HTTP/1.1. "
MALFORMED = "The response headers are malformed. "
TOO_MANY = "The response headers are too long or too many "
CLOSED = "The connection was closed before an answer. "
SILENT = "No answer within 1 s. "
LATE = "The response body did not end within 1 s. "
BROKEN = "The response body broke off. "
UNKNOWN_CODING = "The response has an unknown Transfer-Encoding. "
COSTLY = "The response takes too much work to read. "


@dataclass(frozen=True)
class Hostile:
    """One kind of answer."""

    answer: Answer
    status: int | None
    """None where there is no answer."""
    cause: str
    """A regular expression of how the outcome's `error` begins; "" where there is none."""
    early: bool = False
    """It is sent before the request is read."""

    def receiver(self, tls: ssl.SSLContext | None = None) -> Receiver:
        return (_Hasty if self.early else Receiver)(self.answer, tls=tls)


class _Hasty(Receiver):
    """Answers each connection without reading a request."""

    def _serve(self, connection: socket.socket) -> None:
        answer = self.answers[0]
        assert callable(answer)
        with contextlib.suppress(OSError):  # the client has gone, or the receiver has stopped
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with self._arrived:
                self.open.add(connection)
            answer(Request("", "", {}, b""), Connection(connection, self))
            shut(connection)
        with self._arrived:
            self.open.discard(connection)
        connection.close()


def floods(data: bytes, first: bytes = b"", most: int | None = None) -> Answer:
    """Send `first`, then `data` again and again until the client has gone, or `most` bytes were sent."""
    block = data * (65_536 // len(data) + 1)

    def answer(request: Request, connection: Connection) -> None:
        connection.socket.sendall(first)
        sent = 0
        while not connection.receiver.stopping.is_set() and (most is None or sent < most):
            connection.socket.sendall(block)
            sent += len(block)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 2\r\n\r\nok"


def head(*lines: bytes, rest: bytes = b"") -> bytes:
    return OK + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + rest


HOSTILE: dict[str, Hostile] = {
    # No HTTP
    "garbage": Hostile(sends(b"\x00\xff" * 100 + b"\r\n"), None, NOT_HTTP),
    "endless-garbage": Hostile(floods(b"\x00\xff\x80"), None, NOT_HTTP),
    "http-0.9": Hostile(sends(b"<html>hello</html>"), None, NOT_HTTP),
    "http-2-preface": Hostile(
        sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), None, NOT_HTTP
    ),
    "http-2-settings": Hostile(sends(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, hang), None, NOT_HTTP),
    "tls-alert": Hostile(sends(b"\x15\x03\x03\x00\x02\x02\x0a"), None, NOT_HTTP),
    "smtp": Hostile(sends(b"220 mail.example.com ESMTP\r\n", hang), None, NOT_HTTP),
    "ssh": Hostile(sends(b"SSH-2.0-OpenSSH_9.2\r\n", hang), None, NOT_HTTP),
    "zeros": Hostile(floods(b"\x00"), None, NOT_HTTP),
    "blank-lines-first": Hostile(sends(b"\r\n\r\n" + LENGTH), None, NOT_HTTP),
    "endless-blank-lines": Hostile(floods(b"\r\n"), None, NOT_HTTP),
    # Status lines
    "http-1.0": Hostile(sends(b"HTTP/1.0 200 OK\r\n\r\nok"), 200, ""),
    "http-1.9": Hostile(sends(b"HTTP/1.9 200 OK\r\n\r\nok"), None, NOT_HTTP),
    "http-2": Hostile(sends(b"HTTP/2 200\r\n\r\nok"), None, NOT_HTTP),
    "http-3": Hostile(sends(b"HTTP/3 200\r\n\r\nok"), None, NOT_HTTP),
    "lower-case": Hostile(sends(b"http/1.1 200 ok\r\n\r\n"), None, NOT_HTTP),
    "icy": Hostile(sends(b"ICY 200 OK\r\n\r\n"), None, NOT_HTTP),
    "status-0": Hostile(sends(b"HTTP/1.1 000 None\r\n\r\n"), None, NOT_HTTP),
    "status-99": Hostile(sends(b"HTTP/1.1 99 Low\r\n\r\n"), None, NOT_HTTP),
    "status-099": Hostile(sends(b"HTTP/1.1 099 Low\r\n\r\n"), None, NOT_HTTP),
    "status-600": Hostile(sends(b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n"), 600, ""),
    "status-999": Hostile(sends(b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n"), 999, ""),
    "status-1000": Hostile(sends(b"HTTP/1.1 1000 High\r\n\r\n"), None, NOT_HTTP),
    "status-negative": Hostile(sends(b"HTTP/1.1 -200 OK\r\n\r\n"), None, NOT_HTTP),
    "status-word": Hostile(sends(b"HTTP/1.1 abc OK\r\n\r\n"), None, NOT_HTTP),
    "status-missing": Hostile(sends(b"HTTP/1.1\r\n\r\n"), None, NOT_HTTP),
    "status-glued": Hostile(sends(b"HTTP/1.1 200OK\r\n\r\n"), None, NOT_HTTP),
    "reason-missing": Hostile(sends(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), 200, ""),
    "reason-garbage": Hostile(sends(b"HTTP/1.1 200 \xff\x80\x01\r\nContent-Length: 0\r\n\r\n"), 200, ""),
    "reason-nul": Hostile(sends(b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"), None, MALFORMED),
    "reason-1-mb": Hostile(sends(b"HTTP/1.1 200 " + b"x" * 1_000_000 + b"\r\n\r\n"), None, TOO_MANY),
    "reason-endless": Hostile(floods(b"x", b"HTTP/1.1 200 "), None, TOO_MANY),
    "status-line-drips": Hostile(trickles(b"HTTP/1.1 200 " + b"x" * 100), None, SILENT),
    "status-line-cut": Hostile(sends(b"HTTP/1.1 20"), None, CLOSED),
    "status-line-cut-silent": Hostile(sends(b"HTTP/1.1 20", hang), None, SILENT),
    "status-line-reset": Hostile(sends(b"HTTP/1.1 20", reset), None, CLOSED),
    # 1xx and statuses with a meaning of their own
    "100-then-answer": Hostile(sends(b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH), 200, ""),
    "100-then-silence": Hostile(sends(b"HTTP/1.1 100 Continue\r\n\r\n", hang), None, SILENT),
    "100-then-close": Hostile(sends(b"HTTP/1.1 100 Continue\r\n\r\n"), None, CLOSED),
    "100-then-reset": Hostile(sends(b"HTTP/1.1 100 Continue\r\n\r\n", reset), None, CLOSED),
    "100-then-garbage": Hostile(sends(b"HTTP/1.1 100 Continue\r\n\r\n" + b"\x00\xff" * 100, hang), None, MALFORMED),
    "endless-100": Hostile(floods(b"HTTP/1.1 100 Continue\r\n\r\n"), None, TOO_MANY),
    "endless-102": Hostile(floods(b"HTTP/1.1 102 Processing\r\n\r\n"), None, TOO_MANY),
    "103-early-hints": Hostile(sends(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + LENGTH), 200, ""),
    "199-with-length": Hostile(sends(b"HTTP/1.1 199 What\r\nContent-Length: 5\r\n\r\n" + LENGTH), 200, ""),
    "101-switching": Hostile(
        sends(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x05hello", hang
        ),
        None,
        SILENT,
    ),
    "101-h2c": Hostile(
        sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", hang), None, SILENT
    ),
    "407": Hostile(
        sends(b'HTTP/1.1 407 P\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'), 407, ""
    ),
    "401-negotiate": Hostile(
        sends(b"HTTP/1.1 401 U\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n"), 401, ""
    ),
    "417": Hostile(sends(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"), 417, ""),
    "421": Hostile(sends(b"HTTP/1.1 421 Misdirected\r\nContent-Length: 0\r\n\r\n"), 421, ""),
    "425": Hostile(sends(b"HTTP/1.1 425 Too Early\r\nContent-Length: 0\r\n\r\n"), 425, ""),
    "204-with-body": Hostile(sends(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"), 204, ""),
    "204-chunked-silent": Hostile(sends(b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", hang), 204, ""),
    "304-with-length": Hostile(sends(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", hang), 304, ""),
    "redirect-huge": Hostile(
        sends(b"HTTP/1.1 302 Found\r\nLocation: http://x/" + b"y" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n"), 302, ""
    ),
    "redirect-inwards": Hostile(
        sends(b"HTTP/1.1 307 T\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"), 307, ""
    ),
    "redirect-garbage": Hostile(
        sends(b"HTTP/1.1 308 P\r\nLocation: \xff\x80://[\r\nContent-Length: 0\r\n\r\n"), 308, ""
    ),
    # Headers
    "no-colon": Hostile(sends(head(b"Content-Length: 0", b"no colon", b"X: y")), None, MALFORMED),
    "colon-first": Hostile(sends(head(b": empty name", b"Content-Length: 0")), 200, ""),
    "nul-in-header": Hostile(sends(head(b"X: a\x00b", b"Content-Length: 0")), None, MALFORMED),
    "nul-in-name": Hostile(sends(head(b"X\x00: b", b"Content-Length: 0")), None, MALFORMED),
    "controls-in-header": Hostile(sends(head(b"X: \x01\x1b[31m\x7f\xff", b"Content-Length: 0")), 200, ""),
    "bare-cr": Hostile(sends(head(b"X: a\rY: b", b"Content-Length: 0")), None, MALFORMED),
    "bare-lf": Hostile(sends(b"HTTP/1.1 200 OK\nX: a\nContent-Length: 2\n\nok"), 200, ""),
    "only-cr": Hostile(sends(b"HTTP/1.1 200 OK\rContent-Length: 2\r\rok", hang), None, SILENT),
    "folded": Hostile(sends(head(b"X: a", b"\tb", b"  c", b"Content-Length: 0")), 200, ""),
    "folded-first": Hostile(sends(head(b" folded: x", b"Content-Length: 0")), 200, ""),
    "endless-folds": Hostile(floods(b" x\r\n", OK + b"X: a\r\n"), None, TOO_MANY),
    "10000-headers": Hostile(sends(head(*[b"X-%d: y" % n for n in range(10_000)])), None, TOO_MANY),
    "1000-headers": Hostile(sends(head(*[b"X-%d: y" % n for n in range(1000)], b"Content-Length: 0")), 200, ""),
    "1-mb-header": Hostile(sends(head(b"X: " + b"x" * 1_000_000)), None, TOO_MANY),
    "1-mb-name": Hostile(sends(head(b"x" * 1_000_000 + b": y")), None, TOO_MANY),
    "headers-6-mb": Hostile(floods(b"X-A: " + b"x" * 6000 + b"\r\n", OK, 6_000_000), None, TOO_MANY),
    "endless-headers": Hostile(floods(b"X: y\r\n", OK), None, TOO_MANY),
    "endless-header": Hostile(floods(b"x", OK + b"X: "), None, TOO_MANY),
    "endless-cookies": Hostile(floods(b"Set-Cookie: a=b; Domain=localhost\r\n", OK), None, TOO_MANY),
    "cookies": Hostile(sends(head(*[b"Set-Cookie: a%d=b" % n for n in range(200)], b"Content-Length: 0")), 200, ""),
    "alt-svc": Hostile(
        sends(head(b'Alt-Svc: h3=":443"', b"Strict-Transport-Security: max-age=9", b"Content-Length: 0")), 200, ""
    ),
    "headers-drip": Hostile(trickles(b"x" * 100, OK + b"X-Long: "), None, SILENT),
    "headers-cut": Hostile(sends(OK + b"X: y\r\n"), None, CLOSED),
    "header-cut": Hostile(sends(OK + b"X: y"), None, CLOSED),
    "headers-silent": Hostile(sends(OK + b"X: y\r\n", hang), None, SILENT),
    "headers-reset": Hostile(sends(OK + b"X: y\r\n", reset), None, CLOSED),
    # Lengths
    "length-negative": Hostile(sends(head(b"Content-Length: -1", rest=b"ok")), None, MALFORMED),
    "length-word": Hostile(sends(head(b"Content-Length: two", rest=b"ok")), None, MALFORMED),
    "length-empty": Hostile(sends(head(b"Content-Length:", rest=b"ok")), None, MALFORMED),
    "length-plus": Hostile(sends(head(b"Content-Length: +2", rest=b"ok")), None, MALFORMED),
    "length-hex": Hostile(sends(head(b"Content-Length: 0x2", rest=b"ok")), None, MALFORMED),
    "length-huge": Hostile(sends(head(b"Content-Length: 9223372036854775807", rest=b"ok")), 200, BROKEN),
    "length-overflow": Hostile(sends(head(b"Content-Length: " + b"9" * 40, rest=b"ok")), 200, ""),
    "length-list": Hostile(sends(head(b"Content-Length: 1, 2", rest=b"ok")), None, MALFORMED),
    "length-twice": Hostile(sends(head(b"Content-Length: 2", b"Content-Length: 2", rest=b"ok")), 200, ""),
    "length-conflict": Hostile(sends(head(b"Content-Length: 2", b"Content-Length: 9", rest=b"ok")), None, MALFORMED),
    "length-and-chunked": Hostile(
        sends(head(b"Content-Length: 99", b"Transfer-Encoding: chunked", rest=b"2\r\nok\r\n0\r\n\r\n")), 200, ""
    ),
    "chunked-and-length": Hostile(
        sends(head(b"Transfer-Encoding: chunked", b"Content-Length: 1", rest=b"2\r\nok\r\n0\r\n\r\n")), 200, ""
    ),
    # Codings
    "coding-unknown": Hostile(sends(head(b"Transfer-Encoding: secret", rest=b"ok")), None, UNKNOWN_CODING),
    "coding-gzip-chunked": Hostile(
        sends(head(b"Transfer-Encoding: gzip, chunked", rest=b"2\r\nok\r\n0\r\n\r\n")), None, UNKNOWN_CODING
    ),
    "gzip-claimed": Hostile(sends(head(b"Content-Encoding: gzip", b"Content-Length: 2", rest=b"ok")), 200, ""),
    "gzip-many": Hostile(
        sends(head(b"Content-Encoding: " + b"gzip, " * 1000 + b"br", b"Content-Length: 2", rest=b"ok")), 200, ""
    ),
    # Chunks
    "chunk-garbage": Hostile(sends(CHUNKED + b"xyz\r\nok\r\n"), 200, BROKEN),
    "chunk-negative": Hostile(sends(CHUNKED + b"-2\r\nok\r\n0\r\n\r\n"), 200, BROKEN),
    "chunk-overflow": Hostile(sends(CHUNKED + b"f" * 40 + b"\r\nok\r\n"), 200, BROKEN),
    "chunk-huge": Hostile(sends(CHUNKED + b"7fffffffffffffff\r\nok\r\n"), 200, BROKEN),
    "chunk-empty-size": Hostile(sends(CHUNKED + b"\r\n\r\n"), 200, BROKEN),
    "chunk-too-long": Hostile(sends(CHUNKED + b"2\r\nokmore\r\n0\r\n\r\n"), 200, BROKEN),
    "chunk-cut": Hostile(sends(CHUNKED + b"5\r\nok"), 200, BROKEN),
    "chunk-silent": Hostile(sends(CHUNKED + b"5\r\nok", hang), 200, LATE),
    "chunk-reset": Hostile(sends(CHUNKED + b"5\r\nok", reset), 200, BROKEN),
    "chunk-no-end": Hostile(sends(CHUNKED + b"2\r\nok\r\n"), 200, BROKEN),
    "chunk-size-endless": Hostile(floods(b"0", CHUNKED), 200, BROKEN),
    "chunk-extension": Hostile(sends(CHUNKED + b'2;a=b;c="d"\r\nok\r\n0\r\n\r\n'), 200, ""),
    "chunk-extension-endless": Hostile(floods(b"x", CHUNKED + b"2;"), 200, COSTLY),
    "chunk-extensions-endless": Hostile(floods(b"1;" + b"x" * 5000 + b"\r\ny\r\n", CHUNKED), 200, f"|{COSTLY}"),
    "chunk-bytes-endless": Hostile(floods(b"1\r\nx\r\n", CHUNKED), 200, ""),
    "chunk-bytes-drip": Hostile(trickles(b"1\r\nx\r\n" * 100, CHUNKED), 200, LATE),
    # Trailers
    "trailer": Hostile(sends(CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n"), 200, ""),
    "trailer-no-colon": Hostile(sends(CHUNKED + b"0\r\nno colon\r\n\r\n"), 200, BROKEN),
    "trailer-length": Hostile(sends(CHUNKED + b"0\r\nContent-Length: 99\r\n\r\n"), 200, ""),
    "trailer-cut": Hostile(sends(CHUNKED + b"2\r\nok\r\n0\r\nX: y"), 200, BROKEN),
    "trailer-silent": Hostile(sends(CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n", hang), 200, LATE),
    "trailer-reset": Hostile(sends(CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n", reset), 200, BROKEN),
    "trailers-drip": Hostile(trickles(b"X: y\r\n" * 100, CHUNKED + b"0\r\n"), 200, LATE),
    "trailers-endless": Hostile(floods(b"X: y\r\n", CHUNKED + b"0\r\n"), None, TOO_MANY),
    "trailer-line-endless": Hostile(floods(b"x", CHUNKED + b"0\r\nX: "), None, TOO_MANY),
    # Bodies
    "body-short": Hostile(sends(head(b"Content-Length: 9", rest=b"part")), 200, BROKEN),
    "body-reset": Hostile(sends(head(b"Content-Length: 9", rest=b"part"), reset), 200, BROKEN),
    "body-silent": Hostile(sends(head(b"Content-Length: 9", rest=b"part"), hang), 200, LATE),
    "body-none": Hostile(sends(head(b"Content-Length: 9"), hang), 200, LATE),
    "body-no-end": Hostile(sends(head(rest=b"part"), hang), 200, LATE),
    "body-drips": Hostile(trickles(b"x" * 100, head(b"Content-Length: 100")), 200, LATE),
    "body-endless": Hostile(floods(b"x", head()), 200, ""),
    "body-endless-nul": Hostile(floods(b"\x00", CHUNKED + b"7fffffff\r\n"), 200, ""),
    "body-more": Hostile(sends(LENGTH + b"more"), 200, ""),
    "answer-twice": Hostile(sends(LENGTH + LENGTH), 200, ""),
    "connection-upgrade": Hostile(sends(head(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 0")), 200, ""),
    "connection-garbage": Hostile(sends(head(b"Connection: \xff, , x", b"Content-Length: 0")), 200, ""),
    "keep-alive-garbage": Hostile(
        sends(head(b"Keep-Alive: timeout=-99999999999999999999", b"Content-Length: 0")), 200, ""
    ),
    # Silence, and the end of the connection
    "silence": Hostile(hang, None, SILENT),
    "close": Hostile(close, None, CLOSED),
    "reset": Hostile(reset, None, CLOSED),
    # Before the request was read
    "early-answer": Hostile(sends(http(), hang), 200, "", early=True),
    "early-refusal": Hostile(sends(http(413, b"", "Connection: close")), 413, "", early=True),
    "early-garbage": Hostile(sends(b"\x00\xff" * 100 + b"\r\n"), None, f"{NOT_HTTP}|{CLOSED}", early=True),
    "early-close": Hostile(close, None, CLOSED, early=True),
    "early-reset": Hostile(reset, None, f"{CLOSED}|No connection to ", early=True),
    "early-silence": Hostile(hang, None, SILENT, early=True),
    "early-headers": Hostile(floods(b"X: y\r\n", OK), None, TOO_MANY, early=True),
}

TELLING = (
    *("garbage", "endless-garbage", "zeros", "http-1.0", "status-999", "reason-endless", "status-line-drips"),
    *("status-line-cut", "100-then-answer", "100-then-silence", "100-then-close", "endless-100", "101-switching"),
    *("407", "204-with-body", "redirect-huge", "redirect-inwards", "no-colon", "nul-in-header", "endless-folds"),
    *("10000-headers", "headers-6-mb", "endless-headers", "endless-cookies", "headers-drip", "headers-cut"),
    *("headers-silent", "length-negative", "length-huge", "length-conflict", "length-and-chunked", "coding-unknown"),
    *("gzip-claimed", "chunk-garbage", "chunk-cut", "chunk-silent", "chunk-size-endless", "chunk-extension-endless"),
    *("chunk-bytes-endless", "trailer", "trailer-cut", "trailers-drip", "trailers-endless", "body-short"),
    *("body-silent", "body-no-end", "body-drips", "body-endless", "answer-twice", "silence", "close", "reset"),
    *("early-answer", "early-garbage", "early-close", "early-silence", "early-headers"),
)
"""Those that are tried in other ways as well."""
OVER_TLS = {
    "http-1.0": BROKEN,  # the end of the connection is no end of the body without TLS's own
    "chunk-extension-endless": f"{COSTLY}|{LATE}",  # it may not come fast enough
}
"""Other causes than in the table."""
