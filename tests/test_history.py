"""The history: pages that stay put while pushes arrive, and one delivery with all that was said."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from flask_hubhooks.models import Delivery

from .host import Host
from .receivers import Connection, Receiver, Request, close, http


def page(host: Host, webhook: dict[str, Any], query: str = "") -> dict[str, Any]:
    answer = host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/{query}")
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def follow(host: Host, webhook: dict[str, Any], url: str) -> dict[str, Any]:
    start = f"https://registry.example.com/v2/repositories/acme/app/webhooks/{webhook['id']}/history/"
    assert url.startswith(f"{start}?")
    return page(host, webhook, url.removeprefix(start))


def places(content: dict[str, Any]) -> list[tuple[str, int]]:
    return [(each["push"]["tag"], each["position"]) for each in content["results"]]


def only(host: Host, webhook: dict[str, Any]) -> dict[str, Any]:
    """The one delivery of a webhook, with its attempts."""
    (delivery,) = host.history(webhook)
    return host.details(webhook, delivery)


URL = "http://127.0.0.1:9/hook"


# Pages


def test_order(host: Host) -> None:
    """The newest push comes first, and within a push the hooks in the order of the chain."""
    chain, other = host.create(URL, URL, URL), host.create(URL, name="other")
    host.push(tag="old")
    host.push(tag="new")
    assert places(page(host, chain)) == [(tag, position) for tag in ("new", "old") for position in (0, 1, 2)]
    assert places(page(host, other)) == [("new", 0), ("old", 0)]


def test_pages_cover_everything_once(host: Host) -> None:
    """The pages, forward and back again, hold every delivery exactly once, whatever the size."""
    chain = host.create(URL, URL, URL)
    for number in range(3):
        host.push(tag=str(number))
    everything = [(str(number), position) for number in (2, 1, 0) for position in (0, 1, 2)]
    for size in (1, 2, 3, 4, 100):
        pages = [page(host, chain, f"?page_size={size}")]
        while pages[-1]["next"]:
            pages.append(follow(host, chain, pages[-1]["next"]))
        assert [place for each in pages for place in places(each)] == everything
        assert all(len(each["results"]) == size for each in pages[:-1])
        back = [pages[-1]]
        while back[-1]["previous"]:
            back.append(follow(host, chain, back[-1]["previous"]))
        assert [each["results"] for each in back] == [each["results"] for each in reversed(pages)]


def test_pages_stay_put(host: Host) -> None:
    """Pushes that arrive meanwhile change no page that follows; they are found before the first."""
    webhook = host.create(URL)
    for number in range(4):
        host.push(tag=str(number))
    first = page(host, webhook, "?page_size=2")
    host.push(tag="late")
    second = follow(host, webhook, first["next"])
    assert (places(first), places(second)) == ([("3", 0), ("2", 0)], [("1", 0), ("0", 0)])
    again = follow(host, webhook, second["previous"])
    assert places(again) == places(first)
    assert places(follow(host, webhook, again["previous"])) == [("late", 0)]


def test_empty(host: Host) -> None:
    """A webhook without deliveries has one empty page."""
    host.push()
    assert page(host, host.create(URL)) == {"next": None, "previous": None, "results": []}


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("cursor", value)
            for value in ("", "x", "older:1:1", "older:1:-1:0", "older:1:1:0x", "later:1:1:0", "older:1:1:0\n")
        ),
        *(("cursor", value) for value in (f"older:1:{2**31}:0", "newer:1:1:10000", f"older:{'9' * 18}:1:0")),
        *(("cursor", value) for value in ("older:\uff11:1:0", "older:1:1:0' OR 1=1", "older:--1:1:0")),
        *(("page_size", value) for value in ("", "0", "101", "x", "-1")),
    ],
)
def test_bad_queries(host: Host, key: str, value: str) -> None:
    """A cursor that is not ours, or a page_size out of range, is refused with its name."""
    webhook = host.create(URL)
    answer = host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/", query_string={key: value})
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert set(answer.get_json()["errors"]) == {key}


def test_cursors_beyond_the_ends(host: Host) -> None:
    """A cursor of ours that leads past the history answers with what is there."""
    webhook = host.create(URL)
    host.push()
    largest, far = 2**31 - 1, 10**17
    for cursor, expected in (
        (f"older:{far}:{largest}:9999", 1),
        ("older:-1:0:0", 0),
        (f"newer:{far}:{largest}:0", 0),
        ("newer:-1:0:0", 1),
    ):
        assert len(page(host, webhook, f"?cursor={cursor}")["results"]) == expected


# One delivery


def test_a_delivery_before_it_is_sent(host: Host) -> None:
    """A delivery is in the history as soon as the push is, with what is to be sent."""
    webhook = host.create(URL)
    pushed_at = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    host.push(tag="1.0", digest="sha256:abc", media_type="application/json", pusher="carol", pushed_at=pushed_at)
    delivery = only(host, webhook)
    assert delivery == {
        "id": delivery["id"],
        "status": "pending",
        "state": "pending",
        "reason": "",
        "hook": {"id": webhook["hooks"][0]["id"], "hook_url": URL},
        "position": 0,
        "chain_length": 1,
        "round": 1,
        "chain": [{"id": delivery["id"], "position": 0, "hook_url": URL, "state": "pending", "callback": None}],
        "attempt_count": 0,
        "attempts": [],
        "push": {
            "kind": "push",
            "repository": "acme/app",
            "tag": "1.0",
            "digest": "sha256:abc",
            "media_type": "application/json",
            "pusher": "carol",
            "pushed_at": "2026-03-01T10:30:00Z",
        },
        "callback_expected": False,
        "callback": None,
        "created_at": delivery["created_at"],
        "next_attempt_at": delivery["next_attempt_at"],
        "received_at": None,
        "finished_at": None,
    }


def test_an_attempt(host: Host) -> None:
    """An attempt shows the request and the answer with headers and bodies, and how long it took."""
    with Receiver(http(201, b'{"ok": true}', "X-Job: 7", "X-Job: 8")) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        delivery = only(host, webhook)
    (attempt,) = delivery["attempts"]
    received = receiver.requests[0]
    request, response = attempt["request"], attempt["response"]
    assert (attempt["number"], attempt["round"], attempt["trigger"], attempt["cause"]) == (1, 1, "push", "")
    assert 0 <= attempt["connect_ms"] <= attempt["duration_ms"] and 0 <= attempt["wait_ms"] <= attempt["duration_ms"]
    assert attempt["started_at"].endswith("Z")
    assert request["url"] == receiver.url
    shown = {name.lower(): value for name, value in request["headers"]}
    assert shown.items() <= received.headers.items()
    assert {"content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature"} <= set(shown)
    assert shown["webhook-id"] == delivery["id"]
    sent = json.loads(received.body)
    assert json.loads(request["body"]) == sent | {"callback_url": "https://registry.example.com/u/acme/app/hook/***/"}
    assert (response["status_code"], response["body"], response["truncated"]) == (201, '{"ok": true}', False)
    assert [value for name, value in response["headers"] if name == "X-Job"] == ["7", "8"]


def test_attempts_without_an_answer(host: Host) -> None:
    """An attempt that was not answered says so in words; those of all rounds are kept and numbered on."""
    with Receiver(close, 500, 200, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        for _ in range(3):
            host.deliver()
            host.make_due()
        path = f"acme/app/webhooks/{webhook['id']}/history/{only(host, webhook)['id']}/redeliver/"
        assert host.api("POST", path).status_code == 202
        host.deliver()
        attempts = only(host, webhook)["attempts"]
    assert attempts[0]["response"] is None
    assert attempts[0]["cause"].startswith("connection closed before an answer: ")
    assert [(each["number"], each["round"], each["trigger"]) for each in attempts] == [
        (1, 1, "push"),
        (2, 1, "retry"),
        (3, 1, "retry"),
        (4, 2, "redelivery"),
    ]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"caf\xe9 \xff\xfe \0", "caf\ufffd \ufffd\ufffd \0"),
        ("日本 🚀 <script>alert(1)</script>".encode(), "日本 🚀 <script>alert(1)</script>"),
    ],
)
def test_bodies_of_any_bytes(host: Host, body: bytes, shown: str) -> None:
    """An answer's body is shown as text, what is no UTF-8 as replacement characters."""
    with Receiver(http(200, body, "X-Name: caf\xe9")) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        response = only(host, webhook)["attempts"][0]["response"]
    assert response["body"] == shown
    assert ["X-Name", "caf\xe9"] in response["headers"]


