"""How hook URLs are parsed: every program that parses them after us agrees."""

# ruff: noqa: RUF001 - characters that look like others are what is tested

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

import idna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests import PreparedRequest
from urllib3.util import parse_url

from flask_hubhooks.transport import Transport, exchange, loop
from flask_hubhooks.transport.egress import Egress, Forbidden
from flask_hubhooks.transport.hook_url import BadURL, Target, canonical_origin, hosts, target
from flask_hubhooks.transport.resolver import Resolver

from ..support.transports import send

PUBLIC = "93.184.216.34"


@contextmanager
def recorded() -> Iterator[tuple[list[str], list[Any]]]:
    """Record lookups and connections; names resolve to `PUBLIC`, and nothing leaves the machine."""
    looked_up: list[str] = []
    connected: list[Any] = []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 0))]

    def open_socket(address: Any) -> socket.socket:
        connected.append(address.addr)
        raise OSError(101, "Network is unreachable")

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(socket, "getaddrinfo", look_up)
        patches.setattr(exchange, "open_socket", open_socket)
        patches.setattr(loop, "shared_resolver", Resolver())
        yield looked_up, connected


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://ci.example.com", "ci.example.com", 80, "/"),
        ("HTTPS://CI.Example.com:8443/Hook?a=b&c=%20", "ci.example.com", 8443, "/Hook?a=b&c=%20"),
        ("https://例え.jp/ウェブ", "xn--r8jz45g.jp", 443, "/%E3%82%A6%E3%82%A7%E3%83%96"),
        ("http://my_ci:8080/", "my_ci", 8080, "/"),
        ("http://ci.example.com./?a", "ci.example.com.", 80, "/?a"),
        ("http://[2606:4700:0::1111]:8080/", "2606:4700::1111", 8080, "/"),
        ("http://ci.\u212aom/", "ci.kom", 80, "/"),  # a Kelvin sign
    ],
)
def test_target(url: str, host: str, port: int, path: str) -> None:
    """A URL leads to one host, port and path, written in one way."""
    found = target(url)
    assert (found.host, found.port, found.path) == (host, port, path)
    assert (found.address is None) is ("::" not in host)


SPELLINGS = {
    "127.0.0.1": [
        *("127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0X7F.0.0.1", "0x7f000001", "2130706433", "017700000001"),
        *("0177.0.0.01", "127.0.0.1.", "2130706433.", "0x7f.0x0.0x0.0x1", "00000177.1", "127.0x1"),
    ],
    "0.0.0.0": ["0", "0.0", "0x0", "00", "0."],  # noqa: S104
    "169.254.169.254": ["0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.16689662"],
    "10.0.0.1": ["10.1", "0xa.1", "012.1", "167772161"],
}


@pytest.mark.parametrize(("address", "spelling"), [(key, each) for key, values in SPELLINGS.items() for each in values])
def test_spellings(address: str, spelling: str) -> None:
    """An address in any notation that `socket` would connect to is read as that address."""
    found = target(f"http://{spelling}:8080/hook")
    assert found == (f"http://{address}:8080/hook", "/hook", "http", address, 8080, IPv4Address(address))


@pytest.mark.parametrize("spelling", ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::0.0.0.1]"])
def test_spellings_of_ipv6(spelling: str) -> None:
    """The same holds for IPv6."""
    assert target(f"http://{spelling}/") == ("http://[::1]/", "/", "http", "::1", 80, IPv6Address("::1"))


