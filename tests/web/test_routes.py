"""The table of routes: the response of each to a good request, a bad one, a reader, a stranger, and so on.

`pytest -s tests/web/test_routes.py` prints it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from flask_hubhooks.crypto.callback_tokens import CallbackTokens
from flask_hubhooks.web.endpoints import ENDPOINTS, WEBHOOKS_OF

from ..support.host import Host, Owned, api_rules, problem
from ..support.marks import TOKENS, URL

COLUMNS = ("ok", "bad input", "reader", "stranger", "missing", "wrong method")
BAD = {"nonsense": True}
EVENTS: dict[str, Any] = {"events": [{"action": "push", "target": {"repository": "acme/app", "tag": "latest"}}]}
WITH_ETAG = ("read_webhook", "edit_webhook", "read_hook", "edit_hook")


RULES = {
    each.function.__name__: each.rule if each.access is None else WEBHOOKS_OF["repository"] + each.rule
    for each in ENDPOINTS
}
"""Of the endpoints, by their names; those of webhooks as repositories have them."""


@dataclass(frozen=True)
class Case:
    """An endpoint by its function's name, its method, and its expected status in each column; None if impossible."""

    endpoint: str
    method: str
    expected: tuple[int | None, ...]
    content: object = None
    below: str = ""
    bad_query: str = ""
    bad_content: object = None


def case(endpoint: str, method: str, ok: int, bad: int | None, reader: int, content: Any = None, **more: Any) -> Case:
    if method in ("POST", "PATCH") and bad:
        more["bad_content"] = BAD
    return Case(endpoint, method, (ok, bad, reader, 404, 404, 405), content, **more)


CASES = [
    case("list_webhooks", "GET", 200, 400, 200, bad_query="page=0"),
    case("create_webhook", "POST", 201, 400, 403, {"name": "new", "hook_url": URL}),
    case("match_tags", "GET", 200, 400, 200, below="matching-tags/", bad_query="tag_filter="),
    case("preview_webhook", "POST", 200, 400, 403, {"hook_url": URL}, below="preview/"),
    case("read_webhook", "GET", 200, None, 200, below="{webhook}/"),
    case("edit_webhook", "PATCH", 200, 400, 403, {"name": "new"}, below="{webhook}/"),
    case("delete_webhook", "DELETE", 204, None, 403, below="{webhook}/"),
    case("list_hooks", "GET", 200, None, 200, below="{webhook}/hooks/"),
    case("add_hook", "POST", 201, 400, 403, {"hook_url": URL}, below="{webhook}/hooks/"),
    case("read_hook", "GET", 200, None, 200, below="{webhook}/hooks/{hook}/"),
    case("edit_hook", "PATCH", 200, 400, 403, {"hook_url": URL}, below="{webhook}/hooks/{hook}/"),
    case("remove_hook", "DELETE", 204, None, 403, below="{webhook}/hooks/{hook}/"),
    case("rotate_secret", "POST", 200, 400, 403, below="{webhook}/rotate-secret/"),
    case("send_test", "POST", 202, 400, 403, below="{webhook}/test/"),
    case("recover", "POST", 200, 400, 403, {"since": "2026-01-01"}, below="{webhook}/recover/"),
    case("list_deliveries", "GET", 200, 400, 200, below="{webhook}/history/", bad_query="cursor=x"),
    case("read_delivery", "GET", 200, None, 200, below="{webhook}/history/{delivery}/"),
    case("redeliver", "POST", 202, None, 403, below="{webhook}/history/{delivery}/redeliver/"),
    case("decide", "POST", 409, 400, 403, {"state": "success"}, below="{webhook}/history/{delivery}/decide/"),
    # Everybody may read what there is.
    Case("read_openapi", "GET", (200, None, 200, 200, None, 405)),
    # The token is the authority: who calls back is nobody's reader and no stranger.
    Case("post_callback", "POST", (200, 400, None, None, 404, 405), {"state": "success"}, bad_content=BAD),
    # A registry shows its token, whoever it is.
    Case("take_events", "POST", (202, 400, None, None, 404, 405), EVENTS, bad_content=BAD),
]
WITH_A_DATABASE = [each for each in CASES if each.endpoint != "read_openapi"]


