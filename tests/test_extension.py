"""HubHooks in a host: what registering it brings, what it leaves alone, and the ways a push comes in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from blinker import Signal
from flask import Flask, abort, session
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Pool, SingletonThreadPool, StaticPool, inspect, select

from flask_hubhooks import ConfigError, HubHooks, ImagePush, Repository, __version__
from flask_hubhooks.records.models import Webhook
from flask_hubhooks.signals import image_pushed

from .support.host import Host
from .support.marks import URL, MakeHost, on_sqlite
from .support.receivers import Receiver

pytestmark = pytest.mark.own_host
TABLES = {f"hubhooks_{name}" for name in ("webhook", "hook", "push", "delivery", "attempt")}


def tags(host: Host, webhook: dict[str, Any]) -> list[str]:
    return [each["push"]["tag"] for each in host.history(webhook)]


def settings(uri: str, **more: object) -> dict[str, Any]:
    return {
        "SECRET_KEY": "s",
        "SQLALCHEMY_DATABASE_URI": uri,
        "HUBHOOKS_EXTERNAL_URL": "https://registry.example.com",
    } | more


# Registering


def test_application_factory(database_uri: str) -> None:
    """An extension made at import time serves an app that is made later, also where the database comes last."""
    db = SQLAlchemy()
    hubhooks = HubHooks(db)
    hubhooks.authorizer(lambda action, repository: "alice")

    def create_app() -> Flask:
        app = Flask("host")
        app.config.update(settings(database_uri))
        app.register_blueprint(hubhooks)
        db.init_app(app)
        return app

    app = create_app()
    with app.app_context():
        db.create_all()
        assert app.test_client().get("/v2/repositories/acme/app/webhooks/").get_json()["count"] == 0
        db.engine.dispose()


@pytest.fixture
def second_app(host: Host, tmp_path: Path) -> Iterator[Flask]:
    """Another app with the host's db and HubHooks, on a database and a queue of its own."""
    host.database_uri = f"sqlite:///{tmp_path / 'second.db'}"
    host.config = {"HUBHOOKS_QUEUE": "second", "HUBHOOKS_EXTERNAL_URL": "https://second.example.com"}
    app = host.make_app()
    yield app
    app.extensions["hubhooks"].redis.close()
    with app.app_context():
        host.db.engine.dispose()


def test_one_extension_on_two_apps(host: Host, second_app: Flask) -> None:
    """One HubHooks on two apps keeps config, Redis and database of each apart, and hears each push once."""
    first, second = host.state, second_app.extensions["hubhooks"]
    assert (first.config.queue, second.config.queue) == ("hubhooks", "second")
    assert first.redis is not second.redis
    webhook = host.create(URL)
    first_client, host.client = host.client, second_app.test_client()
    assert host.api("GET", "acme/app/webhooks/").get_json()["count"] == 0
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "second", "hook_url": URL})
    assert answer.headers["Location"].startswith("https://second.example.com/v2/")
    with second_app.app_context():
        image_pushed.send(second_app, repository="acme/app", tag="second")
    assert tags(host, answer.get_json()) == ["second"]
    host.client = first_client
    assert tags(host, webhook) == []
    assert (first.redis.llen("rq:queue:hubhooks"), second.redis.llen("rq:queue:second")) == (0, 1)


def test_two_extensions_on_a_signal(make_host: MakeHost) -> None:
    """Of two HubHooks that listen to one signal only the current app's records the push."""
    one, other = make_host(), make_host(database_uri="sqlite://", join_session=True)
    webhook, others = one.create(URL), other.create(URL)
    with one.app.app_context():
        image_pushed.send(one.app, repository="acme/app", tag="one")
    assert (tags(one, webhook), tags(other, others)) == (["one"], [])


