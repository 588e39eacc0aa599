"""The request line: path and query as their owner wrote them."""

from __future__ import annotations

import re
from random import Random
from urllib.parse import unquote_to_bytes

import pytest

from flask_hubhooks.transport import Request
from flask_hubhooks.transport.hook_url import target

from ..support.receivers import Receiver, poll
from ..support.transports import send, transport

AS_WRITTEN = [
    *("/%7Euser", "/~user", "/%2Dx", "/%2f", "/a%2Fb", "/a/./b/../c", "/..", "/.", "//", "/a//b", "/a%20b", "/%61%41"),
    *(
        "/?",
        "/??",
        "/?a=[1]&b[]=2",
        "/[x]",
        "/?next=/../",
        "/a;b,c:d@e!$&'()*+=",
        "/?x=%3D",
        "/%c3%bc",
    ),
    *("/?sig=aGk%2Bw%3d%3D&t=1~2", "/?q=a+b%2Bc", "/-._~", "/?a=1&&b=", "/%E2%82%ac"),
]


@pytest.mark.parametrize("path", AS_WRITTEN)
def test_valid_ascii_stays(path: str) -> None:
    """A path and a query of valid ASCII stay byte for byte, with dot segments and unneeded escapes."""
    assert target(f"http://ci.example.com{path}")[:2] == (f"http://ci.example.com{path}", path)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("", "/"),
        ("?a", "/?a"),
        ("/ü?q=日", "/%C3%BC?q=%E6%97%A5"),
        ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/100%", "/100%25"),
        ("/%zz%4", "/%25zz%254"),
        ("/%41%", "/%41%25"),
    ],
)
def test_all_else_is_encoded(path: str, sent: str) -> None:
    """Characters that a request line cannot contain are encoded, and no others."""
    assert target(f"http://ci.example.com{path}").path == sent


def random_path(random: Random) -> str:
    """Return a path, with or without a query, of pieces that programs like to change."""
    pieces = [
        *"azAZ09-._~!$&'()*+,;=:@/[]",
        "%7E",
        "%7e",
        "%2D",
        "%2e%2E",
        "%2f",
        "%25",
        "%00",
        "%0d%0A",
        "/./",
        "/../",
    ]
    pieces += ["//", "%", "%4", "%zz", '"', "<", "\\", "^", "`", "{|}", "ü", "日本", "\U0001f433", "http://127.0.0.1/"]
    path = "/" + "".join(random.choices(pieces, k=random.randrange(12)))
    return path + "?" + "".join(random.choices([*pieces, "?", "?", "&a="], k=8)) if random.random() < 0.5 else path


def test_random_paths() -> None:
    """The request line is the path that was judged, for thousands of URLs, with all bytes of the owner's."""
    random = Random(1)  # noqa: S311 - no secret
    sender, statuses = transport(), []
    with Receiver() as receiver:
        origin = f"http://127.0.0.1:{receiver.port}"
        urls = [origin + random_path(random) for _ in range(3000)]
        for url in urls:
            statuses.append(send(sender, url, b"", {}, deadline_s=60).status_code)
        sent = [each.path for each in receiver.requests]
        hosts = {each.headers["host"] for each in receiver.requests}
    sender.close()
    assert sent == [target(url).path for url in urls]
    assert set(statuses) == {200}
    assert hosts == {f"127.0.0.1:{receiver.port}"}
    for url, path in zip(urls, sent, strict=True):
        assert re.fullmatch(r"[\x21-\x7e]+", path)
        assert unquote_to_bytes(path) == unquote_to_bytes(url.removeprefix(origin))


def test_nothing_is_sent_twice_over_one_line() -> None:
    """Escaped line breaks in a URL stay escaped, so they cannot begin a second request."""
    outcomes: list[object] = []
    sender = transport()
    with Receiver() as receiver:
        url = f"{receiver.url}%0d%0aX:%20y%0d%0a%0d%0aPOST%20/other"
        sender.send(Request(url, b"", {}), outcomes.append)
        poll(lambda: outcomes)
        assert len(receiver.requests) == 1
        assert "x" not in receiver.requests[0].headers
    sender.close()