LOOK_ALIKES = [
    *("http://１２７.0.0.1/", "http://127。0。0。1/", "http://127．0．0．1/", "http://127｡1/", "http://①②⑦.0.0.1/"),
    *(
        "http://ｌｏｃａｌｈｏｓｔ/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "http://localhost。/",
        "http://lo\u00adcalhost/",
        "http://𝟏𝟐𝟕.0.0.1/",
    ),
    *("http://[::①]/", "http://1₂7.0.0.1/", "http://0ｘ7f.1/"),
]
NONE = [
    *("http://%31%32%37.0.0.1/", "http://127%2e0.0.1/", "http://loc%61lhost/", "http://a%00.com/", "http://a%2f.com/"),
    *("http://[fe80::1%25lo]/", "http://[fe80::1%lo]/", "http://[::1%250]/", "http://fe80::1/"),
    *("http://[127.0.0.1]/", "http://[localhost]/", "http://[v1.x]/", "http://[::1].example.com/", "http://[]/"),
    *("http://256.0.0.1/", "http://1.2.3.4.5/", "http://4294967296/", "http://0x100000000/", "http://127.0.0.08/"),
    *("http://example.1/", "http://a.0x7f/", "http://127..1/", "http://127.1../", "http://./"),
    *("http://a\\@127.0.0.1/", "http://127.0.0.1\\.example.com/", "http://a.com\\/", "http:\\\\127.0.0.1/"),
    *("http://a@127.0.0.1/", "http://127.0.0.1#@a.com/", "http://a:b@c:d@127.0.0.1/", "http://a%40127.0.0.1/"),
    *("http://a.com:80:22/", "http://a.com:٣/", "http://a.com:8_0/", "http://a.com:+80/", "http://a.com:-1/"),
    *("http://a.com:0/", "http://a.com:65536/", "http://a.com: 80/", "http:/127.0.0.1/", "http:127.0.0.1"),
    *(
        "http://a,b/",
        "http://a;b/",
        "http://a~b/",
        "http://(a)/",
        "http://a\tb/",
        "http://a\x00b/",
        "http://a\x7f.com/",
    ),
    *("http://xn--a.com/", "http://" + "a" * 64 + ".com/", "http://" + "a." * 127 + "com/", "ftp://a.com/"),
]


@pytest.mark.parametrize("url", LOOK_ALIKES + NONE, ids=ascii)
def test_no_targets(url: str) -> None:
    """Text that programs could read differently, or that only looks like an address, is refused, saved or sent."""
    with pytest.raises(BadURL, match=r"^Must "):
        target(url)
    with recorded() as (looked_up, connected):
        assert send(SENDER, url, b"", {}).status_code is None
    assert not looked_up + connected


SENDER = Transport()
PARTS = [
    *(
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "8.8.8.8",
        "0x7f",
        "0x08080808",
        "2130706433",
        "134744072",
        "0",
        "08",
    ),
    *("[::1]", "[2606:4700::1111]", "[::ffff:10.0.0.1]", "[::ffff:8.8.8.8]", "[fe80::1%25lo]", "[64:ff9b::7f00:1]"),
    *("localhost", "example", "com", "ci", "xn--", "xn--bcher-kva", "ß", "é", "\u212a", "①", "１", "Ⅷ", "İ", "ſ"),
    *(".", "..", "。", "．", "｡", "-", "_", "@", ":", "/", "\\", "?", "#", ";", ",", "~", "*", "[", "]", "&", "=", "+"),
    *(
        "%31",
        "%2e",
        "%00",
        "%40",
        "%2f",
        "%5b",
        "%25",
        "%",
        "\t",
        "\n",
        " ",
        "\x00",
        "\u200b",
        "\u2028",
        "\xa0",
        "a" * 64,
    ),
]
host_texts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join) | st.sampled_from(
    ["ci.example.com", "CI.Example.com.", "bücher.example", "8.8.8.8", "0x8.0x8.2056", "[2606:4700::1111]", "8.8.8.8."]
)
urls = st.tuples(
    st.sampled_from(["http", "https", "HTTP", "httpS", "ftp", "file", "", "httpx", " http"]),
    st.sampled_from(["://", "://", "://", ":/", ":", ":///", ":\\\\", "://\\", "//"]),
    st.sampled_from(["", "", "", "", "@", "a@", "a:b@", "127.0.0.1@", "127.0.0.1:80#@", "%40@", "a\\@", "[::1]@"]),
    host_texts,
    st.sampled_from(
        ["", "", ":", ":80", ":443", ":22", ":0", ":65536", ":080", ":٣", ":8_0", ":+80", ":80:22", ":\\22"]
    ),
    st.sampled_from(
        ["", "/", "/hook", "?x", "?x@y:22", "#", "#@y", "\\x", "/..;/", ";x", "/a?b=http://10.0.0.1/", "/%00"]
    ),
).map("".join)

