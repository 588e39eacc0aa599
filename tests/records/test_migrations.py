"""Flask-Migrate in a host app that already has tables and rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blinker import Signal
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import inspect, text

from flask_hubhooks import HubHooks
from flask_hubhooks.records.models import Base

pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")  # Flask-Migrate's env.py tries it first
OURS = set(Base.metadata.tables)
pushed = Signal()
Registry = Callable[[bool], Flask]


@pytest.fixture
def registry(database_uri: str, tmp_path: Path) -> Iterator[Registry]:
    """A function that makes a registry's app, without webhooks or with them."""
    apps: list[Flask] = []

    def make(webhooks: bool) -> Flask:
        app = Flask("registry")
        app.config.update(
            SECRET_KEY="a test's",
            SQLALCHEMY_DATABASE_URI=database_uri,
            HUBHOOKS_EXTERNAL_URL="https://registry.example.com",
            HUBHOOKS_REDIS_URL="redis://127.0.0.1:1/0",
        )
        db = SQLAlchemy(app)

        class Image(db.Model):  # type: ignore[name-defined,misc]
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String(255), nullable=False, index=True)

        Migrate(app, db, directory=str(tmp_path / "migrations"), compare_server_default=True)
        if webhooks:
            hubhooks = HubHooks(db, push_signal=pushed)
            hubhooks.authorizer(lambda action, repository: "alice")
            app.register_blueprint(hubhooks)
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context():
            app.extensions["sqlalchemy"].engine.dispose()


def flask_db(app: Flask, *arguments: str) -> str:
    ran = app.test_cli_runner().invoke(args=["db", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def tables(app: Flask) -> set[str]:
    with app.app_context():
        return set(inspect(app.extensions["sqlalchemy"].engine).get_table_names())


def test_ours_come_beside_the_hosts(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration adds only our tables, keeps the host's rows, leaves no drift, and can be undone."""
    monkeypatch.setattr("logging.config.fileConfig", lambda *_, **__: None)  # it would switch off all other loggers
    before = registry(False)
    flask_db(before, "init")
    flask_db(before, "migrate", "--rev-id", "1")
    flask_db(before, "upgrade")
    with before.app_context():
        session = before.extensions["sqlalchemy"].session
        session.execute(text("INSERT INTO image (name) VALUES ('acme/app')"))
        session.commit()

    app = registry(True)
    flask_db(app, "migrate", "--rev-id", "2")
    (script,) = (tmp_path / "migrations" / "versions").glob("2_*.py")
    assert "flask_hubhooks" not in script.read_text(), "it would import us for ever"
    assert "'image'" not in script.read_text(), "the host's tables are not its business"
    flask_db(app, "upgrade")
    assert tables(app) > OURS
    flask_db(registry(True), "check")  # which fails where there is drift
    assert works(app)

    flask_db(app, "downgrade")
    assert not OURS & tables(app)
    flask_db(app, "upgrade")
    assert works(app)
    with app.app_context():
        assert app.extensions["sqlalchemy"].session.scalar(text("SELECT name FROM image")) == "acme/app"


def works(app: Flask) -> bool:
    """Tell whether a webhook can be created and a push of the host appears in its history."""
    client = app.test_client()
    new = {"name": "deploy", "hook_url": "https://ci.example.com/"}
    webhook = client.post("/v2/repositories/acme/app/webhooks/", json=new).get_json()
    with app.app_context():
        pushed.send(app, repository="acme/app", tag="latest")
    history = client.get(f"/v2/repositories/acme/app/webhooks/{webhook['id']}/history/").get_json()
    return [each["push"]["tag"] for each in history["results"]] == ["latest"]
