"""The history: pages that stay stable while pushes arrive, and deliveries with all requests and responses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any
from urllib.parse import urlencode

import pytest
from markupsafe import escape
from sqlalchemy import select

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Attempt, Delivery, Status

from ..support.host import Host, Owned, problem
from ..support.marks import URL
from ..support.receivers import Connection, Receiver, Request, close, http


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


# Pages


def test_order(host: Host) -> None:
    """The newest push comes first, and its hooks in the order of the chain."""
    chain, other = host.create(URL, URL, URL), host.create(URL, name="other")
    host.push(tag="old")
    host.push(tag="new")
    assert places(page(host, chain)) == [(tag, position) for tag in ("new", "old") for position in (0, 1, 2)]
    assert places(page(host, other)) == [("new", 0), ("old", 0)]


def test_pages_cover_everything_once(host: Host) -> None:
    """The pages, forward and back, contain every delivery exactly once, whatever the size."""
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
    """New pushes do not change later pages; they appear before the first one."""
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
        *(("cursor", value) for value in (f"older:1:{2**63}:0", "newer:1:1:10000", f"older:{'9' * 18}:1:0")),
        *(("cursor", value) for value in ("older:\uff11:1:0", "older:1:1:0' OR 1=1", "older:--1:1:0")),
        *(("page_size", value) for value in ("", "0", "101", "x", "-1")),
    ],
)
def test_bad_queries(host: Host, key: str, value: str) -> None:
    """A foreign cursor or a page_size out of range is refused under its name."""
    webhook = host.create(URL)
    answer = host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/", query_string={key: value})
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert set(answer.get_json()["errors"]) == {key}


def test_cursors_beyond_the_ends(host: Host) -> None:
    """A valid cursor that leads past the history returns what is there."""
    webhook = host.create(URL)
    host.push()
    largest, far = 2**63 - 1, 10**17
    for cursor, expected in (
        (f"older:{far}:{largest}:9999", 1),
        ("older:-1:0:0", 0),
        (f"newer:{far}:{largest}:0", 0),
        ("newer:-1:0:0", 1),
    ):
        assert len(page(host, webhook, f"?cursor={cursor}")["results"]) == expected


# One delivery


def test_a_delivery_before_it_is_sent(host: Host) -> None:
    """A delivery appears in the history together with its push, with the request to be sent."""
    webhook = host.create(URL)
    pushed_at = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    images = [f"sha256:{number}" for number in range(101)]
    described: dict[str, Any] = {
        "digest": "sha256:abc",
        "media_type": "application/json",
        "pusher": "carol",
        "pushed_at": pushed_at,
    }
    host.push(tag="1.0", images=images, **described)
    delivery = host.one_delivery(webhook)
    assert delivery == {
        "id": delivery["id"],
        "status": "pending",
        "state": "pending",
        "outcome": "under_way",
        "reason": "",
        "hook": {"id": webhook["hooks"][0]["id"], "hook_url": URL},
        "position": 0,
        "chain_length": 1,
        "round": 1,
        "chain": [{"id": delivery["id"], "position": 0, "hook_url": URL, "state": "pending", "callback": None}],
        "attempt_count": 0,
        "duration_ms": None,
        "attempts": [],
        "cause": "Waiting for a worker: none has been seen yet.",
        "push": {
            "kind": "push",
            "repository": "acme/app",
            "tag": "1.0",
            "digest": "sha256:abc",
            "media_type": "application/json",
            "images": images[:100],
            "pusher": "carol",
            "pushed_at": "2026-03-01T10:30:00Z",
            "sent_without_tag": False,
        },
        "callback_expected": False,
        "callback": None,
        "created_at": delivery["created_at"],
        "next_attempt_at": delivery["next_attempt_at"],
        "received_at": None,
        "expires_at": None,
        "finished_at": None,
    }


def test_an_attempt(host: Host) -> None:
    """An attempt shows request and response with headers and bodies, and how long it took."""
    with Receiver(http(201, b'{"ok": true}', "X-Job: 7", "X-Job: 8")) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        delivery = host.one_delivery(webhook)
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
    assert (attempt["status_code"], response["body"], response["truncated"]) == (201, '{"ok": true}', False)
    assert [value for name, value in response["headers"] if name == "X-Job"] == ["7", "8"]


def test_bodies_are_kept_as_they_were_sent(host: Host) -> None:
    """The history shows the body of each attempt as it was sent, whatever changes afterwards, and stores it once."""
    with Receiver(500) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        for attempt in range(4):
            if attempt == 2:
                host.state.config = replace(host.state.config, external_url="https://moved.example.com")
            host.make_due()
            host.deliver()
        delivery = host.one_delivery(webhook)
        api = f"acme/app/webhooks/{webhook['id']}/history/{delivery['id']}/"
        assert host.api("POST", api + "redeliver/").status_code == 202
        host.deliver()
        host.state.config = replace(host.state.config, external_url="https://now.example.com")
        delivery = host.one_delivery(webhook)
    sent = [re.sub(rb"/hook/[^/]+/", b"/hook/***/", each.body).decode() for each in receiver.requests]
    assert [each["request"]["body"] for each in delivery["attempts"]] == sent
    assert ["moved.example.com" in each for each in sent] == [False, False, True, True, True]
    with host.app.app_context(), host.state.reading() as session:
        stored = session.scalars(select(Attempt.request_body).order_by(Attempt.number)).all()
    assert [each is None for each in stored] == [False, True, False, True, False]
    for number, body in enumerate(sent, 1):
        shown = host.client.get(
            f"/r/acme/app/webhooks/{webhook['id']}/history/{delivery['id']}/?attempt={number}&payload=raw",
            headers={"X-User": "alice"},
        )
        assert escape(body) in shown.text


def test_attempts_without_an_answer(host: Host) -> None:
    """An attempt without a response says so; attempts of all rounds are kept and numbered consecutively."""
    with Receiver(close, 500, 200, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        for _ in range(3):
            host.deliver()
            host.make_due()
        path = f"acme/app/webhooks/{webhook['id']}/history/{host.one_delivery(webhook)['id']}/redeliver/"
        assert host.api("POST", path).status_code == 202
        host.deliver()
        attempts = host.one_delivery(webhook)["attempts"]
    assert attempts[0]["response"] is None
    assert attempts[0]["cause"].startswith("The connection was closed before an answer. ")
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
    """A response body is shown as text, with replacement characters for bytes that are not UTF-8."""
    with Receiver(http(200, body, "X-Name: caf\xe9")) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        response = host.one_delivery(webhook)["attempts"][0]["response"]
    assert response["body"] == shown
    assert ["X-Name", "caf\xe9"] in response["headers"]


def test_callback_token_is_nowhere(host: Host) -> None:
    """The API never shows a callback token, even if a receiver echoes it or others in any encoding."""
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
    assert all("/hook/***/" in text for text in shown[1:])
    assert all(token(url).rpartition(".")[2] not in text for url in urls for text in shown)


def test_secret_is_nowhere(host: Host) -> None:
    """The API never shows a webhook's secret, even if the receiver echoes it."""
    secrets: list[str] = []

    def echo(request: Request, connection: Connection) -> bytes:
        return http(500, f"{secrets[0]} and {secrets[0].removeprefix('whsec_')}".encode(), f"X-Secret: {secrets[0]}")

    with Receiver(echo) as receiver:
        webhook = host.create(receiver.url)
        secrets.append(webhook["secret"])
        host.push()
        host.deliver()
        shown = host.one_delivery(webhook)["attempts"][0]["response"]
    assert shown["body"] == "whsec_*** and ***" and ["X-Secret", "whsec_***"] in shown["headers"]


