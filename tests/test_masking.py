"""Credentials in hook URLs: whole for who may change them, masked for who may only read, wherever a URL is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.hook_url import MASK, credentials, masked
from flask_hubhooks.models import Hook

from .host import Host
from .receivers import Connection, Receiver, Request, http

on_sqlite = pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
CASES = {
    "?token=s3cr3t-1": "?token=***",
    "?TOKEN=a%26b": "?TOKEN=***",
    "?a=1&ApiKey=s3cr3t-1&b=2": "?a=1&ApiKey=***&b=2",
    "?token=s3cr3t-1&token=s3cr3t-2": "?token=***&token=***",
    "?access_token[]=s3cr3t-1&access_token[]=s3cr3t-2": "?access_token[]=***&access_token[]=***",
    "?auth[token]=s3cr3t-1": "?auth[token]=***",
    "?%74oken=s3cr3t-1": "?%74oken=***",
    "?t%6Fke%6E=s3cr3t-1": "?t%6Fke%6E=***",
    "?%E2%9C%93_%6B%65%79=s3cr3t-1": "?%E2%9C%93_%6B%65%79=***",
    "?token=a=b==": "?token=***",
    "?token==": "?token=***",
    "?token=?x=s3cr3t-1": "?token=***",
    "?a=?token=s3cr3t-1": "?a=?token=s3cr3t-1",  # its name is a, and a value may be anything
    "?a=1;token=s3cr3t-1": "?a=1;token=***",
    "?token=s3cr;3t-1&a=1": "?token=***&a=1",
    "?token=s3cr3t-1;a=1;b=2": "?token=***",
    "?a;token=s3cr3t-1": "?a;token=***",
    "?;token=s3cr3t-1": "?;token=***",
    "?&&token=s3cr3t-1&&": "?&&token=***&&",
    "?token=": "?token=",
    "?token": "?token",
    "?": "?",
    "": "",
    "#access_token=s3cr3t-1&a=1": "#access_token=***&a=1",
    "?a=1#b&token=s3cr3t-1": "?a=1#b&token=***",
    "?token=s3cr3t-1#b": "?token=***#b",
    "?token=&a=1": "?token=&a=1",
    "?sig=s3cr3t-1&sv=2020": "?sig=***&sv=2020",
    "?X-Amz-Signature=s3cr3t-1": "?X-Amz-Signature=***",
    "?X-Goog-Credential=s3cr3t-1": "?X-Goog-Credential=***",
    "?client_secret=s3cr3t-1": "?client_secret=***",
    "?pass=s3cr3t-1": "?pass=***",
    "?pw=s3cr3t-1": "?pw=***",
    "?passphrase=s3cr3t-1": "?passphrase=***",
    "?userPWD=s3cr3t-1": "?userPWD=***",
    "?creds=s3cr3t-1": "?creds=***",
    "?bearer=s3cr3t-1": "?bearer=***",
    "?jwt=s3cr3t-1": "?jwt=***",
    "?code=s3cr3t-1": "?code=***",
    "?session+id=s3cr3t-1": "?session+id=***",
    "?branch=main&tag=v1": "?branch=main&tag=v1",
}


@pytest.mark.parametrize(("query", "shown"), CASES.items(), ids=CASES)
def test_queries(query: str, shown: str) -> None:
    """Every value of a parameter whose name speaks of a credential is masked, however the query is written."""
    url = "https://ci.example.com/hook"
    assert masked(url + query) == url + shown
    assert masked(masked(url + query)) == masked(url + query)
    assert all(each not in url + shown for each in credentials(url + query) if each not in ("", "=", "a", "b"))


@given(
    st.text(st.sampled_from("tokenTOKEN&;=%+?*[]6F"), max_size=30), st.text(st.sampled_from("S3[]%;=?+"), min_size=8)
)
def test_any_query(before: str, value: str) -> None:
    """Whatever stands before it, a token's value is not in what is shown, and all before it that is none stays."""
    url = f"https://ci.example.com/hook?{before}&token=SECRET{value}"
    assert "SECRET" not in masked(url)
    assert masked(url).endswith(f"&token={MASK}")
    assert credentials(url)


