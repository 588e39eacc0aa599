"""What a receiver answers: its status, its headers, and how its body ends."""

from __future__ import annotations

import http.client
from io import BufferedReader

import urllib3

INTERIM_LIMIT = 16  # 1xx answers that are passed over before the real one
LINES_LIMIT, LINE_LIMIT = 100, 65_536  # of an answer's headers: how many, and characters of each
DIGITS_LIMIT = 20  # of a length that may be true


class Answer(http.client.HTTPResponse):
    """An answer whose headers are read here.

    `http.client` has them parsed as those of an e-mail, which takes a sixth of all that a delivery costs.
    """

    def begin(self) -> None:
        """Read the status and the headers, and how the body ends by them (RFC 9112 section 6.3)."""
        version, self.status, reason = self._read_status()
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version == "HTTP/1.0" else 11
        self.code, self.reason = self.status, reason.strip()
        self.headers = self.msg = headers = _read_headers(self.fp)  # type: ignore[assignment]
        codings, bare = headers.get("transfer-encoding", "").lower(), self.status in (204, 304)
        self.chunked, self.chunk_left = codings.rpartition(",")[2].strip() == "chunked" and not bare, None
        length = "0" if bare else "" if codings else next(iter(headers.getlist("content-length")), "")
        self.length = int(length) if length.isdecimal() and len(length) < DIGITS_LIMIT else None
        self.will_close = self._check_close() or (self.length is None and not self.chunked)  # type: ignore[attr-defined]

    def _read_status(self) -> tuple[str, int, str]:
        """Pass over 1xx answers: `http.client` knows 100 alone, and takes 103 (Early Hints) for the
        answer."""
        for _ in range(INTERIM_LIMIT):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status >= 200:
                return version, status, reason
            _read_headers(self.fp)
        raise http.client.HTTPException("interim answers without end")


def _read_headers(stream: BufferedReader) -> urllib3.HTTPHeaderDict:
    """Read headers up to the empty line. What is folded into more lines is unfolded (RFC 9112 section 5.2), a line
    without a colon passed over; raises `http.client.HTTPException` where a line is too long, or there are too many."""
    fields: list[tuple[str, str]] = []
    for _ in range(LINES_LIMIT):
        line = stream.readline(LINE_LIMIT + 1).decode("latin-1")
        if len(line) > LINE_LIMIT:
            raise http.client.LineTooLong("header line")
        if line in ("\r\n", "\n", ""):
            return urllib3.HTTPHeaderDict(fields)
        name, colon, value = line.partition(":")
        if line[0] in " \t" and fields:
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}".strip())
        elif colon:
            fields.append((name.rstrip(), value.strip()))
    raise http.client.HTTPException("too many headers")
