"""Hides callback tokens and secrets that a receiver sends back in its response."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, islice

from ..crypto.signing import SECRET_PREFIX
from ..transport import MAX_STORED_HEADERS, Outcome

MASKED = "***"
"""Takes the place of a token or secret."""
MIN_SECRET_LENGTH = 8
"""Shorter secrets are not masked, since that would hide ordinary words."""

_TOKEN = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[A-Za-z0-9_-]{1,43}")  # also one that is cut off by the body's limit
_TOKEN_BYTES = re.compile(_TOKEN.pattern.encode())
_ESCAPE = re.compile(r"""%([0-9a-f]{2})|\\u00([0-7][0-9a-f])|\\(["\\/])""", re.IGNORECASE)
_PART_OF_ESCAPE = re.compile(r"(?:%[0-9a-f]?|\\(?:u[0-9a-f]{0,3})?)\Z", re.IGNORECASE)


def masked(outcome: Outcome, secrets: Iterable[str] = ()) -> Outcome:
    """Return the outcome without callback tokens and secrets.

    They are found as they are, and with any of their characters percent-encoded or JSON-escaped. This is best effort,
    since users who may change a webhook's URL can have its headers sent to themselves.
    """
    needles = _needles(tuple(secrets))
    body = outcome.response_body.decode("latin-1")
    everything = "\n".join([*chain.from_iterable(outcome.response_headers), body])
    headers_cut_off = len(everything) >= MAX_STORED_HEADERS and (
        sum(len(name) + len(value) for name, value in outcome.response_headers) >= MAX_STORED_HEADERS
    )
    if not (outcome.truncated or headers_cut_off or _spans(everything, needles)):
        return outcome  # the usual case
    texts = list(chain.from_iterable(outcome.response_headers))
    last = max((index for index, text in enumerate(texts) if text), default=0)
    shown = [_mask(text, needles, cut_off=headers_cut_off and index == last) for index, text in enumerate(texts)]
    body = _mask(body, needles, cut_off=outcome.truncated)
    headers = tuple(zip(shown[::2], shown[1::2], strict=True))
    return outcome._replace(response_headers=headers, response_body=body.encode("latin-1"))


def without_tokens(content: bytes) -> bytes:
    """Mask the callback tokens, of any delivery, in what a receiver has sent."""
    return _TOKEN_BYTES.sub(MASKED.encode(), content)


@lru_cache(maxsize=256)
def _needles(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to search for: each secret and, since a secret may look encoded itself, its decoded form."""
    bare = [secret.removeprefix(SECRET_PREFIX).encode().decode("latin-1") for secret in secrets]
    long = [each for each in bare if len(each) >= MIN_SECRET_LENGTH]
    decoded = [_ESCAPE.sub(_unescape, each) for each in long]
    return tuple({*long, *(each for each in decoded if len(each) >= MIN_SECRET_LENGTH)})


def _unescape(escape: re.Match[str]) -> str:
    return escape[3] or chr(int(escape[1] or escape[2], 16))


def _mask(text: str, needles: Iterable[str], *, cut_off: bool) -> str:
    kept: list[str] = []
    last = 0
    for start, end in sorted(_spans(text, needles, cut_off=cut_off)):
        if start >= last:
            kept += text[last:start], MASKED
        last = max(last, end)
    return "".join([*kept, text[last:]])


def _spans(text: str, needles: Iterable[str], *, cut_off: bool = False) -> list[tuple[int, int]]:
    """Return where tokens and secrets are in a text, in linear time.

    With `cut_off`, the text may end in the middle of one.
    The text is searched as it is, and again with its escapes decoded. One pattern for all spellings would
    backtrack.
    """
    spans = _spans_as_written(text, needles, cut_off)
    if "%" not in text and "\\" not in text:
        return spans
    part = _PART_OF_ESCAPE.search(text) if cut_off else None
    whole = text[: part.start()] if part else text
    starts, last = array("L"), 0  # where each character of the decoded text starts in the text
    pieces: list[str] = []
    for escape in _ESCAPE.finditer(whole):
        starts.extend(range(last, escape.start() + 1))
        pieces += whole[last : escape.start()], _unescape(escape)
        last = escape.end()
    starts.extend(range(last, len(whole)))
    starts.append(len(text))
    pieces.append(whole[last:])
    decoded = _spans_as_written("".join(pieces), needles, cut_off)
    return spans + [(starts[start], starts[end]) for start, end in decoded]


def _spans_as_written(text: str, needles: Iterable[str], cut_off: bool) -> list[tuple[int, int]]:
    spans = [found.span() for found in _TOKEN.finditer(text)]
    for secret in needles:
        at = text.find(secret)
        while at >= 0:
            spans.append((at, at + len(secret)))
            at = text.find(secret, at + len(secret))
        if cut_off and (length := _length_of_beginning(text, secret)):
            spans.append((len(text) - length, len(text)))
    return spans


def _length_of_beginning(text: str, secret: str) -> int:
    """Return how many characters from the beginning of the secret the text ends with, in linear time.

    This is the last value of the prefix function (Knuth, Morris and Pratt) of the secret and the end of the text,
    joined by a character that neither contains, since both are Latin-1.
    """
    joined = f"{secret}\uffff{text[max(0, len(text) - len(secret) + 1) :]}"
    borders = [0]
    for letter in islice(joined, 1, None):
        length = borders[-1]
        while length and joined[length] != letter:
            length = borders[length - 1]
        borders.append(length + (joined[length] == letter))
    return borders[-1]
