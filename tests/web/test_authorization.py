"""Who may do what: every route of ours, requested as every kind of user with the ids of other owners."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Response, abort, redirect, request
from sqlalchemy import select
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response as WerkzeugResponse

from flask_hubhooks.records.models import Delivery, Status, Webhook

from ..support.host import Host, api_rules, authorize
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.visitor import Visitor

EVERY = "/v2/repositories/<path:repository>/webhooks/"
ONE = EVERY + "<int:webhook_id>/"
BODIES: dict[str, dict[str, Any]] = {
    EVERY: {"GET": None, "POST": {"name": "new", "hook_url": URL}},
    EVERY + "matching-tags/": {"GET": None},
    EVERY + "preview/": {"POST": {"hook_url": URL}},
    ONE: {"GET": None, "PATCH": {"name": "changed", "headers": {"X-New": "value"}}, "DELETE": None},
    ONE + "hooks/": {"GET": None, "POST": {"hook_url": URL + "/new"}},
    ONE + "hooks/<int:hook_id>/": {"GET": None, "PATCH": {"hook_url": URL + "/changed"}, "DELETE": None},
    ONE + "rotate-secret/": {"POST": {}},
    ONE + "test/": {"POST": {}},
    ONE + "recover/": {"POST": {"since": "2020-01-01T00:00:00Z"}},
    ONE + "history/": {"GET": None},
    ONE + "history/<uuid:delivery_id>/": {"GET": None},
    ONE + "history/<uuid:delivery_id>/redeliver/": {"POST": None},
    ONE + "history/<uuid:delivery_id>/decide/": {"POST": {"state": "success"}},
}
"""The methods of every route that an authorizer guards, and what each is sent."""
CALLBACK, DOCUMENT = "/u/<path:repository>/hook/<token>/", "/hubhooks/openapi.json"
EVENTS = "/hubhooks/sources/<source>/"
"""What needs no authorizer."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UNSAFE = [(rule, method) for rule, methods in BODIES.items() for method in methods if method != "GET"]


@dataclass(frozen=True)
class Ids:
    webhook_id: object = 987654
    hook_id: object = 987654
    delivery_id: object = uuid.UUID(int=7)


@dataclass(frozen=True)
class World:
    """A webhook with history in each of three repositories; `marks` are texts that no other owner may see."""

    host: Host
    ids: dict[str, Ids]
    marks: dict[str, list[str]]

    def everything(self) -> dict[str, Any]:
        """Return everything that the owners see."""
        seen: dict[str, Any] = {}
        for repository, ids in self.ids.items():
            below, user = f"{repository}/webhooks/", owner(repository)
            for path in ("", f"{ids.webhook_id}/history/", f"{ids.webhook_id}/history/{ids.delivery_id}/"):
                answer = self.host.api("GET", below + path, user=user)
                assert answer.status_code == 200, answer.text
                seen[below + path] = answer.get_json()
        return seen


def owner(repository: str) -> str:
    return "bob" if repository.startswith("bob/") else "alice"


@pytest.fixture
def world(make_host: MakeHost) -> World:
    host = make_host(config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 10_000})
    ids, marks = {}, {}
    for number, repository in enumerate(("acme/app", "acme/other", "bob/app")):
        name, url = f"name-{number}-of-theirs", f"http://127.0.0.1:9/path-{number}-of-theirs?token=credential-{number}"
        created = host.api(
            "POST",
            f"{repository}/webhooks/",
            user=owner(repository),
            json={"name": name, "hook_url": url, "headers": {f"X-Of-{number}": f"value-{number}-of-theirs"}},
        ).get_json()
        host.push(repository, f"tag-{number}-of-theirs", pusher=f"pusher-{number}-of-theirs")
        path = f"{repository}/webhooks/{created['id']}/history/"
        [delivery] = host.api("GET", path, user=owner(repository)).get_json()["results"]
        ids[repository] = Ids(created["id"], created["hooks"][0]["id"], delivery["id"])
        marks[repository] = [created["secret"], delivery["id"], f"credential-{number}", f"X-Of-{number}"]
        marks[repository] += [f"{each}-{number}-of-theirs" for each in ("name", "path", "value", "tag", "pusher")]
    host.deliver()  # nobody listens there: each has an attempt that failed
    return World(host, ids, marks)


