"""Hosts whose database is set up in another way than most: schemas, naming conventions, isolation levels."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, event, text

from flask_hubhooks import ConfigError, HubHooks, ImagePush
from flask_hubhooks.records.repositories import RepositoryHasWebhooks
from flask_hubhooks.worker.dispatcher import Dispatcher
from flask_hubhooks.worker.readiness import await_servers

from .conftest import serving
from .support.host import Host
from .support.marks import MakeHost, on_postgresql, on_sqlite
from .support.processes import until
from .support.receivers import Connection, Receiver, Request

CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def whole_flow(host: Host) -> None:
    """A push through a chain of two with callbacks, a retry, the history, an edit, and what a worker checks."""
    with host.app.app_context():
        await_servers(host.state, patient=False)
    with Receiver(503, 200) as first, Receiver() as second:
        webhook = host.create(first.url, second.url)
        with host.app.app_context():
            host.hubhooks.push(ImagePush("acme/app", "latest", event_id="1"))
            host.hubhooks.push(ImagePush("acme/app", "latest", event_id="1"))
            host.db.session.commit()
        host.deliver()
        host.make_due()
        host.deliver()
        assert host.call_back(first.requests[1].body).status_code == 200
        host.deliver()
        assert host.call_back(second.requests[0].body).status_code == 200
    history = host.history(webhook)
    assert [each["state"] for each in history] == ["succeeded", "succeeded"]
    assert [each["status_code"] for each in host.details(webhook, history[0])["attempts"]] == [503, 200]
    assert host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"name": "other"}).status_code == 200
    for path in ("", f"{webhook['id']}/history/"):
        assert host.client.get(f"/r/acme/app/webhooks/{path}", headers={"X-User": "alice"}).status_code == 200
    assert host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/").status_code == 204


# Where the tables are


@on_postgresql
@pytest.mark.parametrize("join_session", [False, True])
@pytest.mark.parametrize("schema", ["registry", "The Registry"])
def test_schema(make_host: MakeHost, database_uri: str, schema: str, join_session: bool) -> None:
    """With a schema in the host's metadata our tables are in it, and all statements find them there."""
    host = make_host(metadata=MetaData(schema=schema), join_session=join_session, creates_tables=False)
    with host.app.app_context():
        with host.db.engine.begin() as connection:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        host.db.create_all()
    whole_flow(host)


@on_sqlite
@pytest.mark.parametrize("join_session", [False, True])
def test_attached_schema(make_host: MakeHost, tmp_path: Path, join_session: bool) -> None:
    """A schema on SQLite is an attached file."""
    host = make_host(metadata=MetaData(schema="registry"), join_session=join_session, creates_tables=False)
    with host.app.app_context():
        attach = f"ATTACH DATABASE '{tmp_path / 'registry.db'}' AS registry"
        event.listen(host.db.engine, "connect", lambda connection, _: connection.execute(attach))
        host.db.engine.dispose()
        host.db.create_all()
    whole_flow(host)


@pytest.mark.parametrize("join_session", [False, True])
def test_naming_convention(make_host: MakeHost, join_session: bool) -> None:
    """A naming convention of the host's metadata does no harm."""
    whole_flow(make_host(metadata=MetaData(naming_convention=CONVENTION), join_session=join_session))


@on_postgresql
def test_search_path(make_host: MakeHost) -> None:
    """Where the host's connections look for tables, ours do as well."""
    options = {"connect_args": {"options": "-c search_path=elsewhere"}}
    host = make_host(creates_tables=False, config={"SQLALCHEMY_ENGINE_OPTIONS": options})
    with host.app.app_context():
        with host.db.engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA elsewhere"))
        host.db.create_all()
    whole_flow(host)


@on_sqlite
def test_two_apps_share_a_schema(make_host: MakeHost) -> None:
    """An extension with a schema can be registered on a second app."""
    make_host(metadata=MetaData(schema="main")).make_app()


# Isolation levels