def test_an_app_without_us(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A signal sent in an app that has not registered the extension is another app's business."""
    webhook = host.create(URL)
    with Flask("other").app_context():
        image_pushed.send(None, repository="acme/app", tag="latest")
        with pytest.raises(RuntimeError, match=r"app\.register_blueprint\(hubhooks\)"):
            host.hubhooks.push(ImagePush("acme/app", "latest"))
    assert tags(host, webhook) == []
    assert not caplog.records


def test_url_prefix(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """With a url_prefix the routes are below it, and every URL that leaves is below the external URL.

    An external URL without it is warned of.
    """
    external = "https://registry.example.com/hooks"
    host = make_host(url_prefix="/hooks", config={"HUBHOOKS_EXTERNAL_URL": external})
    assert "url_prefix" not in caplog.text
    make_host(url_prefix="/hooks", config={"HUBHOOKS_EXTERNAL_URL": "https://registry.example.com"})
    assert "does not end with the blueprint's url_prefix /hooks" in caplog.text
    assert "Set it to https://registry.example.com/hooks," in caplog.text
    base, headers = "/hooks/v2/repositories/acme/app/webhooks/", {"X-User": "alice"}
    with Receiver() as receiver:
        answer = host.client.post(base, json={"name": "a", "hook_url": receiver.url}, headers=headers)
        location = answer.headers["Location"]
        assert location == f"{external}/v2/repositories/acme/app/webhooks/{answer.get_json()['id']}/"
        host.client.post(base, json={"name": "b", "hook_url": receiver.url}, headers=headers)
        host.push()
        host.push()
        host.deliver()
    payload = json.loads(receiver.requests[0].body)
    assert payload["callback_url"].startswith(f"{external}/u/acme/app/hook/")
    assert payload["repository"]["repo_url"] == f"{external}/r/acme/app/"
    callback = host.client.post(
        payload["callback_url"].removeprefix("https://registry.example.com"), json={"state": "success"}
    )
    assert callback.status_code == 200
    for path in (base, f"{base}{answer.get_json()['id']}/history/"):
        page = host.client.get(f"{path}?page_size=1", headers=headers).get_json()
        assert page["next"].startswith(external + path.removeprefix("/hooks") + "?")
        assert (
            host.client.get(page["next"].removeprefix("https://registry.example.com"), headers=headers).status_code
            == 200
        )
    assert host.api("GET", "acme/app/webhooks/").status_code == 404


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:shared?mode=memory&cache=shared&uri=true",
    ],
)
def test_in_memory_is_refused(uri: str) -> None:
    """A database in memory has one connection: without join_session it is refused, with the ways out."""
    app = Flask("host")
    app.config.update(settings(uri))
    with pytest.raises(ConfigError, match=r"join_session=True.* or a database file"):
        app.register_blueprint(HubHooks(SQLAlchemy()))
    assert "hubhooks" not in app.extensions


@on_sqlite
@pytest.mark.parametrize("disposes", [False, True])
@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
def test_in_memory_works_joined(make_host: MakeHost, pool: type[Pool], disposes: bool) -> None:
    """With join_session a database in memory works from push to history, also a new one after `db.engine.dispose()`."""
    options = {"SQLALCHEMY_ENGINE_OPTIONS": {"poolclass": pool}}
    host = make_host(database_uri="sqlite://", join_session=True, config=options)
    if disposes:
        host.create(URL)  # the connection has been used
        with host.app.app_context():
            host.db.session.remove()
            host.db.engine.dispose()
            host.db.create_all()
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        with host.app.app_context():
            host.hubhooks.push(ImagePush("acme/app", "latest"))
            host.db.session.commit()
            host.deliver()
    assert host.states(webhook) == ["succeeded"]


@on_sqlite
def test_without_an_authorizer(database_uri: str) -> None:
    """Without an authorizer everything is denied."""
    app = Flask("host")
    app.config.update(settings(database_uri))
    db = SQLAlchemy(app)
    app.register_blueprint(HubHooks(db))
    with app.app_context():
        db.create_all()
        client = app.test_client()
        for method in ("GET", "POST"):
            answer = client.open(
                "/v2/repositories/acme/app/webhooks/", method=method, json={"name": "a", "hook_url": URL}
            )
            assert (answer.status_code, answer.content_type) == (403, "application/problem+json")
            assert "authorizer" in answer.get_json()["detail"]
        db.engine.dispose()


