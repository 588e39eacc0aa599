"""The API carries out or refuses any input: nothing ends in an internal error."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from flask_hubhooks.formats import PAYLOAD_FORMATS
from flask_hubhooks.records.models import Delivery, Status

from ..support.host import Host, Owned, problem
from ..support.marks import URL

total = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

text = st.text(st.characters(), max_size=20)  # lone surrogates and NUL among them
number = st.integers() | st.sampled_from([0, -1, 2**31 - 1, 2**31, 2**63, 10**400]) | st.floats()
anything = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
times = (
    st.sampled_from(
        [
            "0001-01-01T00:00:00+14:00",
            "0001-01-01T00:00:00",
            "9999-12-31T23:59:59-14:00",
            "9999-12-31T23:59:59.999999Z",
            "2026-01-01T00:00:00+23:59:59.999999",
            "2026-01-01T24:00:00Z",
            "2026-06-30T23:59:60Z",
            "2026-01-01 00:00:00 02:00",
            "20260101",
            "2026-W01-1",
            "Z",
        ]
    )
    | st.datetimes().map(str)
    | text
)
urls = st.sampled_from([URL, f"{URL}/2", "x", "https://a:b@127.0.0.1:9/{tag}", "http://%FF@127.0.0.1/", f"{URL}/{{x}}"])
templates = st.sampled_from(
    ['{"a": "{tag}{{"}', "7", "[]", '"{tag"', '"\\u0000\\ud800"', "[" * 9999, "1e999", "\ufeff{}"]
)
tls = st.dictionaries(st.sampled_from(["ca", "public_key_sha256", "\ud800"]), st.just("A" * 43 + "=") | anything)
settings_of_hook: dict[str, st.SearchStrategy[Any]] = {
    "hook_url": urls | anything,
    "payload_format": st.sampled_from(PAYLOAD_FORMATS) | anything,
    "template": templates | anything,
    "supersede": st.booleans() | anything,
    "tls": tls | anything,
    "timeout_s": st.sampled_from([5, 60, 15.0, 15.5, True]) | anything,
}
hook = st.fixed_dictionaries(
    {}, optional=settings_of_hook | {"id": st.integers(0, 50) | anything, "has_credentials": st.booleans() | anything}
)
webhook_change = st.fixed_dictionaries(
    {},
    optional={
        "name": text | anything,
        "active": st.booleans() | anything,
        "expect_final_callback": st.none() | st.booleans() | anything,
        "tag_filter": st.lists(st.sampled_from(["v*", "!*-rc*", "[", "[z-a]", "a" * 128]) | text) | anything,
        "hooks": st.lists(hook | anything, max_size=12) | anything,
    },
)
webhook = st.fixed_dictionaries(
    {"name": st.uuids().map(str) | anything},
    optional=settings_of_hook
    | {"hooks": st.lists(hook, max_size=3), "headers": st.dictionaries(text, text) | anything},
)


class Tried:
    """A repository with a webhook to be tried, and another webhook."""

    def __init__(self, host: Host) -> None:
        self.owned = Owned(host, "acme/tried")
        found = self.owned.get()["results"]
        self.webhook: dict[str, Any] = found[0] if found else self.owned.create(URL, URL)
        if not found:
            self.owned.push("v1", pusher="carol")
            self.owned.push("v2-rc1")
        self.path = f"{self.webhook['id']}/"

    def send(self, method: str, path: str, content: object) -> TestResponse:
        return self.owned(method, path, data=json.dumps(content), content_type="application/json")


@pytest.fixture(scope="module")
def tried(standing: Host) -> Tried:
    return Tried(standing)


def answered(answer: TestResponse, *refused: int) -> bool:
    """Tell whether a request was carried out; otherwise check that it was refused with one of these statuses."""
    if answer.status_code < 300:
        return True
    assert answer.status_code in refused, answer.text
    problem(answer, answer.status_code)
    return False


@total
@given(content=webhook_change | anything)
@example(content={"hooks": [{"id": 10**400}]})
@example(content={"name": "\ud800"})
@example(content={"hooks": [{"hook_url": "http://\0/"}]})
def test_edited(tried: Tried, content: object) -> None:
    """Any change of a webhook is made and can be read, or is refused and leaves it unchanged."""
    before = tried.owned.get(tried.path)
    done = answered(answer := tried.send("PATCH", tried.path, content), 400)
    assert tried.owned.get(tried.path) == (answer.get_json() if done else before)
    assert done or "id" not in answer.get_json()


@total
@given(content=hook | anything)
def test_hooks(tried: Tried, content: object) -> None:
    """Any hook is added, changed and removed again, or refused."""
    answer = tried.send("POST", f"{tried.path}hooks/", content)
    if answered(answer, 400):
        added = f"{tried.path}hooks/{answer.get_json()['id']}/"
        assert answered(tried.send("PATCH", added, content))
        assert answered(tried.send("DELETE", added, content))


@total
@given(content=webhook | anything)
@example(content={"name": "a", "hook_url": URL, "template": '"{\\ud800}"', "payload_format": "template"})
@example(content={"name": "a", "hook_url": "https://a:b@127.0.0.1/", "headers": {"Authorization": "x"}})
def test_created(tried: Tried, content: object) -> None:
    """Any webhook is created or refused, and previewed if it can be created."""
    can_be_previewed = answered(tried.send("POST", "preview/", content), 400)
    if answered(created := tried.send("POST", "", content), 400):
        assert can_be_previewed
        assert tried.owned("DELETE", f"{created.get_json()['id']}/").status_code == 204


@total
@given(content=st.fixed_dictionaries({"state": st.just("success") | anything}, optional={"description": anything}))
@example(content={"state": "success", "description": "\ud800\0"})
def test_decided(tried: Tried, content: object) -> None:
    """Any decision is taken or refused."""
    [delivery, *_] = tried.owned.get(f"{tried.path}history/")["results"]
    tried.owned.host.set_all(Delivery, status=Status.AWAITING_CALLBACK, callback_state="")
    answered(tried.send("POST", f"{tried.path}history/{delivery['id']}/decide/", content), 400)


@total
@given(content=st.fixed_dictionaries({"since": times}, optional={"until": times | st.none()}) | anything)
@example(content={"since": "0001-01-01T00:00:00", "until": "9999-12-31T23:59:59.999999Z"})
@example(content={"since": "0001-01-01T00:00:00+14:00"})
@example(content={"since": "9999-12-31T23:59:59-14:00"})
@example(content={"since": "0001-01-01T00:00:00+00:00:01"})
def test_recover(tried: Tried, content: object) -> None:
    """Any request to recover is carried out or refused."""
    answered(tried.send("POST", f"{tried.path}recover/", content), 400, 409)


@total
@given(content=st.fixed_dictionaries({}, optional={"chain": st.booleans() | anything}) | anything)
def test_test(tried: Tried, content: object) -> None:
    """Any request for a test is carried out or refused."""
    answered(tried.send("POST", f"{tried.path}test/", content), 400, 409)


@total
@given(body=st.binary(max_size=50) | text.map(lambda each: each.encode("utf-16", "surrogatepass")), etag=st.binary())
def test_bytes(tried: Tried, body: bytes, etag: bytes) -> None:
    """Any bytes as a body, and as If-Match, are refused."""
    header = {"If-Match": etag.decode("latin-1").replace("\r", "").replace("\n", "")}
    json_type = {"content_type": "application/json", "headers": header}
    for method, path in (("PATCH", ""), ("POST", "hooks/"), ("POST", "recover/")):
        assert not answered(tried.owned(method, tried.path + path, data=body, **json_type), 400, 412)


def percent(value: str) -> str:
    """Quote a text for a URL; lone surrogates become bytes that are not UTF-8."""
    return quote(value.encode("utf-8", "surrogatepass"))


words = st.sampled_from(["true", "false", "pending", "success", "failed", "v1", "v*", "!v*", "1", "0", "-1", "9" * 30])
cursors = st.builds(
    "{}:{}:{}:{}".format,
    st.sampled_from(["older", "newer", "x"]),
    st.integers(-(10**19), 10**19),
    st.integers(-1, 2**33),
    st.integers(-1, 10**5),
)
values = (text | words | times | cursors).map(percent)
keys = st.sampled_from(
    [
        "page",
        "page_size",
        "active",
        "name",
        "cursor",
        "status",
        "state",
        "outcome",
        "tag",
        "repository",
        "pusher",
        "since",
        "until",
        "tag_filter",
    ]
)
queries = st.lists(st.tuples(keys | text.map(percent), values), max_size=4).map(
    lambda parts: "&".join(map("=".join, parts))
)
raw = st.binary(max_size=30).map(lambda each: each.decode("latin-1"))


@total
@given(query=queries | raw)
@example(query="tag=%00")
@example(query="pusher=%00&tag=v1")
@example(query="name=%00")
@example(query="name=%ED%A0%80&tag=%ED%A0%80&pusher=%ED%A0%80")
@example(query="since=0001-01-01T00:00:00%2B14:00")
@example(query="until=9999-12-31T23:59:59-14:00")
@example(query="since=0001-01-01T00:00:00&until=9999-12-31T23:59:59.999999&tag=v1&status=error")
@example(query="cursor=older:-62135596800000000:9223372036854775807:9999&tag=v1")
@example(query="cursor=newer:253402300799999999:0:0&status=pending")
@example(query=urlencode({"page": 10**6, "page_size": 100}))
def test_queries(tried: Tried, query: str) -> None:
    """Any query of the lists returns results with working links, or is refused."""
    for path in ("", f"{tried.path}history/", "matching-tags/"):
        answer = tried.owned("GET", path, environ_overrides={"QUERY_STRING": query})
        if not answered(answer, 400):
            continue
        for link in (answer.get_json().get("next"), answer.get_json().get("previous")):
            if link:
                assert tried.owned("GET", f"{path}?{link.partition('?')[2]}").status_code == 200


@pytest.mark.parametrize("key", ["tag", "pusher"])
def test_nul_in_the_history(tried: Tried, key: str) -> None:
    """NUL, which PostgreSQL cannot hold, is refused with the name of its parameter."""
    answer = tried.owned("GET", f"{tried.path}history/?{key}=a%00b")
    assert set(problem(answer, 400)["errors"]) == {key}