def test_callback_token_is_nowhere(host: Host) -> None:
    """No answer of the API shows a callback token, also where a receiver tells back its own and others' in all ways."""
    urls: list[str] = []

    def echo(request: Request, connection: Connection) -> bytes:
        urls.append(json.loads(request.body)["callback_url"])
        headers = [f"X-Body: {request.body.decode()}", *(f"X-Token: {token(url)}" for url in urls)]
        return http(307, request.body + "".join(urls).encode(), f"Location: {urls[-1]}", *headers)

    with Receiver(echo) as receiver, Receiver() as calling_back:
        webhook = host.create(receiver.url)
        other = host.create(calling_back.url, name="other")
        for tag in ("first", "second"):
            host.push(tag=tag)
            host.deliver()
        body = calling_back.requests[0].body
        urls.append(json.loads(body)["callback_url"])
        host.call_back(body, description=f"see {urls[-1]}", context="for you", target_url=urls[-1])
    shown = [host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/").text]
    shown += [json.dumps(host.details(each, delivery)) for each in (webhook, other) for delivery in host.history(each)]
    assert len(urls) == 3
    assert all("/hook/***/" in text for text in shown)
    assert all(token(url).rpartition(".")[2] not in text for url in urls for text in shown)


def test_secret_is_nowhere(host: Host) -> None:
    """No answer of the API shows a webhook's secret, also where the receiver tells it back."""
    secrets: list[str] = []

    def echo(request: Request, connection: Connection) -> bytes:
        return http(500, f"{secrets[0]} and {secrets[0].removeprefix('whsec_')}".encode(), f"X-Secret: {secrets[0]}")

    with Receiver(echo) as receiver:
        webhook = host.create(receiver.url)
        secrets.append(webhook["secret"])
        host.push()
        host.deliver()
        shown = only(host, webhook)["attempts"][0]["response"]
    assert shown["body"] == "whsec_*** and ***" and ["X-Secret", "whsec_***"] in shown["headers"]


def token(callback_url: str) -> str:
    return callback_url.split("/")[-2]


# Where a delivery stands


def standing(host: Host, webhook: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["status"], each["state"]) for each in host.history(webhook)]


