"""What a hook URL may be, and what it says of its receiver."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from urllib.parse import SplitResult, unquote_plus, urlsplit

import idna
from requests import PreparedRequest, RequestException

MASK = "***"
_CREDENTIAL = re.compile(r"key|token|secret|passw|pwd|auth|sig|credential|code|jwt|session", re.IGNORECASE)
"""Names of parameters that hold what only a webhook's owner is to know."""

ABSOLUTE = "Must be an absolute URL such as https://ci.example.com/hook."


class BadURL(ValueError):
    """No URL that we could send to; the text says what is wrong."""


def check(url: str) -> None:
    """Pass an absolute http(s) URL that our HTTP client takes; raises `BadURL` for any other."""
    if re.search(r"\s", url):
        raise BadURL("Must hold no spaces; write %20.")
    try:
        given, sent = urlsplit(url), _as_sent(url)
        usable = given.scheme in ("http", "https") and given.port != 0 and _is_host(sent.hostname or "")
    except (RequestException, ValueError):
        usable = False
    if not usable:
        raise BadURL(ABSOLUTE)
    if given.username is not None or given.fragment:
        raise BadURL("Must hold neither user name nor fragment.")


def _is_host(host: str) -> bool:
    """Whether a host is an address, or a name whose labels are neither empty nor too long, and mean something."""
    if ":" in host:
        return "%" not in host
    labels = host.removesuffix(".").split(".")
    if "xn--" in host:
        idna.decode(host)  # raises `UnicodeError`, a `ValueError`
    return len(host) <= 253 and "%" not in host and all(0 < len(label) <= 63 for label in labels)


@lru_cache(maxsize=4096)
def _as_sent(url: str) -> SplitResult:
    """The URL as requests sends it: an internationalised host in ASCII."""
    prepared = PreparedRequest()
    prepared.prepare_url(url, None)
    return urlsplit(str(prepared.url))


def destination(url: str) -> str:
    """Scheme, host and port of a hook URL: what one receiver is, whatever its paths."""
    parts = _as_sent(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def masked(url: str) -> str:
    """The URL without the credentials that its query holds: whoever may read a webhook may not use its receiver."""
    before, mark, query = url.partition("?")
    return before + mark + "&".join(map(_masked_parameter, query.split("&")))


def credentials(url: str) -> list[str]:
    """The values that `masked` hides, as they stand in the URL and as they are meant."""
    query = url.partition("?")[2]
    hidden = [each.partition("=")[2] for each in query.split("&") if _masked_parameter(each) != each]
    return [*hidden, *map(unquote_plus, hidden)]


def _masked_parameter(parameter: str) -> str:
    name, _, value = parameter.partition("=")
    return f"{name}={MASK}" if value and _CREDENTIAL.search(unquote_plus(name)) else parameter


def hosts(url: str) -> tuple[str, str]:
    """The host in ASCII, as it is looked up, and as it reads in its own script."""
    ascii_host = _as_sent(url).hostname or ""
    with suppress(idna.IDNAError):  # a later version of the tables may take a name back
        if "xn--" in ascii_host:
            return ascii_host, idna.decode(ascii_host)
    return ascii_host, ascii_host
