"""Webhooks of namespaces and of the registry: which pushes they get, and who may see and change them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, redirect
from sqlalchemy import select
from werkzeug.test import TestResponse

from flask_hubhooks import ImagePush
from flask_hubhooks.records.models import Delivery, repository_key

from ..support.host import Host, api_rules, authorize_namespace, problem
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.receivers import Receiver
from ..support.visitor import Visitor, text_of
from .test_authorization import BODIES, EVERY, METHODS, Ids, bytes_of, no_marks

NAMESPACE, REGISTRY = "/v2/namespaces/acme/webhooks/", "/v2/registry/webhooks/"
OWNER = {NAMESPACE: "alice", REGISTRY: "root"}
BELOW = [rule.removeprefix(EVERY) for rule in BODIES]


def create(host: Host, base: str, *urls: str, name: str = "shared", **more: Any) -> dict[str, Any]:
    wanted = {"name": name, "hooks": [{"hook_url": url} for url in urls]} | more
    answer = host.api("POST", base, user="root", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def read(host: Host, path: str, user: str = "root") -> dict[str, Any]:
    answer = host.api("GET", path, user=user)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def of(namespace: str) -> str:
    return f"/v2/namespaces/{namespace}/webhooks/"


def pushed(host: Host, base: str, webhook: dict[str, Any], query: str = "") -> list[str]:
    """The repositories of a webhook's deliveries, latest push first."""
    return [each["push"]["repository"] for each in read(host, f"{base}{webhook['id']}/history/{query}")["results"]]


def filled(path: str, ids: Ids) -> str:
    return re.sub(r"<\w+:(\w+)>", lambda match: str(getattr(ids, match[1])), path)


def walk(host: Host, base: str, ids: Ids, user: str | None) -> Iterator[tuple[str, str, TestResponse]]:
    """Send each method to each route below `base` that it handles; yield the route, the method and the response."""
    for below in BELOW:
        for method, body in BODIES[EVERY + below].items():
            yield below, method, host.api(method, base + filled(below, ids), user, json=body or {})


# Pushes


def test_pushes_at_any_depth(host: Host) -> None:
    """A namespace gets the pushes of all names below it, at any depth, and the registry gets all."""
    bases = {of("acme"): ["acme/team/app", "acme/app"], of("acme/team"): ["acme/team/app"]}
    bases[REGISTRY] = ["busybox", "acmex/app", "acme/team/app", "acme/app", "acme"]
    made = {base: create(host, base, URL) for base in bases}
    own = host.create(URL)
    for repository in ("acme", "acme/app", "acme/team/app", "acmex/app", "busybox"):
        host.push(repository)
    assert {base: pushed(host, base, webhook) for base, webhook in made.items()} == bases
    assert [each["push"]["repository"] for each in host.history(own)] == ["acme/app"]


def test_payload_and_turns(host: Host) -> None:
    """The payload names the pushed repository, and the deliveries of a scope take their turns as one tenant."""
    with Receiver() as receiver:
        create(host, NAMESPACE, receiver.url)
        host.push("acme/app")
        host.push("acme/team/app", "v2")
        with host.writing() as session:
            assert set(session.scalars(select(Delivery.repository_key))) == {repository_key("acme/*")}
        host.deliver()
        payloads = [json.loads(each.body) for each in receiver.requests]
    assert [each["repository"]["repo_name"] for each in payloads] == ["acme/app", "acme/team/app"]
    assert payloads[1]["repository"]["namespace"] == "acme/team"
    assert payloads[0]["callback_url"].startswith("https://registry.example.com/u/acme/app/hook/")


