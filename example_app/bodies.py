"""Request bodies, piece by piece, with the length and the place that the headers promise."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flask import request
from werkzeug.exceptions import HTTPException

from example_app.errors import RegistryError
from example_app.uploads import PIECE

# The specification's own form, `<first>-<last>`, without the unit and the total that RFC 9110 has.
CONTENT_RANGE = re.compile("([0-9]{1,18})-([0-9]{1,18})")


def pieces() -> Iterator[bytes]:
    """The body; SIZE_INVALID at its end if it was cut short, and also if the server could not read it."""
    received = 0
    while piece := _read():
        received += len(piece)
        yield piece
    if received != _promised_length(received):
        raise RegistryError("SIZE_INVALID", f"{received} bytes came")


def whole(limit: int) -> bytes:
    """The body of at most `limit` bytes in one piece; 413 when there is more."""
    body = bytearray()
    for piece in pieces():
        body += piece
        if len(body) > limit:
            raise RegistryError("SIZE_INVALID", f"more than {limit} bytes", 413)
    return bytes(body)


def start() -> int | None:
    """Where in the upload `Content-Range` puts the body; None when it is not said."""
    return _content_range()[0] if "Content-Range" in request.headers else None


def _promised_length(received: int) -> int:
    """The length the headers give; they may leave it open when the body is sent in chunks."""
    length = request.content_length
    if "Content-Range" in request.headers:
        first, last = _content_range()
        if length not in (None, last - first + 1):
            raise RegistryError("SIZE_INVALID", "Content-Range and Content-Length differ")
        return last - first + 1
    return received if length is None else length


def _content_range() -> tuple[int, int]:
    match = CONTENT_RANGE.fullmatch(request.headers["Content-Range"])
    if match is None:
        raise RegistryError("BLOB_UPLOAD_INVALID", "Content-Range is not <first>-<last>", 416)
    return int(match[1]), int(match[2])


def _read() -> bytes:
    try:
        return request.stream.read(PIECE)
    except HTTPException:
        raise
    except Exception:  # each server has its own for a broken connection
        raise RegistryError("SIZE_INVALID", "the body could not be read") from None
