"""Callbacks: what they decide, when they are too late, and which are invalid."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from flask_hubhooks.crypto.callback_tokens import CallbackTokens
from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Delivery, Status

from ..support.host import Host
from ..support.marks import MakeHost, on_sqlite
from ..support.receivers import Connection, Receiver, Request, http


def sent(host: Host, *answers: Any, **more: Any) -> tuple[dict[str, Any], bytes]:
    """Push to a webhook with one hook that answers like this; return the webhook and the payload it got."""
    with Receiver(*answers) as receiver:
        webhook = host.create(receiver.url, **{"expect_final_callback": True, **more})
        host.push()
        host.deliver()
    return webhook, receiver.requests[-1].body


def only(host: Host, webhook: dict[str, Any]) -> dict[str, Any]:
    [delivery] = host.history(webhook)
    return delivery


def callback_path(payload: bytes) -> str:
    url: str = json.loads(payload)["callback_url"]
    return url.removeprefix("https://registry.example.com")


# When it comes


def test_after_the_answer(host: Host) -> None:
    """An expected callback decides a delivery that was answered, and the history shows all it contains."""
    webhook, payload = sent(host)
    waiting = only(host, webhook)
    assert (waiting["status"], waiting["state"], waiting["callback"]) == ("success", "awaiting_callback", None)
    said = {"description": "387 tests PASSED", "context": "CI by Acme", "target_url": "https://ci.acme.com/7"}
    answer = host.call_back(payload, **said)
    assert answer.status_code == 200
    assert answer.get_json() == {"delivery": waiting["id"], "state": "success"}
    decided = only(host, webhook)
    assert (decided["status"], decided["state"]) == ("success", "succeeded")
    assert decided["finished_at"] is not None
    assert decided["received_at"] == waiting["received_at"]
    shown = decided["callback"]
    assert shown.pop("received_at") == decided["finished_at"] or shown
    assert shown == {"state": "success", **said}


@pytest.mark.parametrize("state", ["failure", "error"])
def test_not_successful(host: Host, state: str) -> None:
    """A callback with failure or error fails a delivery that was received."""
    webhook, payload = sent(host)
    assert host.call_back(payload, state=state).status_code == 200
    delivery = only(host, webhook)
    assert (delivery["status"], delivery["state"], delivery["callback"]["state"]) == ("success", "failed", state)


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize(("state", "becomes"), [("success", "succeeded"), ("error", "failed")])
def test_before_the_answer(served: Host, status: int, state: str, becomes: str) -> None:
    """A callback before the answer, or beside an error answer, decides the delivery and ends the retries."""
    callbacks: list[int] = []

    def call_back(request: Request, _: Connection) -> int:
        url = json.loads(request.body)["callback_url"]
        callbacks.append(requests.post(url, json={"state": state}, timeout=10).status_code)
        return status

    with Receiver(call_back) as receiver:
        webhook = served.create(receiver.url, expect_final_callback=True)
        served.push()
        served.deliver()
        served.make_due()
        served.deliver()
        assert len(receiver.requests) == 1
    assert callbacks == [200]
    delivery = served.details(webhook, only(served, webhook))
    assert (delivery["status"], delivery["state"]) == ("success", becomes)
    assert [each["status_code"] for each in delivery["attempts"]] == [status]


def test_between_two_attempts(host: Host) -> None:
    """A receiver that answered 500 and calls back has received the delivery: it is not sent again."""
    webhook, payload = sent(host, 500)
    assert only(host, webhook)["state"] == "pending"
    assert host.call_back(payload).status_code == 200
    delivery = only(host, webhook)
    assert (delivery["status"], delivery["state"], delivery["next_attempt_at"]) == ("success", "succeeded", None)
    host.deliver()
    assert only(host, webhook)["attempt_count"] == 1


def test_the_same_again(host: Host) -> None:
    """Repeating a state gets 200 and changes nothing, not even the description."""
    webhook, payload = sent(host)
    host.call_back(payload, description="first")
    decided = only(host, webhook)
    assert host.call_back(payload, description="second").status_code == 200
    assert only(host, webhook) == decided


@pytest.mark.parametrize(("first", "second"), [("success", "failure"), ("failure", "success"), ("error", "failure")])
@pytest.mark.parametrize("expected", [True, False])
def test_another_state(host: Host, first: str, second: str, expected: bool) -> None:
    """A delivery is decided once: a different state later is refused with 409 and changes nothing."""
    webhook, payload = sent(host, expect_final_callback=expected)
    host.call_back(payload, state=first)
    decided = only(host, webhook)
    answer = host.call_back(payload, state=second)
    assert (answer.status_code, answer.content_type) == (409, "application/problem+json")
    assert first in answer.get_json()["detail"]
    assert only(host, webhook) == decided


def test_older_round(host: Host) -> None:
    """After a redelivery the previous round's callback URL is refused with 409; the new one decides."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, expect_final_callback=True)
        host.push()
        host.deliver()
        assert host.redeliver(webhook).status_code == 202
        old = receiver.requests[0].body
        assert host.call_back(old).status_code == 409
        host.deliver()
        new = receiver.requests[1].body
    assert host.call_back(old).status_code == 409
    assert only(host, webhook)["state"] == "awaiting_callback"
    assert host.call_back(new).status_code == 200
    assert only(host, webhook)["state"] == "succeeded"