@on_sqlite
def test_filters(host: Host) -> None:
    """A push is sent if the names of its repository and its tag pass both filters."""
    webhook = create(host, NAMESPACE, URL, repository_filter=["acme/web-*", "!*-old"], tag_filter=["v*"])
    for repository, tag in (("acme/web-a", "v1"), ("acme/web-a", "latest"), ("acme/web-old", "v1"), ("acme/api", "v1")):
        host.push(repository, tag)
    assert pushed(host, NAMESPACE, webhook) == ["acme/web-a"]
    one = f"{NAMESPACE}{webhook['id']}/"
    assert read(host, one)["repository_filter"] == ["acme/web-*", "!*-old"]
    assert host.api("PATCH", one, json={"repository_filter": []}).get_json()["repository_filter"] == []


@pytest.mark.parametrize(
    ("base", "patterns", "fault"),
    [
        (NAMESPACE, ["acme/*", "web-*"], {"1": ["Matches no repository of acme/*: their names begin with 'acme/'."]}),
        (NAMESPACE, ["acme"], {"0": ["Matches no repository of acme/*: their names begin with 'acme/'."]}),
        (NAMESPACE, ["*/a b"], {"0": [
            "Must be letters, digits, '_', '.', '-', '/' and the wildcards '*', '?', '[…]', after '!' or not."]}),
        ("acme/app/webhooks/", ["acme/app"], ["Only webhooks of a namespace or of the registry have this filter."]),
    ],
)  # fmt: skip
@on_sqlite
def test_bad_filters(host: Host, base: str, patterns: list[str], fault: object) -> None:
    """A repository filter that matches nothing, or stands at a repository's webhook, is refused."""
    answer = host.api("POST", base, json={"name": "x", "repository_filter": patterns})
    assert problem(answer, 400)["errors"] == {"repository_filter": fault}


