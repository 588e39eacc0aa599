"""What a hook URL may be, and what it says of its receiver."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import idna

ABSOLUTE = "Must be an absolute URL such as https://ci.example.com/hook."

NAME_LIMIT = 253
"""Characters of a host name (RFC 1035 section 2.3.4)."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label it makes an address of a host, or nonsense
_ORIGIN = re.compile(
    r"(https?://)(?:[^/?#\\]*@)?([^/?#\\@:\[\]]+(?::\d*)?|\[[\da-f:.]+\](?::\d*)?)(?=[/?#]|$)", re.IGNORECASE
)
_PARTS = re.compile(
    r"(https?)://(?:\[([\da-f:.]+)\]|([^/?#@:%\\\[\]]+))(?::(\d{0,5}))?(/[^?#]*)?(\?[^#]*)?", re.ASCII | re.IGNORECASE
)
"""Scheme, IPv6 address or else other host, port, path, query with its question mark."""
_AS_WRITTEN = "!$%&'()*+,-./:;=?@[]_~"
"""What is left of a path and a query beside letters and digits (RFC 3986 appendix A): signed queries must not change.
RFC 3986 wants brackets encoded; receivers take them."""
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")  # RFC 1123 section 2.1, and the underscore that container names have


class BadURL(ValueError):
    """No URL that we could send to; the text says what is wrong."""


class Target(NamedTuple):
    """Where a URL leads, read once: what is judged is what is connected to.

    An address is written in the one usual way, in `url` too, whatever the spelling was that `socket` would take for
    it: nothing that reads it after us can take it for another.
    """

    url: str
    path: str
    """With the query."""
    scheme: str
    host: str
    """In lower-case ASCII and without brackets; a final dot of a name stays."""
    port: int
    address: IPv4Address | IPv6Address | None
    """The host's, where it is one."""


def check(url: str) -> None:
    """Pass an absolute http(s) URL that we could send to; raises `BadURL` for any other.

    This is about the syntax alone: whether we may send there is `transport.egress`'s to say.
    """
    target(url)


@lru_cache(maxsize=4096)
def target(url: str) -> Target:
    """Return where a URL leads; raises `BadURL` where `check` does.

    Path and query stay as their owner wrote them, but for what no request line may hold, which is encoded.
    """
    _check_text(url)
    parts = _PARTS.fullmatch(url)
    if parts is None:
        raise BadURL(ABSOLUTE)
    ipv6, other, digits, path, query = parts.group(2, 3, 4, 5, 6)
    scheme = parts[1].lower()
    try:
        host, address = _host(ipv6, other)
        path = quote(_NO_ESCAPE.sub("%25", (path or "/") + (query or "")), safe=_AS_WRITTEN)
    except ValueError:
        raise BadURL(ABSOLUTE) from None
    port = int(digits) if digits else 443 if scheme == "https" else 80
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if digits else "")
    return Target(f"{scheme}://{netloc}{path}", path, scheme, host, port, address)


def _check_text(url: str) -> None:
    """Refuse what programs read in different ways: then what was judged is not where a URL leads."""
    if re.search(r"\s", url):
        raise BadURL("Must hold no spaces; write %20.")
    try:
        given = urlsplit(url)
        usable = given.scheme in ("http", "https") and given.port != 0 and not _CONTROL.search(url)
    except ValueError:
        usable = False
    if not usable:
        raise BadURL(ABSOLUTE)
    if given.username is not None or "#" in url:
        raise BadURL("Must hold neither user name nor fragment.")
    if len(given.hostname or "") > NAME_LIMIT:
        raise BadURL(f"Must have a host name of at most {NAME_LIMIT} characters.")  # idna takes long for long ones
    if re.search(r"[%\\]", given.netloc):
        raise BadURL("Must hold neither % nor \\ in its host.")  # an address's zone neither: a link of one machine


def _host(ipv6: str | None, other: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    """Return the host, and its address where it is one; raises `ValueError` where it is no host."""
    if ipv6 is not None:
        address = IPv6Address(ipv6)
        return str(address), address
    host = other.lower()
    if not host.isascii():
        host = idna.encode(host, strict=True, std3_rules=True).decode()
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _number(host.removesuffix("."))
    if len(host) > NAME_LIMIT or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("neither an address nor a name")
    if "xn--" in host:
        idna.decode(host)  # raises `UnicodeError`, a `ValueError`
    return host, None


def _number(text: str) -> tuple[str, IPv4Address]:
    """Return the address in any spelling that `socket` takes for one: 127.0.0.1, 127.1, 0x7f.1, 2130706433, 0177.1."""
    try:
        address = IPv4Address(socket.inet_aton(text))  # how `getaddrinfo` reads it; it asks nobody
    except OSError:
        raise ValueError("a number that is no address") from None
    return str(address), address


def destination(url: str) -> str:
    """Scheme, host and port of a hook URL: what one receiver is, whatever its paths. Raises `BadURL` as `check`."""
    found = target(url)
    return f"{found.scheme}://{f'[{found.host}]' if ':' in found.host else found.host}:{found.port}"


def origin(url: str) -> str:
    """Return scheme, host and port as they are written in any URL, whatever follows; "" where it has no usable host."""
    found = _ORIGIN.match(url)
    return f"{found[1]}{found[2]}" if found else ""


def hosts(url: str) -> tuple[str, str]:
    """The host in ASCII, as it is looked up, and as it reads in its own script."""
    ascii_host = ""
    with suppress(BadURL, ValueError):  # later versions of what reads it may not take it any more
        ascii_host = target(url).host
        if "xn--" in ascii_host:
            return ascii_host, idna.decode(ascii_host)
    return ascii_host, ascii_host
