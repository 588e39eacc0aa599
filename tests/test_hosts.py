"""HubHooks in hosts of many kinds: it works in each, and each stays as it would be without it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from blinker import Signal
from flask import Blueprint, Flask, abort, redirect, request
from flask_wtf.csrf import CSRFProtect, generate_csrf
from sqlalchemy import event, func, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule
from werkzeug.test import Client, TestResponse

from flask_hubhooks import ImagePush
from flask_hubhooks.records.models import Push
from flask_hubhooks.state import State
from flask_hubhooks.testing import Deliveries

from .support.host import Host, kept
from .support.marks import URL, on_sqlite
from .support.receivers import Receiver

ORIGIN = "https://registry.example.com"
VALID = {"name": "deploy", "hook_url": URL}
PUSH = ImagePush("acme/app", "latest")


Register = Callable[..., None]
"""Registers our blueprint on an app or a blueprint, with the options given; on the twin it does nothing."""
Setup = Callable[[Callable[..., Flask], Register], Flask]
"""Sets up a host: it is given what makes its app, and `Register`."""


@dataclass
class Variant(Host):
    """A host that is set up in its own way, its twin without our blueprint, and where it is reached."""

    setup: Setup = lambda make, register: make()
    below: str = ""
    origin: str = ORIGIN

    def make_app(self) -> Flask:
        self.config = {"HUBHOOKS_EXTERNAL_URL": self.origin + self.below} | self.config
        self.twin_app = self.setup(self.bare_app, lambda *_, **__: None)
        app = self.setup(self.bare_app, lambda parent, **options: parent.register_blueprint(self.hubhooks, **options))
        self.db.init_app(app)
        with app.app_context():
            self.db.create_all()
        return app

    def __post_init__(self) -> None:
        super().__post_init__()
        self.client: Any = Client(self.app)
        self.twin = Client(self.twin_app)

    def bare_app(self, kind: type[Flask] = Flask, **options: Any) -> Flask:
        """An app with a page, a form and a sign-in of its own."""
        app = kind("host", **options)
        app.config.update(
            SECRET_KEY="a test's secret key",
            SQLALCHEMY_DATABASE_URI=self.database_uri,
            HUBHOOKS_REDIS_URL=self.redis_url,
            HUBHOOKS_ALLOWED_NETWORKS=["127.0.0.0/8"],
        )
        app.config.update(self.config)
        app.add_url_rule("/hello", "hello", lambda: "the host's own page")
        app.add_url_rule("/form", "form", lambda: "accepted", methods=["POST"])
        app.add_url_rule("/stop/<int:code>", "stop", abort)
        app.add_url_rule("/fails", "fails", fails)
        app.add_url_rule("/sign-in", "sign_in", lambda: redirect("/elsewhere"))
        return app

    def api(self, method: str, path: str, user: str | None = "alice", **options: Any) -> TestResponse:
        headers = options.pop("headers", {}) | ({"X-User": user} if user else {})
        return self.visit(method, f"{self.below}/v2/repositories/{path}", headers=headers, **options)

    def call_back(self, payload: bytes, **callback: Any) -> TestResponse:
        url = json.loads(payload)["callback_url"]
        assert url.startswith(f"{self.origin}{self.below}/u/acme/app/hook/")
        return self.visit("POST", url.removeprefix(self.origin), json={"state": "success"} | callback)

    def visit(self, method: str, path: str, **options: Any) -> TestResponse:
        answer: TestResponse = self.client.open(path, method=method, base_url=self.origin, **options)
        return answer


def fails() -> Any:
    raise RuntimeError("no luck")


MakeVariant = Callable[..., Variant]


@pytest.fixture
def make_variant(database_uri: str, redis_url: str) -> Iterator[MakeVariant]:
    """A function that makes variants on the test's database and broker; keywords are `Variant`'s."""
    made: list[Variant] = []

    def make(setup: Setup | None = None, **options: Any) -> Variant:
        made.append(Variant(database_uri, redis_url, setup=setup or plain, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def is_used(host: Host) -> None:
    """What every host is there for: a webhook is made, a push delivered, called back, and read in the history."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, expect_final_callback=True)
        host.push(tag="1.0")
        host.deliver()
    assert host.states(webhook) == ["awaiting_callback"]
    (sent,) = receiver.requests
    assert host.call_back(sent.body, description="387 tests PASSED").status_code == 200
    (delivery,) = host.history(webhook)
    assert (delivery["state"], delivery["push"]["tag"]) == ("succeeded", "1.0")
    assert delivery["callback"]["description"] == "387 tests PASSED"
    assert host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/").status_code == 204