class Filled:
    """A repository with a webhook of two hooks and a delivery, for requests to each route."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.owned = Owned(host, f"acme/{uuid.uuid4().hex}")
        webhook = self.owned.create(URL, URL)
        self.owned.push()
        self.delivery = host.history(webhook, self.owned.repository)[0]["id"]
        self.ids = {"webhook": webhook["id"], "hook": webhook["hooks"][0]["id"], "delivery": self.delivery}
        self.none = {"webhook": 2**63 - 1, "hook": 2**63 - 1, "delivery": uuid.uuid4()}

    def token(self, delivery: object) -> str:
        tokens: CallbackTokens = self.host.state.tokens
        return tokens.make(uuid.UUID(str(delivery)), 1)

    def ask(self, case: Case, column: str, **options: Any) -> TestResponse:
        content = case.bad_content if column == "bad input" else case.content
        if content is not None:
            options["json"] = content
        if column == "bad input" and case.bad_query:
            options["query_string"] = case.bad_query
        method = "PUT" if column == "wrong method" else case.method
        user = {"reader": "reader", "stranger": "bob"}.get(column, "alice")
        missing = column == "missing"
        if case.endpoint == "read_openapi":
            return self.host.client.open("/hubhooks/openapi.json", method=method)
        if case.endpoint == "post_callback":
            token = self.token(self.none["delivery"] if missing else self.delivery)
            return self.host.client.open(f"/u/{self.owned.repository}/hook/{token}/", method=method, **options)
        if case.endpoint == "take_events":
            EVENTS["events"][0]["target"]["repository"] = self.owned.repository
            headers = {"Authorization": TOKENS["distribution"]}
            path = f"/hubhooks/sources/{'missing' if missing else 'distribution'}/"
            return self.host.client.open(path, method=method, headers=headers, **options)
        repository = "acme/missing" if missing and not case.below.startswith("{") else self.owned.repository
        below = case.below.format(**self.ids)
        if missing and case.below:  # the last thing that is named
            last = max(self.ids, key=lambda name: case.below.find(f"{{{name}}}"))
            below = case.below.format(**self.ids | {last: self.none[last]})
        return self.host.api(method, f"{repository}/webhooks/{below}", user=user, **options)


@pytest.fixture(scope="module")
def seen(standing: Host) -> Iterator[dict[tuple[str, str, str], int]]:
    """The statuses seen; printed at the end."""
    found: dict[tuple[str, str, str], int] = {}
    yield found
    print(f"\n\n{make_url(standing.database_uri).get_backend_name()}\n")
    print("| method | route |", " | ".join(COLUMNS), "|\n|---|---|" + "---|" * len(COLUMNS))
    for each in CASES:
        cells = [str(found.get((each.endpoint, each.method, column), "-")) for column in COLUMNS]
        print(f"| {each.method} | `{RULES[each.endpoint]}` |", " | ".join(cells), "|")


@pytest.fixture
def filled(standing: Host) -> Filled:
    return Filled(standing)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.endpoint}")
def test_route(filled: Filled, seen: dict[tuple[str, str, str], int], case: Case, column: str) -> None:
    """Each route answers each kind of request as in the table, with errors as problem+json and without caching."""
    expected = case.expected[COLUMNS.index(column)]
    if expected is None:
        return
    answer = filled.ask(case, column)
    seen[case.endpoint, case.method, column] = answer.status_code
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if expected >= 400:
        content = problem(answer, expected)
        assert ("errors" in content) is (expected == 400 and case.endpoint != "take_events")
        assert ("Allow" in answer.headers) is (expected == 405)
        return
    assert answer.status_code == expected
    if expected == 204:
        assert answer.data == b""
    else:
        assert answer.content_type == "application/json" and answer.get_json()
    assert ("ETag" in answer.headers) is (expected == 201 or (case.endpoint in WITH_ETAG))
    assert ("Location" in answer.headers) is (expected in (201, 202) and case.endpoint != "take_events")


def test_no_route_is_missing(standing: Host) -> None:
    """The table has every route of ours with all its methods."""
    table = {(RULES[case.endpoint], case.method) for case in CASES}
    for rule in api_rules(standing.app, ("repository",)):
        with standing.app.test_request_context(method="OPTIONS"):
            view: Callable[..., Any] = standing.app.view_functions[rule.endpoint]
            allowed = set(view(**dict.fromkeys(rule.arguments)).headers["Allow"].split(", "))
        assert {method for name, method in table if name == rule.rule} == allowed - {"OPTIONS", "HEAD"}, rule


@pytest.mark.parametrize("case", WITH_A_DATABASE, ids=lambda case: f"{case.method}-{case.endpoint}")
def test_a_database_that_is_away(
    filled: Filled, case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """During a database outage each route answers 503 as a problem, and the log says why; then all works again."""

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))

    with monkeypatch.context() as patched:
        patched.setattr(Session, "execute", away)
        patched.setattr(Session, "scalar", away)
        patched.setattr(Session, "scalars", away)
        patched.setattr(Session, "get", away)
        answer = filled.ask(case, "ok")
    assert "server closed" not in problem(answer, 503)["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert "503" in caplog.text and "server closed the connection" in caplog.text
    assert filled.ask(case, "ok").status_code == case.expected[0]


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/host.db", "postgresql+psycopg://nobody@127.0.0.1:9/none"])
def test_a_database_that_cannot_be_reached(
    filled: Filled, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With an unreachable database every route answers 503, even one that would refuse its input."""
    engine = create_engine(uri)
    monkeypatch.setitem(vars(filled.host.state), "engine", engine)
    monkeypatch.setitem(vars(filled.host.state), "source_engine", engine)
    for case in WITH_A_DATABASE:
        problem(filled.ask(case, "ok"), 503)
        assert filled.ask(case, "bad input").status_code in (400, 503)
        if case.endpoint not in ("post_callback", "take_events"):
            problem(filled.ask(case, "stranger"), 404)
            if case.expected[2] == 403:
                problem(filled.ask(case, "reader"), 403)
        problem(filled.ask(case, "wrong method"), 405)
    engine.dispose()
    assert "is answered with 503: " in caplog.text