def test_expired(make_host: MakeHost) -> None:
    """Without a callback in time the delivery expires; a later callback is refused with 410."""
    host = make_host(config={"HUBHOOKS_CALLBACK_TTL": 3600})
    webhook, payload = sent(host)
    with host.writing() as session:
        [give_up_at] = session.scalars(select(Delivery.give_up_at))
    assert give_up_at is not None
    waiting = only(host, webhook)
    assert datetime.fromisoformat(waiting["expires_at"].replace("Z", "+00:00")) == give_up_at
    page = host.api("GET", f"/r/acme/app/webhooks/{webhook['id']}/history/{waiting['id']}/").text
    assert waiting["received_at"] in page and waiting["expires_at"] in page
    refusal = host.client.get(callback_path(payload))
    assert refusal.status_code == 405
    assert 'POSTs JSON such as {"state": "success"}' in refusal.get_json()["detail"]
    assert only(host, webhook) == waiting
    assert timedelta(seconds=3590) < give_up_at - utcnow() <= timedelta(seconds=3600)
    host.make_overdue()
    host.deliver()
    expired = only(host, webhook)
    assert (expired["status"], expired["state"], expired["expires_at"]) == ("success", "expired", None)
    assert expired["reason"] == "The callback never came."
    answer = host.call_back(payload)
    assert answer.status_code == 410
    assert "expired. The callback never came." in answer.get_json()["detail"]
    assert only(host, webhook) == expired


