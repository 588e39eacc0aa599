"""Placeholders such as `{tag}` in the path and query of hook URLs, for receivers that ignore the body.

Scheme, host and port have none, so a hook's destination is known when it is saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from ..transport.hook_url import BadURL, target
from .push import PLACEHOLDERS, Push

URL_PLACEHOLDERS = tuple(name for name in PLACEHOLDERS if name != "callback_url")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")


def check(url: str) -> None:
    """Raise `BadURL` unless `url` is a valid hook URL and its placeholders are known."""
    if re.match(r"[^/?#]*(//[^/?#]*)?[{}]", url):
        raise BadURL("Must have placeholders only in its path and query.")
    target(url)
    for found in _PLACEHOLDER.finditer(url):
        if found[1] is None:
            raise BadURL("Must not contain single braces. Write %7B and %7D instead.")
        if found[1] not in URL_PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in URL_PLACEHOLDERS)
            raise BadURL(f"Unknown placeholder {{{found[1][:50]}}}. Use {known}.")


def fill(url: str, push: Push) -> str:
    """Return the URL for one push, with percent-encoded values."""
    if "{" not in url:
        return url
    values = push.placeholders()
    path, question, query = url.partition("?")
    segments = (_filled_segment(each, values) for each in path.split("/"))
    return "/".join(segments) + question + _filled(query, values)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: quote(values.get(found[1], found[0]), safe=""), text)


def _filled_segment(segment: str, values: Mapping[str, str]) -> str:
    """Fill a segment of a path; a value such as `..` or `../admin` must not lead to another path.

    Programs read `%2E` as a dot and often `%2F` as a slash, so such a segment is encoded twice.
    """
    filled = _filled(segment, values)
    if filled != segment and {".", ".."} & set(re.split(r"[/\\]", unquote(filled))):
        return filled.replace("%", "%25").replace(".", "%252E")
    return filled
