"""Placeholders such as `{tag}` in the path and the query of a hook URL, for receivers that read nothing else.

Scheme and host have none: where a hook leads is known when it is saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from ..transport import hook_url
from ..transport.hook_url import BadURL
from .push import PLACEHOLDERS, Push

URL_PLACEHOLDERS = tuple(name for name in PLACEHOLDERS if name != "callback_url")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")


def check(url: str) -> None:
    """Pass a hook URL that we could send to and whose placeholders we know; raises `BadURL` for any other."""
    if re.match(r"[^/?#]*(//[^/?#]*)?[{}]", url):
        raise BadURL("Must hold placeholders in its path and query only.")
    hook_url.check(url)
    for found in _PLACEHOLDER.finditer(url):
        if found[1] is None:
            raise BadURL("Must hold no single braces; write %7B and %7D.")
        if found[1] not in URL_PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in URL_PLACEHOLDERS)
            raise BadURL(f"{{{found[1][:50]}}} is unknown. Placeholders are {known}.")


def fill(url: str, push: Push) -> str:
    """Return the URL for one push, with each value percent-encoded; what is not known is empty."""
    if "{" not in url:
        return url
    values = push.placeholders()
    path, question, query = url.partition("?")
    segments = (_filled_segment(each, values) for each in path.split("/"))
    return "/".join(segments) + question + _filled(query, values)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: quote(values.get(found[1], found[0]), safe=""), text)


def _filled_segment(segment: str, values: Mapping[str, str]) -> str:
    """Fill in a segment of a path so that a value such as `..` or `../admin` leads to no other path.

    Programs read `%2E` as a dot and often `%2F` as a slash, so such a segment is encoded twice.
    """
    filled = _filled(segment, values)
    if filled != segment and {".", ".."} & set(re.split(r"[/\\]", unquote(filled))):
        return filled.replace("%", "%25").replace(".", "%252E")
    return filled