@on_postgresql
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"])
@pytest.mark.parametrize("place", ["engine", "execution options"])
def test_isolation_level(make_host: MakeHost, level: str, place: str) -> None:
    """Our own transactions are at READ COMMITTED, whatever level the host's have; the host keeps its own."""
    options = {"isolation_level": level}
    host = make_host(
        config={"SQLALCHEMY_ENGINE_OPTIONS": options if place == "engine" else {"execution_options": options}}
    )
    with host.writing() as session:
        assert session.connection().get_isolation_level() == "READ COMMITTED"
    whole_flow(host)
    with host.app.app_context():
        connection = host.db.session.connection()
        if level == "AUTOCOMMIT":
            assert connection.connection.dbapi_connection.autocommit  # type: ignore[union-attr]
        else:
            assert connection.get_isolation_level() == level


@on_postgresql
@pytest.mark.parametrize("join_session", [False, True])
def test_autocommit(make_host: MakeHost, join_session: bool) -> None:
    """Where the host's statements commit one by one, so do pushes, renaming and deleting, each as a whole."""
    host = make_host(join_session=join_session, config={"SQLALCHEMY_ENGINE_OPTIONS": {"isolation_level": "AUTOCOMMIT"}})
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
        assert len(receiver.requests) == 1
    with host.app.app_context():
        host.hubhooks.repository_renamed("acme/app", "acme/new")
    assert host.states(webhook, "acme/new") == ["succeeded"]
    host.create("http://127.0.0.1:9/hook")
    with host.app.app_context():
        with pytest.raises(RepositoryHasWebhooks):
            host.hubhooks.repository_renamed("acme/new", "acme/app")
        host.hubhooks.repository_deleted("acme/new")
    assert host.api("GET", f"acme/new/webhooks/{webhook['id']}/").status_code == 404


@on_postgresql
@pytest.mark.parametrize("join_session", [False, True])
def test_serializable_under_load(make_host: MakeHost, join_session: bool) -> None:
    """In a host at SERIALIZABLE two workers carry 60 pushes through a chain of two: no callback is turned away."""
    answers: list[int] = []

    def call_back(request: Request, connection: Connection) -> int:
        url = json.loads(request.body)["callback_url"]
        answers.append(requests.post(url, json={"state": "success"}, timeout=30).status_code)
        return 200

    serializable = {"SQLALCHEMY_ENGINE_OPTIONS": {"isolation_level": "SERIALIZABLE"}}
    with serving(make_host, **serializable) as host, Receiver(call_back) as first, Receiver(call_back) as second:
        webhook = host.create(first.url, second.url)
        dispatchers = [Dispatcher(host.state, slice_s=60.0, linger_s=60.0) for _ in range(2)]

        def work(dispatcher: Dispatcher) -> None:
            with host.app.app_context():
                dispatcher.run()

        workers = [threading.Thread(target=work, args=[each]) for each in dispatchers]
        for each in workers:
            each.start()
        for number in range(60):
            host.push(tag=f"v{number}")
        try:
            until(lambda: finished(host, webhook) == 120, 60)
        finally:
            for dispatcher in dispatchers:
                dispatcher.stop()
            for each in workers:
                each.join()
    assert answers == [200] * 120


def finished(host: Host, webhook: dict[str, Any]) -> int:
    with host.writing() as session:
        return session.scalar(text("SELECT count(*) FROM hubhooks_delivery WHERE status = 'succeeded'")) or 0


# Databases that will not do


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"SQLALCHEMY_BINDS": {"users": "sqlite:///users.db"}}, "SQLALCHEMY_DATABASE_URI is not set"),
        ({"SQLALCHEMY_DATABASE_URI": "mysql+pymysql://host/db"}, "supports PostgreSQL and SQLite"),
        ({"SQLALCHEMY_DATABASE_URI": "oracle://host/db"}, "supports PostgreSQL and SQLite"),
    ],
)
def test_unsupported_databases(config: dict[str, Any], said: str) -> None:
    """Without a default database, or with one of another kind, registering is refused, whatever comes first."""
    app = Flask("host")
    app.config.update(config, SECRET_KEY="a test's secret key", HUBHOOKS_EXTERNAL_URL="https://registry.example.com")
    db = SQLAlchemy()
    with pytest.raises(ConfigError, match=said):
        app.register_blueprint(HubHooks(db))
    with suppress(ModuleNotFoundError):  # the driver of a database that is not supported need not be there
        db.init_app(app)
        with pytest.raises(ConfigError, match=said):
            app.register_blueprint(HubHooks(db))
