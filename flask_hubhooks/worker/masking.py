"""Hides callback tokens and secrets that a receiver sends back in its response."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice

from ..crypto.signing import SECRET_PREFIX
from ..transport import MAX_STORED_HEADERS, Outcome

MASKED = "***"
"""What stands where a token or a secret was."""

SECRET_LEAST = 8

_TOKEN = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[A-Za-z0-9_-]{1,43}")  # also one that the body's limit has cut off
_TOKEN_BYTES = re.compile(_TOKEN.pattern.encode())


def masked(outcome: Outcome, secrets: Iterable[str] = ()) -> Outcome:
    """The outcome without callback tokens and secrets that the receiver told back.

    They are found as they are, percent-encoded and JSON-escaped, whichever of their characters are. Secrets of less
    than 8 characters stay: masking them would hide ordinary words. This is best effort, since whoever may change a
    webhook's URL can have its headers sent to himself.
    """
    hidden = _needles(tuple(secrets))
    body = outcome.response_body.decode("latin-1")
    told = "\n".join([*chain.from_iterable(outcome.response_headers), body])
    long_headers = sum(len(name) + len(value) for name, value in outcome.response_headers) >= MAX_STORED_HEADERS
    if not (outcome.truncated or long_headers or _spans(told, hidden)):
        return outcome  # as most are
    texts = list(chain.from_iterable(outcome.response_headers))
    last = max((index for index, text in enumerate(texts) if text), default=0)
    shown = [_without(text, hidden, cut_off=long_headers and index == last) for index, text in enumerate(texts)]
    body = _without(body, hidden, cut_off=outcome.truncated)
    headers = tuple(zip(shown[::2], shown[1::2], strict=True))
    return replace(outcome, response_headers=headers, response_body=body.encode("latin-1"))


@lru_cache(maxsize=256)
def _needles(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """What is looked for: each secret, and what is left of one that looks encoded itself once that is decoded."""
    bare = [secret.removeprefix(SECRET_PREFIX).encode().decode("latin-1") for secret in secrets]
    long = [each for each in bare if len(each) >= SECRET_LEAST]
    return tuple({*long, *(each for each in map(_decoded, long) if len(each) >= SECRET_LEAST)})


_ESCAPE = re.compile(r"""%([0-9a-f]{2})|\\u00([0-7][0-9a-f])|\\(["\\/])""", re.IGNORECASE)
_PART_OF_ESCAPE = re.compile(r"(?:%[0-9a-f]?|\\(?:u[0-9a-f]{0,3})?)\Z", re.IGNORECASE)


def _unescaped(escape: re.Match[str]) -> str:
    return escape[3] or chr(int(escape[1] or escape[2], 16))


def _decoded(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text)


def _spans(text: str, hidden: Iterable[str], *, cut_off: bool = False) -> list[tuple[int, int]]:
    """Where tokens and secrets stand in a text, in linear time.

    What is encoded is decoded once, and searched as the text itself is: a pattern of all spellings would backtrack.
    """
    spans = _found(text, hidden, cut_off)
    if "%" not in text and "\\" not in text:
        return spans
    part = _PART_OF_ESCAPE.search(text) if cut_off else None
    whole = text[: part.start()] if part else text
    starts, last = array("L"), 0
    pieces: list[str] = []
    for escape in _ESCAPE.finditer(whole):
        starts.extend(range(last, escape.start() + 1))
        pieces += whole[last : escape.start()], _unescaped(escape)
        last = escape.end()
    starts.extend(range(last, len(whole)))
    starts.append(len(text))
    pieces.append(whole[last:])
    return spans + [(starts[start], starts[end]) for start, end in _found("".join(pieces), hidden, cut_off)]


def _found(text: str, hidden: Iterable[str], cut_off: bool) -> list[tuple[int, int]]:
    spans = [found.span() for found in _TOKEN.finditer(text)]
    for secret in hidden:
        at = text.find(secret)
        while at >= 0:
            spans.append((at, at + len(secret)))
            at = text.find(secret, at + len(secret))
        if cut_off and (begun := _beginning(text, secret)):
            spans.append((len(text) - begun, len(text)))
    return spans


def _beginning(text: str, secret: str) -> int:
    """How many characters of the secret's beginning a text ends with, in linear time.

    That is the last value of the prefix function (Knuth, Morris and Pratt) of the secret and the text's end, with a
    character between them that neither has, since both are Latin-1.
    """
    joined = f"{secret}\uffff{text[max(0, len(text) - len(secret) + 1) :]}"
    borders = [0]
    for letter in islice(joined, 1, None):
        length = borders[-1]
        while length and joined[length] != letter:
            length = borders[length - 1]
        borders.append(length + (joined[length] == letter))
    return borders[-1]


def _without(text: str, hidden: Iterable[str], *, cut_off: bool = False) -> str:
    kept: list[str] = []
    last = 0
    for start, end in sorted(_spans(text, hidden, cut_off=cut_off)):
        if start >= last:
            kept += text[last:start], MASKED
        last = max(last, end)
    return "".join([*kept, text[last:]])


def without_tokens(content: bytes) -> bytes:
    """What a receiver said, without the callback tokens of this and of any other delivery."""
    return _TOKEN_BYTES.sub(MASKED.encode(), content)