@on_sqlite
def test_version(host: Host) -> None:
    """The version of the package is that of its distribution, and of the API's document."""
    document = host.client.get("/hubhooks/openapi.json").get_json()
    assert __version__ == version("flask_hubhooks") == document["info"]["version"]


def test_command_group(host: Host) -> None:
    """`flask hubhooks` is there, with the worker and its options."""
    runner = host.app.test_cli_runner()
    assert "worker" in runner.invoke(args=["hubhooks", "--help"]).output
    shown = runner.invoke(args=["hubhooks", "worker", "--help"]).output
    assert "--concurrency" in shown and "--burst" in shown


# What stays the host's own


def own_app(uri: str) -> Flask:
    """A host with pages, error pages, a session and a config of its own."""
    app = Flask("host")
    app.config.update(settings(uri), MAX_CONTENT_LENGTH=10)

    @app.get("/visit")
    def visit() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    @app.get("/fault")
    def fault() -> str:
        raise RuntimeError("the host's own")

    @app.get("/forbidden")
    def forbidden() -> str:
        abort(403)

    app.register_error_handler(404, lambda error: ("the host's own 404", 404))
    return app


REQUESTS = [
    ("GET", "/nowhere"),
    ("GET", "/v2/"),
    ("GET", "/v2/acme/app/tags/list"),
    ("GET", "/v2/repositories/"),
    ("GET", "/v2/repositories/acme/app/"),
    ("GET", "/u/acme/app/"),
    ("POST", "/visit"),
    ("GET", "/fault"),
    ("GET", "/forbidden"),
    ("GET", "/visit"),
    ("OPTIONS", "/visit"),
]


@on_sqlite
def test_pages_and_config_stay_the_hosts(database_uri: str) -> None:
    """Registering changes no page, error page, cookie, header or config of the host's, and no logging."""
    bare, host = own_app(database_uri), own_app(database_uri)
    before, logging_before = dict(host.config), logging_state()
    db = SQLAlchemy()
    host.register_blueprint(HubHooks(db))
    assert dict(host.config) == before
    assert logging_state() == logging_before
    clients = bare.test_client(), host.test_client()
    for method, path in REQUESTS:
        expected, answer = (client.open(path, method=method) for client in clients)
        assert (answer.status_code, answer.data, answer.headers) == (
            expected.status_code,
            expected.data,
            expected.headers,
        )
    for hooks in ("before_request_funcs", "after_request_funcs", "teardown_request_funcs", "error_handler_spec"):
        assert not getattr(host, hooks).get("hubhooks")
        assert len(getattr(host, hooks).get(None, ())) == len(getattr(bare, hooks).get(None, ()))


def logging_state() -> list[object]:
    loggers = [logging.getLogger(name) for name in (None, "flask_hubhooks", "rq", "rq.worker", "sqlalchemy", "host")]
    return [(each.level, each.propagate, each.disabled, list(each.handlers)) for each in loggers]


@on_sqlite
def test_the_session_stays_the_hosts(host: Host) -> None:
    """The API neither sets a cookie nor touches the session that a browser brings."""

    @host.app.before_request
    def remember() -> None:
        if "user" not in session:
            session["user"] = "alice"

    assert "Set-Cookie" in host.api("GET", "acme/app/webhooks/").headers
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "a", "hook_url": URL})
    assert answer.status_code == 201
    assert "Set-Cookie" not in answer.headers


# Tables


def test_tables_are_the_hosts(host: Host) -> None:
    """The tables are in the host's metadata and database, and its session reads and writes our models."""
    assert set(host.db.metadata.tables) >= TABLES
    webhook = host.create(URL)
    with host.app.app_context():
        assert set(inspect(host.db.engine).get_table_names()) >= TABLES
        row = host.db.session.scalars(select(Webhook)).one()
        assert [hook.hook_url for hook in row.hooks] == [URL]
        row.name = "renamed"
        host.db.session.commit()
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["name"] == "renamed"