def test_words_of_a_chain_that_succeeds(host: Host) -> None:
    """On its way to the end of a chain a delivery is pending until it was received, and then a success."""
    with Receiver(503, 200) as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        assert standing(host, webhook) == [("pending", "pending"), ("pending", "waiting")]
        host.deliver()
        assert standing(host, webhook) == [("pending", "pending"), ("pending", "waiting")]
        host.make_due()
        host.deliver()
        assert standing(host, webhook) == [("success", "awaiting_callback"), ("pending", "waiting")]
        host.call_back(receiver.requests[1].body)
        assert standing(host, webhook) == [("success", "succeeded"), ("pending", "pending")]
        host.deliver()
        host.call_back(receiver.requests[2].body, description="done", context="ci", target_url="https://ci.example.com")
        assert standing(host, webhook) == [("success", "succeeded"), ("success", "succeeded")]
    callback = host.history(webhook)[1]["callback"]
    assert callback.pop("received_at").endswith("Z")
    assert callback == {
        "state": "success",
        "description": "done",
        "context": "ci",
        "target_url": "https://ci.example.com",
    }


def test_words_of_a_chain_that_fails(host: Host) -> None:
    """What was received and then failed by callback is a success of Docker's, what is skipped an error."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        host.deliver()
        host.call_back(receiver.requests[0].body, state="failure")
    assert standing(host, webhook) == [("success", "failed"), ("error", "skipped")]


def test_words_of_what_was_never_received(host: Host) -> None:
    """What failed by our rules or was cancelled is an error, with the reason beside it."""
    with Receiver(500, 410) as gone, Receiver(301) as moved:
        disabled, failed = host.create(gone.url), host.create(moved.url, name="failed")
        host.push()
        host.deliver()
        host.push()
        host.deliver()
    assert standing(host, failed) == [("error", "failed")] * 2
    assert "redirected (301)" in host.history(failed)[0]["reason"]
    assert standing(host, disabled) == [("error", "failed"), ("error", "cancelled")]
    assert all("410 Gone" in each["reason"] for each in host.history(disabled))


def test_words_of_a_callback_that_never_came(host: Host) -> None:
    """What was received and waited for its callback in vain is a success of Docker's, and expired."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        host.deliver()
        host.set_all(Delivery, give_up_at=datetime(2020, 1, 1, tzinfo=timezone.utc))
        host.deliver()
    assert standing(host, webhook) == [("success", "expired"), ("error", "skipped")]