def path_of(rule: str, repository: str, ids: Ids, token: str = "forged") -> str:  # noqa: S107
    parts = {"repository": repository, "token": token, **vars(ids)}
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: str(parts[match[1]]), rule)


def ask(host: Host, method: str, path: str, user: str | None, body: Any, **headers: str) -> TestResponse:
    signed_in = {"X-User": user} if user else {}
    return host.client.open(path, method=method, json={} if body is None else body, headers=signed_in | headers)


def walk(
    host: Host, repository: str, ids: Ids, user: str | None, rules: Iterable[str] = BODIES
) -> Iterator[tuple[str, str, TestResponse]]:
    """Send every method to every route; yield the rule, the method and the response."""
    for rule in rules:
        for method in METHODS:
            yield rule, method, ask(host, method, path_of(rule, repository, ids), user, BODIES[rule].get(method))


def bytes_of(answer: TestResponse) -> tuple[int, bytes, str]:
    return answer.status_code, answer.data, str(answer.headers)


def handled(rule: str, method: str) -> bool:
    return ("GET" if method == "HEAD" else method) in BODIES[rule]


def check_public(rule: str, method: str, answer: TestResponse) -> None:
    """Check what anybody may know: the methods of a route."""
    assert answer.status_code == (204 if method == "OPTIONS" else 405), (rule, method)
    allowed = {*BODIES[rule], "OPTIONS"} | ({"HEAD"} if "GET" in BODIES[rule] else set())
    assert set(answer.headers["Allow"].split(", ")) == allowed


def no_marks(answer: TestResponse, marks: list[str]) -> None:
    said = answer.text + str(answer.headers)
    assert [mark for mark in marks if mark in said] == []


@on_sqlite
def test_every_route_is_walked(host: Host) -> None:
    """These tests cover every route of ours, and each route accepts every method.

    Those of namespaces and the registry have tests of their own.
    """
    scoped = ("/v2/namespaces/", "/v2/registry/")
    ours = {each.rule: each.methods for each in api_rules(host.app) if not each.rule.startswith(scoped)}
    assert set(ours) == {*BODIES, CALLBACK, DOCUMENT, EVENTS}
    assert all(methods == set(METHODS) for methods in ours.values())


@pytest.mark.parametrize(("denial", "status"), [("aborts", 401), ("returns", 404)])
def test_who_may_nothing(world: World, denial: str, status: int) -> None:
    """Without a user, or denied everything, existing and missing things look the same to the byte."""
    host, before = world.host, world.everything()
    if denial == "returns":
        host.hubhooks.authorizer(lambda action, repository: None)
    answers: dict[tuple[str, str], set[Any]] = {}
    bobs = world.ids["bob/app"]
    asked = [*world.ids.items(), ("acme/app", bobs), ("acme/app", Ids()), ("acme/missing", bobs), ("no/such", Ids())]
    for repository, ids in asked:
        for rule, method, answer in walk(host, repository, ids, None):
            answers.setdefault((rule, method), set()).add(bytes_of(answer))
            if handled(rule, method):
                assert answer.status_code == status, (rule, method)
            else:
                check_public(rule, method, answer)
    assert {key: len(each) for key, each in answers.items() if len(each) > 1} == {}
    host.hubhooks.authorizer(authorize)
    assert world.everything() == before


def test_another_owner(world: World) -> None:
    """Another owner gets the same 404 whether or not the repository, webhook, hook or delivery exists."""
    host, before = world.host, world.everything()
    answers = set()
    own, bobs = world.ids["acme/app"], world.ids["bob/app"]
    asked = [("acme/app", own), ("acme/app", bobs), ("acme/app", Ids()), ("acme/other", world.ids["acme/other"])]
    for repository, ids in [*asked, ("acme/missing", own), ("no/such", bobs)]:
        for rule, method, answer in walk(host, repository, ids, "bob"):
            if not handled(rule, method):
                check_public(rule, method, answer)
                continue
            answers.add((answer.status_code, method == "HEAD" or answer.data, str(answer.headers)))
            no_marks(answer, [*world.marks["acme/app"], *world.marks["acme/other"]])
    assert len({each for each in answers if each[1] is not True}) == 1
    assert {each[0] for each in answers} == {404}
    assert world.everything() == before


