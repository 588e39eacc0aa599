"""Headers that an owner adds to requests: sent exactly as given beside ours, and shown to nobody."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_hubhooks import __version__
from flask_hubhooks.records.models import Webhook
from flask_hubhooks.records.request_headers import BadHeader, as_text, check_name, check_value, of_text
from flask_hubhooks.transport import Transport
from flask_hubhooks.transport.egress import AddressPolicy, Egress

from ..support.host import Host
from ..support.marks import URL, on_sqlite
from ..support.receivers import Connection, Receiver, Request, http
from ..support.transports import send

GIVEN = {"Authorization": "Bearer header-value-1234", "X-Env": "a", "x-lower_case": 'It\'s "quoted" & <spaced> \\ out'}
OURS = [
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Host",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "webhook-anything",
    "X-Hub-Signature-256",
    "X-Hub-Signature",
    "X-Signature",
    "traceparent",
    "Connection",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Expect",
    "Accept-Encoding",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Proxy-Connection",
]
BAD_NAMES = ["", " ", "X A", " X-A", "X-A ", "X-A:", ":path", "X-A\r\n", "X-A\r\nX-B", "X\0A", "X-Ä", "X\u212a", "X\tA"]
BAD_NAMES += ["X" * 101, "X(A)", 'X"A', "X/A", "X=A", "X@A", "X{A}", "\ud800", "X-A\x7f", "X\u2011A"]
BAD_VALUES = ["", " ", " a", "a ", "a\r", "a\n", "a\r\nX-B: c", "a\rb", "a\0b", "a\tb", "\x7f", "ä", "\u2028", "\ud800"]
BAD_VALUES += ["x" * 4097, "a\x0bb", "a\x85b"]


def set_headers(host: Host, webhook: dict[str, Any], headers: Any) -> Any:
    body = json.dumps({"headers": headers})
    return host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", data=body, content_type="application/json")


def shown(host: Host, webhook: dict[str, Any]) -> Any:
    return host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["headers"]


@on_sqlite
def test_sent_as_given(host: Host) -> None:
    """Headers are sent as given beside all of ours, from creation on and after each change; User-Agent in its place."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, headers=GIVEN)
        host.push()
        host.deliver()
        assert set_headers(host, webhook, {"X-Other": "b", "user-agent": "Go-http-client/1.1"}).status_code == 200
        host.push()
        host.deliver()
        assert set_headers(host, webhook, {}).status_code == 200
        host.push()
        host.deliver()
    first, second, third = ({*each.headers} for each in receiver.requests)
    assert {name: receiver.requests[0].headers[name.lower()] for name in GIVEN} == GIVEN
    assert first - third == {name.lower() for name in GIVEN}
    assert second - third == {"x-other"} and receiver.requests[1].headers["x-other"] == "b"
    assert {"webhook-id", "webhook-signature", "content-type", "host"} <= third
    agents = [each.headers["user-agent"] for each in receiver.requests]
    assert agents == [f"flask_hubhooks/{__version__}", "Go-http-client/1.1", f"flask_hubhooks/{__version__}"]
    assert {each.headers["accept"] for each in receiver.requests} == {"*/*"}
    assert all(each.headers["x-signature"] == each.headers["x-hub-signature-256"] for each in receiver.requests)
    [details] = [host.details(webhook, each) for each in host.history(webhook)][1:2]
    shown_names = [name.lower() for name, _ in details["attempts"][0]["request"]["headers"]]
    assert shown_names.count("user-agent") == 1


@pytest.mark.parametrize("name", OURS)
def test_ours(name: str) -> None:
    """No header of ours or of the connection can be set, in any case or a spelling that CGI would confuse with it."""
    for spelled in {name, name.lower(), name.upper(), name.swapcase(), name.title(), name.replace("-", "_")}:
        with pytest.raises(BadHeader, match="set by the registry itself"):
            check_name(spelled)