def token(callback_url: str) -> str:
    return callback_url.split("/")[-2]


# Where a delivery stands


def standing(host: Host, webhook: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["status"], each["state"]) for each in host.history(webhook)]


def test_words_of_a_chain_that_succeeds(host: Host) -> None:
    """A delivery of a chain has status pending until it is received, and then success."""
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
    """A delivery received and failed by callback has Docker's status success, a skipped one error."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        host.deliver()
        host.call_back(receiver.requests[0].body, state="failure")
    assert standing(host, webhook) == [("success", "failed"), ("error", "skipped")]


def test_words_of_what_was_never_received(host: Host) -> None:
    """A delivery failed by our rules or cancelled has status error, with a reason; one that is held is pending."""
    with Receiver(301) as moved:
        failed = host.create(moved.url, name="failed")
        cancelled, paused = host.create(moved.url, name="cancelled"), host.create(moved.url, name="paused")
        host.push()
        hook = f"acme/app/webhooks/{cancelled['id']}/hooks/{cancelled['hooks'][0]['id']}/"
        assert host.api("DELETE", hook).status_code == 204
        assert host.api("PATCH", f"acme/app/webhooks/{paused['id']}/", json={"active": False}).status_code == 200
        host.deliver()
    assert standing(host, failed) == [("error", "failed")]
    assert "Redirected (301)" in host.history(failed)[0]["reason"]
    assert standing(host, cancelled) == [("error", "cancelled")]
    assert host.history(cancelled)[0]["reason"] == "The hook was removed from the webhook."
    assert standing(host, paused) == [("pending", "pending")]
    assert host.history(paused)[0]["reason"] == "Held: the webhook is paused."


def test_words_of_a_callback_that_never_came(host: Host) -> None:
    """A delivery received whose callback never came has Docker's status success, and state expired."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push()
        host.deliver()
        host.make_overdue()
        host.deliver()
    assert standing(host, webhook) == [("success", "expired"), ("error", "skipped")]