@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")  # Flask-Migrate's env.py tries it first
def test_migrations(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `flask db migrate` writes is run by `upgrade` as it is, leaves no drift, and is undone by `downgrade`."""
    monkeypatch.setattr("logging.config.fileConfig", lambda *_, **__: None)  # it would switch off all other loggers
    Migrate(host.app, host.db, directory=str(tmp_path / "migrations"))
    with host.app.app_context():
        host.db.drop_all()

    def flask_db(*arguments: str) -> str:
        ran = host.app.test_cli_runner().invoke(args=["db", *arguments], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.output

    flask_db("init")
    flask_db("migrate")
    flask_db("upgrade")
    assert len(list((tmp_path / "migrations" / "versions").glob("*.py"))) == 1
    webhook = host.create(URL)
    host.push()
    assert tags(host, webhook) == ["latest"]
    flask_db("migrate")
    assert len(list((tmp_path / "migrations" / "versions").glob("*.py"))) == 1, "the second found drift"
    flask_db("downgrade")
    with host.app.app_context():
        assert not TABLES & set(inspect(host.db.engine).get_table_names())


# Ways to push


@pytest.fixture
def signal() -> Signal:
    """A signal of the host's own."""
    return Signal()


@pytest.fixture
def own_signal(make_host: MakeHost, signal: Signal) -> Host:
    return make_host(push_signal=signal)


def test_our_signal(host: Host) -> None:
    """`image_pushed` with the fields of `ImagePush` is a push."""
    webhook = host.create(URL)
    with host.app.app_context():
        image_pushed.send(host.app, repository="acme/app", tag="1.0", pusher="carol")
    assert [(each["push"]["tag"], each["push"]["pusher"]) for each in host.history(webhook)] == [("1.0", "carol")]


def test_the_hosts_signal(own_signal: Host, signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """The host's own signal with those fields needs nothing more. Ours then records nothing, and the log says why."""
    webhook = own_signal.create(URL)
    with own_signal.app.app_context():
        signal.send(own_signal.app, repository="acme/app", tag="theirs")
        assert not caplog.records
        image_pushed.send(own_signal.app, repository="acme/app", tag="ours")
        (said,) = [each.getMessage() for each in caplog.records]
    assert "sent as flask_hubhooks.signals.image_pushed, but HubHooks was given another push_signal" in said
    caplog.clear()
    image_pushed.send(own_signal.app, repository="acme/app", tag="ours")
    assert said in [each.getMessage() for each in caplog.records]
    assert tags(own_signal, webhook) == ["theirs"]


def test_push_adapter(own_signal: Host, signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """An adapter makes a push of what the signal carries, or None of what is none; one that raises is logged."""

    @own_signal.hubhooks.push_adapter
    def adapt(sender: object, image: str) -> ImagePush | None:
        if image == "fault":
            raise ValueError("no image")
        if image == "text":
            return "acme/app:latest"  # type: ignore[return-value]
        repository, colon, tag = image.partition(":")
        return ImagePush(repository, tag, pusher=str(sender)) if colon else None

    webhook = own_signal.create(URL)
    with own_signal.app.app_context():
        signal.send("carol", image="acme/app:adapted")
        signal.send("carol", image="no push")
        assert not caplog.records
        signal.send("carol", image="text")
        signal.send("carol", image="fault")
    assert "push not recorded: it is a str, not an ImagePush" in caplog.text
    assert "its signal could not be read" in caplog.text and "no image" in caplog.text
    (delivery,) = own_signal.history(webhook)
    assert (delivery["push"]["tag"], delivery["push"]["pusher"]) == ("adapted", "carol")


def test_a_signal_of_another_shape(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A signal without a push's fields raises nothing to its sender, and is logged with what it lacks and has."""
    webhook = host.create(URL)
    with host.app.app_context():
        image_pushed.send(host.app, image="acme/app:latest")
        image_pushed.send(host.app, tag="latest")
    assert [each.getMessage() for each in caplog.records] == [
        "push not recorded: its signal has no repository and no tag, but image. Give HubHooks a push_adapter for it.",
        "push not recorded: its signal has no repository, but tag. Give HubHooks a push_adapter for it.",
    ]
    assert tags(host, webhook) == []


def test_a_signal_with_more(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Keywords of a signal that we do not know lose no push, and the log names each of them once."""
    webhook = host.create(URL)
    with host.app.app_context():
        for number in range(3):
            image_pushed.send(host.app, repository="acme/app", tag=str(number), size=7, actor="carol")
        image_pushed.send(host.app, repository="acme/app", tag="3", size=7, layers=[])
    assert [each.getMessage().partition(". ")[0].rpartition(": ")[2] for each in caplog.records] == [
        "actor, size",
        "layers",
    ]
    assert {each.levelname for each in caplog.records} == {"WARNING"}
    assert tags(host, webhook) == ["3", "2", "1", "0"]


def test_a_signal_outside_an_app(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A signal that is sent where no app is current raises nothing to its sender, and is logged."""
    image_pushed.send(host.app, repository="acme/app", tag="latest")
    assert "its signal was sent outside of an app context" in caplog.text
    with pytest.raises(RuntimeError):
        host.hubhooks.push(ImagePush("acme/app", "latest"))


def test_from_within_a_request(host: Host) -> None:
    """A push sent while the host answers a request is recorded before the answer is there, and leaves it unchanged."""

    @host.app.post("/pushed")
    def pushed() -> str:
        image_pushed.send(host.app, repository="acme/app", tag="latest")
        return "pushed"

    webhook = host.create(URL)
    assert host.client.post("/pushed").data == b"pushed"
    assert tags(host, webhook) == ["latest"]


# What the host knows of a repository


def received(host: Host) -> dict[str, Any]:
    """The payload's `repository` after a push."""
    with Receiver() as receiver:
        host.create(receiver.url)
        host.push()
        host.deliver()
    return dict(json.loads(receiver.requests[0].body)["repository"])


EMPTY = {
    "comment_count": 0,
    "date_created": 0,
    "description": "",
    "dockerfile": "",
    "full_description": "",
    "is_official": False,
    "is_private": False,
    "is_trusted": False,
    "name": "app",
    "namespace": "acme",
    "owner": "acme",
    "repo_name": "acme/app",
    "repo_url": "https://registry.example.com/r/acme/app/",
    "star_count": 0,
    "status": "Active",
}


def broken(name: str) -> Repository:
    raise RuntimeError("no luck")


def without_values(name: str) -> Repository:
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(Repository))
    return Repository(**nothing)


def rated(star_count: Any, name: str) -> Repository:
    return Repository(star_count=star_count)


@on_sqlite
@pytest.mark.parametrize(
    ("load", "logged"),
    [
        (None, False),
        (lambda name: Repository(), False),
        (without_values, False),
        (broken, True),
        (partial(rated, "many"), True),
        (partial(rated, float("nan")), True),
        (lambda name: {"description": "a dict"}, True),
        (lambda name: "text", True),
    ],
)
def test_empty_details(host: Host, load: Any, logged: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The payload has an empty value for each detail that the loader does not give; if it fails, the repository is
    private.
    """
    host.hubhooks.repository_loader(load)
    repository = received(host)
    assert repository == EMPTY | {"is_private": logged}
    assert {key: type(value) for key, value in repository.items()} == {key: type(value) for key, value in EMPTY.items()}
    assert ("the repository_loader failed for 'acme/app'" in caplog.text) == logged


@on_sqlite
def test_no_such_repository(host: Host) -> None:
    """A loader that no longer knows the repository loses no push."""
    with Receiver() as receiver:
        host.create(receiver.url)
        host.hubhooks.repository_loader(lambda name: None)
        host.push()
        host.deliver()
    assert json.loads(receiver.requests[0].body)["repository"] == EMPTY | {"is_private": True}


@on_sqlite
def test_details_are_those_of_the_push(host: Host) -> None:
    """A payload tells what was known when the push came, however late it is sent."""
    host.hubhooks.repository_loader(lambda name: Repository(description="then", star_count=7, is_private=True))
    with Receiver() as receiver:
        host.create(receiver.url)
        host.push()
        host.hubhooks.repository_loader(lambda name: Repository(description="now"))
        host.deliver()
    expected = EMPTY | {"description": "then", "star_count": 7, "is_private": True}
    assert json.loads(receiver.requests[0].body)["repository"] == expected