@on_sqlite
def test_a_push_to_a_pattern(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A push whose repository is named like a namespace is no push."""
    webhook = create(host, REGISTRY, URL)
    for name in ("*", "acme/*"):
        with host.app.app_context():
            host.hubhooks.push(ImagePush(name, "latest"))
        assert f"{name!r} stands for many" in caplog.text
    assert pushed(host, REGISTRY, webhook) == []


# Routes


@pytest.mark.parametrize(
    ("base", "scope"),
    [
        (of("acme"), "acme/*"),
        (of("acme/team"), "acme/team/*"),
        (of("acme%2Fteam"), "acme/team/*"),
        (of("webhooks"), "webhooks/*"),
        (of("acme/webhooks"), "acme/webhooks/*"),
        (REGISTRY, "*"),
    ],
)
@on_sqlite
def test_all_routes(host: Host, base: str, scope: str) -> None:
    """A namespace, also one that is nested or named `webhooks`, and the registry have all routes of a repository."""
    webhook = create(host, base, URL, headers={"X-Key": "value"})
    assert (webhook["scope"], webhook["inherited"], webhook["repository_filter"]) == (scope, False, [])
    repository = f"{scope[:-1]}app"
    host.push(repository, "v1")
    [delivery] = read(host, f"{base}{webhook['id']}/history/")["results"]
    host.deliver()  # nobody listens there: it failed
    ids = Ids(webhook["id"], webhook["hooks"][0]["id"], delivery["id"])
    deletions = []
    for below, method, answer in walk(host, base, ids, "reader"):
        assert answer.status_code == (200 if method == "GET" else 403), (below, method)
    for below in BELOW:
        for method, body in BODIES[EVERY + below].items():
            if method == "DELETE":
                deletions.append(base + filled(below, ids))
                continue
            answer = host.api(method, base + filled(below, ids), "root", json=body or {})
            expected = (409,) if below.endswith("decide/") else (200, 201, 202)  # it does not await a callback
            assert answer.status_code in expected, (below, method, answer.text)
            if "Location" in answer.headers:
                here = answer.headers["Location"].removeprefix("https://registry.example.com")
                assert here.startswith(base.replace("%2F", "/")), below
                assert read(host, here)["id"] == answer.get_json()["id"]
    assert read(host, f"{base}matching-tags/?tag_filter=v*")["matching"] == ["v1"]
    for path in reversed(deletions):
        assert host.api("DELETE", path, "root").status_code == 204
    assert [each["name"] for each in read(host, base)["results"]] == ["new"]
    links = read(host, f"{base}?page_size=1&page=2")
    assert links["previous"].startswith(f"https://registry.example.com{base.replace('%2F', '/')}?")


@on_sqlite
def test_every_route_has_three_places(host: Host) -> None:
    """Each route of a repository's webhooks is there for namespaces and for the registry, with all methods."""
    ours = {each.rule: each.methods for each in api_rules(host.app)}
    for below in BELOW:
        for base in ("/v2/namespaces/<path:namespace>/webhooks/", REGISTRY):
            assert ours.pop(base + below) == set(METHODS)
        ours.pop(EVERY + below)
    assert not [rule for rule in ours if "webhooks" in rule]


@pytest.mark.parametrize("name", ["*", "acme/*", "a?", "[a]b", "acme//team", "acme/", "a%00b", "x" * 254])
@on_sqlite
def test_bad_namespaces(host: Host, name: str) -> None:
    """A namespace with a wildcard, an empty part or NUL, or of a name that is too long, is not found."""
    for method in ("GET", "POST"):
        assert host.api(method, of(name), "root", json={"name": "x"}).status_code == 404
    if "?" not in name:
        Visitor(host, "root", f"{name}/*").get(status=404)


@on_sqlite
def test_no_patterns_at_repositories(host: Host) -> None:
    """The API of repositories takes no pattern, and neither authorizer is asked."""
    create(host, NAMESPACE, URL)
    asked = []
    for register in (host.hubhooks.authorizer, host.hubhooks.namespace_authorizer):
        register(lambda action, scope: asked.append(scope) or "mallory")  # type: ignore[func-returns-value]
    for name in ("*", "acme/*", "acme%2F%2A", "acme/team/*"):
        for below in BELOW:
            for method in METHODS:
                assert host.api(method, f"{name}/webhooks/{filled(below, Ids())}").status_code == 404
    assert asked == []


@on_sqlite
def test_without_a_namespace_authorizer(make_host: MakeHost) -> None:
    """Without a namespace authorizer, nobody finds these routes and pages, and no other authorizer decides."""
    host = make_host(namespaces=False)
    asked = []
    host.hubhooks.authorizer(lambda action, repository: asked.append(repository) or "mallory")  # type: ignore[func-returns-value]
    for base in (NAMESPACE, REGISTRY):
        for below in BELOW:
            for method in METHODS:
                assert host.api(method, base + filled(below, Ids())).status_code == 404
    for scope in ("acme/*", "*"):
        Visitor(host, repository=scope).get(status=404)
        assert Visitor(host, repository=scope).ask("POST", data={"name": "x"}).status_code == 404
    assert asked == []
    assert not [path for path in host.client.get("/hubhooks/openapi.json").get_json()["paths"] if "namespaces" in path]


# Who may do what


MARKS = ["/path-of-theirs", "credential-7", "X-Of-Theirs", "value-of-theirs", "acme/secret"]


@pytest.fixture
def shared(host: Host) -> tuple[Host, dict[str, Ids]]:
    """A webhook at each scope, with deliveries of `acme/app` and `acme/secret-project` that have failed."""
    ids = {}
    for base in (NAMESPACE, REGISTRY):
        url = "http://127.0.0.1:9/path-of-theirs?token=credential-7"
        webhook = create(
            host,
            base,
            url,
            headers={"X-Of-Theirs": "value-of-theirs"},
            repository_filter=["acme/app", "acme/secret-*"],
        )
        ids[base] = Ids(webhook["id"], webhook["hooks"][0]["id"])
    host.push("acme/secret-project", "secret-tag", pusher="secret-pusher")
    host.push("acme/app", "v1")
    host.deliver()
    for base, each in ids.items():
        found = read(host, f"{base}{each.webhook_id}/history/?repository=acme/app")["results"]
        ids[base] = Ids(each.webhook_id, each.hook_id, found[0]["id"])
    return host, ids


def everything(host: Host, ids: dict[str, Ids]) -> list[dict[str, Any]]:
    paths = [base + path for base, each in ids.items() for path in ("", f"{each.webhook_id}/history/")]
    return [read(host, path) for path in paths]


def test_who_may_nothing(shared: tuple[Host, dict[str, Ids]]) -> None:
    """Owners of other namespaces find nothing, whatever exists; those who are not signed in get the host's answer."""
    host, ids = shared
    before = everything(host, ids)
    for base, stranger in ((NAMESPACE, "bob"), (REGISTRY, "bob"), (REGISTRY, "alice"), (of("acme/team"), "bob")):
        answers = set()
        for each in (*ids.values(), Ids()):
            for _, _, answer in walk(host, base, each, stranger):
                assert answer.status_code == 404
                no_marks(answer, MARKS)
                answers.add(bytes_of(answer))
            assert all(answer.status_code == 401 for *_, answer in walk(host, base, each, None))
        assert len(answers) == 1
    assert everything(host, ids) == before


@pytest.mark.parametrize("repository", ["acme/app", "acme/team/app"])
def test_inherited_are_shown(host: Host, repository: str) -> None:
    """A repository's list has its own webhooks and those that it inherits, the latter as readers see them."""
    headers = {"X-Of-Theirs": "value-of-theirs"}
    made = {
        "acme/*": create(host, NAMESPACE, "https://ci.example.com/path-of-theirs", headers=headers),
        "*": create(host, REGISTRY, "https://ci.example.com/path-of-theirs", repository_filter=["acme/*"]),
    }
    create(host, REGISTRY, URL, name="of others", repository_filter=["acme/secret-*"])
    create(host, of("acme/other"), URL)
    own = host.create(URL, repository=repository)
    for user in ("alice", "reader"):
        found = read(host, f"{repository}/webhooks/", user)
        assert found["count"] == 3
        assert [(each["id"], each["inherited"]) for each in found["results"]] == [
            (own["id"], False), *((each["id"], True) for each in made.values()),
        ]  # fmt: skip
        assert found["results"][0]["repository_filter"] == ([] if user == "alice" else None)
        for each in found["results"][1:]:
            assert each["scope"] in made
            assert (each["headers"], each["repository_filter"]) == (None, None)
            assert each["hooks"][0]["hook_url"] == "https://ci.example.com/…"
            assert read(host, f"{repository}/webhooks/{each['id']}/", user) == each
        second = read(host, f"{repository}/webhooks/?page_size=2&page=2", user)
        assert [each["scope"] for each in second["results"]] == ["*"]
    assert [each["scope"] for each in read(host, of("acme/team"))["results"]] == []


@pytest.mark.parametrize("user", ["alice", "reader"])
def test_inherited_as_readers(shared: tuple[Host, dict[str, Ids]], user: str) -> None:
    """Writers of a repository, too, see of inherited webhooks outcomes of their repository only, and change nothing."""
    host, ids = shared
    before = everything(host, ids)
    for each in ids.values():
        refusals = set()
        for below, method, answer in walk(host, "acme/app/webhooks/", each, user):
            if ":webhook_id>" not in below:
                if below == "" and method == "POST" and user == "alice":
                    assert host.api("DELETE", f"acme/app/webhooks/{answer.get_json()['id']}/").status_code == 204
                continue
            no_marks(answer, [*MARKS, "secret-tag", "secret-pusher"])
            assert answer.status_code == (200 if method == "GET" else 403), (below, method)
            if method != "GET":
                refusals.add(answer.get_json()["detail"])
        assert len(refusals) == 1 and ("inherited" in refusals.pop()) is (user == "alice")
        delivery = read(host, f"acme/app/webhooks/{each.webhook_id}/history/{each.delivery_id}/", user)
        [attempt] = delivery["attempts"]
        assert (attempt["request"], attempt["response"], bool(attempt["cause"])) == (None, None, True)
        assert delivery["push"]["repository"] == "acme/app"
    assert everything(host, ids) == before


def test_deliveries_of_other_repositories(shared: tuple[Host, dict[str, Ids]]) -> None:
    """Through one repository, nobody finds an inherited webhook's deliveries of another one, by whatever way."""
    host, ids = shared
    for base, each in ids.items():
        [secret] = read(host, f"{base}{each.webhook_id}/history/?repository=acme/secret-project")["results"]
        below = f"acme/app/webhooks/{each.webhook_id}/history/"
        assert host.api("GET", f"{below}{secret['id']}/").status_code == 404
        assert host.api("POST", f"{below}{secret['id']}/redeliver/").status_code == 403
        for query in ("?repository=acme/secret-project", "?tag=secret-tag", "?pusher=secret-pusher"):
            assert read(host, below + query, "alice")["results"] == []
        for query in ("", "?tag=v1", "?status=pending", "?repository=acme/app"):
            found = read(host, below + query, "alice")["results"]
            assert [one["id"] for one in found] == [str(each.delivery_id)], query
        assert read(host, f"{below}?page_size=1", "alice")["next"] is None
        visitor = Visitor(host)
        for path in ("", f"{each.webhook_id}/history/", f"{each.webhook_id}/history/?outcome=under_way"):
            no_marks(visitor.get(path), [*MARKS, "secret-tag", "secret-pusher"])
        visitor.get(f"{each.webhook_id}/history/{secret['id']}/", 404)
    assert read(host, "acme/app/webhooks/matching-tags/?tag_filter=*", "alice")["matching"] == ["v1"]
    other = host.api("GET", f"bob/app/webhooks/{ids[NAMESPACE].webhook_id}/", user="bob")
    filtered = host.api("GET", f"bob/app/webhooks/{ids[REGISTRY].webhook_id}/", user="bob")
    assert (other.status_code, filtered.status_code) == (404, 404)


def test_history_of_a_namespace(shared: tuple[Host, dict[str, Ids]]) -> None:
    """The history of a namespace's webhook shows each delivery's repository and can be limited to one."""
    host, ids = shared
    for base, each in ids.items():
        webhook = {"id": each.webhook_id}
        assert pushed(host, base, webhook) == ["acme/app", "acme/secret-project"]
        assert pushed(host, base, webhook, "?repository=acme/secret-project&tag=secret-tag") == ["acme/secret-project"]
        assert pushed(host, base, webhook, "?tag=v1") == ["acme/app"]
        assert pushed(host, base, webhook, "?pusher=secret-pusher") == ["acme/secret-project"]
        assert pushed(host, base, webhook, "?repository=acme/none") == []
        older = read(host, f"{base}{each.webhook_id}/history/?page_size=1")["next"]
        assert pushed(host, base, webhook, f"?{older.partition('?')[2]}") == ["acme/secret-project"]


@pytest.mark.parametrize("base", [NAMESPACE, REGISTRY])
@on_sqlite
def test_who_is_no_user(host: Host, base: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only a name that is not blank is a user, as for the authorizer of repositories."""
    webhook = create(host, base, URL)
    odd: dict[Any, int] = {None: 404, False: 404, "": 404, " \u200b": 404, True: 500, 7: 500, b"root": 500, "a\0": 500}
    for answer, status in odd.items():
        caplog.clear()
        host.hubhooks.namespace_authorizer(lambda action, pattern, answer=answer: answer)
        for _, _, refused in walk(host, base, Ids(webhook["id"]), "root"):
            assert refused.status_code == status, answer
        assert ("namespace" in caplog.text or "must return" in caplog.text) is (status == 500)
    for response, status in ((redirect("/sign-in"), 302), (Response("sign in", 401), 401)):
        host.hubhooks.namespace_authorizer(lambda action, pattern, response=response: response)
        assert host.api("GET", base).status_code == status
    host.hubhooks.namespace_authorizer(authorize_namespace)
    assert read(host, base)["count"] == 1


@on_sqlite
def test_each_authorizer_is_asked_its_own(host: Host) -> None:
    """The authorizer is asked about repositories alone, and the namespace authorizer about patterns alone."""
    asked: dict[str, list[str]] = {"repositories": [], "patterns": []}

    def ask(kind: str) -> Any:
        def answer(action: str, scope: str) -> str:
            asked[kind].append(scope)
            return "alice"

        return answer

    create(host, NAMESPACE, URL)
    host.hubhooks.authorizer(ask("repositories"))
    host.hubhooks.namespace_authorizer(ask("patterns"))
    for scope in ("acme/app", "acme/team/*", "acme/*", "*"):
        Visitor(host, repository=scope).get()
    for base in ("acme/app/webhooks/", of("acme/team"), NAMESPACE, REGISTRY):
        read(host, base)
    assert set(asked["repositories"]) == {"acme/app"}
    assert set(asked["patterns"]) == {"acme/team/*", "acme/*", "*"}


# Tests


@pytest.mark.parametrize(("base", "sample"), [(NAMESPACE, "acme/hubhooks-test"), (REGISTRY, "hubhooks-test")])
@on_sqlite
def test_a_test(host: Host, base: str, sample: str) -> None:
    """A test is a push of a made-up repository, or of the given one if it is in the scope and exists."""
    with Receiver() as receiver:
        webhook = create(host, base, receiver.url, repository_filter=["acme/app"])
        one = f"{base}{webhook['id']}/test/"
        assert host.api("POST", one, user="root").get_json()["push"]["repository"] == sample
        assert host.api("POST", one, user="root", json={"repository": "acme/team/app"}).status_code == 202
        host.deliver()
        payloads = [json.loads(each.body)["repository"] for each in receiver.requests]
    assert [each["repo_name"] for each in payloads] == [sample, "acme/team/app"]
    assert [each["description"] for each in payloads] == ["", "An app"]
    wrong = ["acme/missing", "acme/*", "*", "", "a" * 256, 7] + (["bob/app", "acme"] if base == NAMESPACE else [])
    for repository in wrong:
        refused = host.api("POST", one, user="root", json={"repository": repository})
        assert set(problem(refused, 400)["errors"]) == {"repository"}, repository
    own = host.create(URL)
    assert host.api("POST", f"acme/app/webhooks/{own['id']}/test/", json={"repository": "acme/app"}).status_code == 202
    refused = host.api("POST", f"acme/app/webhooks/{own['id']}/test/", json={"repository": "acme/other"})
    assert problem(refused, 400)["errors"] == {"repository": ["Must be a repository of acme/app."]}


@on_sqlite
def test_sends_are_counted_by_scope(make_host: MakeHost) -> None:
    """The limit of tests and redeliveries holds for a namespace as for one repository."""
    host = make_host(config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 2})
    webhook, own = create(host, NAMESPACE, URL), host.create(URL)
    one = f"{NAMESPACE}{webhook['id']}/test/"
    statuses = [host.api("POST", one, json={"repository": f"acme/{name}"}).status_code for name in ("a", "b", "c")]
    assert statuses == [202, 202, 429]
    assert host.api("POST", f"acme/app/webhooks/{own['id']}/test/").status_code == 202


def test_an_unknown_delivery(shared: tuple[Host, dict[str, Ids]]) -> None:
    """A delivery that does not exist is not found at any scope."""
    host, ids = shared
    for base, each in ids.items():
        for path in (f"{base}{each.webhook_id}/history/", f"acme/app/webhooks/{each.webhook_id}/history/"):
            assert (
                host.api("GET", f"{path}{uuid.UUID(int=9)}/", user="root" if path[0] == "/" else "alice").status_code
                == 404
            )


# Pages


@pytest.mark.parametrize("scope", ["acme/*", "acme/team/*", "*"])
@on_sqlite
def test_pages(host: Host, scope: str) -> None:
    """A namespace has the pages of a repository, at its pattern, with a filter for repositories and their names."""
    visitor = Visitor(host, "root", scope)
    assert "no webhooks here yet" in text_of(visitor.get())
    assert visitor.create(URL, name="Shared").status_code == 201
    [webhook] = read(host, REGISTRY if scope == "*" else of(scope[:-2]))["results"]
    page = text_of(visitor.get(f"{webhook['id']}/"))
    assert "Repository filter" in page
    repository = scope[:-1] + "app"
    host.push(repository, "v1")
    assert repository in text_of(visitor.get(f"{webhook['id']}/history/"))
    assert repository in text_of(visitor.get(f"{webhook['id']}/history/?repository={repository}&tag=v1"))
    assert "Nothing matches" in text_of(visitor.get(f"{webhook['id']}/history/?repository=none"))
    sent = visitor.send(f"{webhook['id']}/test/")
    assert sent.status_code == 303
    assert scope[:-1] + "hubhooks-test" in text_of(visitor.get(sent.headers["Location"].partition("?")[0]))
    assert visitor.send(f"{webhook['id']}/pause/").status_code == 303
    assert visitor.send(f"{webhook['id']}/delete/").status_code == 303
    Visitor(host, "reader", scope).get()
    Visitor(host, "bob", scope).get(status=404)


def test_a_form_keeps_the_repository_filter(host: Host) -> None:
    """The form shows and saves the repository filter, and puts errors at its field."""
    visitor = Visitor(host, "alice", "acme/*")
    webhook = create(host, NAMESPACE, URL, repository_filter=["acme/web-*"])
    one = f"{webhook['id']}/"
    shown = visitor.get(one)
    assert 'value="acme/web-*"' in shown.text
    version = re.search(r'name="version" value="([^"]+)"', shown.text)
    assert version
    fields = {"name": "shared", "hook_url": URL, "hook_id": webhook["hooks"][0]["id"], "version": version[1]}
    refused = visitor.send(one, repository_filter="web-*", **fields)
    assert refused.status_code == 400 and "web-*: Matches no repository of acme/*" in text_of(refused)
    assert visitor.send(one, repository_filter="acme/a* !acme/ab", **fields).status_code == 303
    assert read(host, NAMESPACE + one)["repository_filter"] == ["acme/a*", "!acme/ab"]


@pytest.mark.parametrize("user", ["alice", "reader"])
def test_inherited_pages(shared: tuple[Host, dict[str, Ids]], user: str) -> None:
    """A repository's pages show inherited webhooks without secrets and buttons, and refuse every change of them."""
    host, ids = shared
    visitor = Visitor(host, user)
    listed = visitor.get()
    assert "Inherited from acme/*" in text_of(listed) and "Inherited from the registry" in text_of(listed)
    assert "menu-form" not in listed.text.replace('id="menu-form"', "")
    for each in ids.values():
        one = f"{each.webhook_id}/"
        for path in ("history/", f"history/{each.delivery_id}/"):
            page = visitor.get(one + path)
            no_marks(page, MARKS)
            assert "formaction" not in page.text and "Redeliver" not in page.text
        for path in ("", "rotate-secret/", "delete/"):
            visitor.get(one + path, 403)
        if user == "alice":
            for path in ("", "pause/", "resume/", "test/", "rotate-secret/", "delete/"):
                assert visitor.send(one + path, name="x", hook_url=URL).status_code == 403, path
            assert visitor.send(f"{one}history/{each.delivery_id}/redeliver/").status_code == 403