@on_sqlite
def test_refused_at_their_field(host: Host) -> None:
    """All bad headers are refused at once, each under its name, without repeating values or changing anything."""
    webhook = host.create(URL, headers={"X-Kept": "kept-value"})
    for name in [*OURS, *BAD_NAMES]:
        answer = set_headers(host, webhook, {"X-Good": "value-given", name: "value-given"})
        assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (400, [name]), name
        assert "value-given" not in answer.text
    for value in [*BAD_VALUES, 7, True, ["a"], {"a": "b"}]:
        answer = set_headers(host, webhook, {"X-Good": "value-given", "X-Bad": value})
        assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (400, ["X-Bad"]), value
        body = json.dumps({"name": "a", "headers": {"X-Bad": value}})
        answer = host.api("POST", "acme/app/webhooks/", data=body, content_type="application/json")
        assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (400, ["X-Bad"]), value
    for headers in (None, [], "a", 7, [["X-A", "b"]], {f"X-{number}": "a" for number in range(21)}):
        assert list(set_headers(host, webhook, headers).get_json()["errors"]) == ["headers"], headers
    answer = set_headers(host, webhook, {"X-A": "a", "x-a": "b", "X-B": "c"})
    assert sorted(answer.get_json()["errors"]["headers"]) == ["X-A", "x-a"]
    assert shown(host, webhook) == {"X-Kept": None}
    assert set_headers(host, webhook, {f"X-{number}": "a" * 1000 for number in range(20)}).status_code == 200