@pytest.mark.parametrize("user", ["alice", "reader"])
def test_ids_of_another_repository(world: World, user: str) -> None:
    """In one's own repository, ids of others' look like missing ones, and nothing of theirs is shown."""
    host, before = world.host, world.everything()
    own, *others = (*world.ids.values(), Ids())
    mixed = [*others, *(Ids(own.webhook_id, each.hook_id, each.delivery_id) for each in others)]
    mixed += [Ids(each.webhook_id, own.hook_id, own.delivery_id) for each in others]
    answers: dict[str, set[Any]] = {}
    for ids in mixed:
        foreign = [name for name, value in vars(ids).items() if value != getattr(own, name)]
        rules = [rule for rule in BODIES if any(f":{name}>" in rule for name in foreign)]
        for rule, method, answer in walk(host, "acme/app", ids, user, rules):
            if handled(rule, method):
                no_marks(answer, [*world.marks["acme/other"], *world.marks["bob/app"]])
                kind = method if method in ("GET", "HEAD") else "unsafe"
                answers.setdefault(kind, set()).add(bytes_of(answer))
                assert answer.status_code == (403 if user == "reader" and kind == "unsafe" else 404), (rule, method)
            else:
                check_public(rule, method, answer)
    assert {kind: len(each) for kind, each in answers.items()} == {"GET": 1, "HEAD": 1, "unsafe": 1}
    assert world.everything() == before


def test_own_pages_show_nothing_of_others(world: World) -> None:
    """Lists of a repository show nothing of any other, whatever the filter or page."""
    host = world.host
    for repository, ids in world.ids.items():
        others = [mark for each, marks in world.marks.items() if each != repository for mark in marks]
        below = f"{repository}/webhooks/"
        paths = [below, f"{below}?name=name", f"{below}?page=2", f"{below}matching-tags/?tag_filter=*"]
        paths += [f"{below}{ids.webhook_id}/history/{query}" for query in ("", "?tag=tag-1-of-theirs", "?status=error")]
        paths += [f"{below}{ids.webhook_id}/history/?cursor=older:{10**17}:{10**9}:0"]
        for path in [*paths, f"{below}{ids.webhook_id}/", f"{below}{ids.webhook_id}/history/{ids.delivery_id}/"]:
            answer = host.api("GET", path, user=owner(repository))
            assert answer.status_code == 200, path
            no_marks(answer, others)


def test_hooks_of_another_webhook(world: World) -> None:
    """A chain cannot take in a hook of another webhook by its id, and learns nothing about it."""
    before, answers = world.everything(), set()
    for ids in (world.ids["acme/other"], world.ids["bob/app"], Ids()):
        path = f"acme/app/webhooks/{world.ids['acme/app'].webhook_id}/"
        for hook in ({"id": ids.hook_id}, {"id": ids.hook_id, "hook_url": URL}):
            answer = world.host.api("PATCH", path, json={"hooks": [hook]})
            answers.add(bytes_of(answer))
            assert answer.status_code == 400
            no_marks(answer, [*world.marks["acme/other"], *world.marks["bob/app"]])
    assert len(answers) == 1
    assert world.everything() == before


def test_reader(world: World) -> None:
    """A reader sees outcomes, and gets 403 for every change before its content is checked."""
    host, before, ids = world.host, world.everything(), world.ids["acme/app"]
    secret, _, credential, header, _, path, value, *_ = world.marks["acme/app"]
    refusals = set()
    for rule, method, answer in walk(host, "acme/app", ids, "reader"):
        if not handled(rule, method):
            check_public(rule, method, answer)
        elif method in ("GET", "HEAD"):
            assert answer.status_code == 200, rule
            no_marks(answer, [secret, credential, header, path, value])
        else:
            refusals.add(bytes_of(answer))
    for rule, method in UNSAFE:
        answer = host.client.open(
            path_of(rule, "acme/app", ids), method=method, data=b"{", headers={"X-User": "reader"}
        )
        refusals.add(bytes_of(answer))
    assert [each[0] for each in refusals] == [403]
    assert world.everything() == before