labels = st.sampled_from(
    ["ci", "example", "com", "my_ci", "a-b", "xn--bcher-kva", "ß", "é", "\u212a", "0", "0x8", "8", "08"]
)
plausible = st.tuples(
    st.sampled_from(["http", "https", "HTTP", "httpS"]),
    st.just("://"),
    st.lists(labels, min_size=1, max_size=4).map(".".join) | st.sampled_from(["[2606:4700::1111]", "[::ffff:8.8.8.8]"]),
    st.sampled_from(["", ".", "..", "\t"]),
    st.sampled_from(["", ":", ":80", ":443", ":22", ":080", ":65535", ":00"]),
    st.sampled_from(
        ["", "/", "/hook", "?x", "?x@y:22", "#", "/..;/", "/a?b=http://10.0.0.1/", "/%00", "/\\x", "/@y", "//y"]
    ),
).map("".join)


def judged(url: str) -> Target | None:
    try:
        return Egress().target(url)
    except (BadURL, Forbidden):
        return None


def read(host: str) -> str:
    """Return the host as others would resolve it: in ASCII, an address in its usual notation."""
    bare = host.strip("[]").lower()
    try:
        return str(ip_address(socket.inet_aton(bare.removesuffix("."))))
    except OSError:
        pass
    try:
        return str(ip_address(bare))
    except ValueError:
        return bare if bare.isascii() else idna.encode(bare).decode()


@settings(max_examples=3000)
@given(plausible | urls | st.text(max_size=20).map("http://{}".format) | st.text(max_size=30))
def test_what_is_judged_is_connected_to(url: str) -> None:
    """The judged host and port are those resolved and connected to, and those that others read in the URL."""
    found = judged(url)
    with recorded() as (looked_up, connected):
        outcome = send(SENDER, url, b"", {})
    assert outcome.status_code is None
    if found is None:
        assert not looked_up + connected
        return
    assert looked_up == ([found.host] if found.address is None else [])
    peers = [(ip_address(address[0]), address[1]) for address in connected]
    assert peers == [(found.address or ip_address(PUBLIC), found.port)]
    default = {"http": 80, "https": 443}[found.scheme]
    by_urllib3, by_python = parse_url(url), urlsplit(url)
    assert (read(by_urllib3.host or ""), by_urllib3.port or default) == (found.host, found.port)
    assert (read(by_python.hostname or ""), by_python.port or default) == (found.host, found.port)
    assert urlsplit(found.url)[:2] == (found.scheme, parse_url(found.url).netloc)


# What is told of a URL


def allowed(url: str) -> bool:
    try:
        target(url)
    except BadURL:
        return False
    return True


GOOD = [
    ("http://localhost", "http://localhost:80", "localhost"),
    ("HTTP://LOCALHOST:80/a", "http://localhost:80", "localhost"),
    ("https://ci.example.com", "https://ci.example.com:443", "ci.example.com"),
    ("https://CI.Example.com:443/hook?a=b&c=%20", "https://ci.example.com:443", "ci.example.com"),
    ("https://ci.example.com:8443/", "https://ci.example.com:8443", "ci.example.com"),
    ("http://ci.example.com:443/", "http://ci.example.com:443", "ci.example.com"),
    ("http://ci.example.com:/", "http://ci.example.com:80", "ci.example.com"),
    ("http://ci.example.com?a", "http://ci.example.com:80", "ci.example.com"),
    ("http://ci.example.com./", "http://ci.example.com.:80", "ci.example.com."),
    ("http://a_b.example.com/", "http://a_b.example.com:80", "a_b.example.com"),
    ("http://127.0.0.1:5000/", "http://127.0.0.1:5000", "127.0.0.1"),
    ("http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080", "2001:db8::1"),
    ("http://[2001:DB8::1]/", "http://[2001:db8::1]:80", "2001:db8::1"),
    (f"http://{'a' * 63}.example.com/", f"http://{'a' * 63}.example.com:80", f"{'a' * 63}.example.com"),
]


@pytest.mark.parametrize(("url", "to", "host"), GOOD)
def test_good(url: str, to: str, host: str) -> None:
    """An absolute http(s) URL is accepted, and leads to its scheme, host and port, whatever its case and path."""
    target(url)
    assert canonical_origin(url) == to
    assert hosts(url) == (host, host)