def test_names_with_null(host: Host) -> None:
    """The API shows header names with null; sending that back keeps the values, in another case too."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, headers=GIVEN)
        assert webhook["headers"] == dict.fromkeys(GIVEN)
        listed = host.api("GET", "acme/app/webhooks/").get_json()["results"][0]["headers"]
        assert listed == shown(host, webhook) == dict.fromkeys(GIVEN)
        before = host.api("GET", f"acme/app/webhooks/{webhook['id']}/")
        answer = set_headers(host, webhook, shown(host, webhook))
        assert (answer.status_code, answer.get_json()) == (200, before.get_json())
        assert set_headers(host, webhook, {"AUTHORIZATION": None, "X-New": "new"}).status_code == 200
        assert shown(host, webhook) == {"AUTHORIZATION": None, "X-New": None}
        host.push()
        host.deliver()
    headers = receiver.requests[0].headers
    assert (headers["authorization"], headers["x-new"]) == (GIVEN["Authorization"], "new")
    assert "x-env" not in headers


@on_sqlite
def test_null_for_an_unknown_name(host: Host) -> None:
    """Null for a header without a stored value is refused under its name, on creation and on editing."""
    webhook = host.create(URL, headers={"X-A": "a"})
    answer = set_headers(host, webhook, {"X-A": None, "X-B": None})
    assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (400, ["X-B"])
    created = host.api("POST", "acme/app/webhooks/", json={"name": "b", "hook_url": URL, "headers": {"X-A": None}})
    assert (created.status_code, list(created.get_json()["errors"]["headers"])) == (400, ["X-A"])
    assert shown(host, webhook) == {"X-A": None}
    assert host.api("GET", "acme/app/webhooks/").get_json()["count"] == 1


def test_masked_in_the_history(host: Host) -> None:
    """The history shows that a header was sent but never its value, however a receiver echoes it."""
    values = [*GIVEN.values(), "header-value-1234", "header-value-1234-and-more"]

    def echo(request: Request, _: Connection) -> bytes:
        body = json.dumps(dict(request.headers)) + f"bad token {values[-2]} or {values[-1]}"
        headers = [f"X-{number}: {value}" for number, value in enumerate(values)]
        return http(307, body.encode(), f"Location: /?{values[-1]}", f"{values[-1]}: name", *headers)

    def cut_off(request: Request, _: Connection) -> bytes:
        body = b"." * (16 * 1024 - 13) + b" " + values[-1].encode() * 99
        return http(500, body)

    with Receiver(echo, cut_off) as receiver:
        webhook = host.create(receiver.url, headers=GIVEN | {"X-More": values[-1]})
        for _ in range(2):
            host.push()
            host.deliver()
    told = [host.details(webhook, each) for each in host.history(webhook)]
    for details in told:
        sent = dict(details["attempts"][0]["request"]["headers"])
        assert {name: sent[name] for name in GIVEN} == dict.fromkeys(GIVEN, "***")
        answer = details["attempts"][0]["response"]
        said = answer["body"] + json.dumps(answer["headers"]) + details["reason"] + details["attempts"][0]["cause"]
        assert [each for each in ("header-valu", "and-more", "quoted") if each in said] == []
        assert "***" in said
    assert told[0]["attempts"][0]["response"]["truncated"]


names = st.text(st.sampled_from("Aa9-_!#$%&'*+.^`|~ :\r\n\tä\0"), max_size=12) | st.sampled_from(OURS + BAD_NAMES)
values = st.text(max_size=20) | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[Transport, Receiver]]:
    """A transport and a receiver."""
    transport = Transport(Egress(AddressPolicy((ip_network("127.0.0.0/8"),))))
    with Receiver() as receiver:
        yield transport, receiver
    transport.close()


@given(headers=st.dictionaries(names, values, max_size=4))
@example(headers={"Content-Type": "text/plain", "X-A": "a\r\nX-B: c"})
@example(headers={"Content_Type": "text/plain"})
@example(headers={"Cookie": "a=b; c=d", "Authorization": "Basic Og=="})
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_one_line(headers: dict[str, str], wire: tuple[Transport, Receiver]) -> None:
    """An accepted header arrives as one line with its value, and cannot pass for any other part of the request."""
    transport, receiver = wire
    accepted: dict[str, str] = {}
    for name, value in headers.items():
        try:
            check_name(name)
            check_value(value)
        except BadHeader:
            continue
        if name.lower() not in {each.lower() for each in accepted}:
            accepted[name] = value
    ours = {"Content-Type": "application/json", "webhook-id": uuid.uuid4().hex, "X-Hub-Signature-256": "sha256=0"}
    body = b'{"a": "b"}'
    receiver.requests.clear()
    assert send(transport, receiver.url, body, ours).status_code == 200
    outcome = send(transport, receiver.url, body, of_text(as_text(accepted)) | ours)
    assert outcome.status_code == 200, (accepted, outcome.error)
    plain, request = receiver.requests
    assert (request.method, request.path, request.body) == (plain.method, plain.path, body)
    assert dict(request.headers) == dict(plain.headers) | {name.lower(): value for name, value in accepted.items()}


@on_sqlite
def test_line_by_line(host: Host) -> None:
    """On a raw socket each header is one line before the body, spelled as given."""
    lines: list[bytes] = []

    class Raw(Receiver):
        def _serve(self, connection: Any) -> None:
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            lines.extend(received.partition(b"\r\n\r\n")[0].split(b"\r\n"))
            connection.sendall(http(200))
            connection.close()

    with Raw() as receiver:
        host.create(receiver.url, headers=GIVEN)
        host.push()
        host.deliver()
    assert lines[0] == b"POST /hook HTTP/1.1"
    for name, value in GIVEN.items():
        assert lines.count(f"{name}: {value}".encode()) == 1
    named = [line.partition(b":")[0].lower() for line in lines[1:]]
    assert len(named) == len(set(named))


@on_sqlite
def test_not_valid_after_all(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A stored header that cannot be sent splits no request, and its value appears nowhere."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for bad in ({"X-A": "header-value\r\nX-B: c"}, {"X-A\r\nX-B": "header-value"}, {"X-A": "header-value \u2028"}):
            host.set_all(Webhook, encrypted_headers=host.state.secrets.encrypt(as_text(bad)))
            host.push()
            host.deliver()
        assert receiver.requests == []
    details = [host.details(webhook, each) for each in host.history(webhook)]
    causes = {attempt["cause"] for attempt in chain.from_iterable(each["attempts"] for each in details)}
    assert causes == {"The request cannot be built. The hook URL or a header is not valid."}
    assert not re.search("header-value", json.dumps(details) + caplog.text)