@on_sqlite
def test_without_an_authorizer(world: World) -> None:
    """Without an authorizer everybody gets the same 403, whatever exists."""
    host, answers = world.host, set()
    host.hubhooks._handlers.authorizer = None
    for repository, ids in [*world.ids.items(), ("acme/missing", Ids()), ("x" * 300, Ids())]:
        for user in (None, "alice", "reader"):
            for rule, method, answer in walk(host, repository, ids, user):
                if handled(rule, method):
                    answers.add((answer.status_code, method == "HEAD" or answer.data, str(answer.headers)))
                else:
                    check_public(rule, method, answer)
    assert {each[0] for each in answers} == {403}
    assert len({each for each in answers if each[1] is not True}) == 1


@pytest.mark.parametrize("status", [401, 403, 302])
@on_sqlite
def test_aborting_for_write(world: World, status: int) -> None:
    """An authorizer that aborts for "write" does not affect reads, and its response is used for writes."""

    def only_reads(action: str, repository: str) -> str:
        if action == "write":
            abort(status) if status != 302 else abort(host.app.make_response(("", 302, {"Location": "/sign-in"})))
        return "carol"

    host, ids = world.host, world.ids["acme/app"]
    host.hubhooks.authorizer(only_reads)
    for rule, method, answer in walk(host, "acme/app", ids, None):
        if handled(rule, method):
            assert answer.status_code == (200 if method in ("GET", "HEAD") else status), (rule, method)
            no_marks(answer, ["credential-0", "path-0-of-theirs"])


DENIALS: dict[str, Any] = {
    "none": None,
    "false": False,
    "empty": "",
    "blank": " ",
    "blanks": " \t\n\u00a0 ",
    "invisible": "\u200b \u2060",
}
RESPONSES: dict[str, Any] = {
    "redirect": lambda: redirect("/sign-in"),
    "response": lambda: Response("sign in", 401, {"WWW-Authenticate": "Basic", "Cache-Control": "max-age=7"}),
    "Werkzeug's response": lambda: WerkzeugResponse("no", 402),
}
WRONG: dict[str, Any] = {
    "true": True,
    "zero": 0,
    "id": 7,
    "float": 0.5,
    "bytes": b"alice",
    "object": object(),
    "list": ["alice"],
    "tuple": ("no", 401),
    "dictionary": {"user": "alice"},
    "class": str,
    "NUL": "al\0ice",
}
PAGES = [("GET", "")] + [(method, "{webhook}/" + below) for method, below in (
    ("GET", "history/"), ("GET", "history/{delivery}/"), ("GET", ""), ("POST", ""), ("POST", "pause/"),
    ("POST", "test/"), ("GET", "delete/"), ("POST", "delete/"), ("POST", "history/{delivery}/redeliver/"))]  # fmt: skip


def ask_everything(host: Host, ids: Ids) -> Iterator[tuple[str, str, bool, TestResponse]]:
    """Request every route and some pages; yield what was requested, whether it reads, and the response."""
    for rule, methods in BODIES.items():
        for method in methods:
            answer = ask(host, method, path_of(rule, "acme/app", ids), None, BODIES[rule][method])
            yield method, rule, method == "GET", answer
    for method, below in PAGES:
        path = below.format(webhook=ids.webhook_id, delivery=ids.delivery_id)
        reads = method == "GET" and below not in ("{webhook}/", "{webhook}/delete/")
        yield method, f"page {below}", reads, Visitor(host, None).ask(method, path)