@on_sqlite
def test_at_an_address_that_receivers_cannot_reach(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """If callbacks go to localhost, saving a webhook with a hook on another machine is warned of."""
    host = make_host(config={"HUBHOOKS_EXTERNAL_URL": "http://localhost:5000"})
    host.create("http://127.0.0.1:9/hook")
    assert "callbacks" not in caplog.text
    host.create("https://ci.example.com/hook", name="remote")
    assert "which cannot post callbacks to http://localhost:5000: set HUBHOOKS_EXTERNAL_URL" in caplog.text


@on_sqlite
def test_several_that_never_came(host: Host) -> None:
    """Once three callbacks in a row of one hook never came, its history says what to check."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, expect_final_callback=True)
        pages = []
        for _ in range(3):
            host.push()
            host.deliver()
            host.make_overdue()
            host.deliver()
            pages.append(host.api("GET", f"/r/acme/app/webhooks/{webhook['id']}/history/", user="reader").text)
    assert ["The latest callbacks of" in each for each in pages] == [False, False, True]
    assert "Check that it can reach <bdi>https://registry.example.com</bdi>" in pages[-1]


@on_sqlite
def test_waits_seven_days(host: Host) -> None:
    """By default, a callback may come for seven days."""
    sent(host)
    with host.writing() as session:
        [give_up_at] = session.scalars(select(Delivery.give_up_at))
    assert give_up_at is not None
    assert timedelta(days=6.99) < give_up_at - utcnow() <= timedelta(days=7)


def test_failed_without_a_callback(host: Host) -> None:
    """A failed delivery cannot be called back: 410."""
    webhook, payload = sent(host, 301)
    failed = only(host, webhook)
    assert host.call_back(payload).status_code == 410
    assert only(host, webhook) == failed
    assert failed["state"] == "failed"


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.CANCELLED, Status.WAITING])
def test_not_sent(host: Host, status: Status) -> None:
    """A skipped, cancelled or unsent delivery cannot be called back: 410."""
    webhook, payload = sent(host)
    host.set_all(Delivery, status=status, received_at=None)
    before = only(host, webhook)
    assert host.call_back(payload).status_code == 410
    assert only(host, webhook) == before


def test_webhook_deleted(host: Host) -> None:
    """A delivery awaiting its callback when its webhook is deleted can still be decided; nothing follows."""
    with Receiver() as receiver, Receiver() as second:
        webhook = host.create(receiver.url, second.url)
        host.push()
        host.deliver()
        assert host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/").status_code == 204
        assert host.call_back(receiver.requests[0].body).status_code == 200
        host.deliver()
        assert not second.requests
    with host.writing() as session:
        states = session.scalars(select(Delivery.status).order_by(Delivery.position)).all()
    assert states == [Status.SUCCEEDED, Status.CANCELLED]


def test_cancelled_by_deletion(host: Host) -> None:
    """A delivery awaiting a retry when its webhook is deleted is cancelled: 410."""
    webhook, payload = sent(host, 500)
    host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/")
    answer = host.call_back(payload)
    assert answer.status_code == 410
    assert "cancelled. The webhook was deleted." in answer.get_json()["detail"]


# Where none was expected


@pytest.mark.parametrize("state", ["success", "failure", "error"])
def test_not_expected(host: Host, state: str) -> None:
    """An unexpected callback is recorded and shown, and fails nothing."""
    webhook, payload = sent(host, expect_final_callback=False)
    before = only(host, webhook)
    assert before["state"] == "succeeded"
    assert host.call_back(payload, state=state, context="CI").status_code == 200
    after = only(host, webhook)
    assert (after["callback"]["state"], after["callback"]["context"]) == (state, "CI")
    assert {**after, "callback": None, "chain": before["chain"]} == before


@pytest.mark.parametrize("state", ["success", "failure"])
def test_not_expected_proves_receipt(host: Host, state: str) -> None:
    """An unexpected callback proves receipt whatever its state: a 500 beside it is not retried."""
    webhook, payload = sent(host, 500, expect_final_callback=False)
    assert host.call_back(payload, state=state).status_code == 200
    delivery = only(host, webhook)
    assert (delivery["status"], delivery["state"], delivery["next_attempt_at"]) == ("success", "succeeded", None)
    assert delivery["received_at"] is not None


# Who may


def test_anybody_with_the_url(host: Host) -> None:
    """The URL is all the authority needed: no user, any origin, with or without the final slash."""
    webhook, payload = sent(host)
    path = callback_path(payload)
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert host.client.post(path.rstrip("/"), json={"state": "success"}, headers=foreign).status_code == 200
    assert host.client.post(path, json={"state": "success"}).status_code == 200
    assert only(host, webhook)["state"] == "succeeded"


@pytest.mark.parametrize("repository", ["busybox", "acme/app", "acme/hook/hook/app", "ünï/容器"])
def test_names_of_any_shape(host: Host, repository: str) -> None:
    """Callback URLs work for repository names of one, two and more parts."""
    host.hubhooks.authorizer(lambda action, name: "alice")
    with Receiver() as receiver:
        webhook = host.create(receiver.url, repository=repository, expect_final_callback=True)
        host.push(repository)
        host.deliver()
    assert host.call_back(receiver.requests[0].body).status_code == 200
    assert host.history(webhook, repository)[0]["state"] == "succeeded"


def test_forged(host: Host) -> None:
    """A forged token, and one made with another key or for no delivery, gets 404."""
    webhook, payload = sent(host)
    before = only(host, webhook)
    token = callback_path(payload).split("/")[-2]
    forged = [
        f"{token}x",
        token[:-1],
        token[1:],
        "x",
        "..",
        "%00",
        "%ED%A0%80",
        "%FF",
        f"{before['id']}.1",
        CallbackTokens(["another key"]).make(uuid.UUID(before["id"]), 1),
        host.state.tokens.make(uuid.uuid4(), 1),
    ]
    for each in forged:
        answer = host.client.post(f"/u/acme/app/hook/{each}/", json={"state": "failure"})
        assert answer.status_code == 404, each
    assert host.client.post(f"/u/acme/app/hook/{each}/", json={}).content_type == "application/problem+json"
    assert only(host, webhook) == before


@pytest.mark.parametrize("repository", ["acme/other", "acme", "acme/app/app", "ACME/app", "acme/app%00"])
def test_another_repository(host: Host, repository: str) -> None:
    """Only the token counts: the repository in the URL may have been renamed."""
    webhook, payload = sent(host)
    path = callback_path(payload).replace("/u/acme/app/", f"/u/{repository}/")
    assert host.client.post(path, json={"state": "success"}).status_code == 200
    assert only(host, webhook)["state"] == "succeeded"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
@on_sqlite
def test_method(host: Host, method: str) -> None:
    """Only POST is allowed, and the response to any other method says so."""
    _, payload = sent(host)
    answer = host.client.open(callback_path(payload), method=method)
    assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


# What it may hold

LONG = "x" * 256

BAD = [
    ({}, "state", "Missing data"),
    ({"state": None}, "state", "may not be null"),
    ({"state": ""}, "state", "one of: success, failure, error"),
    ({"state": "Success"}, "state", "one of: success, failure, error"),
    ({"state": "pending"}, "state", "one of: success, failure, error"),
    ({"state": True}, "state", "Not a valid string"),
    ({"state": ["success"]}, "state", "Not a valid string"),
    ({"state": {"success": 1}}, "state", "Not a valid string"),
    ({"state": "success", "description": "é" * 256}, "description", "255"),
    ({"state": "success", "description": 1}, "description", "Not a valid string"),
    ({"state": "success", "description": []}, "description", "Not a valid string"),
    ({"state": "success", "context": "c" * 101}, "context", "100"),
    ({"state": "success", "context": {}}, "context", "Not a valid string"),
    ({"state": "success", "target_url": f"https://ci.example.com/{'x' * 2048}"}, "target_url", "2048"),
    ({"state": "success", "target_url": 7}, "target_url", "Not a valid string"),
]


@pytest.mark.parametrize(("callback", "field", "rule"), BAD)
@on_sqlite
def test_bad_field(host: Host, callback: dict[str, Any], field: str, rule: str) -> None:
    """A bad callback is refused with field and rule, and changes nothing; a good one is accepted afterwards."""
    webhook, payload = sent(host)
    before = only(host, webhook)
    answer = host.client.post(callback_path(payload), json=callback)
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert list(answer.get_json()["errors"]) == [field]
    assert rule in " ".join(answer.get_json()["errors"][field])
    assert only(host, webhook) == before
    assert host.call_back(payload).status_code == 200


@on_sqlite
def test_several_bad_fields(host: Host) -> None:
    """All errors are reported at once."""
    _, payload = sent(host)
    answer = host.call_back(payload, state="ok", description=LONG, context=LONG, target_url=[])
    assert set(answer.get_json()["errors"]) == {"state", "description", "context", "target_url"}


NOT_AN_OBJECT = [b"", b"{", b"state=success", b"\xff\xfe", b'{"state": NaN}', b"[" * 10_000, b'"success"', b"null"]


@pytest.mark.parametrize("body", [*NOT_AN_OBJECT, b'[{"state": "success"}]', b'{"state": ' + b"9" * 5000 + b"}"])
@on_sqlite
def test_not_a_json_object(host: Host, body: bytes) -> None:
    """Anything but a JSON object is refused with 400, and changes nothing."""
    webhook, payload = sent(host)
    before = only(host, webhook)
    answer = host.client.post(callback_path(payload), data=body)
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert "JSON" in answer.get_json()["detail"]
    assert only(host, webhook) == before


@pytest.mark.parametrize("chunked", [False, True])
@on_sqlite
def test_size(served: Host, chunked: bool) -> None:
    """A body over 64 KiB is refused with 413, whether its length is declared or not; 64 KiB is accepted."""

    def post(size: int) -> int:
        body = json.dumps({"state": "success"}).encode().ljust(size)
        return requests.post(url, data=iter([body]) if chunked else body, timeout=10).status_code

    webhook, payload = sent(served)
    url = json.loads(payload)["callback_url"]
    assert post(64 * 1024 + 1) == 413
    assert only(served, webhook)["state"] == "awaiting_callback"
    assert post(64 * 1024) == 200


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "é/;;="])
@on_sqlite
def test_any_content_type(host: Host, content_type: str | None) -> None:
    """A callback is parsed as JSON whatever its Content-Type."""
    webhook, payload = sent(host)
    body = b'{"state": "failure"}'
    answer = host.client.post(callback_path(payload), data=body, content_type=content_type)
    assert answer.status_code == 200
    assert only(host, webhook)["state"] == "failed"


@on_sqlite
def test_limits_and_unknown_keys(host: Host) -> None:
    """Texts up to their limits are accepted, and unknown keys are ignored."""
    webhook, payload = sent(host)
    said = {"description": "é" * 255, "context": "容" * 100, "target_url": "http://ci/" + "x" * 2038}
    assert host.call_back(payload, **said, id=7, nested={"state": "failure"}).status_code == 200
    assert said.items() <= only(host, webhook)["callback"].items()


@on_sqlite
def test_null_and_a_byte_order_mark(host: Host) -> None:
    """Optional fields that are null count as absent, and a byte order mark before the JSON is ignored."""
    webhook, payload = sent(host)
    body = json.dumps({"state": "success", "description": None, "context": None, "target_url": None})
    assert host.client.post(callback_path(payload), data=b"\xef\xbb\xbf" + body.encode()).status_code == 200
    shown = only(host, webhook)["callback"]
    assert (shown["description"], shown["context"], shown["target_url"]) == ("", "", "")


def test_jenkins_without_a_root_url(host: Host) -> None:
    """Jenkins without a root URL posts a relative path as `target_url`: its state counts, and the chain goes on."""
    with Receiver() as jenkins, Receiver() as second:
        webhook = host.create(jenkins.url, second.url)
        host.push()
        host.deliver()
        details = "dockerhub-webhook/details/0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33"
        body = {"state": "success", "description": "Build result SUCCESS", "context": "Jenkins", "target_url": details}
        answer = host.client.post(
            callback_path(jenkins.requests[0].body),
            data=json.dumps(body, separators=(",", ":")),
            content_type="application/json; charset=utf-8",
        )
        assert answer.status_code == 200
        host.deliver()
        assert len(second.requests) == 1
    first = min(host.history(webhook), key=lambda each: int(each["position"]))
    assert (first["state"], first["callback"]["target_url"]) == ("succeeded", details)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "a\udfffb", "\0" * 255])
def test_text_that_no_database_holds(host: Host, text: str) -> None:
    """NUL and lone surrogates in a callback are replaced, and break no database."""
    webhook, payload = sent(host)
    assert host.call_back(payload, description=text, context=text[:100]).status_code == 200
    shown = only(host, webhook)["callback"]["description"]
    assert len(shown) == len(text)
    assert not set(shown) & {"\0", "\ud800"}


TEXT = st.text(st.characters(exclude_categories=[]), max_size=5) | st.sampled_from(["", "x" * 255, LONG, "c" * 101])
URLS = st.sampled_from(["", "http://ci", "https://ci.example.com:8/a?b#c", "HTTP://ci", "//ci", "http://[", "x" * 2049])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    st.lists,
    max_leaves=3,
)
STATES = st.sampled_from(["success", "failure", "error"])


def callbacks(*odd: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {"description": TEXT, "context": TEXT, "target_url": URLS, "other": JSON}
    return st.fixed_dictionaries({}, optional={"state": st.one_of(STATES, *odd)} | {
        name: st.one_of(field, *odd) for name, field in fields.items()
    })  # fmt: skip


def is_good(callback: dict[str, Any]) -> bool:
    """Tell whether a callback is valid, by a second implementation of the rules."""
    texts = {"description": 255, "context": 100, "target_url": 2048}
    return callback.get("state") in ("success", "failure", "error") and all(
        callback.get(name) is None or (isinstance(callback[name], str) and len(callback[name]) <= limit)
        for name, limit in texts.items()
    )


@pytest.fixture
def decided(make_host: MakeHost) -> Iterator[tuple[Host, dict[str, Any], bytes]]:
    """A host, a webhook, and a payload that was called back with "success"."""
    host = make_host()
    webhook, payload = sent(host)
    assert host.call_back(payload).status_code == 200
    yield host, webhook, payload


@given(callback=callbacks() | callbacks(JSON))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@on_sqlite
def test_any_callback(decided: tuple[Host, dict[str, Any], bytes], callback: dict[str, Any]) -> None:
    """Any object is either refused or accepted according to the rules, and a decision stands."""
    host, webhook, payload = decided
    before = only(host, webhook)
    answer = host.client.post(callback_path(payload), json=callback)
    if not is_good(callback):
        assert answer.status_code == 400
        assert set(answer.get_json()["errors"]) <= {"state", "description", "context", "target_url"}
    else:
        assert answer.status_code == (200 if callback["state"] == "success" else 409)
    assert only(host, webhook) == before


@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_sqlite
def test_any_body(decided: tuple[Host, dict[str, Any], bytes], body: bytes) -> None:
    """Any bytes get 400, never 500, and change nothing."""
    host, webhook, payload = decided
    assert host.client.post(callback_path(payload), data=body).status_code == 400
    assert only(host, webhook)["state"] == "succeeded"


# What a token is worth


@on_sqlite
def test_of_one_delivery_of_a_chain(host: Host) -> None:
    """The token of one hook in a chain, or of another push, decides only its own delivery."""
    with Receiver() as first, Receiver() as second:
        webhook = host.create(first.url, second.url)
        for tag in ("a", "b"):
            host.push(tag=tag)
            host.deliver()
        assert host.call_back(first.requests[0].body).status_code == 200
        host.deliver()
        for _ in range(2):
            host.call_back(first.requests[0].body)
            host.deliver()
    assert (len(first.requests), len(second.requests)) == (2, 1)
    states = {(each["push"]["tag"], each["position"]): each["state"] for each in host.history(webhook)}
    assert states == {
        ("a", 0): "succeeded",
        ("a", 1): "awaiting_callback",
        ("b", 0): "awaiting_callback",
        ("b", 1): "waiting",
    }


def test_nothing_after_the_decision(host: Host) -> None:
    """Once decided, a delivery does not change, whatever is posted, until it is redelivered."""
    webhook, payload = sent(host)
    assert host.call_back(payload, state="failure", description="first").status_code == 200
    decided = host.details(webhook, only(host, webhook))
    for state, status in (("failure", 200), ("success", 409), ("error", 409), ("failure", 200), ("nonsense", 400)):
        assert host.call_back(payload, state=state, description="later", context="x").status_code == status
        host.deliver()
    assert host.details(webhook, only(host, webhook)) == decided
    assert host.redeliver(webhook).status_code == 202
    again = only(host, webhook)
    assert host.call_back(payload, state="success").status_code == 409
    assert (only(host, webhook), again["callback"], again["round"]) == (again, None, 2)


def test_secret_key_replaced(make_host: MakeHost) -> None:
    """With the old SECRET_KEY as a fallback old callback URLs work, and new ones are signed with the new key."""
    old = make_host()
    rotated = make_host(config={"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["oldest", "a test's secret key"]})
    after = make_host(config={"SECRET_KEY": "new"})
    with Receiver() as receiver:
        webhook = old.create(receiver.url, expect_final_callback=True)
        for host in (old, old, rotated):
            host.push()
            host.deliver()
    bodies = [each.body for each in receiver.requests]
    assert [after.call_back(each, state="failure").status_code for each in bodies[:2]] == [404, 404]
    assert old.call_back(bodies[2]).status_code == 404
    assert [rotated.call_back(each).status_code for each in bodies[:2]] == [200, 200]
    assert after.call_back(bodies[2]).status_code == 200
    assert {each["state"] for each in old.history(webhook)} == {"succeeded"}


@on_sqlite
def test_an_empty_fallback(make_host: MakeHost) -> None:
    """An empty key in SECRET_KEY_FALLBACKS, such as one that is not set, does not let anybody forge callbacks."""
    host = make_host(config={"SECRET_KEY_FALLBACKS": ["", b""]})
    webhook, _ = sent(host)
    before = only(host, webhook)
    token = CallbackTokens([""]).make(uuid.UUID(before["id"]), 1)
    assert host.client.post(f"/u/acme/app/hook/{token}/", json={"state": "success"}).status_code == 404
    assert only(host, webhook) == before


def test_masked_for_readers(host: Host) -> None:
    """A token in a callback's texts or in a response, escaped or not, is shown to nobody."""

    def echo(request: Request, _: Connection) -> bytes:
        url = json.loads(request.body)["callback_url"]
        return http(200, json.dumps({"url": url}).replace("/", "\\/").encode(), f"X-{url.split('/')[-2]}: {url}")

    webhook, payload = sent(host, echo)
    path = callback_path(payload)
    token = path.split("/")[-2]
    escaped = "".join(f"\\u{ord(each):04x}" for each in token)
    said = f'{{"state": "success", "description": "{escaped}", "context": "", "target_url": "https://a.example/{escaped}"}}'
    assert host.client.post(path, data=said).status_code == 200
    below = f"acme/app/webhooks/{webhook['id']}/history/"
    for user in ("reader", "alice"):
        for each in (below, f"{below}{only(host, webhook)['id']}/"):
            text = host.api("GET", each, user=user).text
            assert token.rpartition(".")[2] not in text
    assert only(host, webhook)["callback"]["description"] == "***"
    assert only(host, webhook)["callback"]["target_url"] == "https://a.example/***"