def everywhere(host: Host, webhook: dict[str, Any], user: str) -> str:
    """All that the API shows of a webhook."""
    below = f"acme/app/webhooks/{webhook['id']}/"
    paths = ["acme/app/webhooks/", below, f"{below}hooks/", f"{below}history/"]
    paths += [f"{below}hooks/{each['id']}/" for each in webhook["hooks"]]
    paths += [f"{below}history/{each['id']}/" for each in host.history(webhook)]
    answers = [host.api("GET", path, user=user) for path in paths]
    assert {each.status_code for each in answers} == {200}
    return "\n".join(answer.text + str(answer.headers) for answer in answers)


QUERY = (
    "?TOKEN=s3cr3t-%26-1&a=1;key=s3cr3t-2;3&access_token[]=short&access_token[]=s3cr3t-4&%73ig=s3cr3t-5%2B&plain=seen"
)
WHOLE = ["s3cr3t-%26-1", "s3cr3t-2;3", "=short", "s3cr3t-4", "s3cr3t-5%2B"]
MEANT = ["s3cr3t-&-1", "s3cr3t-5+"]


def test_for_readers_and_writers(host: Host) -> None:
    """Who may write sees hook URLs whole everywhere, who may read sees none of their credentials anywhere."""

    def echo(request: Request, _: Connection) -> bytes:
        said = f"{request.path} {json.dumps(MEANT)} s3cr3t-&amp;-1 {WHOLE[0].lower()}"
        return http(307, said.encode(), f"Location: {request.path}", f"X-Echo: {' '.join([*WHOLE[:2], *MEANT])}")

    def redirect(request: Request, _: Connection) -> bytes:
        return http(301, b"", f"Location: https://other.example{request.path}#access_token=s3cr3t-9")

    with Receiver(echo, redirect, 500, 410) as receiver:
        webhook = host.create("http://127.0.0.1:9/first?password=s3cr3t-8", receiver.url + QUERY)
        single = host.create(receiver.url + QUERY, name="single")
        for _ in range(4):
            host.push()
            host.deliver()
        everything = [everywhere(host, each, "alice") for each in (webhook, single)]
        hidden = [everywhere(host, each, "reader") for each in (webhook, single)]
    assert all(each in said for each in [*WHOLE, "TOKEN=s3cr3t"] for said in everything)
    for said in hidden:
        assert [each for each in [*WHOLE, *MEANT, "s3cr3t"] if each in said] == []
        assert "plain=seen" in said and "TOKEN=***" in said and "***" in said
    reasons = " ".join(each["reason"] for each in host.history(single))
    assert "redirected (307) to /hook: " in reasons and "redirected (301) to https://other.example/hook: " in reasons
    assert "s3cr3t" not in reasons


@on_sqlite
def test_a_credential_of_two_lines(host: Host) -> None:
    """What stands beside each other in two headers is no credential, though one with a line's end would hold it."""
    with Receiver(lambda *_: http(500, b"", "X-Told: 0123abcd", "4567cdef: yes")) as receiver:
        webhook = host.create(f"{receiver.url}?token=0123abcd%0A4567cdef")
        host.push()
        host.deliver()
        attempt = host.details(webhook, host.history(webhook)[0])["attempts"][0]
        assert ["4567cdef", "yes"] in attempt["response"]["headers"]


@on_sqlite
def test_what_was_masked_is_not_taken_back(host: Host) -> None:
    """The ETag of what a reader is shown is no measure of what is masked: it is the same for every credential."""
    webhook = host.create("http://127.0.0.1:9/hook?token=first")
    path, tags = f"acme/app/webhooks/{webhook['id']}/", set()
    for token in ("first", "second"):
        host.set_all(Hook, hook_url=f"http://127.0.0.1:9/hook?token={token}")
        for each in (path, f"{path}hooks/{webhook['hooks'][0]['id']}/"):
            tags.add(host.api("GET", each, user="reader").headers["ETag"])
    assert len(tags) == 2


def test_a_url_that_cannot_be_sent() -> None:
    """Credentials are found in a URL that our HTTP client does not take, too: what it was is in the history."""
    assert "s3cr3t-1" in credentials("http://*.example.com:99999/hook?token=s3cr3t-1")