@pytest.mark.own_host
@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_a_database_that_goes_and_comes(host: Host, postgres_server: str) -> None:
    """A database that goes away under open connections causes 503s until it is back, and none after."""
    webhook = host.create(URL)
    name = make_url(host.database_uri).database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
        for method, below in (("GET", ""), ("PATCH", f"{webhook['id']}/"), ("GET", f"{webhook['id']}/history/")):
            problem(host.api(method, f"acme/app/webhooks/{below}", json={"name": "new"}), 503)
        connection.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
    assert host.api("GET", "acme/app/webhooks/").get_json()["results"][0]["name"] == "deploy"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.endpoint}")
def test_a_query_that_is_no_text(filled: Filled, case: Case) -> None:
    """A query that is not UTF-8 is refused, or ignored by routes without a query."""
    answer = filled.ask(case, "ok", environ_overrides={"QUERY_STRING": "name=\xff"})
    if case.bad_query:
        problem(answer, 400)
    else:
        assert answer.status_code == case.expected[0]


def test_trace(filled: Filled) -> None:
    """TRACE is answered like any other method that a route lacks."""
    for path in ("", f"{filled.ids['webhook']}/"):
        assert "GET" in filled.owned("TRACE", path).headers["Allow"]
        problem(filled.owned("TRACE", path), 405)


CONFUSING_NAMES = [
    "acme",
    "webhooks",
    "webhooks/webhooks",
    "acme/webhooks",
    "acme/webhooks/webhooks",
    "acme/webhooks/5",
    "acme/webhooks/5/history",
    "acme/webhooks/5/hooks",
    "acme/webhooks/5/hooks/6",
    "acme/webhooks/5/test",
    "acme/webhooks/5/delete",
    "acme/webhooks/matching-tags",
    f"acme/webhooks/5/history/{uuid.UUID(int=1)}",
    f"acme/webhooks/5/history/{uuid.UUID(int=1)}/redeliver",
    "acme/hook",
    "acme/hook/token",
    "hook",
    "u/acme/hook",
    "r/acme/webhooks",
    "v2/repositories/acme/webhooks",
]


def test_a_url_names_one_repository(standing: Host) -> None:
    """The URL of each route, for many confusable names, leads to exactly that route and name."""
    adapter = standing.app.url_map.bind("registry.example.com")
    ids = {"webhook_id": 5, "hook_id": 6, "delivery_id": uuid.UUID(int=1), "token": "token"}
    rules = [each for each in standing.app.url_map.iter_rules() if "repository" in each.arguments]
    rules = [each for each in rules if each.endpoint != "hubhooks.pages_repository"]  # its page may be the host's
    assert len(rules) > 20
    urls = set()
    for rule in rules:
        for name in CONFUSING_NAMES:
            arguments = {key: ids.get(key, name) for key in rule.arguments}
            url = adapter.build(rule.endpoint, arguments, method="GET")
            for each in (url, url.rstrip("/")):
                assert adapter.match(each, method="GET") == (rule.endpoint, arguments), each
                assert each not in urls
                urls.add(each)