@pytest.mark.parametrize(
    ("url", "ascii_host", "unicode_host"),
    [
        ("https://例え.jp/ウェブ", "xn--r8jz45g.jp", "例え.jp"),
        ("https://xn--r8jz45g.jp/", "xn--r8jz45g.jp", "例え.jp"),
        ("https://XN--R8JZ45G.jp/", "xn--r8jz45g.jp", "例え.jp"),
        ("https://MÜNCHEN.example/", "xn--mnchen-3ya.example", "münchen.example"),
        ("https://straße.example/", "xn--strae-oqa.example", "straße.example"),
        ("https://\u0430pple.example/", "xn--pple-43d.example", "\u0430pple.example"),  # a Cyrillic letter
        ("https://हिन्दी.भारत/", "xn--j2bd4cyah0f.xn--h2brj9c", "हिन्दी.भारत"),
    ],
)
def test_internationalised(url: str, ascii_host: str, unicode_host: str) -> None:
    """A host in any script is accepted and shown both ways, and its ASCII name is its origin's."""
    target(url)
    assert hosts(url) == (ascii_host, unicode_host)
    assert canonical_origin(url) == f"https://{ascii_host}:443"


@pytest.mark.parametrize(
    "url",
    [
        "http://ci..example.com/",
        "http://./",
        f"http://{'a' * 64}.example.com/",
        f"http://{'.'.join(['a' * 60] * 5)}/",
        "http://ci%252eexample.com/",
        "http://ci.example.com%00/",
        "http://[fe80::1%25eth0]/",
        "http://[::1]x/",
        "http://[::ffff:1.2.3.256]/",
        "http://xn--/",
        "http://xn--a/",
        "http://\u2024/",
        "http://a\u200db.example.com/",
        "http://ci.example.com\uff0fevil.example.com/",
        "http://ci.example.com\uff20evil.example.com/",
        "http://ci.example.com:\uff18\uff10/",
        "http://ci.example.com:80:80/",
        "https:///ci.example.com/",
        "https:/ci.example.com/",
        "https:\\\\ci.example.com/",
        "http://ci.example.com\\",
        "http://ci.example.com\\.evil.example.com/",
        "http://user%40ci.example.com@evil.example.com/",
    ],
)
def test_bad(url: str) -> None:
    """A host that cannot be resolved, or that reads as another one, is refused."""
    assert not allowed(url)


@pytest.mark.parametrize("url", ["http://ci.example.com/#", "http://ci.example.com#", "http://ci.example.com/?a#b"])
def test_fragments(url: str) -> None:
    """A fragment is refused, even an empty one."""
    with pytest.raises(BadURL, match="fragment"):
        target(url)


@pytest.mark.parametrize("url", ["http://u@ci.example.com/", "http://@ci.example.com/", "http://:@ci.example.com/"])
def test_user_information(url: str) -> None:
    """A user name or password is refused, even an empty one."""
    with pytest.raises(BadURL, match="user name"):
        target(url)


pieces = st.sampled_from(["http", "https", ":", "/", "//", "@", "#", "?", "[", "]", "\\", "%", ".", "a", "xn--", "::1"])
likely = st.lists(pieces | st.characters(), max_size=12).map("".join)


@given(url=likely | likely.map("http://{}".format) | st.text(st.characters()))
def test_total(url: str) -> None:
    """Any text is either refused as a URL, or can be shown and leads where it reads."""
    if not allowed(url):
        return
    sent = PreparedRequest()
    sent.prepare_url(url, None)
    given_parts, parts = urlsplit(url), urlsplit(sent.url or "")
    ascii_host, unicode_host = hosts(url)
    assert ascii_host.isascii() and ascii_host == read(parts.hostname or "") and unicode_host
    assert canonical_origin(url).startswith(f"{given_parts.scheme}://")
    assert (given_parts.port or None) == (parts.port or None)
    if (reads := unquote(given_parts.hostname or "").lower()).isascii():
        assert read(reads) == ascii_host
    assert "@" not in parts.netloc and not parts.fragment


@pytest.mark.parametrize("label", ["a", "\u00fc"])
def test_long_host_names(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name of more than 253 characters is refused before it is encoded."""
    monkeypatch.setattr(idna, "encode", lambda *_, **__: pytest.fail("it was encoded"))
    for host in (label * 254, f"{label * 60}." * 5000):
        with pytest.raises(BadURL, match="host name of at most 253 characters"):
            target(f"https://{host}/")