@pytest.mark.own_host
@on_sqlite
def test_who_is_no_user(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Only a name that is not blank is a user: anything else is denied everywhere, and a wrong type is logged."""
    host, ids, before = world.host, world.ids["acme/app"], world.everything()
    host.app.config["TRAP_HTTP_EXCEPTIONS"] = True  # a host's tests may set it
    for name, odd in (DENIALS | WRONG | RESPONSES).items():
        host.hubhooks.authorizer(lambda action, repository, odd=odd: odd() if odd in RESPONSES.values() else odd)
        for method, where, _, answer in ask_everything(host, ids):
            if name in RESPONSES:
                expected = host.app.response_class.force_type(odd())
                assert answer.status_code == expected.status_code, (name, method, where)
                assert answer.data == expected.data and answer.headers.get("Location") == expected.location
                assert answer.headers.get("Cache-Control") == expected.headers.get("Cache-Control")
            else:
                assert answer.status_code == (404 if name in DENIALS else 500), (name, method, where)
                html = where.startswith("page")
                assert answer.mimetype == ("text/html" if html else "application/problem+json")
                no_marks(answer, world.marks["acme/app"])
            lines = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
            assert len(lines) == (name in WRONG), (name, method, where)
            if lines:
                assert "the authorizer tests.web.test_authorization.test_who_is_no_user" in lines[0]
                assert type(odd).__name__ in lines[0] and "must return" in lines[0]
            caplog.clear()
    host.app.config["TRAP_HTTP_EXCEPTIONS"] = None
    host.hubhooks.authorizer(authorize)
    assert world.everything() == before


def fails() -> Any:
    raise LookupError("a fault of the host's")


@on_sqlite
def test_who_may_not_write(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Without a valid user for "write" nobody sees more than a reader, and a wrong type is logged once."""
    host, ids, before = world.host, world.ids["acme/app"], world.everything()
    odd_ones = DENIALS | WRONG | RESPONSES | {"abort": lambda: abort(401), "exception": fails}
    for name, odd in odd_ones.items():

        def answers(action: str, repository: str, odd: Any = odd, called: bool = name not in DENIALS | WRONG) -> Any:
            return "carol" if action == "read" else odd() if called else odd

        host.hubhooks.authorizer(answers)
        for method, where, reads, answer in ask_everything(host, ids):
            if reads:
                assert answer.status_code == 200, (name, method, where)
                no_marks(answer, [f"{each}-0-of-theirs" for each in ("path", "value")] + ["X-Of-0", "credential-0"])
                logged = [each for each in caplog.records if each.levelname == "ERROR"]
                assert len(logged) == (name in WRONG), (name, method, where)
            elif name in DENIALS:
                assert answer.status_code == 403, (name, method, where)
            caplog.clear()
            if name == "exception" and not reads:
                assert answer.status_code == 500
    host.hubhooks.authorizer(authorize)
    assert world.everything() == before


@on_sqlite
def test_who_may_not_read_either(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """If "write" is denied, an invalid user for "read" turns the 403 into a 404."""
    host, ids, before = world.host, world.ids["acme/app"], world.everything()
    odd_ones = DENIALS | WRONG | RESPONSES | {"abort": lambda: abort(401), "exception": fails}
    for name, odd in odd_ones.items():

        def answers(action: str, repository: str, odd: Any = odd, called: bool = name not in DENIALS | WRONG) -> Any:
            return None if action == "write" else odd() if called else odd

        host.hubhooks.authorizer(answers)
        for rule, method in UNSAFE:
            caplog.clear()
            answer = ask(host, method, path_of(rule, "acme/app", ids), None, BODIES[rule][method])
            assert answer.status_code == 404, (name, rule, method)
            assert len([each for each in caplog.records if each.levelname == "ERROR"]) == (name in WRONG)
    host.hubhooks.authorizer(authorize)
    assert world.everything() == before


@on_sqlite
def test_the_name_of_a_user(host: Host) -> None:
    """A user's name is stored without surrounding blanks and characters that databases cannot store."""
    for number, (given, kept) in enumerate({" alice\n": "alice", "a\ud800b": "a?b", "a\u200b": "a\u200b"}.items()):
        host.hubhooks.authorizer(lambda action, repository, given=given: given)
        assert host.create(URL, name=f"{number}")["creator"] == kept


@on_sqlite
def test_the_authorizer_is_asked_with_the_name_as_it_is(host: Host) -> None:
    """The name that is authorized is exactly the name that is used, however the URL spells it."""
    asked = []

    def ask_for(action: str, repository: str) -> str | None:
        asked.append(repository)
        return request.headers.get("X-User") if repository.startswith("acme/") else None

    host.hubhooks.authorizer(ask_for)
    for number, spelled in enumerate(("../bob", "%2e%2e/bob", "..%2fbob", "./app", "App", "app%20", "app%00", "a//b")):
        asked.clear()
        answer = host.api("POST", f"acme/{spelled}/webhooks/", json={"name": f"{number}", "hook_url": URL})
        if answer.status_code == 201:
            with host.writing() as session:
                stored = session.scalars(select(Webhook.scope).order_by(Webhook.id.desc())).first()
            assert {stored} == set(asked), spelled
    host.hubhooks.authorizer(authorize)
    assert host.api("GET", "bob/app/webhooks/", user="bob").get_json()["count"] == 0


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://registry.example.com:8443"},
    {"Origin": "https://registry.example.com."},
    {"Origin": "https://registry.example.com.evil.example"},
    {"Origin": "https://REGISTRY.example.com.EVIL.example"},
    {"Origin": "HTTPS://EVIL.EXAMPLE"},
    {"Origin": "http://registry.example.com"},
    {"Origin": "HTTP://REGISTRY.EXAMPLE.COM"},
    {"Origin": "https://registry.example.com, https://evil.example"},
    {"Origin": "https://user@registry.example.com"},
    {"Origin": "file://"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "CROSS-SITE"},
    {"Sec-Fetch-Site": "Same-Site"},
    {"Sec-Fetch-Site": "something-new"},
    {"Origin": "https://registry.example.com", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize(
    "base_url", ["http://localhost", "http://registry.example.com", "https://registry.example.com"]
)
@on_sqlite
def test_foreign_origins(world: World, base_url: str) -> None:
    """Every route that changes something refuses requests from other sites' pages, whatever the Host header."""
    before, refusals = world.everything(), set()
    for headers in FOREIGN:
        for rule, method in UNSAFE:
            answer = world.host.client.open(
                path_of(rule, "acme/app", world.ids["acme/app"]),
                base_url,
                method=method,
                json=BODIES[rule][method],
                headers={"X-User": "alice", **headers},
            )
            assert answer.status_code == 403, (headers, rule, method)
            assert "HUBHOOKS_EXTERNAL_URL" in answer.text and "ProxyFix" in answer.text  # for forms of our own
            refusals.add(bytes_of(answer))
    assert len(refusals) == 1
    assert world.everything() == before


@on_sqlite
def test_foreign_origins_may_call_back(world: World) -> None:
    """A callback is accepted from any origin: its token is all the authority it needs."""
    delivery = uuid.UUID(str(world.ids["acme/app"].delivery_id))
    token = world.host.state.tokens.make(delivery, 1)
    for headers in FOREIGN:
        path = path_of(CALLBACK, "acme/app", Ids(), token)
        answer = world.host.client.post(path, json={"state": "success"}, headers=headers)
        assert answer.status_code == 200, headers


def test_callbacks_of_others(world: World) -> None:
    """A callback for no delivery gets the same 404 whatever repository its path names, and changes nothing."""
    host, before, answers = world.host, world.everything(), set()
    for repository in [*world.ids, "acme/missing", "no/such"]:
        for token in [host.state.tokens.make(uuid.UUID(int=7), 1), "forged"]:
            for body in ({"state": "success"}, {"state": "failure"}):
                answers.add(bytes_of(host.client.post(path_of(CALLBACK, repository, Ids(), token), json=body)))
    assert [each[0] for each in answers] == [404]
    assert world.everything() == before
    with host.writing() as session:
        assert set(session.scalars(select(Delivery.status))) == {Status.PENDING}
    assert json.loads(next(iter(answers))[1])["status"] == 404