# Filters

DAY = datetime(2026, 3, 1, tzinfo=timezone.utc)
REACHABLE = [  # where a delivery stands, and whether it was received
    (Status.WAITING, False),
    (Status.PENDING, False),
    (Status.AWAITING_CALLBACK, True),
    (Status.SUCCEEDED, True),
    (Status.FAILED, False),
    (Status.FAILED, True),
    (Status.EXPIRED, True),
    (Status.SKIPPED, False),
    (Status.CANCELLED, False),
    (Status.CANCELLED, True),
]


def stock(owned: Owned) -> dict[str, Any]:
    """A chain of two with pushes in every possible state, of two tags and two pushers, two each day."""
    webhook, other = owned.create(URL, URL), owned.create(URL, name="other")
    for number in range(len(REACHABLE)):
        pusher, day = ("carol", "dave")[number // 2 % 2], DAY + timedelta(days=number // 2)
        owned.push(f"v{number % 2}", pusher=pusher, pushed_at=day)
    Owned(owned.host, f"{owned.repository}-2").create(URL)
    owned.host.push(f"{owned.repository}-2", "v1", pusher="carol")
    with owned.host.writing() as session:
        rows = session.query(Delivery).filter(Delivery.webhook_id.in_([webhook["id"], other["id"]]))
        for row in rows.order_by(Delivery.push_id):
            place = (row.pushed_at - DAY).days * 2 + (row.push.tag == "v1") + row.position
            row.status, received = REACHABLE[place % len(REACHABLE)]
            row.received_at = utcnow() if received else None
    return webhook


def walk(owned: Owned, webhook: dict[str, Any], query: dict[str, str]) -> list[dict[str, Any]]:
    """Return all results of a query, page by page; check that going back gives the same."""
    here = f"{webhook['id']}/history/"
    pages = [owned.get(f"{here}?{urlencode(query)}")]
    while url := pages[-1]["next"]:
        pages.append(owned.get(f"{here}?{url.partition('?')[2]}"))
    back = [pages[-1]]
    while url := back[-1]["previous"]:
        back.append(owned.get(f"{here}?{url.partition('?')[2]}"))
    assert [each["results"] for each in back] == [each["results"] for each in reversed(pages)]
    assert all(len(each["results"]) == int(query["page_size"]) for each in pages[:-1])
    return [each for page in pages for each in page["results"]]


def test_filters(owned: Owned) -> None:
    """Each filter, alone and combined, finds exactly its deliveries, in order, on all pages in both directions."""
    webhook = stock(owned)
    everything = walk(owned, webhook, {"page_size": "100"})
    assert len(everything) == 2 * len(REACHABLE)
    assert {each["status"] for each in everything} == {"pending", "success", "error"}
    assert {each["state"] for each in everything} == {each.value for each in Status}
    days = [None, "2026-03-02T00:00:00Z", "2026-03-03T01:00:00+01:00"]
    words = [(None, None), *(("status", word) for word in ("pending", "success", "error"))]
    words += [("state", each.value) for each in Status]
    for (name, word), tag, pusher, since, until in product(words, [None, "v1"], [None, "carol"], days[:2], days[::2]):
        query = {"tag": tag, "pusher": pusher, "since": since, "until": until} | ({name: word} if name else {})
        expected = [
            each
            for each in everything
            if (name is None or each[name] == word)
            and (tag is None or each["push"]["tag"] == tag)
            and (pusher is None or each["push"]["pusher"] == pusher)
            and (since is None or each["push"]["pushed_at"] >= "2026-03-02")
            and (until is None or each["push"]["pushed_at"] < "2026-03-03")
        ]
        given = {key: value for key, value in query.items() if value is not None}
        assert walk(owned, webhook, given | {"page_size": "6"}) == expected, query


RUNS = {  # the states of a chain of three, the outcome, and the position that decides
    (Status.SUCCEEDED, Status.SUCCEEDED, Status.SUCCEEDED): ("succeeded", 2),
    (Status.FAILED, Status.SKIPPED, Status.SKIPPED): ("failed", 0),
    (Status.SUCCEEDED, Status.EXPIRED, Status.SKIPPED): ("failed", 1),
    (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED): ("failed", 2),
    (Status.FAILED, Status.SKIPPED, Status.SUCCEEDED): ("failed", 0),  # the last one was redelivered
    (Status.FAILED, Status.SUCCEEDED, Status.FAILED): ("failed", 0),
    (Status.FAILED, Status.PENDING, Status.WAITING): ("failed", 0),
    (Status.PENDING, Status.WAITING, Status.WAITING): ("under_way", 0),
    (Status.SUCCEEDED, Status.AWAITING_CALLBACK, Status.WAITING): ("under_way", 1),
    (Status.CANCELLED, Status.CANCELLED, Status.CANCELLED): ("cancelled", 0),
    (Status.SUCCEEDED, Status.CANCELLED, Status.CANCELLED): ("cancelled", 1),
}


def test_outcomes(owned: Owned) -> None:
    """`outcome` lists each run once, by the delivery that decides it, on all pages; the page shows the same runs."""
    webhook = owned.create(URL, URL, URL)
    for number in range(2 * len(RUNS)):
        owned.push(f"v{number}", pushed_at=DAY + timedelta(hours=number))
    chains = [list(states) for states in RUNS] * 2
    with owned.host.writing() as session:
        for row in session.query(Delivery).filter(Delivery.webhook_id == webhook["id"]).order_by(Delivery.push_id):
            row.status = chains[int(row.push.tag.removeprefix("v"))][row.position]
    everything = walk(owned, webhook, {"page_size": "100"})
    expected = [list(RUNS.values())[int(each["push"]["tag"].removeprefix("v")) % len(RUNS)] for each in everything]
    assert [each["outcome"] for each in everything] == [outcome for outcome, _ in expected]
    for outcome in ("succeeded", "failed", "under_way", "cancelled"):
        wanted = [
            each
            for each, (its, position) in zip(everything, expected, strict=True)
            if its == outcome and each["position"] == position
        ]
        assert walk(owned, webhook, {"outcome": outcome, "page_size": "3"}) == wanted, outcome
        found = [each for each in wanted if each["push"]["tag"] == "v1"]
        assert walk(owned, webhook, {"outcome": outcome, "tag": "v1", "page_size": "3"}) == found, outcome
        shown = owned.host.client.get(
            f"/r/{owned.repository}/webhooks/{webhook['id']}/history/?outcome={outcome}", headers={"X-User": "alice"}
        ).text
        tags = re.findall(r'class="tag-name">(v[0-9]+)<', shown)
        assert tags == [each["push"]["tag"] for each in wanted], outcome


def test_what_went_wrong(host: Host) -> None:
    """If the first hook calls back `failure`, `outcome=failed` finds that one, and `status=error` the one behind it."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, URL)
        host.push()
        host.deliver()
        host.call_back(receiver.requests[0].body, state="failure")
    found = {
        query: places(page(host, webhook, f"?{query}")) for query in ("outcome=failed", "state=failed", "status=error")
    }
    assert found == {
        "outcome=failed": [("latest", 0)],
        "state=failed": [("latest", 0)],
        "status=error": [("latest", 1)],
    }
    (went_wrong,) = page(host, webhook, "?outcome=failed&status=success")["results"]
    assert (went_wrong["state"], went_wrong["status"], went_wrong["outcome"]) == ("failed", "success", "failed")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("status=failed", "Must be one of: pending, success, error. Did you mean state=failed or outcome=failed?"),
        ("status=awaiting_callback", "Must be one of: pending, success, error. Did you mean state=awaiting_callback?"),
        ("outcome=error", "Must be one of: succeeded, under_way, failed, cancelled. Did you mean status=error?"),
        ("outcome=skipped", "Must be one of: succeeded, under_way, failed, cancelled. Did you mean state=skipped?"),
    ],
)
def test_a_word_of_another_parameter(owned: Owned, query: str, told: str) -> None:
    """A word of another vocabulary is refused with the parameter that takes it."""
    answer = owned("GET", f"{owned.create(URL)['id']}/history/?{query}")
    assert problem(answer, 400)["errors"] == {query.partition("=")[0]: [told]}


def test_filters_that_find_nothing(owned: Owned) -> None:
    """Unknown tags and pushers in any script, and times at the ends of the calendar, work as filters."""
    webhook = stock(owned)
    for query, found in (
        ({"tag": "V1"}, 0),
        ({"tag": ""}, 0),
        ({"tag": "v%"}, 0),
        ({"tag": "デ" * 300}, 0),
        ({"pusher": "eve"}, 0),
        ({"pusher": "'; --"}, 0),
        ({"since": "9999-12-31T23:59:59.999999Z"}, 0),
        ({"until": "0001-01-01T00:00:00Z"}, 0),
        ({"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59.999999Z"}, 20),
        ({"since": "2026-03-02", "until": "2026-03-02"}, 0),
    ):
        assert len(walk(owned, webhook, query | {"page_size": "50"})) == found, query


def test_an_offset_that_was_typed(owned: Owned) -> None:
    """A `+` of an offset that was typed as it is, which means a space in a query, is taken for the plus."""
    webhook = owned.create(URL)
    owned.push(pushed_at=datetime(2026, 3, 1, 1, 30, tzinfo=timezone.utc))
    for query, found in (
        ("since=2026-03-01T03:00:00+02:00", 1),
        ("since=2026-03-01T04:00:00+02:00", 0),
        ("since=2026-03-01+03:00:00+02:00&until=2026-03-01+04:00+02:00", 1),
        ("since=2026-03-01+01:00", 1),
        ("since=2026-03-01+03:00", 0),
        ("since=2026-03-01T03:00:00%2B02:00", 1),
    ):
        assert len(owned.get(f"{webhook['id']}/history/?{query}")["results"]) == found, query


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("status", value) for value in ("", "PENDING", "failure", "succeeded", "\0")),
        *((key, value) for key in ("state", "outcome") for value in ("", "FAILED", "error", "succeeded ", "\0")),
        *(("tag", value) for value in ("\0", "v1\0", "\n", "\u2028")),
        *(("pusher", value) for value in ("\0", "carol\0", "\x85")),
        *(
            (key, value)
            for key in ("since", "until")
            for value in ("", "yesterday", "1772323200", "2026-13-01", "0001-01-01T00:00:00+14:00", "\0", "9" * 5000)
        ),
        ("until", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_bad_filters(owned: Owned, key: str, value: str) -> None:
    """A filter that could never match is refused under its name."""
    webhook = owned.create()
    answer = owned("GET", f"{webhook['id']}/history/", query_string={key: value, "page_size": "1"})
    assert set(problem(answer, 400)["errors"]) == {key}


def test_chain_progress(host: Host) -> None:
    """Each entry shows the progress of its whole chain, on every page and with every filter."""
    with Receiver(500, 200) as receiver:
        webhook = host.create(receiver.url, URL, URL)
        host.push()
        host.deliver()
        host.make_due()
        host.deliver()
    ids = [each["id"] for each in host.history(webhook)]

    def progress(query: str) -> list[Any]:
        found = page(host, webhook, query)["results"]
        for each in found:
            assert [(step["id"], step["position"], step["hook_url"]) for step in each["chain"]] == [
                (ids[0], 0, receiver.url),
                (ids[1], 1, URL),
                (ids[2], 2, URL),
            ]
        return [[(step["state"], step["callback"]) for step in each["chain"]] for each in found]

    waiting = [("awaiting_callback", None), ("waiting", None), ("waiting", None)]
    assert progress("") == [waiting] * 3
    assert progress("?page_size=1") == progress("?status=success") == [waiting]
    assert [each["attempt_count"] for each in host.history(webhook)] == [2, 0, 0]
    host.call_back(receiver.requests[1].body, state="failure")
    failed = [("failed", "failure"), ("skipped", None), ("skipped", None)]
    assert progress("") == [failed] * 3
    assert progress("?state=skipped&tag=latest") == [failed] * 2


def test_a_size_of_its_own(owned: Owned) -> None:
    """Links keep filters and page size; the default size is 25."""
    webhook = owned.create(*[URL] * 10)
    for number in range(3):
        owned.push(f"v{number}", pusher="carol")
    here = f"{webhook['id']}/history/"
    first = owned.get(here)
    assert len(first["results"]) == 25 and first["previous"] is None
    assert len(owned.get(f"{here}?{first['next'].partition('?')[2]}")["results"]) == 5
    kept = "status=error&pusher=carol&since=2020-01-01&page_size=2"
    assert owned.get(f"{here}?{kept}") == {"next": None, "previous": None, "results": []}
    link = owned.get(f"{here}?{kept.replace('error', 'pending')}")["next"]
    assert "status=pending&pusher=carol&since=2020-01-01&page_size=2&cursor=older:" in link


def test_cause_in_the_list(host: Host) -> None:
    """The list shows the cause from each delivery's latest attempt, and none if all is well."""
    with Receiver(404, 500, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        causes = []
        for _ in range(3):
            host.deliver()
            causes.append(host.history(webhook)[0]["cause"])
            host.make_due()
    assert [each.partition(".")[0] for each in causes] == [
        "The receiver answered 404 Not Found",
        "The receiver answered 500 Internal Server Error",
        "",
    ]


def test_unknown_parameters(host: Host) -> None:
    """An unknown parameter is refused: a misspelled filter would show everything."""
    webhook = host.create(URL)
    for path in ("", f"{webhook['id']}/history/", "matching-tags/"):
        answer = host.api("GET", f"acme/app/webhooks/{path}", query_string={"tga": "v1"})
        assert (answer.status_code, set(answer.get_json()["errors"])) == (400, {"tga"})