def is_itself(host: Variant, mount: str = "") -> None:
    """Every page that is not ours is byte for byte the one of the same host without our blueprint."""
    paths = ["/hello", "/hello/", "//hello", "/form", "/stop/403", "/nowhere", "/", "/v2/", "/v2/_catalog", "/u/acme/"]
    paths += ["/v2/repositories/", "/v2/repositories/acme/app/", "/v2/repositories//acme/app/", "/webhooks/"]
    for path in paths:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
            answer = host.visit(method, mount + path)
            own = host.twin.open(mount + path, method=method, base_url=host.origin)
            assert (answer.status_code, answer.data) == (own.status_code, own.data), (method, path)
            assert answer.headers.to_wsgi_list() == own.headers.to_wsgi_list(), (method, path)


# How a host sets itself up


def plain(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    register(app)
    return app


def prefixed(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    register(app, url_prefix="/hooks")
    return app


def renamed(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    register(app, name="hooks")
    return app


def nested(make: Callable[..., Flask], register: Register) -> Flask:
    app, parent = make(), Blueprint("parent", "host", url_prefix="/parent")
    register(parent, url_prefix="/hooks")
    app.register_blueprint(parent)
    return app


def csrf_before(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    CSRFProtect(app)
    register(app)
    return app


def csrf_after(make: Callable[..., Flask], register: Register) -> Flask:
    app, csrf = make(), CSRFProtect()
    register(app)
    csrf.init_app(app)
    return app


def csrf_renamed(make: Callable[..., Flask], register: Register) -> Flask:
    app = renamed(make, register)
    CSRFProtect(app)
    return app


def csrf_nested(make: Callable[..., Flask], register: Register) -> Flask:
    app = nested(make, register)
    CSRFProtect(app)
    return app


def json_errors(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    for kind in (HTTPException, 404, 405):
        app.register_error_handler(kind, lambda error: ({"theirs": error.code}, error.code, {"X-Theirs": "1"}))
    register(app)
    return app


def any_error(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    app.register_error_handler(Exception, lambda error: ({"theirs": str(error)}, 599))
    register(app)
    return app


def catch_all(app: Flask, *methods: str) -> None:
    def anything(anything: str) -> str:
        return f"{request.method} {anything}"

    app.add_url_rule("/<path:anything>", "anything", anything, methods=methods)


def caught_before(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    catch_all(app, "GET")
    register(app)
    return app


def caught_after(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    register(app)
    catch_all(app, "GET")
    return app


ALL = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def all_caught_before(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    catch_all(app, *ALL)
    register(app)
    return app


def all_caught_after(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    register(app)
    catch_all(app, *ALL)
    return app


def lax_slashes(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    app.url_map.strict_slashes = False
    register(app)
    return app


def kept_slashes(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    app.url_map.merge_slashes = False
    register(app)
    return app


def on_a_subdomain(make: Callable[..., Flask], register: Register) -> Flask:
    app = make(subdomain_matching=True)
    app.config["SERVER_NAME"] = "example.com"
    register(app, subdomain="registry")
    return app


class RegistryRule(Rule):
    """A rule of the registry's own host, unless it names another."""

    def __init__(self, string: str, **options: Any) -> None:
        super().__init__(string, **{"host": "registry.example.com"} | options)


def by_host(make: Callable[..., Flask], register: Register) -> Flask:
    """Flask gives a blueprint's rules no host: the app does, for all that name none."""

    class App(Flask):
        url_rule_class: type[Rule] = RegistryRule

    app = make(App, host_matching=True, static_host="registry.example.com")
    app.add_url_rule("/hello", "another", lambda: "another host's", host="other.example.com")
    register(app)
    return app


def by_host_without_ours(make: Callable[..., Flask], register: Register) -> Flask:
    app = make(host_matching=True, static_host="registry.example.com")
    app.add_url_rule("/v2/_catalog", "catalog", lambda: "the host's", host="registry.example.com")
    register(app)
    return app


def mounted(make: Callable[..., Flask], register: Register) -> Flask:
    app = make()
    app.config["APPLICATION_ROOT"] = "/registry"
    register(app)
    app.wsgi_app = DispatcherMiddleware(NotFound(), {"/registry": app.wsgi_app})  # type: ignore[method-assign]
    return app


SETUPS: list[tuple[Setup, str, str]] = [
    (plain, "", ""),
    (prefixed, "/hooks", ""),
    (renamed, "", ""),
    (nested, "/parent/hooks", ""),
    (csrf_before, "", ""),
    (csrf_after, "", ""),
    (csrf_renamed, "", ""),
    (csrf_nested, "/parent/hooks", ""),
    (json_errors, "", ""),
    (any_error, "", ""),
    (caught_before, "", ""),
    (caught_after, "", ""),
    (all_caught_before, "", ""),
    (all_caught_after, "", ""),
    (lax_slashes, "", ""),
    (kept_slashes, "", ""),
    (on_a_subdomain, "", ""),
    (by_host, "", ""),
    (mounted, "/registry", "/registry"),
]
"""Each host, with the path that ours is below, and the one that the whole app is below."""


@on_sqlite
@pytest.mark.parametrize(("setup", "below", "mount"), SETUPS, ids=[setup.__name__ for setup, *_ in SETUPS])
def test_a_host(make_variant: MakeVariant, setup: Setup, below: str, mount: str) -> None:
    """In this host everything of ours works, and everything of the host's is as without us."""
    host = make_variant(setup, below=below)
    is_itself(host, mount)
    is_used(host)


@on_sqlite
def test_hosts_that_are_matched(make_variant: MakeVariant) -> None:
    """An app that matches hosts and gives our rules none serves nothing of ours, and is as without us."""
    host = make_variant(by_host_without_ours)
    is_itself(host)
    assert host.visit("GET", "/v2/_catalog").data == b"the host's"
    assert host.api("GET", "acme/app/webhooks/").status_code == 404


@on_sqlite
def test_registered_twice(make_variant: MakeVariant) -> None:
    """An app that registers it under two names is served at both, and hears each push once."""

    def twice(make: Callable[..., Flask], register: Register) -> Flask:
        app = prefixed(make, register)
        register(app, name="again")
        return app

    host = make_variant(twice)
    is_itself(host)
    is_used(host)
    answer = host.visit("GET", "/hooks/v2/repositories/acme/app/webhooks/", headers={"X-User": "alice"})
    assert answer.get_json()["count"] == 0


@on_sqlite
@pytest.mark.parametrize("setup", [plain, renamed, nested])
def test_the_command_keeps_its_name(make_variant: MakeVariant, setup: Setup) -> None:
    """`flask hubhooks worker` is there whatever name the blueprint is registered under, and no other command."""
    host = make_variant(setup)
    assert set(host.app.cli.commands) == {*host.twin_app.cli.commands, "hubhooks"}
    assert "--burst" in host.app.test_cli_runner().invoke(args=["hubhooks", "worker", "--help"]).output


# CSRFProtect


@pytest.mark.own_host
@on_sqlite
@pytest.mark.parametrize("setup", [csrf_before, csrf_after])
def test_the_hosts_own_form_stays_protected(make_variant: MakeVariant, setup: Setup) -> None:
    """A POST of the host's own is refused without a token, also after our routes were used, and taken with one."""
    host = make_variant(setup)
    host.app.add_url_rule("/token", "token", generate_csrf)
    for _ in range(2):
        assert host.visit("POST", "/form").status_code == 400
        is_used(host)
    token, own = host.visit("GET", "/token").text, {"Referer": f"{ORIGIN}/"}
    assert host.visit("POST", "/form", headers=own).status_code == 400
    assert host.visit("POST", "/form", headers=own, data={"csrf_token": token}).data == b"accepted"


@on_sqlite
def test_exempting_opens_no_form_of_another_blueprint(make_variant: MakeVariant) -> None:
    """Neither the blueprint ours is nested in nor another below it is exempt along with ours."""

    def setup(make: Callable[..., Flask], register: Register) -> Flask:
        app, parent, sibling = make(), Blueprint("parent", "host", url_prefix="/p"), Blueprint("sibling", "host")
        parent.add_url_rule("/form", "form", lambda: "parent", methods=["POST"])
        sibling.add_url_rule("/sibling", "form", lambda: "sibling", methods=["POST"])
        parent.register_blueprint(sibling)
        register(parent)
        app.register_blueprint(parent)
        CSRFProtect(app)
        return app

    host = make_variant(setup, below="/p")
    is_used(host)
    assert [host.visit("POST", path).status_code for path in ("/p/form", "/p/sibling")] == [400, 400]


@on_sqlite
def test_our_origin_check_stays(make_variant: MakeVariant) -> None:
    """Exempt from the host's check, the API still refuses what another site sends, and opens no session."""
    host = make_variant(csrf_before)
    answer = host.api("POST", "acme/app/webhooks/", json=VALID, headers={"Origin": "https://evil.example.com"})
    assert (answer.status_code, answer.content_type) == (403, "application/problem+json")
    answer = host.api("POST", "acme/app/webhooks/", json=VALID)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (201, False)


# Error handlers of the host's


def own_problems(host: Variant) -> list[tuple[int, bytes, list[tuple[str, str]]]]:
    """Answers of ours that are errors."""
    webhooks = "acme/app/webhooks/"
    answers = [
        host.api("GET", "acme/missing/webhooks/"),
        host.api("GET", f"{webhooks}7/"),
        host.api("PUT", webhooks),
        host.api("POST", f"{webhooks}7/history/"),
        host.api("POST", webhooks, json={}),
        host.api("POST", webhooks, data=b"a=b"),
        host.api("POST", webhooks, data=b"x" * 70_000, content_type="application/json"),
        host.api("POST", webhooks, user="reader", json=VALID),
        host.visit("POST", "/u/acme/app/hook/nonsense/"),
        host.visit("GET", "/u/acme/app/hook/nonsense/"),
    ]
    assert [each.status_code for each in answers] == [404, 404, 405, 405, 400, 415, 413, 403, 404, 405]
    assert {each.content_type for each in answers} == {"application/problem+json"}
    return [(each.status_code, each.data, each.headers.to_wsgi_list()) for each in answers]


@on_sqlite
@pytest.mark.parametrize("setup", [json_errors, any_error, csrf_before, all_caught_before])
def test_our_errors_stay_ours(make_variant: MakeVariant, setup: Setup) -> None:
    """Our errors are the same byte for byte whatever error handlers and catch-alls the host has."""
    assert own_problems(make_variant(setup)) == own_problems(make_variant(plain))


@on_sqlite
@pytest.mark.parametrize("setup", [plain, json_errors, any_error])
def test_what_the_authorizer_raises_is_the_hosts(make_variant: MakeVariant, setup: Setup) -> None:
    """An abort, a redirect and a fault in the authorizer are answered as in a route of the host's own."""
    host = make_variant(setup)
    raised: list[tuple[str, Callable[[], Any]]] = [
        ("/stop/401", lambda: abort(401)),
        ("/stop/403", lambda: abort(403)),
        ("/stop/404", lambda: abort(404)),
        ("/sign-in", lambda: abort(redirect("/elsewhere"))),
        ("/fails", fails),
    ]
    for path, action in raised:
        host.hubhooks.authorizer(lambda *_, action=action: action())
        own = host.twin.get(path, base_url=ORIGIN)
        for method in ("GET", "POST"):
            answer = host.api(method, "acme/app/webhooks/", json=VALID)
            assert (answer.status_code, answer.data) == (own.status_code, own.data), path
            assert answer.headers.to_wsgi_list() == own.headers.to_wsgi_list(), path


@on_sqlite
@pytest.mark.parametrize("setup", [plain, json_errors])
def test_a_fault_of_ours_is_answered_by_the_host(
    make_variant: MakeVariant, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a route of ours is answered as one in a route of the host's own."""
    host = make_variant(setup)
    monkeypatch.delattr(State, "reading")
    answer, own = host.api("GET", "acme/app/webhooks/"), host.twin.get("/fails", base_url=ORIGIN)
    assert (answer.status_code, answer.data) == (500, own.data)
    assert answer.headers.to_wsgi_list() == own.headers.to_wsgi_list()


# Two apps


@pytest.mark.own_host
@pytest.mark.parametrize("shared", [False, True], ids=["two databases", "one database"])
def test_two_apps(host: Host, tmp_path: Path, shared: bool) -> None:
    """Two apps with one db and one HubHooks both work: on one database they are one registry, on two apart."""
    second = copy.copy(host)
    second.config = {"HUBHOOKS_QUEUE": "hubhooks" if shared else "second"}
    if not shared:
        second.database_uri = f"sqlite:///{tmp_path / 'second.db'}"
    second.app = second.make_app()
    second.client, second.deliveries = second.app.test_client(), Deliveries(second.app)
    try:
        for each in (host, second, host):
            is_used(each)
        with Receiver() as receiver:
            webhook = host.create(receiver.url, expect_final_callback=True)
            second.push(tag="by-the-second")
            host.push(tag="by-the-first")
            second.deliver()
            assert len(receiver.requests) == (2 if shared else 0)
            host.deliver()
        tags = [json.loads(each.body)["push_data"]["tag"] for each in receiver.requests]
        assert sorted(tags) == (["by-the-first", "by-the-second"] if shared else ["by-the-first"])
        path = f"acme/app/webhooks/{webhook['id']}/history/"
        assert second.api("GET", path).get_json() == (host.api("GET", path).get_json() if shared else NOT_THERE)
        assert second.call_back(receiver.requests[0].body).status_code == (200 if shared else 404)
    finally:
        second.close()


NOT_THERE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Not found, or you do not have access to it.",
}


# Names of repositories

NAMES = [
    "webhooks",
    "webhooks/webhooks",
    "webhooks/webhooks/1",
    "a/b/c/webhooks/1/history",
    "a/webhooks/5/hooks/6",
    "a/webhooks",
    "a/webhooks/1",
    "a/webhooks/1/history",
    "a/webhooks/1/history/00000000-0000-0000-0000-000000000000/redeliver",
    "a",
    "a/hook/b",
    "a/hook",
    "hook",
    "v2/repositories/a/webhooks",
    "u/a/hook/b",
    "library",
    "Library",
    "k\u00f6ln/dom",
    "ko\u0308ln/dom",
    "日本/語",
    "🚀",
    "a/b",
    "a b",
    "a+b",
    "a%",
    "a:b@c;d=e&f",
    "a.b_c-d~e",
]
RESERVED = ["a%2Fb", "a%252Fb", "a%20b", "k%C3%B6ln/dom", "a?b", "a#b"]
"""Names that mean another path where they stand in a URL unquoted."""


def test_names_are_not_mistaken(served: Host) -> None:
    """Each of many confusable repositories has its own webhooks, history and callbacks, and no other's."""
    names = NAMES + RESERVED
    served.hubhooks.authorizer(lambda action, repository: "alice" if repository in names else None)
    with Receiver() as receiver:
        webhooks = {name: served.create(receiver.url, repository=quote(name), name=name) for name in names}
        for number, name in enumerate(names):
            served.push(name, tag=f"v{number}")
        served.deliver()
    payloads = {payload["repository"]["repo_name"]: payload for payload in bodies(receiver)}
    assert sorted(payloads) == sorted(names)
    for name, payload in payloads.items():
        answer = requests.post(payload["callback_url"], json={"state": "success", "description": name}, timeout=10)
        assert answer.status_code == 200, (name, answer.text)
    for number, (name, other) in enumerate(zip(names, [*names[1:], names[0]], strict=True)):
        page = served.api("GET", f"{quote(name)}/webhooks/").get_json()
        assert [each["name"] for each in page["results"]] == [name]
        (delivery,) = served.history(webhooks[name], quote(name))
        assert delivery["push"]["repository"] == name
        assert delivery["push"]["tag"] == f"v{number}"
        assert delivery["callback"]["description"] == name
        path = f"{quote(other)}/webhooks/{webhooks[name]['id']}/"
        assert served.api("GET", path).status_code == 404, (name, other)


def bodies(receiver: Receiver) -> list[Any]:
    return [json.loads(each.body) for each in receiver.requests]


# The host's databases and sessions


def things(host: Host, bind_key: str | None = None) -> Any:
    """A model of the host's own, whose `owner` must be set, in the database of that bind key."""

    class Thing(host.db.Model):  # type: ignore[name-defined,misc]
        __bind_key__ = bind_key
        name: Mapped[str] = mapped_column(primary_key=True)
        owner: Mapped[str]

    with host.app.app_context():
        host.db.create_all()
    return Thing


def recorded(host: Host) -> tuple[int, int]:
    """Pushes in the database, and jobs on the queue."""
    with host.app.app_context():
        pushes = host.db.session.scalar(select(func.count()).select_from(Push)) or 0
    return pushes, host.state.redis.llen(f"rq:queue:{host.state.config.queue}")


@pytest.fixture(params=[False, True], ids=["own", "joined"])
def join_session(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def use(host: Host) -> None:
    """As `is_used`, in a host that may have its pushes in its own transaction."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        with host.app.app_context():
            host.hubhooks.push(PUSH)
            host.db.session.commit()
        host.deliver()
    assert host.states(webhook) == ["succeeded"]


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_binds(make_host: Callable[..., Host], tmp_path: Path, join_session: bool, commits: bool) -> None:
    """With a second database our tables are in the default one alone, and the host's transaction spans both."""
    binds = {"other": f"sqlite:///{tmp_path / 'other.db'}"}
    host = make_host(join_session=join_session, config={"SQLALCHEMY_BINDS": binds})
    elsewhere = things(host, "other")
    with host.app.app_context():
        engines = host.db.engines
        assert inspect(engines["other"]).get_table_names() == ["thing"]
        ours = {name for name in inspect(engines[None]).get_table_names() if name.startswith("hubhooks_")}
        assert len(ours) == 6
        assert "thing" not in inspect(engines[None]).get_table_names()
    use(host)
    host.create(URL, name="other")
    before, _ = recorded(host)
    host.state.redis.flushall()
    with host.app.app_context():
        host.db.session.add(elsewhere(name="before", owner="a"))
        host.db.session.flush()
        host.db.session.add(elsewhere(name="pending", owner="a"))
        host.hubhooks.push(PUSH)
        host.db.session.add(elsewhere(name="after", owner="a"))
        if commits:
            host.db.session.commit()
    lives = commits or not join_session
    assert recorded(host) == (before + lives, int(lives))
    assert kept(host, elsewhere) == (["after", "before", "pending"] if commits else [])


@pytest.mark.parametrize(
    "options",
    [
        {"autoflush": False},
        {"expire_on_commit": False},
        {"autoflush": False, "expire_on_commit": False, "scopefunc": threading.get_ident},
    ],
    ids=["autoflush", "expire_on_commit", "scopefunc"],
)
def test_session_options(make_host: Callable[..., Host], join_session: bool, options: dict[str, Any]) -> None:
    """A session of the host's own making works as the host made it, with and without a push in it."""
    host = make_host(join_session=join_session, session_options=options)
    thing = things(host)
    use(host)
    before, _ = recorded(host)
    host.state.redis.flushall()
    with host.app.app_context():
        session = host.db.session
        loaded = thing(name="loaded", owner="a")
        session.add(loaded)
        session.commit()
        session.refresh(loaded)
        if not join_session:
            session.commit()
        pending = thing(name="pending", owner="a")
        session.add(pending)
        host.hubhooks.push(PUSH)
        assert session().autoflush == options.get("autoflush", True)
        assert (pending in session.new) == (not join_session)
        if join_session:
            assert not inspect(loaded).expired_attributes
        session.commit()
        assert bool(inspect(loaded).expired_attributes) == options.get("expire_on_commit", True)
        session.add(thing(name="unflushed", owner="a"))
        seen = session.scalar(select(func.count()).select_from(thing))
        assert seen == (3 if options.get("autoflush", True) else 2)
        session.rollback()
    assert recorded(host) == (before + 1, 1)
    assert kept(host, thing) == ["loaded", "pending"]


@pytest.fixture
def signal() -> Signal:
    """A signal of the host's own."""
    return Signal()


@pytest.fixture
def joined(make_host: Callable[..., Host], signal: Signal) -> Host:
    """A host app with a transactional outbox and a webhook, on each database in turn."""
    host = make_host(join_session=True, push_signal=signal)

    @host.app.post("/pushed/<tag>")
    def pushed(tag: str) -> str:
        signal.send(host.app, repository="acme/app", tag=tag)
        if tag == "refused":
            abort(409)
        host.db.session.commit()
        return "pushed"

    host.create(URL)
    return host


def test_pending_work_that_is_not_valid_yet(joined: Host, signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """With join_session what is incomplete when the signal is sent is the host's fault, told to the host alone."""
    thing = things(joined)
    with joined.app.app_context():
        session, incomplete = joined.db.session, thing(name="a")
        session.add(incomplete)
        with pytest.raises(IntegrityError, match=r"thing.*owner|owner.*thing"):
            signal.send(joined.app, repository="acme/app", tag="latest")
        session.rollback()
        assert not caplog.records
        assert recorded(joined) == (0, 0)
        incomplete.owner = "alice"
        session.add(incomplete)
        signal.send(joined.app, repository="acme/app", tag="latest")
        session.commit()
    assert (recorded(joined), kept(joined, thing)) == ((1, 1), ["a"])


class HostFault(Exception):
    """Of the host's own."""


@pytest.mark.parametrize("late", [False, True], ids=["in our flush", "in its commit"])
def test_a_flush_that_raises(joined: Host, signal: Signal, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With join_session an error of the host's flush reaches it unchanged, nothing of ours stays, and it can go on."""
    thing, fault = things(joined), HostFault("no luck")
    with joined.app.app_context():
        session = joined.db.session

        def refuse(flushed: Any, *_: Any) -> None:
            if any(each.name == "refused" for each in flushed.new):
                raise fault

        event.listen(session(), "before_flush", refuse)
        if late:
            signal.send(joined.app, repository="acme/app", tag="latest")
        session.add(thing(name="refused", owner="a"))
        with pytest.raises(HostFault) as raised:
            if late:
                session.commit()
            else:
                signal.send(joined.app, repository="acme/app", tag="latest")
        assert raised.value is fault
        assert not caplog.records
        session.rollback()
        session.add(thing(name="accepted", owner="a"))
        session.commit()
        assert recorded(joined) == (0, 0)
        signal.send(joined.app, repository="acme/app", tag="latest")
        session.commit()
    assert (recorded(joined), kept(joined, thing)) == ((1, 1), ["accepted"])


def test_a_view_that_fails_after_its_push(joined: Host) -> None:
    """With join_session a request that ends in an error without a commit leaves no push, and the next one works."""
    assert joined.client.post("/pushed/refused").status_code == 409
    assert recorded(joined) == (0, 0)
    assert joined.client.post("/pushed/latest").data == b"pushed"
    assert recorded(joined) == (1, 1)
