"""Parses hook URLs."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import idna

ABSOLUTE = "Must be an absolute URL such as https://ci.example.com/hook."

MAX_HOST_LENGTH = 253
"""Characters of a host name (RFC 1035 section 2.3.4)."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label: the host is an address, or nonsense
_ORIGIN = re.compile(
    r"(https?://)(?:[^/?#\\]*@)?([^/?#\\@:\[\]]+(?::\d*)?|\[[\da-f:.]+\](?::\d*)?)(?=[/?#]|$)", re.IGNORECASE
)
_PARTS = re.compile(
    r"(https?)://(?:\[([\da-f:.]+)\]|([^/?#@:%\\\[\]]+))(?::(\d{0,5}))?(/[^?#]*)?(\?[^#]*)?", re.ASCII | re.IGNORECASE
)
"""Scheme, IPv6 address or other host, port, path, query with its question mark."""
_AS_WRITTEN = "!$%&'()*+,-./:;=?@[]_~"
"""Characters of a path and a query that stay as they are, like letters and digits (RFC 3986 appendix A), because signed
queries must not change. RFC 3986 wants brackets encoded, but receivers accept them."""
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")  # RFC 1123 section 2.1, and the underscore, which container names use
_USER_INFO = re.compile(r"(https?://)([^/?#\\]*)@", re.IGNORECASE)
_NOT_IN_USER_INFO = re.compile(r"[\s@{}]|%(?![0-9A-Fa-f]{2})")


class BadURL(ValueError):
    """Not a URL that we can send to; the text says what is wrong."""


class Target(NamedTuple):
    """A hook URL, parsed once: what is judged is what is connected to.

    An IP address is written in its usual notation, in `url` as well, whichever notation the owner used. So nothing that
    reads it later can take it for another address.
    """

    url: str
    path: str
    """With the query."""
    scheme: str
    host: str
    """In lower-case ASCII and without brackets; the final dot of a name stays."""
    port: int
    address: IPv4Address | IPv6Address | None
    """The host as an IP address, if it is one."""


def split_credentials(url: str) -> tuple[str, str]:
    """Return a URL without its user name and password, and these decoded as `user:password`; "" if it has none.

    Raises `BadURL` if they cannot be sent as Basic authentication (RFC 7617 section 2).
    """
    found = _USER_INFO.match(url)
    if found is None:
        return url, ""
    name, password = map(unquote, found[2].partition(":")[::2])
    both = name + password
    malformed = _NOT_IN_USER_INFO.search(found[2]) or _CONTROL.search(both) or "\ufffd" in both  # not UTF-8
    if malformed or not both or ":" in name:
        raise BadURL(
            "Must have a percent-encoded user name and password before the @, such as my%40name:pass%2Fword, with no "
            "colon in the name and no control characters."
        )
    return found[1] + url[found.end() :], f"{name}:{password}"


@lru_cache(maxsize=4096)
def target(url: str) -> Target:
    """Parse an absolute http(s) URL that we can send to; raises `BadURL` for anything else.

    Only the syntax is checked: whether we may send there is up to `transport.egress`. Path and query stay as their
    owner wrote them, except that characters which a request line cannot contain are encoded.
    """
    _check_text(url)
    parts = _PARTS.fullmatch(url)
    if parts is None:
        raise BadURL(ABSOLUTE)
    ipv6, name, digits, path, query = parts.group(2, 3, 4, 5, 6)
    scheme = parts[1].lower()
    try:
        host, address = _parse_host(ipv6, name)
        path = quote(_NO_ESCAPE.sub("%25", (path or "/") + (query or "")), safe=_AS_WRITTEN)
    except ValueError:
        raise BadURL(ABSOLUTE) from None
    port = int(digits) if digits else 443 if scheme == "https" else 80
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if digits else "")
    return Target(f"{scheme}://{netloc}{path}", path, scheme, host, port, address)


def _check_text(url: str) -> None:
    """Refuse URLs that programs read in different ways, since we might judge another target than the one used."""
    if re.search(r"\s", url):
        raise BadURL("Must not contain spaces. Write %20 instead.")
    try:
        given = urlsplit(url)
        usable = given.scheme in ("http", "https") and given.port != 0 and not _CONTROL.search(url)
    except ValueError:
        usable = False
    if not usable:
        raise BadURL(ABSOLUTE)
    if given.username is not None or "#" in url:
        raise BadURL("Must not contain a user name or a fragment.")
    if len(given.hostname or "") > MAX_HOST_LENGTH:  # idna is slow on long names
        raise BadURL(f"Must have a host name of at most {MAX_HOST_LENGTH} characters.")
    if re.search(r"[%\\]", given.netloc):  # this refuses the zone of an address, too: a link of one machine
        raise BadURL("Must not contain % or \\ in the host name.")


def _parse_host(ipv6: str | None, name: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    """Return the host, and its address if it is one; raises `ValueError` if it is not a host."""
    if ipv6 is not None:
        address = IPv6Address(ipv6)
        return str(address), address
    host = name.lower()
    if not host.isascii():
        host = idna.encode(host, strict=True, std3_rules=True).decode()
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _parse_ipv4(host.removesuffix("."))
    if len(host) > MAX_HOST_LENGTH or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("neither an address nor a name")
    if "xn--" in host:
        idna.decode(host)  # raises `UnicodeError`, which is a `ValueError`
    return host, None


def _parse_ipv4(text: str) -> tuple[str, IPv4Address]:
    """Read an address in any notation that `socket` accepts: 127.0.0.1, 127.1, 0x7f.1, 2130706433, 0177.1."""
    try:
        address = IPv4Address(socket.inet_aton(text))  # reads it as `getaddrinfo` does, without a lookup
    except OSError:
        raise ValueError("a number that is not an address") from None
    return str(address), address


def canonical_origin(url: str) -> str:
    """Return scheme, host and port of a hook URL, the same for all spellings; raises `BadURL`."""
    found = target(url)
    return f"{found.scheme}://{f'[{found.host}]' if ':' in found.host else found.host}:{found.port}"


def origin(url: str) -> str:
    """Return scheme, host and port of any URL as they are written; "" if it has no usable host."""
    found = _ORIGIN.match(url)
    return f"{found[1]}{found[2]}" if found else ""


def is_loopback(url: str) -> bool:
    """Whether a URL leads to the machine that requests it, by its name or address."""
    try:
        found = target(url)
    except BadURL:
        return False
    is_address = found.address is not None and found.address.is_loopback
    return is_address or found.host == "localhost" or found.host.endswith(".localhost")


def hosts(url: str) -> tuple[str, str]:
    """Return the host of a hook URL in ASCII, as it is resolved, and in its own script."""
    ascii_host = ""
    with suppress(BadURL, ValueError):  # a newer version may no longer accept a stored URL
        ascii_host = target(url).host
        if "xn--" in ascii_host:
            return ascii_host, idna.decode(ascii_host)
    return ascii_host, ascii_host
